"""The engine model of one replica, learned from what production did with it: no run, and no request is known by itself.

What is known of a stretch (history/operating.py): how many requests came between two scrapes, how long they are in
distribution, and means: of ITL and TTFT (sums and counts of histograms), and of running requests. Requests of
those lengths are sent through the engine model at those times, and the coefficients are moved until the means agree:
generalised least squares with a prior around the profile, each stretch with a speed of its own. Which request was long, and
when between two scrapes it came, is drawn: how far the means of several draws lie apart is the noise of the stretch. The
covariance that is left says what the load that there was leaves open: a batch that was never more than half full hardly tells
what a full one costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.numbers import Z975
from autoscale.history.operating import Stretch
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, drawn, full_batch_shares, scaled, straight
from autoscale.recommend.model.evidence import FIGURES, Evidence, evidence_of
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.model.speeds import UsualSpeed
from autoscale.recommend.model.uncertainty import Explained
from autoscale.recommend.progress import Progress
from autoscale.recommend.watching import WATCHING
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams
from loadgen.plan.lengths import Lengths

BASIS = "production"
SEED = 0

Floats = NDArray[np.float64]


def learn_from(
    stretches: Sequence[Stretch],
    lengths: tuple[Lengths, Lengths],
    prior: EngineParams,
    sheet_error: float,
    progress: Progress,
    cv: float = 1.0,
) -> ReplicaModel:
    """The model of one replica from stretches of several; `lengths` are those of prompts and answers, `cv` is of the gaps
    between a replica's requests.

    `prior` carries the limits, the starting step time and the prefix cache's share of hits; `sheet_error` is the half width
    of the 95 % interval of its step times.
    """
    evidence = [evidence_of(one, lengths, number, cv) for number, one in enumerate(stretches)]
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
    start = _as_quick_as_the_quietest(
        sheet, [replace(one, offered=one.offered[: WATCHING.kept]) for one in evidence]
    )
    evidence = [one.with_noise(start, WATCHING.kept) for one in evidence]
    prior = _sheet(sheet, start, shape, sheet_error)
    noise = np.array([one.noise for one in evidence])
    x, wander = np.zeros(len(FACTORS)), WATCHING.start_wander

    def modelled(x: Floats) -> Floats:
        return np.array([one.replayed(drawn(start, np.exp(x))) for one in evidence])

    now = modelled(x)
    for number in range(WATCHING.rounds):
        progress(number / WATCHING.rounds, "step time")
        slopes = _slopes(modelled, x)
        precision, pull = _normal(_off(now, measured), slopes, noise, wander)
        step = np.linalg.solve(precision + prior, pull - prior @ x)
        step *= min(1.0, WATCHING.longest / float(np.abs(step).max() + 1e-9))
        best = _cost(_off(now, measured), slopes, noise, wander) + x @ prior @ x
        for share in (1.0, 0.5, 0.25):
            then = modelled(x + share * step)
            there = x + share * step
            if _cost(_off(then, measured), slopes, noise, wander) + there @ prior @ there < best:
                x, now = there, then
                break
        else:
            break
        own = np.array([_speed(o, s) for o, s in zip(_off(now, measured), slopes, strict=True)])
        wander = max(float(np.sqrt(np.mean(np.minimum(own, 3 * wander) ** 2))), WATCHING.least_wander)
    slopes = _slopes(modelled, x)
    precision, _ = _normal(_off(now, measured), slopes, noise, wander)
    misfit = _cost(_off(now, measured), slopes, noise, WATCHING.start_wander) / max(
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

    noise = np.array([one.noise for one in evidence])
    return _normal(0 * modelled(zero), _slopes(modelled, zero), noise, wander)[0]


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


def _normal(off: Floats, slopes: Floats, noise: Floats, wander: float) -> tuple[Floats, Floats]:
    """Precision (5, 5) and right-hand side of the least squares; stretches that stand out count less."""
    precision, pull = np.zeros((len(FACTORS), len(FACTORS))), np.zeros(len(FACTORS))
    for errors, moved, own in zip(off, slopes, noise, strict=True):
        known = np.isfinite(errors)
        speed = moved[known][:, :4].sum(axis=1)
        covariance = wander**2 * np.outer(speed, speed) + own[np.ix_(known, known)]
        solved = np.linalg.solve(covariance, np.column_stack([moved[known], errors[known]]))
        size = math.sqrt(float(errors[known] @ solved[:, -1]) / max(int(known.sum()), 1))
        weight = min(1.0, WATCHING.robust / max(size, 1e-9))
        precision += weight * moved[known].T @ solved[:, :-1]
        pull += weight * moved[known].T @ solved[:, -1]
    return precision, pull


def _cost(off: Floats, slopes: Floats, noise: Floats, wander: float) -> float:
    """Sum of squares in variances, beyond WATCHING.robust linear."""
    total = 0.0
    for errors, moved, own in zip(off, slopes, noise, strict=True):
        known = np.isfinite(errors)
        speed = moved[known][:, :4].sum(axis=1)
        covariance = wander**2 * np.outer(speed, speed) + own[np.ix_(known, known)]
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
