"""The engine model of one replica, learned from a run: fit, intervals, identifiability, and the error of the replay.

1. The step time by regression over the requests (step_time.py), starting from the profile's prior.
2. A refinement by replay: the same requests are sent through the engine model and a factor per coefficient and one
   on the overhead before the scheduler are moved until medians per stage agree with what was measured. It starts
   from the quietest stage alone (as the engine is thought to schedule, and the other way: async_scheduling delays the
   first token) and from the regression, which other load on the machine fools; a later start must be clearly better.
3. The replay error per quantity says what the model is worth: a model that does not reproduce its own run is not used
   to extrapolate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from analysis.errors import TooLittleData
from analysis.run import Run
from autoscale.recommend import step_time
from autoscale.sim.engine import EngineParams, replay

FIGURES = (
    "tpot_p50_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "running",
    "kv_usage",
    "waiting",
    "throughput_rps",
    "preemptions",
)
COUNTS = ("waiting", "preemptions")  # below one, a relative error has no scale
# how much an error of each figure counts in the refinement; waiting and the TTFT tail swing too much to steer by
WEIGHTS = {"tpot_p50_s": 1.5, "running": 1.0, "kv_usage": 0.5, "ttft_p50_s": 0.5}
SLOPE_WEIGHT = 0.3  # of how TTFT grows with the prompt: what tells prefill from the rest
LEAN = 1.35  # a residual is |log error|^1.35: between the mean error (1) and the largest (infinity)
PULL = 0.02  # towards the start: keeps apart what one shape of load cannot tell apart
QUEUED_TTFT = 4.0  # a stage whose median TTFT is this many times the quietest stage's has a queue
QUIET_SHARE = 0.93  # of the shortest median time per token that is base; the rest is batch, cache and prompts
FULL_COSTS = 0.15  # of the base that a full batch, or a full cache, adds: where the refinement starts
GOOD_ENOUGH = 0.005  # a misfit (half the sum of squares) at which no other start is tried
CLEARLY_BETTER = 0.85  # of the misfit of the start before: only then the next one is taken
FACTORS = (*step_time.COEFFICIENTS, "request_overhead_s")
TRUSTED_ERROR = {"tpot_p50_s": 0.15, "running": 0.20, "throughput_rps": 0.10}  # medians over the stages


@dataclass(frozen=True)
class Calibration:
    """A fitted engine and what it is worth.

    engine        the parameters, ready to simulate
    intervals     coefficient -> (low, high), 95 %, from a block bootstrap over requests
    scale         relative 95 % half-width of the whole step time: what the uncertainty does to capacity
    confounded    pairs of coefficients that the run could not tell apart
    replay        one row per stage and figure: stage, figure, measured, modelled, error (relative)
    stages_used   stage numbers that the fit rests on
    """

    engine: EngineParams
    intervals: dict[str, tuple[float, float]]
    scale: float
    confounded: tuple[tuple[str, str], ...]
    replay: pd.DataFrame
    stages_used: tuple[int, ...]

    def median_error(self) -> dict[str, float]:
        """Median absolute relative error over the stages, per figure; NaN where nothing was measured."""
        return {f: float(self._errors(f).median()) for f in FIGURES}

    def untrusted(self) -> list[str]:
        """Why the model must not be used to extrapolate, one sentence each; empty when it reproduces its run."""
        errors = self.median_error()
        return [
            f"the replay misses {figure} by {errors[figure]:.0%} (median over the stages; at most {limit:.0%} is trusted)"
            for figure, limit in TRUSTED_ERROR.items()
            if errors[figure] > limit
        ]

    def _errors(self, figure: str) -> pd.Series:
        return self.replay.loc[self.replay["figure"] == figure, "error"].abs()


def limits_from_run(header: dict[str, object], prior: EngineParams) -> EngineParams:
    """The prior with the engine limits that the run found (blocks, block size, seats, token budget)."""
    facts = header.get("engine") or {}
    assert isinstance(facts, dict)
    found: dict[str, Any] = {name: int(facts[key]) for key, name in _LIMITS.items() if facts.get(key)}
    if "max_num_seqs" in found and "max_num_batched_tokens" not in found:
        found["max_num_batched_tokens"] = max(prior.max_num_batched_tokens, found["max_num_seqs"])
    return replace(prior, **found)


_LIMITS = {
    "num_blocks": "num_blocks",
    "block_size": "block_size",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
}


def calibrate(
    runs: Sequence[Run],
    prior: EngineParams,
    *,
    replicas: int = 1,
    exclude: Sequence[set[int]] = (),
    clock_offsets_s: Sequence[float] = (),
    replicates: int = 200,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
) -> Calibration:
    """The engine model of one replica from one or more runs (different shapes of load), fitted together.

    `prior` carries the limits (see limits_from_run) and the starting step time; `replicas` is how many served the runs;
    `exclude[i]` are stages of run i to leave out (limited by the client, served by several replicas) and
    `clock_offsets_s[i]` is how far its metrics' clock is ahead of the client's. Raises TooLittleData without usable
    requests.
    """
    if replicas != 1:
        raise TooLittleData(
            "the run was served by several replicas",
            value=replicas,
            expected="1 while the step time is measured",
            next_step="scale the deployment to one replica and measure again",
        )
    report = progress or (lambda _fraction, _text: None)
    out = [*exclude, *(set[int]() for _ in runs[len(exclude) :])]
    offsets_s = [*clock_offsets_s, *(0.0 for _ in runs[len(clock_offsets_s) :])]
    sources = [_source(*one) for one in zip(runs, out, offsets_s, strict=True)]
    kept = [source.rows for source in sources]
    seen = _join([step_time.exposure(rows) for rows in kept])
    start = np.array([getattr(prior, name) for name in step_time.COEFFICIENTS])
    passes = prior.pipeline_stages  # the regression sees the whole pass; parameters are per stage
    coefficients = step_time.fit(seen, start)
    report(0.2, "step time fitted")
    measured = [stage_figures(source.rows, source.metrics, source.windows) for source in sources]
    starts = [
        *(quiet := _from_quiet(prior, kept, measured)),
        *(replace(engine, async_scheduling=not prior.async_scheduling) for engine in quiet),
        _with(prior, coefficients / passes, _overhead(kept, seen, coefficients)),
    ]
    engine = _refined(starts, sources, measured)
    report(0.6, "refined by replay")
    draws = step_time.bootstrap(seen, start, replicates, seed)
    factor = np.array([getattr(engine, n) for n in step_time.COEFFICIENTS]) / np.maximum(coefficients, 1e-15)
    low, high = np.percentile(draws * factor, [2.5, 97.5], axis=0)
    typical = seen.design().mean(axis=0)
    spread = np.percentile((draws @ typical) / (coefficients @ typical), [2.5, 97.5])
    report(0.9, "intervals")
    table = [
        _compare(m, replayed(engine, source).figures).assign(run=i)
        for i, (m, source) in enumerate(zip(measured, sources, strict=True))
    ]
    report(1.0, "replayed")
    return Calibration(
        engine=engine,
        intervals={
            name: (float(a), float(b)) for name, a, b in zip(step_time.COEFFICIENTS, low, high, strict=True)
        },
        scale=float((spread[1] - spread[0]) / 2),
        confounded=tuple(step_time.confounded(seen)),
        replay=pd.concat(table, ignore_index=True),
        stages_used=tuple(sorted({int(s) for s in np.unique(seen.stage)})),
    )


@dataclass(frozen=True)
class _Source:
    """What the fit takes of one run: requests that were sent, gauges on the client's clock, stage -> (start_s, end_s)."""

    rows: pd.DataFrame
    metrics: pd.DataFrame | None
    windows: dict[int, tuple[float, float]]


