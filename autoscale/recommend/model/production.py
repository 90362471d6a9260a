"""The engine model of one replica, learned from what production did with it: no run, and no request is known by itself.

What is known of a stretch (history/operating.py): how many requests came between two scrapes, how long they are in
distribution, and means: of ITL and TTFT (sums and counts of histograms), and of running requests. Requests of
those lengths are sent through the engine model at those times, and the coefficients are moved until the means agree:
generalised least squares with a prior around the profile, each stretch with a speed of its own. The covariance that is left
says what the load that there was leaves open: a batch that was never more than half full hardly tells what a full one costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.numbers import Z975
from autoscale.history.operating import LEAD_S, Stretch
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, drawn, full_batch_shares, scaled, straight
from autoscale.recommend.model.replaying import Offered
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.model.speeds import UsualSpeed
from autoscale.recommend.model.uncertainty import Explained
from autoscale.recommend.progress import Progress
from autoscale.recommend.watching import WATCHING
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan.lengths import Lengths

FIGURES = ("itl_mean_s", "running", "ttft_mean_s")
NOISE = np.array(WATCHING.noise)
BASIS = "production"
SEED = 0

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """A stretch as a replay takes it: requests, what was measured (FIGURES), and the instants (s) between which it was."""

    offered: Offered
    measured: Floats
    from_s: float
    to_s: float

    def replayed(self, engine: EngineParams) -> Floats:
        """FIGURES of the engine with these requests."""
        done, _ = replay(replace(engine, data_parallel=1), self.offered)
        first, last, several = done["first_token_s"], done["last_token_s"], done["output_tokens"] > 1
        inside = np.clip(np.minimum(last, self.to_s) - np.maximum(first, self.from_s), 0.0, None)[several]
        tokens = inside * (done["output_tokens"][several] - 1) / (last - first)[several]
        began = (first >= self.from_s) & (first <= self.to_s)
        waits_s = (first - self.offered.due_s[done["request_id"]])[began]
        return np.array(
            [
                float(inside.sum() / tokens.sum()) if tokens.sum() > 0 else math.nan,
                float(inside.sum()) / (self.to_s - self.from_s),
                float(waits_s.mean()) if len(waits_s) else math.nan,
            ]
        )


def learn_from(
    stretches: Sequence[Stretch],
    lengths: tuple[Lengths, Lengths],
    prior: EngineParams,
    sheet_error: float,
    progress: Progress,
) -> ReplicaModel:
    """The model of one replica from stretches of several; `lengths` are those of prompts and answers.

    `prior` carries the limits, the starting step time and the prefix cache's share of hits; `sheet_error` is the half width
    of the 95 % interval of its step times.
    """
    evidence = [evidence_of(one, lengths, number) for number, one in enumerate(stretches)]
    shape = lengths[0].mean(), lengths[1].mean()
    fit = _fitted(prior, evidence, shape, sheet_error, progress)
    if fit.misfit > WATCHING.poor:
        line = _fitted(straight(prior), evidence, shape, sheet_error, progress)
        fit = min(fit, line, key=lambda one: one.misfit)
    known = Explained(fit.covariance, len(evidence))
    replays = _table(fit)
    missed = replays.loc[replays["figure"] == FIGURES[0], "error"].dropna().to_numpy(float)
    size = len(COEFFICIENTS)
    return ReplicaModel(
        engine=fit.engine,
        factors=known.factors(SEED),
        shape=shape,
        error=math.hypot(float(missed.mean()) if len(missed) else 0.0, DOUBTING.model_error),
        usual=UsualSpeed(
            np.ones(1),
            np.zeros((1, size)),
            known.of_a_step[None],
            full_batch_shares(fit.engine, *shape),
            wander=fit.wander,
        ),
        intervals=_intervals(fit.engine, known),
        replay=replays,
        stages_used=tuple(range(len(evidence))),
        basis=BASIS,
    )


def evidence_of(one: Stretch, lengths: tuple[Lengths, Lengths], seed: int) -> Evidence:
    """The stretch's requests: as many between two scrapes as came, of lengths that add up to the tokens that it told."""
    rng = np.random.default_rng(seed)
    counts = np.rint(np.cumsum(one.came)).astype(int)
    each = np.diff(np.concatenate([[0], counts]))
    starts = np.repeat(one.times_s[:-1], each)
    due_s = np.sort(starts + rng.random(len(starts)) * np.repeat(np.diff(one.times_s), each))
    told = (one.prompt_tokens, one.output_tokens)
    tokens = [
        _tokens(some, len(due_s), per_s / one.rate_rps, rng)
        for some, per_s in zip(lengths, told, strict=True)
    ]
    decoding = one.output_tokens * one.itl_s  # Little's law: exact, where a gauge is a value per scrape
    measured = np.array([one.itl_s, decoding if math.isfinite(decoding) else one.running, one.ttft_s])
    return Evidence(Offered.at(due_s, *tokens), measured, LEAD_S, float(one.times_s[-1]))


