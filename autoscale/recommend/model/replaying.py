"""A measured run beside the same requests sent through the engine model: the figures per stage that both are judged by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.latency import latencies
from analysis.run import Run, spans_of
from autoscale.sim.engine.replicas import EngineParams, replay
from autoscale.sim.engine.state import OK

FIGURES = (
    "tpot_p50_s",
    "tpot_p95_s",
    "ttft_p50_s",
    "ttft_p95_s",
    "running",
    "kv_usage",
    "waiting",
    "throughput_rps",
    "preemptions",
)
_AT = {name: column for column, name in enumerate(FIGURES)}
LOOKED_AT = (
    "tpot_p50_s",
    "running",
    "kv_usage",
    "ttft_p50_s",
    "tpot_p95_s",
)  # of them, by which engines are told apart
QUEUED_TTFT = 4.0  # a stage whose median TTFT is this many times the quietest stage's has a queue
MOST_REQUESTS = (
    20_000  # of a run that are replayed; a longer one is cut to the beginning of each of its stages
)


@dataclass(frozen=True)
class Sent:
    """Requests in the order in which they were sent: what an engine takes, their stage, whether they were served, when
    which of them was given up (s, position), and the instants in s at which gauges are read."""

    offered: Offered
    stage: NDArray[Any]
    served: NDArray[np.bool_]
    given_up: list[tuple[float, int]]
    times: NDArray[np.float64]


@dataclass(frozen=True)
class Slowed:
    """A stretch of a run, in s since its start, in which steps took `factor` times as long as usual."""

    run: int
    from_s: float
    to_s: float
    factor: float


MOST_SAMPLES, SAMPLES_PER_STAGE = 100, 15  # of a replay's gauges, at least: their means hardly move with more


@dataclass(frozen=True)
class Source:
    """What the fit takes of one run: requests that were sent, gauges on the client's clock, stage -> (start_s, end_s), and
    the stretches in which something else slowed the server."""

    rows: pd.DataFrame
    metrics: pd.DataFrame | None
    windows: dict[int, tuple[float, float]]
    slowed: tuple[Slowed, ...] = ()

    @cached_property
    def sent(self) -> Sent:
        """The requests as a replay takes them."""
        ordered = self.rows.sort_values("sent_s", kind="stable")
        offered = Offered.of(ordered)
        times = (
            np.arange(0.5, offered.due_s.max(), 1.0)
            if self.metrics is None
            else np.unique(self.metrics["time_s"].to_numpy(float))
        )
        times = times[times >= 0]  # before the load there is nothing to see
        times = times[:: max(len(times) // max(MOST_SAMPLES, SAMPLES_PER_STAGE * len(self.windows)), 1)]
        served = (ordered["status"] == "ok").to_numpy()
        left_s = ordered["left_s"].to_numpy(float)
        given_up = [(float(left_s[k]), int(k)) for k in np.flatnonzero(~served & np.isfinite(left_s))]
        return Sent(offered, ordered["stage"].to_numpy(), served, given_up, times)


def source_of(run: Run, excluded: set[int], metrics: pd.DataFrame | None) -> Source:
    """The run without the stages to leave out, with its metrics on the client's clock.

    Requests of no stage stay (stage -1, of no window): the server had them, too.
    """
    made = latencies(run.requests)
    rows = run.requests.assign(left_s=made["left_s"].to_numpy(), stage=made["stage"].to_numpy())
    rows = rows[rows["sent_s"].notna()]
    rows = rows[~rows["stage"].isin(excluded)]
    return _cut(Source(rows, metrics, _windows(run, rows)))


def _cut(source: Source) -> Source:
    """No more than MOST_REQUESTS: the first of every stage, an equal share each; windows end where the rows do."""
    rows, share = source.rows, MOST_REQUESTS // max(len(source.windows), 1)
    if len(rows) <= MOST_REQUESTS:
        return source
    rows = rows.sort_values("sent_s", kind="stable")
    order = rows.groupby("stage").cumcount()
    ends = rows.loc[order == share].set_index("stage")["sent_s"].to_dict()
    windows = {k: (a, min(b, float(ends.get(k, b)))) for k, (a, b) in source.windows.items()}
    rows = rows[order < share]
    metrics = source.metrics
    if metrics is not None:
        times = metrics["time_s"].to_numpy(float)
        metrics = metrics[np.any([(times >= a) & (times <= b) for a, b in windows.values()], axis=0)]
    return replace(source, rows=rows, metrics=metrics, windows=windows)


def quickest_ttft_s(requests: pd.DataFrame) -> float:
    """The median of the five shortest times to a first token: no overhead is longer. Infinite without any."""
    ttft = (requests["first_token_s"] - requests["sent_s"]).to_numpy(float)
    known = np.sort(ttft[np.isfinite(ttft)])[:5]
    return float(np.median(known)) if len(known) else math.inf


def ttft_per_token_s(requests: pd.DataFrame) -> tuple[float, float]:
    """How much longer a request waits for its first token per prompt token, in s, and the standard error of that.

    Over stages without a queue; both NaN when there is none or all prompts are equally long.
    """
    return _ttft_slope(_columns_of(requests) | {"stage": requests["stage"].to_numpy()})


def _ttft_slope(requests: Columns) -> tuple[float, float]:
    first = requests["first_token_s"]
    ok = requests["ok"] & ~np.isnan(first)
    ttft = (first - requests["sent_s"])[ok]
    prompt, stage = requests["prompt_tokens"][ok].astype(float), requests["stage"][ok]
    medians = {int(k): float(np.median(ttft[stage == k])) for k in np.unique(stage[stage >= 0])}
    quiet = QUEUED_TTFT * min(medians.values(), default=0.0)
    covariance = variance = left = 0.0
    count = 0
    for k, median in medians.items():
        if median <= quiet:
            of = (stage == k) & (ttft < 2 * median)
            x, y = prompt[of] - prompt[of].mean(), ttft[of] - ttft[of].mean()
            covariance, variance = covariance + float(x @ y), variance + float(x @ x)
            left, count = left + float(y @ y), count + len(x) - 1
    if variance <= 0 or count < 3:
        return math.nan, math.nan
    slope = covariance / variance
    return slope, math.sqrt(max(left - slope * covariance, 0.0) / (count - 1) / variance)


Columns = Mapping[str, Any]  # of requests or scrapes: name -> one value per row; a DataFrame is one


@dataclass(frozen=True)
class Replayed:
    """A run sent through the engine model: its requests, and the FIGURES (columns) of every stage (rows, by number)."""

    columns: Columns
    stages: tuple[int, ...]
    values: NDArray[np.float64]

    @property
    def ttft_slope(self) -> tuple[float, float]:
        """`ttft_per_token_s` of its requests."""
        return _ttft_slope(self.columns)

    @property
    def logs(self) -> NDArray[np.float64]:
        """The logarithms of LOOKED_AT, shape (stages, LOOKED_AT); NaN where a figure is not above 0."""
        return logarithms(self.values[:, [_AT[name] for name in LOOKED_AT]])

    @cached_property
    def requests(self) -> pd.DataFrame:
        """The requests as a run's table has them."""
        status = np.where(self.columns["ok"], "ok", "cancelled")
        return pd.DataFrame(dict(self.columns)).drop(columns="ok").assign(status=status)

    @cached_property
    def figures(self) -> pd.DataFrame:
        """As `stage_figures` gives them for what was measured."""
        return pd.DataFrame(self.values, index=list(self.stages), columns=list(FIGURES))


