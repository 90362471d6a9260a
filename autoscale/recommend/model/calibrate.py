"""The engine model of one replica, learned from a run: fit, intervals, identifiability, and the error of the replay.

1. The step time by regression over the requests (step_time.py), starting from the profile's prior.
2. A refinement by replay (refine.py): the same requests are sent through the engine model and the coefficients and the
   overhead before the scheduler are moved until medians per stage agree with what was measured. It starts from the
   quietest stage alone (as the engine is thought to schedule, and the other way: async_scheduling delays the first
   token) and, when these end badly, from the regression, which other load on the machine fools.
3. How well the run fixes each coefficient (uncertainty.py), and the engine moved to the throughput that was measured.
4. The replay error per quantity says what the model is worth: a model that does not reproduce its own run is not used
   to extrapolate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import TooLittleData
from analysis.run import Run
from analysis.saturation import Estimate
from autoscale.recommend.effort import DOUBTING, REFINING, SPEEDS
from autoscale.recommend.model import step_time
from autoscale.recommend.model.coefficients import drawn, scaled, straight
from autoscale.recommend.model.refine import refined
from autoscale.recommend.model.replaying import (
    Source,
    full_batch,
    replayed,
    source_of,
    stage_figures,
    ttft_per_token_s,
)
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.model.speeds import UsualSpeed, usual_speed
from autoscale.recommend.model.uncertainty import Saturation, anchored, explained
from autoscale.recommend.progress import Progress, silent
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams

COUNTS = ("waiting", "preemptions")  # below one, a relative error has no scale
SEED = 0  # of the draws


def calibrate(
    runs: Sequence[Run],
    prior: EngineParams,
    *,
    replicas: int = 1,
    exclude: Sequence[set[int]] = (),
    gauges: Sequence[pd.DataFrame | None] = (),
    saturated: Sequence[Estimate | None] = (),
    scheduling_known: bool = False,
    progress: Progress = silent,
) -> ReplicaModel:
    """The model of one replica from one or more runs (different shapes of load), fitted together.

    `prior` carries the limits (see limits.py) and the starting step time, and how the engine schedules, which is kept when
    it is `scheduling_known`; `replicas` is how many served the runs;
    `exclude[i]` are stages of run i to leave out (limited by the client, served by several replicas),
    `gauges[i]` are its metrics on the client's clock (analysis.steady.Observed), else as they were written, and
    `saturated[i]` is the throughput that it measured with a queue. Raises TooLittleData without usable requests.
    """
    if replicas != 1:
        raise TooLittleData(
            "the run was served by several replicas",
            value=replicas,
            expected="1 while the step time is measured",
            next_step="scale the deployment to one replica and measure again",
        )
    sources = _sources(runs, exclude, gauges)
    seen = _join([step_time.exposure(source.rows) for source in sources])
    measured = _measured(sources)
    starts = _starts(prior, sources, measured, seen, scheduling_known)
    progress(0.2, "step time fitted")
    fitted = refined(starts, sources, measured)
    fitted, sources = _unslowed(fitted, sources, measured)
    progress(0.8, "refined by replay")
    full = [*saturated, *(None for _ in runs[len(saturated) :])]
    known = explained(fitted, sources, measured)
    engine, factors = anchored(
        fitted, known.factors(SEED), _saturations(fitted, sources, measured, full), SEED
    )
    progress(0.85, "intervals")
    usual = usual_speed(engine, sources, known.of_a_step, _saturations(engine, sources, measured, full))
    factors_moved = _moves(usual)
    engine = drawn(engine, np.append(factors_moved, 1.0))
    progress(0.95, "speeds of the stages")
    pairs = enumerate(zip(measured, sources, strict=True))
    tables = [_compare(m, replayed(engine, source).figures).assign(run=i) for i, (m, source) in pairs]
    missed = pd.concat(tables, ignore_index=True)
    progress(1.0, "replayed")
    return ReplicaModel(
        engine=engine,
        factors=factors,
        shape=_mean_lengths(pd.concat([source.rows for source in sources])),
        intervals=_intervals(engine, factors),
        confounded=tuple(step_time.confounded(seen)),
        usual=usual.against(factors_moved),
        error=math.hypot(model_error(missed, usual.wander), _unseen(usual, sources)),
        replay=missed,
        stages_used=tuple(sorted({int(s) for s in np.unique(seen.stage) if s >= 0})),
    )


def _sources(
    runs: Sequence[Run], exclude: Sequence[set[int]], gauges: Sequence[pd.DataFrame | None]
) -> list[Source]:
    out = [*exclude, *(set[int]() for _ in runs[len(exclude) :])]
    seen_by = [*gauges, *(r.metrics if r.has("metrics") else None for r in runs[len(gauges) :])]
    return [source_of(*one) for one in zip(runs, out, seen_by, strict=True)]


def _measured(sources: Sequence[Source]) -> list[pd.DataFrame]:
    """The figures of each source's stages; raises TooLittleData where there is no stage."""
    measured = [stage_figures(source.rows, source.metrics, source.windows) for source in sources]
    if not any(map(len, measured)):
        raise TooLittleData(
            "stages of one replica whose requests were completed",
            value=0,
            expected="at least one",
            next_step="measure again, with stages that last longer than a request",
        )
    return measured