def _tokens(lengths: Lengths, count: int, mean: float, rng: np.random.Generator) -> NDArray[np.int32]:
    """`count` lengths spread evenly over the distribution, in any order; stretched to the mean where it is known."""
    many = np.sort(lengths.draw(rng, 20 * count)).reshape(count, 20).mean(axis=1)
    factor = mean / float(many.mean()) if count and math.isfinite(mean) and mean > 0 else 1.0
    stretched = np.maximum(np.rint(many * float(np.clip(factor, 0.5, 2.0))), 1)
    return rng.permutation(stretched).astype(np.int32)


def _as_quick_as_the_quietest(prior: EngineParams, evidence: Sequence[Evidence]) -> EngineParams:
    """The prior with all step times multiplied so that the quietest stretch's ITL comes out: the chip may be another."""
    known = [one for one in evidence if math.isfinite(one.measured[0])]
    if not known:
        return prior
    quiet = min(known, key=lambda one: float(np.nan_to_num(one.measured[1], nan=np.inf)))
    for _ in range(2):
        factor = float(quiet.measured[0] / quiet.replayed(prior)[0])
        prior = scaled(prior, factor) if math.isfinite(factor) and factor > 0 else prior
    return prior


@dataclass(frozen=True, eq=False)
class _Fit:
    engine: EngineParams
    covariance: Floats  # of the logarithms of FACTORS
    misfit: float
    wander: float
    measured: Floats  # (stretches, FIGURES)
    modelled: Floats


def _sheet(
    sheet: EngineParams, start: EngineParams, shape: tuple[float, float], sheet_error: float
) -> Floats:
    """The prior's precision: each coefficient by itself, and what a full batch takes, as well as the data sheet is known.

    A server that is not as quick as its sheet says when it is quiet may be off by as much again when it is full.
    """
    shares = np.append(full_batch_shares(start, *shape), 0.0)
    own = np.diag(np.array(DOUBTING.prior_spread) ** -2)
    moved = math.log(start.step_s(1, shape[0]) / sheet.step_s(1, shape[0]))
    return np.asarray(own + np.outer(shares, shares) / ((sheet_error / Z975) ** 2 + moved**2), float)


def _fitted(
    sheet: EngineParams,
    evidence: Sequence[Evidence],
    shape: tuple[float, float],
    sheet_error: float,
    progress: Progress,
) -> _Fit:
    """Gauss-Newton steps in the logarithms of FACTORS, each as long as it helps."""
    measured = np.array([one.measured for one in evidence])
    start = _as_quick_as_the_quietest(sheet, evidence)
    prior = _sheet(sheet, start, shape, sheet_error)
    x, wander = np.zeros(len(FACTORS)), WATCHING.start_wander

    def modelled(x: Floats) -> Floats:
        return np.array([one.replayed(drawn(start, np.exp(x))) for one in evidence])

    now = modelled(x)
    for number in range(WATCHING.rounds):
        progress(number / WATCHING.rounds, "step time")
        slopes = _slopes(modelled, x)
        precision, pull = _normal(_off(now, measured), slopes, wander)
        step = np.linalg.solve(precision + prior, pull - prior @ x)
        step *= min(1.0, WATCHING.longest / float(np.abs(step).max() + 1e-9))
        best = _cost(_off(now, measured), slopes, wander) + x @ prior @ x
        for share in (1.0, 0.5, 0.25):
            then = modelled(x + share * step)
            there = x + share * step
            if _cost(_off(then, measured), slopes, wander) + there @ prior @ there < best:
                x, now = there, then
                break
        else:
            break
        own = np.array([_speed(o, s) for o, s in zip(_off(now, measured), slopes, strict=True)])
        wander = max(float(np.sqrt(np.mean(np.minimum(own, 3 * wander) ** 2))), WATCHING.least_wander)
    slopes = _slopes(modelled, x)
    precision, _ = _normal(_off(now, measured), slopes, wander)
    misfit = _cost(_off(now, measured), slopes, WATCHING.start_wander) / max(
        int(np.isfinite(_off(now, measured)).sum()), 1
    )
    return _Fit(
        drawn(start, np.exp(x)),
        np.asarray(np.linalg.inv(precision + prior), float),
        misfit,
        wander,
        measured,
        now,
    )