def _source(run: Run, excluded: set[int], offset_s: float) -> _Source:
    rows = run.requests[run.requests["sent_s"].notna()]
    rows = rows[~rows["stage"].isin(excluded)]
    metrics = run.metrics if run.has("metrics") else None
    if metrics is not None and offset_s:
        metrics = metrics.assign(time_s=metrics["time_s"] - offset_s)
    return _Source(rows, metrics, _windows(run, rows))


def _join(parts: Sequence[step_time.Exposure]) -> step_time.Exposure:
    shifted = [replace(p, stage=p.stage + 1000 * i) for i, p in enumerate(parts)]
    return step_time.Exposure(
        *(
            np.concatenate([getattr(p, name) for p in shifted])
            for name in step_time.Exposure.__dataclass_fields__
        )
    )


def _with(prior: EngineParams, coefficients: NDArray[np.float64], overhead_s: float) -> EngineParams:
    values: dict[str, Any] = dict(zip(step_time.COEFFICIENTS, map(float, coefficients), strict=True))
    return replace(prior, **values, request_overhead_s=overhead_s)


def _overhead(
    kept: Sequence[pd.DataFrame], seen: step_time.Exposure, coefficients: NDArray[np.float64]
) -> float:
    """What remains of the quietest TTFTs after half a step of waiting and the prefill step itself."""
    rows = pd.concat(kept)
    ttft = (rows["first_token_s"] - rows["sent_s"]).to_numpy(float)
    quiet = ttft <= np.nanpercentile(ttft, 25)
    step = float(np.percentile(seen.duration_s / seen.steps, 25))
    prompt = rows["prompt_tokens"].astype("float64").to_numpy()[quiet]
    return max(0.0, float(np.nanmedian(ttft[quiet] - 1.5 * step - coefficients[3] * prompt)))