def _moves(usual: UsualSpeed) -> NDArray[np.float64]:
    """What the requests say that the engine's COEFFICIENTS have to be multiplied by, at the usual speed."""
    factors = np.clip(1 + usual.moves, SPEEDS.least_factor, SPEEDS.most_factor)
    return np.asarray(factors * math.exp(usual.whole.shift) / (usual.full @ factors))


def model_error(replay: pd.DataFrame, wander: float) -> float:
    """Standard error of the engine's step time (a logarithm): by how much this replay misses the stages on average and how
    sure that mean is, beside what is usual for such models. What a stage alone was slower or faster is its wander, which the
    usual speed holds already: what stages of that wander (a logarithm, too) miss by chance is not counted again."""
    times = replay[replay["figure"].isin(("tpot_p50_s", "tpot_p95_s"))]
    by_stage = times.groupby(["run", "stage"])["error"].mean().dropna().clip(-0.2, 0.2).to_numpy(float)
    known = len(by_stage)
    if known == 0:
        return DOUBTING.model_error
    missed = float(by_stage.mean()) ** 2 + float(by_stage.var(ddof=min(known - 1, 1))) / known
    missed = max(missed - 2 * wander**2 / known, 0.0)
    return math.sqrt(
        (DOUBTING.error_known * DOUBTING.model_error**2 + known * missed) / (DOUBTING.error_known + known)
    )


def _unseen(usual: UsualSpeed, sources: Sequence[Source]) -> float:
    """Standard error (a logarithm) of the speed, because runs this short do not show how far it wanders: as far again as they
    show."""
    seen_s = sum(end - start for source in sources for start, end in source.windows.values())
    return usual.wander / math.sqrt(1 + seen_s / SPEEDS.shown_s)


def _unslowed(
    engine: EngineParams, sources: Sequence[Source], measured: Sequence[pd.DataFrame]
) -> tuple[EngineParams, list[Source]]:
    """The engine fitted anew where something else slowed the server for a while, and the sources that say so.

    Such stretches would otherwise pull the coefficients their way. Nothing changes where the run agrees with itself.
    """
    sources = list(sources)
    for _ in range(SPEEDS.rounds):
        usual = usual_speed(engine, sources)
        if not usual.slowed and not any(source.slowed for source in sources):
            break
        sources = [
            replace(source, slowed=tuple(s for s in usual.slowed if s.run == number))
            for number, source in enumerate(sources)
        ]
        engine = refined([scaled(engine, math.exp(usual.whole.quantile(0.5)))], sources, measured)
    return engine, sources


def _starts(
    prior: EngineParams,
    sources: Sequence[Source],
    measured: Sequence[pd.DataFrame],
    seen: step_time.Exposure,
    scheduling_known: bool,
) -> list[EngineParams]:
    """Where the refinement starts: from the quietest stage, as the engine schedules and, unless that is known, the other way, and
    from the regression (which sees the whole pass; parameters are per pipeline stage). A server need not be the chip of its
    profile: the prior's bends come last, for a run that no line explains."""
    kept = [source.rows for source in sources]
    start = np.array([getattr(prior, name) for name in COEFFICIENTS])
    coefficients = step_time.fit(seen, start)
    line = straight(prior)
    quiet = _from_quiet(line, kept, measured)
    other = [replace(engine, async_scheduling=not prior.async_scheduling) for engine in quiet]
    return [
        *quiet,
        *(other if not scheduling_known else ()),
        _with(line, coefficients / prior.pipeline_stages, _overhead(kept, seen, coefficients)),
        *(_from_quiet(prior, kept, measured) if line != prior else ()),
    ]


