"""One replica as its runs show it: an immutable model that answers what it can serve, each answer with its interval.

    learn(runs) or calibrate(runs) -> ReplicaModel
    full_batch_at(requests), latency_at(rate_rps, requests), capacity_at(scenario, requests), spread_at(lengths)

Intervals come from engines that explain the runs about as well as the fitted one (uncertainty.py): where the asked
lengths lean on a coefficient that the runs hardly show, they are wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.capacity import Capacity
from analysis.queueing import ReplicaQueue
from analysis.saturation import Estimate
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, capacity_ratios, drawn, scaled
from autoscale.recommend.model.one_replica import capacity, idle_verdict, roughly_holding_rps, weights_at
from autoscale.recommend.model.replaying import FIGURES, Offered, full_batch
from autoscale.recommend.model.speeds import UsualSpeed
from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan.lengths import Lengths

DRAWS = 4000
REPLAY = ("run", "stage", "figure", "measured", "modelled", "error")  # columns
METRICS = ("ttft", "tpot", "e2e")
TRUSTED_ERROR = {
    "tpot_p50_s": 0.15,
    "itl_mean_s": 0.15,
    "running": 0.20,
    "throughput_rps": 0.10,
}  # medians over the stages
TOLD_APART = (
    0.02  # standard deviation of the capacity's logarithm, below which no coefficient is worth naming
)


@dataclass(frozen=True)
class DrawnRequests:
    """Requests of some lengths, as they are simulated: sizes in tokens, and gaps of mean 1 for Poisson arrivals."""

    prompt: NDArray[np.int32]
    output: NDArray[np.int32]
    gaps: NDArray[np.float64]

    @staticmethod
    def drawn(prompt: Lengths, output: Lengths) -> DrawnRequests:
        """`DOUBTING.requests` of these lengths; the same ones every time."""
        rng, count = np.random.default_rng(0), DOUBTING.requests
        return DrawnRequests(prompt.draw(rng, count), output.draw(rng, count), rng.exponential(1.0, count))

    @property
    def mean(self) -> tuple[float, float]:
        """Mean prompt and output tokens."""
        return float(self.prompt.mean()), float(self.output.mean())


@dataclass(frozen=True)
class FullBatch:
    """A replica that always has a queue: its throughput, the rate at which every second request finds the batch full
    (both requests/s), and the mean number in the batch."""

    saturated: Estimate
    knee: Estimate
    seats: float


@dataclass(frozen=True, eq=False)
class ReplicaModel:
    """A replica's engine, and what it is worth; without a run the profile's prior, whose intervals are points.

    engine        the parameters, ready to simulate
    factors       multiples of the engine's FACTORS that explain the runs as well, shape (draws, 5): uncertainty.py
    shape         mean prompt and output tokens of the requests that were measured
    error         the model's own error of a step's time (a logarithm): what it misses of its run, and what a run so short
                  cannot show
    usual         how slow the server usually is: a distribution around the engine, as wide as the run disagrees with itself
    intervals     coefficient -> (low, high), 95 %, of the draws
    confounded    pairs of coefficients that the runs could not tell apart
    replay        one row per run, stage and figure: run, stage, figure, measured, modelled, error (relative)
    stages_used   stage numbers that the fit rests on; none without a run
    capacities    what the runs themselves say, one per run
    basis         what it was learned from: the run, or production
    refuted       what the runs show that it cannot be, a sentence each
    """

    engine: EngineParams
    factors: NDArray[np.float64] = field(default_factory=lambda: np.ones((1, len(FACTORS))))
    shape: tuple[float, float] = (math.nan, math.nan)
    error: float = 0.0
    usual: UsualSpeed = field(default_factory=UsualSpeed.exact)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    confounded: tuple[tuple[str, str], ...] = ()
    replay: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=REPLAY).astype({"error": float})
    )
    stages_used: tuple[int, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    basis: str = "the run"
    refuted: tuple[str, ...] = ()

    # --- what it is worth ---

    @property
    def fitted(self) -> bool:
        """Whether it rests on a run."""
        return bool(self.stages_used)

    def median_error(self) -> dict[str, float]:
        """Median absolute relative error over the stages, per figure; NaN where nothing was measured."""
        known = self.replay.dropna(subset="error")
        medians = known["error"].abs().groupby(known["figure"]).median()
        return {f: float(medians.get(f, math.nan)) for f in dict.fromkeys((*FIGURES, *medians.index))}

    def untrusted(self) -> list[str]:
        """Why the model must not be used to extrapolate, one sentence each; empty when it reproduces its run."""
        errors = self.median_error()
        return [
            f"the replay misses {figure} by {errors[figure]:.0%} (median over the stages; at most {limit:.0%} is trusted)"
            for figure, limit in TRUSTED_ERROR.items()
            if errors.get(figure, math.nan) > limit
        ] + list(self.refuted)

    # --- questions ---

    def spread_at(self, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """95 % interval of the capacity at these mean lengths, relative to what the engine gives; (1, 1) without a run.

        As wide as the run leaves the usual speed open, as what its lengths leave open for others, and as the model's own
        error.
        """
        if not self.fitted:
            return 1.0, 1.0
        rng = np.random.default_rng(0)
        own = capacity_ratios(self.engine, self.factors, *self.shape)
        there = capacity_ratios(self.engine, self.factors, prompt_tokens, output_tokens) / own
        draws = rng.choice(there, DRAWS) * np.exp(-self.usual.whole.draw(rng, DRAWS))
        low, middle, high = np.quantile(
            draws * np.exp(self.error * rng.standard_normal(DRAWS)), [0.025, 0.5, 0.975]
        )
        return float(min(low / middle, 1.0)), float(max(high / middle, 1.0))

    def full_batch_at(self, requests: DrawnRequests) -> FullBatch:
        """What the replica does with these requests when it always has a queue."""
        spread = self.spread_at(*requests.mean)
        saturated_rps, seats = full_batch(self.engine, requests.prompt, requests.output)
        prompt, output = requests.mean
        alone_s = (output - 1) * self.engine.step_s(1, prompt + output / 2)
        whole = max(round(seats), 1)
        # the queue that `analysis` would fit to the engine: seats, and how much slower a full batch is than one request
        queue = ReplicaQueue(whole, saturated_rps, max(whole / saturated_rps / alone_s, 1.0))
        return FullBatch(
            _estimate(saturated_rps, spread, "a full batch of the calibrated engine"),
            _estimate(queue.knee_rps, spread, "every second request finds the batch full"),
            seats,
        )

    def latency_at(self, rate_rps: float, requests: DrawnRequests) -> dict[str, float]:
        """Figures at a Poisson rate: METRIC_pP_s with METRIC_pP_low and _high (TTFT, TPOT, E2E in s at p50 and p95), and
        means of running, waiting, kv_usage."""
        due_s = np.cumsum(requests.gaps) / rate_rps
        engines = [np.ones(len(FACTORS)), *self._some(DOUBTING.engines)]
        return _between([_figures(drawn(self.engine, f), due_s, requests) for f in engines])

    def capacity_at(self, scenario: Scenario) -> tuple[Estimate | None, str]:
        """The highest steady rate that holds the scenario's SLO at its lengths, by simulation, and the term that binds
        first; None, and why, when an idle replica breaks it.

        The interval is as wide as the stages' speeds disagree, as what the stages leave open besides speed, and as the
        model's own error.
        """
        fitted = replace(scenario, engine=self.engine)
        if (verdict := idle_verdict(fitted)) is not None:
            return None, verdict.sentence
        point = capacity(fitted)
        rate = point.rate_rps
        if not self.fitted:
            return Estimate(rate, rate, rate, "simulated with the profile's prior"), point.binding
        rng = np.random.default_rng(0)
        weights = weights_at(fitted, rate)
        slowness = self.usual.along(weights).draw(rng, DRAWS) + self.error * rng.standard_normal(DRAWS)
        slow = np.unique(np.append(np.quantile(slowness, DOUBTING.looked_at), 0.0))
        speeds = np.array([self._rate(scenario, scaled(self.engine, math.exp(x))) for x in slow])
        speeds /= np.interp(0.0, slow, speeds)
        shapes = np.array([self._rate(scenario, e) for e in self._equally_fast(weights)])
        draws = (
            np.interp(slowness, slow, speeds) * rng.choice(shapes, DRAWS) / self._rate(scenario, self.engine)
        )
        low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975]))
        found = Estimate(
            rate, rate * min(low, 1.0), rate * max(high, 1.0), "the run, replayed by the calibrated engine"
        )
        return found, point.binding

    @staticmethod
    def _rate(scenario: Scenario, engine: EngineParams) -> float:
        other = replace(scenario, engine=engine)
        return 0.0 if idle_verdict(other) is not None else roughly_holding_rps(other)

    def _equally_fast(self, weights: NDArray[np.float64]) -> list[EngineParams]:
        """Engines that share out a step's time otherwise, as far as the requests leave that open, each with the time of the
        fitted one where the coefficients weigh so much."""
        moves = self.usual.draw(np.random.default_rng(0), DRAWS)
        possible = moves[(1 + moves > 0).all(axis=1)]
        factors = 1 + (possible if len(possible) >= DOUBTING.slo_engines else np.zeros((1, len(weights))))
        factors = factors[: DOUBTING.slo_engines]
        overheads = self._some(len(factors))[: len(factors), -1]
        return [
            drawn(self.engine, np.append(f / (weights @ f), overhead))
            for f, overhead in zip(factors, overheads, strict=True)
        ]

    def doubt_at(self, requests: DrawnRequests) -> tuple[str, float] | None:
        """The coefficient whose draws explain most of the capacity's variance at these lengths, and the share it
        explains; None when none explains half."""
        log_capacity = np.log(capacity_ratios(self.engine, self.factors, *requests.mean))
        if len(self.factors) < 3 or log_capacity.std() < TOLD_APART:
            return None
        shares = [
            float(np.corrcoef(np.log(column), log_capacity)[0, 1] ** 2) for column in self.factors.T[:4]
        ]
        best = int(np.nanargmax(shares))
        return (FACTORS[best], shares[best]) if shares[best] > 0.5 else None

    def _some(self, count: int) -> NDArray[np.float64]:
        """So many of the drawn engines' factors, spread over all of them."""
        return self.factors[:: max(len(self.factors) // count, 1)][:count]


def _estimate(value: float, spread: tuple[float, float], how: str) -> Estimate:
    return Estimate(value, value * spread[0], value * spread[1], how)


def _figures(engine: EngineParams, due_s: NDArray[np.float64], requests: DrawnRequests) -> dict[str, float]:
    """Percentiles and mean signals of one simulated rate, after a tenth of the requests."""
    times = np.linspace(due_s[len(due_s) // 10], due_s[-1], 400)
    done, series = replay(engine, Offered.at(due_s, requests.prompt, requests.output), times)
    done = done[len(done) // 10 :]
    due, first, last = due_s[len(due_s) // 10 :], done["first_token_s"], done["last_token_s"]
    more = done["output_tokens"] > 1
    values = {
        "ttft": first - due,
        "tpot": (last - first)[more] / (done["output_tokens"][more] - 1),
        "e2e": last - due,
    }
    figures = {
        f"{metric}_p{p}_s": float(np.quantile(values[metric], p / 100)) if values[metric].size else math.nan
        for metric in METRICS
        for p in (50, 95)
    }
    return {**figures, **{name: float(series[name].mean()) for name in ("running", "waiting", "kv_usage")}}


def _between(tables: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of the first engine with the middle 95 % of all of them."""
    row: dict[str, float] = {}
    for name, value in tables[0].items():
        row[name] = value
        if name.endswith("_s"):
            low, high = np.quantile([t[name] for t in tables], [0.025, 0.975])
            row[f"{name[:-2]}_low"], row[f"{name[:-2]}_high"] = float(low), float(high)
    return row