def replayed(engine: EngineParams, source: Source) -> Replayed:
    """The requests of a run, sent when they were sent and given up when they were, through the engine model."""
    sent = source.sent
    done, series = replay(
        engine, sent.offered, sent.times, pace=pace_of(source.slowed), given_up=sent.given_up
    )
    gauges = {name: series[name] for name in ("waiting", "running", "kv_usage", "preemptions_total")}
    columns = {
        "stage": sent.stage,
        "sent_s": sent.offered.due_s,
        "first_token_s": done["first_token_s"],
        "last_token_s": done["last_token_s"],
        "prompt_tokens": done["prompt_tokens"],
        "output_tokens": done["output_tokens"],
        "ok": sent.served & (done["status"] == OK),
    }
    values = _figures(columns, {**gauges, "time_s": sent.times}, source.windows)
    return Replayed(columns, tuple(source.windows), values)


def pace_of(slowed: Sequence[Slowed]) -> list[tuple[float, float]]:
    """(time in s, how many times as long a step takes from then on); where stretches overlap both slow it."""
    edges = sorted({edge for s in slowed for edge in (s.from_s, s.to_s)})
    return [
        (max(at_s, 0.0), math.prod(s.factor for s in slowed if s.from_s <= at_s < s.to_s)) for at_s in edges
    ]


@dataclass(frozen=True)
class Offered:
    """Requests as the engine takes them; arrays of one length."""

    due_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]
    request_id: NDArray[np.int64]

    @staticmethod
    def of(rows: pd.DataFrame) -> Offered:
        prompt = rows["prompt_tokens"].fillna(rows["prompt_tokens_asked"]).fillna(1)
        output = rows["output_tokens"].fillna(rows["output_tokens_asked"]).fillna(1)
        return Offered.at(rows["sent_s"].to_numpy(float), prompt.to_numpy(), output.to_numpy())

    @staticmethod
    def at(due_s: NDArray[np.float64], prompt: NDArray[Any], output: NDArray[Any]) -> Offered:
        """Requests of these lengths, due at these times (ascending)."""
        count = len(due_s)
        return Offered(
            due_s,
            prompt.astype("int32"),
            np.maximum(output, 1).astype("int32"),
            np.zeros(count, np.int32),
            np.arange(count),
        )