def _intervals(engine: EngineParams, factors: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    """Coefficient -> (low, high), the middle 95 % of the draws."""
    values = np.array([getattr(engine, name) for name in COEFFICIENTS])
    low, high = np.quantile(factors[:, : len(values)], [0.025, 0.975], axis=0) * values
    return {name: (float(a), float(b)) for name, a, b in zip(COEFFICIENTS, low, high, strict=True)}


def _mean_lengths(rows: pd.DataFrame) -> tuple[float, float]:
    return float(rows["prompt_tokens"].mean()), float(rows["output_tokens"].mean())


def _saturations(
    engine: EngineParams,
    sources: Sequence[Source],
    measured: Sequence[pd.DataFrame],
    known: Sequence[Estimate | None],
) -> list[Saturation]:
    """Where a run measured its saturated throughput on both sides, and nothing slowed it: that, and what the engine gives
    for its requests."""
    found = []
    for run, (source, table, estimate) in enumerate(zip(sources, measured, known, strict=True)):
        queued = table.index[table["waiting"] >= 1]
        spans_s = tuple(source.windows[int(stage)] for stage in queued)
        slowed = any(s.from_s < end and s.to_s > start for s in source.slowed for start, end in spans_s)
        if (
            estimate is None
            or slowed
            or not spans_s
            or not (estimate.low > 0 and math.isfinite(estimate.high))
        ):
            continue
        rows = source.rows[["prompt_tokens", "output_tokens"]].dropna().astype(int)
        rows = rows.sample(DOUBTING.full_batch_requests, replace=True, random_state=0)
        rate_rps, _ = full_batch(engine, rows["prompt_tokens"].to_numpy(), rows["output_tokens"].to_numpy())
        error = math.log(estimate.high / estimate.low) / (2 * 1.96)
        found.append(Saturation(estimate.value, error, rate_rps, _mean_lengths(rows), run, spans_s))
    return found


def _join(parts: Sequence[step_time.Exposure]) -> step_time.Exposure:
    shifted = [replace(p, stage=p.stage + 1000 * i) for i, p in enumerate(parts)]
    return step_time.Exposure(
        *(
            np.concatenate([getattr(p, name) for p in shifted])
            for name in step_time.Exposure.__dataclass_fields__
        )
    )


def _with(prior: EngineParams, coefficients: NDArray[np.float64], overhead_s: float) -> EngineParams:
    values: dict[str, Any] = dict(zip(COEFFICIENTS, map(float, coefficients), strict=True))
    return replace(prior, **values, request_overhead_s=overhead_s)


def _overhead(
    kept: Sequence[pd.DataFrame], seen: step_time.Exposure, coefficients: NDArray[np.float64]
) -> float:
    """What remains of the quietest TTFTs after half a step of waiting and the prefill step itself."""
    rows = pd.concat(kept)
    prompt = rows["prompt_tokens"].astype("float64").to_numpy()
    ttft = (rows["first_token_s"] - rows["sent_s"]).to_numpy(float)
    told = np.isfinite(prompt) & np.isfinite(ttft)
    if not told.any():
        return 0.0
    prompt, ttft = prompt[told], ttft[told]
    quiet = ttft <= np.percentile(ttft, 25)
    step = float(np.percentile(seen.duration_s / seen.steps, 25))
    return max(0.0, float(np.median(ttft[quiet] - 1.5 * step - coefficients[3] * prompt[quiet])))


def _from_quiet(
    prior: EngineParams, kept: Sequence[pd.DataFrame], measured: Sequence[pd.DataFrame]
) -> list[EngineParams]:
    """A start without the regression: the quietest stage is nearly all base, TTFT against prompt length is prefill."""
    slopes = [s for rows in kept if (s := ttft_per_token_s(rows)[0]) > 0]
    base_s = REFINING.quiet_share * min(float(table["tpot_p50_s"].min()) for table in measured)
    if not slopes or not base_s > 0:
        return []
    full = REFINING.full_costs * base_s
    coefficients = np.array([base_s, full / prior.max_num_seqs, full / prior.kv_tokens, min(slopes)])
    return [_with(prior, coefficients / prior.pipeline_stages, base_s / 2)]


def _compare(measured: pd.DataFrame, modelled: pd.DataFrame) -> pd.DataFrame:
    long = pd.DataFrame(
        {"measured": measured.stack(future_stack=True), "modelled": modelled.stack(future_stack=True)}
    )
    long = long.rename_axis(["stage", "figure"]).reset_index()
    scale = np.where(long["figure"].isin(COUNTS), np.maximum(long["measured"], 1.0), long["measured"])
    long["error"] = (long["modelled"] - long["measured"]) / np.where(scale > 0, scale, np.nan)
    return long
