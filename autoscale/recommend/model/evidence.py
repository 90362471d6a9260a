"""A stretch of production as a replay takes it: requests that it may have had, and what was measured of them.

Which request was long, and when between two scrapes it came, nobody tells: it is drawn, several times, and how far the means of
the draws lie apart is the noise of the stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autoscale.history.operating import LEAD_S, Stretch
from autoscale.recommend.model.replaying import Offered
from autoscale.recommend.watching import WATCHING
from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan.lengths import Lengths

FIGURES = ("itl_mean_s", "running", "ttft_mean_s")
NOISE = np.array(WATCHING.noise)
LEAST_CV = 0.1

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A stretch as a replay takes it: its requests as they may have been, what was measured (FIGURES), the instants (s) between
    which it was, and the covariance of the logarithms of FIGURES that is not the engine's."""

    offered: tuple[Offered, ...]
    measured: Floats
    from_s: float
    to_s: float
    noise: Floats = field(default_factory=lambda: np.diag(NOISE**2))

    def replayed(self, engine: EngineParams) -> Floats:
        """FIGURES of the engine with these requests, of several draws the geometric mean."""
        return np.exp(self._logarithms(engine).mean(axis=0))

    def with_noise(self, engine: EngineParams, kept: int) -> Evidence:
        """The first `kept` draws, with what all of them differ by as noise."""
        logs = self._logarithms(engine)
        known = np.isfinite(logs).all(axis=0)
        apart = np.zeros_like(self.noise)
        if len(logs) > 1:
            apart[np.ix_(known, known)] = np.cov(logs[:, known], rowvar=False)
        return replace(self, offered=self.offered[:kept], noise=self.noise + (1 + 1 / kept) * apart)

    def _logarithms(self, engine: EngineParams) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log([self._figures(engine, one) for one in self.offered])

    def _figures(self, engine: EngineParams, offered: Offered) -> Floats:
        done, _ = replay(replace(engine, data_parallel=1), offered)
        first, last, several = done["first_token_s"], done["last_token_s"], done["output_tokens"] > 1
        inside = np.clip(np.minimum(last, self.to_s) - np.maximum(first, self.from_s), 0.0, None)[several]
        tokens = inside * (done["output_tokens"][several] - 1) / (last - first)[several]
        began = (first >= self.from_s) & (first <= self.to_s)
        waits_s = (first - offered.due_s[done["request_id"]])[began]
        return np.array(
            [
                float(inside.sum() / tokens.sum()) if tokens.sum() > 0 else math.nan,
                float(inside.sum()) / (self.to_s - self.from_s),
                float(waits_s.mean()) if len(waits_s) else math.nan,
            ]
        )


def evidence_of(one: Stretch, lengths: tuple[Lengths, Lengths], seed: int, cv: float = 1.0) -> Evidence:
    """The stretch's requests, WATCHING.draws times: as many between two scrapes as came, of lengths that add up to the tokens
    that it told."""
    rng = np.random.default_rng(seed)
    counts = np.rint(np.cumsum(one.came)).astype(int)
    each = np.diff(np.concatenate([[0], counts]))
    told = (one.prompt_tokens, one.output_tokens)

    def draw() -> Offered:
        due_s = _moments(one.times_s, each, cv, rng)
        tokens = [
            _tokens(some, len(due_s), per_s / one.rate_rps, rng)
            for some, per_s in zip(lengths, told, strict=True)
        ]
        return Offered.at(due_s, *tokens)

    decoding = one.output_tokens * one.itl_s  # Little's law: exact, where a gauge is a value per scrape
    measured = np.array([one.itl_s, decoding if math.isfinite(decoding) else one.running, one.ttft_s])
    draws = tuple(draw() for _ in range(WATCHING.draws))
    return Evidence(draws, measured, LEAD_S, float(one.times_s[-1]))


def _moments(times_s: Floats, each: NDArray[np.int_], cv: float, rng: np.random.Generator) -> Floats:
    """When requests came (s), `each` between two of the times: a renewal process of gamma gaps of that cv, given its counts."""
    shape = 1 / max(cv, LEAST_CV) ** 2
    found = [np.zeros(0)]
    for begin_s, width_s, count in zip(times_s, np.diff(times_s), each, strict=False):
        gaps = rng.gamma(shape, size=count + 1)
        found.append(begin_s + width_s * np.cumsum(gaps[:-1]) / max(gaps.sum(), 1e-12))
    return np.concatenate(found)


def _tokens(lengths: Lengths, count: int, mean: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """`count` lengths spread evenly over the distribution, in any order; stretched to the mean where it is known."""
    many = np.sort(lengths.draw(rng, 20 * count)).reshape(count, 20).mean(axis=1)
    factor = mean / float(many.mean()) if count and math.isfinite(mean) and mean > 0 else 1.0
    stretched = np.maximum(np.rint(many * float(np.clip(factor, 0.5, 2.0))), 1)
    return rng.permutation(stretched).astype(np.int32)