def full_batch(
    engine: EngineParams, prompt: NDArray[Any], output: NDArray[Any], prefix: NDArray[Any] | None = None
) -> tuple[float, float]:
    """Requests/s of one replica that always has a queue, and the mean number in its batch.

    Requests of these lengths (of the prompts `prefix` tokens are cached) are all due at once; the middle 60 % of them to end are counted.
    """
    offered = Offered.at(np.zeros(len(prompt)), prompt, output)
    if prefix is not None:
        offered = replace(offered, prefix_tokens=prefix.astype("int32"))
    done, _ = replay(engine, offered)
    end = np.sort(done["last_token_s"])
    from_s, to_s = end[int(0.2 * len(end))], end[int(0.8 * len(end))]
    busy = np.clip(
        np.minimum(done["last_token_s"], to_s) - np.maximum(done["first_token_s"], from_s), 0, None
    )
    return float(0.6 * len(end) / (to_s - from_s)), float(busy.sum() / (to_s - from_s))


def _windows(run: Run, rows: pd.DataFrame) -> dict[int, tuple[float, float]]:
    """Stage -> (start_s, end_s): those of the run, else from when its requests were sent."""
    windows = {s.number: (s.start_s, s.end_s) for s in spans_of(run.header, run.requests)}
    sent = {int(k): rows.loc[rows["stage"] == k, "sent_s"] for k in rows["stage"].unique() if k >= 0}
    return {k: windows.get(k, (float(v.min()), float(v.max()))) for k, v in sent.items()}


def stage_figures(
    requests: pd.DataFrame, metrics: pd.DataFrame | None, windows: dict[int, tuple[float, float]]
) -> pd.DataFrame:
    """FIGURES per stage (index), NaN where nothing was seen; gauges are means over scrapes of the sum over pods."""
    columns = _columns_of(requests) | {"stage": requests["stage"].to_numpy()}
    seen = None if metrics is None else _fleet_gauges(metrics)
    return pd.DataFrame(_figures(columns, seen, windows), index=list(windows), columns=list(FIGURES))


def _columns_of(requests: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """What figures are made of, as arrays of one length."""
    names = ("sent_s", "first_token_s", "last_token_s", "output_tokens", "prompt_tokens")
    floats = {name: requests[name].to_numpy(float, na_value=np.nan) for name in names}
    return floats | {"ok": (requests["status"] == "ok").to_numpy(bool)}


def _figures(
    requests: Columns, seen: Columns | None, windows: Mapping[int, tuple[float, float]]
) -> NDArray[np.float64]:
    """FIGURES, shape (windows, FIGURES)."""
    ok = requests["ok"]
    stage, first, last = (requests[name][ok] for name in ("stage", "first_token_s", "last_token_s"))
    tokens = requests["output_tokens"][ok]
    ttft = first - requests["sent_s"][ok]
    tpot = (last - first) / np.where(tokens > 1, tokens - 1, np.nan)
    table = np.full((len(windows), len(FIGURES)), np.nan)
    for row, (number, (start, end)) in zip(table, windows.items(), strict=True):
        of = stage == number
        row[:4] = (*_quantiles(tpot[of]), *_quantiles(ttft[of]))
        row[_AT["throughput_rps"]] = np.count_nonzero((last >= start) & (last <= end)) / (end - start)
        if seen is None:
            continue
        inside = (seen["time_s"] >= start) & (seen["time_s"] <= end)
        for name in ("running", "waiting", "kv_usage"):
            row[_AT[name]] = _mean(seen[name][inside])
        if "preemptions_total" in seen:
            counted = seen["preemptions_total"][inside]
            counted = counted[np.isfinite(counted)]
            row[_AT["preemptions"]] = counted[-1] - counted[0] if len(counted) else np.nan
    return table


def logarithms(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithms; NaN where a figure is not above 0."""
    return np.log(np.where(figures > 0, figures, np.nan))


def _fleet_gauges(metrics: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Per scrape: sums over pods (KV usage: their mean); NaN where no pod reported."""
    times = metrics["time_s"].to_numpy(float)
    columns = [c for c in ("running", "waiting", "kv_usage", "preemptions_total") if c in metrics]
    if len(times) and (np.diff(times) > 0).all():
        return {"time_s": times, **{c: metrics[c].to_numpy(float) for c in columns}}
    by_time = metrics.groupby("time_s")
    sums = {c: by_time[c].sum(min_count=1).to_numpy(float) for c in columns if c != "kv_usage"}
    return {
        "time_s": by_time["time_s"].first().to_numpy(float),  # a scrape of no time is in no group
        **sums,
        "kv_usage": by_time["kv_usage"].mean().to_numpy(float),
    }


def _quantiles(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median and p95; NaN without values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    median, p95 = np.quantile(values, (0.5, 0.95))
    return float(median), float(p95)


def _mean(values: NDArray[np.float64]) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