def _from_quiet(
    prior: EngineParams, kept: Sequence[pd.DataFrame], measured: Sequence[pd.DataFrame]
) -> list[EngineParams]:
    """A start without the regression: the quietest stage is nearly all base, TTFT against prompt length is prefill."""
    slopes = [s for rows in kept if (s := ttft_per_token_s(rows)) > 0]
    base_s = QUIET_SHARE * min(float(table["tpot_p50_s"].min()) for table in measured)
    if not slopes or not base_s > 0:
        return []
    full = FULL_COSTS * base_s
    coefficients = np.array([base_s, full / prior.max_num_seqs, full / prior.kv_tokens, min(slopes)])
    return [_with(prior, coefficients / prior.pipeline_stages, base_s / 2)]


def _refined(
    starts: Sequence[EngineParams],
    sources: Sequence[_Source],
    measured: Sequence[pd.DataFrame],
) -> EngineParams:
    """The best of the starts after each coefficient was moved until the replay's figures come nearest to the measured."""
    figures = list(WEIGHTS)
    weights = np.array(list(WEIGHTS.values()))
    slopes = [ttft_per_token_s(source.rows) for source in sources]
    truth = [table[figures].to_numpy(float) for table in measured]

    def residuals(
        factors: NDArray[np.float64], engine: EngineParams, start: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        trial = replace(engine, **_named(start * factors))
        parts = [PULL * (factors - 1)]
        for source, target, slope_s in zip(sources, truth, slopes, strict=True):
            model = replayed(trial, source)
            with np.errstate(divide="ignore", invalid="ignore"):
                error = np.log(model.figures[figures].to_numpy(float) / target)
            error = np.clip(error, -3, 3)
            parts.append(np.where(np.isfinite(error), weights * _leaned(error), 0.0).ravel())
            if slope_s > 0:
                ratio = max(ttft_per_token_s(model.requests), 1e-9) / slope_s
                parts.append(SLOPE_WEIGHT * _leaned(np.log([ratio])))
        return np.concatenate(parts)

    best: tuple[float, EngineParams] | None = None
    for engine in starts:
        start = np.array([getattr(engine, name) for name in FACTORS])
        start[-1] = max(start[-1], 0.1 * engine.base_s)  # a factor cannot move a zero
        solved = least_squares(
            residuals, np.ones(len(FACTORS)), bounds=(0, 8), diff_step=0.05, max_nfev=25, args=(engine, start)
        )
        if best is None or solved.cost < CLEARLY_BETTER * best[0]:
            best = float(solved.cost), replace(engine, **_named(start * solved.x))
        if best[0] < GOOD_ENOUGH:
            break
    assert best is not None
    return best[1]


def _named(values: NDArray[np.float64]) -> dict[str, Any]:
    return dict(zip(FACTORS, map(float, values), strict=True))


def _leaned(error: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sign(error) * np.abs(error) ** LEAN


def ttft_per_token_s(requests: pd.DataFrame) -> float:
    """How much longer a request waits for its first token per prompt token, in s, over stages without a queue.

    NaN when no stage is without a queue or all prompts are equally long.
    """
    ok = requests[(requests["status"] == "ok") & requests["first_token_s"].notna()]
    ttft = (ok["first_token_s"] - ok["sent_s"]).to_numpy(float)
    prompt, stage = ok["prompt_tokens"].to_numpy(float), ok["stage"].to_numpy(int)
    medians = {int(k): float(np.median(ttft[stage == k])) for k in np.unique(stage)}
    quiet = QUEUED_TTFT * min(medians.values(), default=0.0)
    covariance = variance = 0.0
    for k, median in medians.items():
        if median <= quiet:
            of = (stage == k) & (ttft < 2 * median)
            x, y = prompt[of] - prompt[of].mean(), ttft[of] - ttft[of].mean()
            covariance, variance = covariance + float(x @ y), variance + float(x @ x)
    return covariance / variance if variance > 0 else float("nan")


@dataclass(frozen=True)
class Replayed:
    """A run sent through the engine model: its requests and the FIGURES per stage."""

    requests: pd.DataFrame
    figures: pd.DataFrame


def replayed(engine: EngineParams, source: _Source) -> Replayed:
    """The requests of a run, sent when they were sent, through the engine model."""
    ordered = source.rows.sort_values("sent_s", kind="stable")
    sent = ordered["sent_s"].to_numpy(float)
    times = (
        np.arange(0.5, sent.max(), 1.0)
        if source.metrics is None
        else np.unique(source.metrics["time_s"].to_numpy(float))
    )
    done, series = replay(engine, _Requests.of(ordered), times)
    gauges = pd.DataFrame(
        {name: series[name] for name in ("waiting", "running", "kv_usage", "preemptions_total")}
    ).assign(time_s=times)
    frame = pd.DataFrame(
        {
            "stage": ordered["stage"].to_numpy(),
            "sent_s": sent,
            "first_token_s": done["first_token_s"],
            "last_token_s": done["last_token_s"],
            "prompt_tokens": done["prompt_tokens"],
            "output_tokens": done["output_tokens"],
            "status": "ok",
        }
    )
    return Replayed(frame, stage_figures(frame, gauges, source.windows))


@dataclass(frozen=True)
class _Requests:
    due_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]
    request_id: NDArray[np.int64]

    @staticmethod
    def of(rows: pd.DataFrame) -> _Requests:
        prompt = rows["prompt_tokens"].fillna(rows["prompt_tokens_asked"]).fillna(1)
        output = rows["output_tokens"].fillna(rows["output_tokens_asked"]).fillna(1)
        return _Requests(
            rows["sent_s"].to_numpy(float),
            prompt.to_numpy("int32"),
            output.clip(lower=1).to_numpy("int32"),
            np.zeros(len(rows), np.int32),
            np.arange(len(rows)),
        )


def _windows(run: Run, rows: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """Stage -> (start_s, end_s): from the load plan, else from when its requests were sent."""
    planned = (run.header.get("load") or {}).get("stages") or run.header.get("stages") or []
    windows = {
        int(s.get("stage", i)): (float(s["start_s"]), float(s["end_s"])) for i, s in enumerate(planned)
    }
    sent = {int(k): rows.loc[rows["stage"] == k, "sent_s"] for k in rows["stage"].dropna().unique()}
    return {k: windows.get(k, (float(v.min()), float(v.max()))) for k, v in sent.items()}


def stage_figures(
    requests: pd.DataFrame, metrics: pd.DataFrame | None, windows: dict[int, tuple[float, float]]
) -> pd.DataFrame:
    """FIGURES per stage (index), NaN where nothing was seen; gauges are means over scrapes of the sum over pods."""
    rows = requests[requests["status"] == "ok"]
    stage = rows["stage"].to_numpy()
    first, last = rows["first_token_s"].to_numpy(float), rows["last_token_s"].to_numpy(float)
    tokens = rows["output_tokens"].to_numpy(float, na_value=np.nan)
    ttft = first - rows["sent_s"].to_numpy(float)
    tpot = (last - first) / np.where(tokens > 1, tokens - 1, np.nan)
    seen = None if metrics is None else _fleet_gauges(metrics)
    table = {}
    for number, (start, end) in windows.items():
        of = stage == number
        figures = {
            "tpot_p50_s": _quantile(tpot[of], 0.5),
            "ttft_p50_s": _quantile(ttft[of], 0.5),
            "ttft_p95_s": _quantile(ttft[of], 0.95),
            "throughput_rps": np.count_nonzero((last >= start) & (last <= end)) / (end - start),
        }
        if seen is not None:
            inside = (seen["time_s"] >= start) & (seen["time_s"] <= end)
            for name in ("running", "waiting", "kv_usage"):
                figures[name] = _mean(seen[name][inside])
            if "preemptions_total" in seen:
                counted = seen["preemptions_total"][inside]
                counted = counted[np.isfinite(counted)]
                figures["preemptions"] = counted[-1] - counted[0] if len(counted) else np.nan
        table[number] = figures
    return pd.DataFrame.from_dict(table, orient="index").reindex(columns=list(FIGURES))


def _fleet_gauges(metrics: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Per scrape: sums over pods (KV usage: their mean); NaN where no pod reported."""
    times = metrics["time_s"].to_numpy(float)
    columns = [c for c in ("running", "waiting", "kv_usage", "preemptions_total") if c in metrics]
    if len(times) and (np.diff(times) > 0).all():
        return {"time_s": times, **{c: metrics[c].to_numpy(float) for c in columns}}
    by_time = metrics.groupby("time_s")
    sums = {c: by_time[c].sum(min_count=1).to_numpy(float) for c in columns if c != "kv_usage"}
    return {
        "time_s": np.unique(times),
        **sums,
        "kv_usage": by_time["kv_usage"].mean().to_numpy(float),
    }


def _quantile(values: NDArray[np.float64], share: float) -> float:
    values = values[np.isfinite(values)]
    return float(np.quantile(values, share)) if len(values) else math.nan


def _mean(values: NDArray[np.float64]) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _compare(measured: pd.DataFrame, modelled: pd.DataFrame) -> pd.DataFrame:
    long = pd.DataFrame(
        {"measured": measured.stack(future_stack=True), "modelled": modelled.stack(future_stack=True)}
    )
    long = long.rename_axis(["stage", "figure"]).reset_index()
    scale = np.where(long["figure"].isin(COUNTS), np.maximum(long["measured"], 1.0), long["measured"])
    long["error"] = (long["modelled"] - long["measured"]) / np.where(scale > 0, scale, np.nan)
    return long