def information(evidence: Sequence[Evidence], engine: EngineParams, wander: float) -> Floats:
    """What such evidence would add to the precision of the logarithms of FACTORS, shape (5, 5)."""
    zero = np.zeros(len(FACTORS))

    def modelled(x: Floats) -> Floats:
        return np.array([one.replayed(drawn(engine, np.exp(x))) for one in evidence])

    return _normal(0 * modelled(zero), _slopes(modelled, zero), wander)[0]


def _slopes(modelled: Callable[[Floats], Floats], x: Floats) -> Floats:
    """Derivatives of the logarithms of FIGURES by those of FACTORS, shape (stretches, figures, 5)."""
    columns = []
    for e in WATCHING.move * np.eye(len(x)):
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.log(modelled(x + e)) - np.log(modelled(x - e))
        columns.append(np.nan_to_num(moved / (2 * WATCHING.move), nan=0.0, posinf=0.0, neginf=0.0))
    return np.stack(columns, axis=-1)


def _off(modelled: Floats, measured: Floats) -> Floats:
    """Logarithms of measured to modelled; NaN where one is not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.log(np.where(measured > 0, measured, np.nan) / np.where(modelled > 0, modelled, np.nan))
    return np.clip(off, -WATCHING.largest_error, WATCHING.largest_error)


def _speed(off: Floats, slopes: Floats) -> float:
    """A stretch's own speed: its ITL alone tells it."""
    speed = float(slopes[0, :4].sum())
    return abs(float(off[0]) / speed) if math.isfinite(off[0]) and speed > 0.1 else 0.0


def _normal(off: Floats, slopes: Floats, wander: float) -> tuple[Floats, Floats]:
    """Precision (5, 5) and right-hand side of the least squares; stretches that stand out count less."""
    precision, pull = np.zeros((len(FACTORS), len(FACTORS))), np.zeros(len(FACTORS))
    for errors, moved in zip(off, slopes, strict=True):
        known = np.isfinite(errors)
        speed = moved[known][:, :4].sum(axis=1)
        covariance = wander**2 * np.outer(speed, speed) + np.diag(NOISE[known] ** 2)
        solved = np.linalg.solve(covariance, np.column_stack([moved[known], errors[known]]))
        size = math.sqrt(float(errors[known] @ solved[:, -1]) / max(int(known.sum()), 1))
        weight = min(1.0, WATCHING.robust / max(size, 1e-9))
        precision += weight * moved[known].T @ solved[:, :-1]
        pull += weight * moved[known].T @ solved[:, -1]
    return precision, pull


def _cost(off: Floats, slopes: Floats, wander: float) -> float:
    """Sum of squares in variances, beyond WATCHING.robust linear."""
    total = 0.0
    for errors, moved in zip(off, slopes, strict=True):
        known = np.isfinite(errors)
        speed = moved[known][:, :4].sum(axis=1)
        covariance = wander**2 * np.outer(speed, speed) + np.diag(NOISE[known] ** 2)
        square = float(errors[known] @ np.linalg.solve(covariance, errors[known]))
        size, few = math.sqrt(square / max(int(known.sum()), 1)), max(int(known.sum()), 1)
        total += few * (
            size**2 if size < WATCHING.robust else 2 * WATCHING.robust * size - WATCHING.robust**2
        )
    return total


def _intervals(engine: EngineParams, known: Explained) -> dict[str, tuple[float, float]]:
    """Coefficient -> (low, high), the middle 95 % of the draws."""
    values = np.array([getattr(engine, name) for name in COEFFICIENTS])
    low, high = np.quantile(known.factors(SEED)[:, : len(values)], [0.025, 0.975], axis=0) * values
    return {name: (float(a), float(b)) for name, a, b in zip(COEFFICIENTS, low, high, strict=True)}


def _table(fit: _Fit) -> pd.DataFrame:
    """Measured and modelled, one row per stretch and figure, as a run's replay has them."""
    rows = [
        (0, stretch, figure, float(fit.measured[stretch, k]), float(fit.modelled[stretch, k]))
        for stretch in range(len(fit.measured))
        for k, figure in enumerate(FIGURES)
    ]
    table = pd.DataFrame(rows, columns=["run", "stage", "figure", "measured", "modelled"])
    table["error"] = table["modelled"] / table["measured"].where(table["measured"] > 0) - 1
    return table
