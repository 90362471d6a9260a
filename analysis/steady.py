"""Which part of each stage can be trusted, and for what.

    steady      below the knee: the warm-up is cut, latencies do not drift; good for percentiles at this rate
    queued      requests were queued for at least half of the stage: the batch was full; good for its throughput, not
                for percentiles (they grow with the stage's length)
    unusable    neither; the reason says why

A rate, not a stage, is *saturated*: above it requests pile up (`Capacity.saturated`). A stage may be queued below it.

A stage in which the client was late is set aside whatever its state: its load is not the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from analysis import foreign, signals
from analysis.errors import TooLittleData
from analysis.latency import in_flight, latencies
from analysis.run import Run, requested_spans, spans_of

FULL_SHARE = 0.5  # queued at least this share of the time; also the definition of the knee
_LATE_S = (
    0.05  # a send is late when it lags the plan by more than this and a tenth of the stage's median TTFT
)
_FEWEST = 10  # completed requests without which a window says nothing
_LOST_REQUESTS, _LOST_SHARE = (
    3,
    0.02,
)  # without a connection, from which a stage is that of a server in trouble
LOST = ("connection_error", "incomplete")  # statuses of requests whose connection broke, or that got none
_QUEUED = 5.0  # times the quickest first tokens: a stage whose median is more had a queue
_SHORTEST_S = 1e-6  # of time in which something may grow
_CELL_S = 0.1  # resolution of the queue's state in time


@dataclass(frozen=True)
class StageWindow:
    """One stage of the plan and what can be used of it. Times in s since the run started.

    `planned_rps` NaN = closed loop or unknown; `offered_rps` = requests due per second in the stage; `from_s`, `to_s`
    the window (NaN when unusable); `full_share` the share of the stage's time in which requests were queued;
    `growth_rps` how fast the backlog (sent minus done) grew in the second half of the stage; `replicas` the replicas
    that served it; `little_ratio` waiting + running at the server over requests in flight at the client (1 =
    agreement, NaN = no metrics); `client` the reasons for which the client limited this stage.
    """

    stage: int
    start_s: float
    end_s: float
    planned_rps: float
    offered_rps: float
    state: str
    why: str
    from_s: float
    to_s: float
    full_share: float
    growth_rps: float
    replicas: float
    little_ratio: float
    client: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the stage counts: it has a window and the client kept to the plan."""
        return self.state != "unusable" and not self.client

    def __str__(self) -> str:
        rate = f"{self.offered_rps:.2f}" + (
            "" if np.isnan(self.planned_rps) else f" (planned {self.planned_rps:g})"
        )
        return f"stage {self.stage}, {rate} req/s: {self.tells}"

    @property
    def tells(self) -> str:
        """What the stage is evidence of, and why."""
        limited = f"; set aside, limited by the client: {'; '.join(self.client)}" if self.client else ""
        return f"{self.state}, {self.why}{limited}"


@dataclass(frozen=True)
class Observed:
    """A run made ready for analysis: latencies per request, the fleet's gauges on the client's clock, the stages.

    `metrics` are the run's, on the client's clock, without servers that did not serve this load (`left_out` names them).
    `service_start_s` is when each request left the queue, as its first token less the time to the first token of an
    idle server (`idle_ttft_s`); `full` holds the times (edges, state per cell) at which requests were queued.
    """

    header: dict[str, Any]
    table: pd.DataFrame
    itl: pd.DataFrame | None
    metrics: pd.DataFrame | None
    left_out: str | None
    series: pd.DataFrame | None
    clock: signals.ClockOffset
    stages: pd.DataFrame
    replicas: pd.DataFrame | None
    idle_ttft_s: float
    service_start_s: NDArray[np.float64]
    full_edges_s: NDArray[np.float64]
    full: NDArray[np.float64]

    def rows(self, stage: int) -> pd.DataFrame:
        """The requests of a stage."""
        return self.table[self.table["stage"] == stage]


def observe(run: Run) -> Observed:
    """The run made ready for analysis; metrics are moved to the client's clock when an offset is found.

    Raises BadRun without requests, TooLittleData when no request completed.
    """
    table = latencies(run.requests)
    if not table["ok"].any():
        raise TooLittleData(
            f"none of {len(table)} requests completed ({_statuses(table)})",
            expected="at least one stage with completed requests",
            next_step="check the server, the model name and --host, then send the load again",
        )
    series, metrics, left_out, clock = None, None, None, signals.ClockOffset(0.0, np.nan, np.nan)
    if run.has("metrics") and len(run.metrics):
        if not _clocks_compared(run.header):
            clock = signals.clock_offset(table, run.metrics)
        moved = run.metrics.assign(time_s=run.metrics["time_s"] - clock.offset_s)
        metrics, left_out = foreign.own(table, moved)
        series = signals.fleet(metrics)
    stages = _stages(run.header, table)
    idle_s = _idle_ttft_s(table)
    start_s = np.fmax(
        table["sent_s"].to_numpy(), table["first_token_s"].to_numpy() - idle_s
    )  # not streamed: sent
    edges, full = _queued(table, start_s, idle_s, series)
    replicas = run.replicas if run.has("replicas") and len(run.replicas) else None
    itl = run.itl if run.has("itl") else None
    return Observed(
        run.header,
        table,
        itl,
        metrics,
        left_out,
        series,
        clock,
        stages,
        replicas,
        idle_s,
        start_s,
        edges,
        full,
    )


def _clocks_compared(header: Mapping[str, Any]) -> bool:
    """Whether nothing is to be found out about the clocks: collect asked the source for its time, or all is one host."""
    if (header.get("metrics") or {}).get("clock_offset_s") is not None:
        return True
    hosts = [urlsplit(str(header.get(key) or "")).hostname for key in ("target", "prometheus")]
    return all(host in ("localhost", "127.0.0.1", "::1") for host in hosts)


def windows(observed: Observed) -> tuple[StageWindow, ...]:
    """The window of every stage, in the order of the plan."""
    return tuple(_window(observed, stage) for stage in observed.stages.itertuples(index=False))


def client_limited(stage_rows: pd.DataFrame) -> tuple[str, ...]:
    """Why the client, not the server, shaped these requests; empty when it kept to the plan.

    Two rules on the rows of `latencies`: the 95th percentile of the send lag exceeds 50 ms plus a tenth of the median
    TTFT (the load had other gaps than planned), or more than 1 % of the planned requests were dropped unsent.
    """
    reasons = []
    lag = (stage_rows["sent_s"] - stage_rows["due_s"]).dropna()
    ttft = stage_rows["ttft_sent_s"].dropna()
    if len(lag):
        late_s, allowed_s = float(lag.quantile(0.95)), _LATE_S + (0.1 * ttft.median() if len(ttft) else 0.0)
        if late_s > allowed_s:
            reasons.append(f"5 % of the sends were {late_s:.2g} s or more behind the plan")
    dropped = float((stage_rows["status"] == "dropped").mean()) if len(stage_rows) else 0.0
    if dropped > 0.01:
        reasons.append(f"{dropped:.1%} of the planned requests were never sent")
    return tuple(reasons)


def _window(observed: Observed, stage: Any) -> StageWindow:
    rows = observed.rows(stage.stage)
    length_s = stage.end_s - stage.start_s
    full_share = overlap_s(observed, stage.start_s, stage.end_s) / length_s
    growth = _growth_rps(rows, stage.start_s, stage.end_s)
    state, why, from_s, to_s = _judge(stage, rows, full_share, growth)
    replicas, changed = _replicas(observed, stage.start_s, stage.end_s)
    if changed:
        state, why, from_s, to_s = "unusable", changed, np.nan, np.nan
    return StageWindow(
        int(stage.stage),
        float(stage.start_s),
        float(stage.end_s),
        float(stage.rate_rps),
        len(rows) / length_s,
        state,
        why,
        from_s,
        to_s,
        float(full_share),
        growth,
        replicas,
        _little_ratio(observed, stage.start_s, stage.end_s),
        _client_reasons(observed.header, stage.stage, rows),
    )


def _judge(stage: Any, rows: pd.DataFrame, full_share: float, growth: float) -> tuple[str, str, float, float]:
    if died := _died(stage, rows):
        return "unusable", died, np.nan, np.nan
    completed = int(rows["ok"].sum())
    if completed < _FEWEST:
        return "unusable", f"only {completed} of {len(rows)} requests completed", np.nan, np.nan
    if (due := int(rows["due_s"].between(stage.start_s, stage.end_s).sum())) < _FEWEST:
        return "unusable", f"only {due} of its {len(rows)} requests were due in its time", np.nan, np.nan
    offered = len(rows) / (stage.end_s - stage.start_s)
    growing = growth > 0.1 * offered and growth * (stage.end_s - stage.start_s) / 2 > 3 * np.sqrt(
        len(rows) / 2
    )
    if full_share >= FULL_SHARE or growing:
        grows = f"and the backlog grew by {growth:.2g} req/s" if growing else "and the queue stood"
        return (
            "queued",
            f"requests were queued {full_share:.0%} of the time {grows}",
            stage.start_s,
            stage.end_s,
        )
    warm_s = min(max(2 * float(rows["e2e_s"].median()), 2.0), (stage.end_s - stage.start_s) / 3)
    for from_s in (stage.start_s + warm_s, (stage.start_s + stage.end_s) / 2):
        inside = rows[rows["ok"] & (rows["due_s"] >= from_s) & (rows["due_s"] < stage.end_s)]
        if len(inside) < _FEWEST:
            return "unusable", f"only {len(inside)} requests completed after warm-up", np.nan, np.nan
        drift = _drift(inside, from_s, stage.end_s)
        if abs(drift) < 0.3:
            return (
                "steady",
                f"{len(inside)} requests after {from_s - stage.start_s:.0f} s of warm-up",
                from_s,
                stage.end_s,
            )
    return "unusable", f"latency kept drifting (by {drift:+.0%} over its second half)", np.nan, np.nan


def server_died(lost: int, requests: int) -> bool:
    """Whether so many of the requests ended as LOST that their server died, or was restarted."""
    return lost >= _LOST_REQUESTS and lost >= _LOST_SHARE * requests


def _died(stage: Any, rows: pd.DataFrame) -> str:
    """A sentence when connections were lost in the stage: the server died, or was restarted; else nothing."""
    lost = rows[rows["status"].isin(LOST)]
    if not server_died(len(lost), len(rows)):
        return ""
    first_s, last_s = lost["left_s"].min() - stage.start_s, lost["left_s"].max() - stage.start_s
    return (
        f"the server died or was restarted: from {first_s:.0f} s to {last_s:.0f} s of the stage {len(lost)} of "
        f"{len(rows)} requests lost their connection or got none"
    )


def _drift(inside: pd.DataFrame, from_s: float, to_s: float) -> float:
    """Relative change of the time per request over the window; 0 when six blocks cannot tell it from noise (p >= 1 %)."""
    block = np.minimum(((inside["due_s"] - from_s) / (to_s - from_s) * 6).astype(int), 5)
    means = np.log(inside["e2e_s"].clip(lower=1e-6)).groupby(block).mean()
    if len(means) < 4:
        return 0.0
    values = means.to_numpy()
    fall = np.median(values[1:]) - values[0]
    if abs(fall) > max(4 * values[1:].std(ddof=1), 0.3):  # a warm-up that outlasted the cut
        return float(np.expm1(fall))
    fit = stats.linregress(means.index.to_numpy(dtype=float), values)
    return float(np.expm1(fit.slope * 5)) if fit.pvalue < 0.01 else 0.0


def _growth_rps(rows: pd.DataFrame, start_s: float, end_s: float) -> float:
    """Least-squares slope of sent minus done over the second half of the stage; requests that were given up stay open until then."""
    times = np.linspace((start_s + end_s) / 2, end_s, 50)
    if times[-1] - times[0] < _SHORTEST_S:
        return 0.0
    return float(np.polyfit(times, in_flight(rows["sent_s"], rows["left_s"], times), 1)[0])


def _queued(
    table: pd.DataFrame, start_s: NDArray[np.float64], idle_s: float, series: pd.DataFrame | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cell edges in time and the state per cell: 1 = every replica had a queue, a fraction = some had, NaN = unknown.

    From the server's waiting gauge where it is scraped every 5 s or more often (a cell counts when the scrapes on both
    sides saw a queue); otherwise from the client: a request whose TTFT is more than twice an idle server's plus 20 ms
    was queued until its service started.
    """
    end_s = float(np.nanmax(table[["due_s", "last_token_s"]].to_numpy()))
    if series is not None and len(series) >= 10 and series["time_s"].diff().median() <= 5:
        times, full = series["time_s"].to_numpy(), series["full"].to_numpy(dtype=float)
        if np.isfinite(full).any():
            state = np.minimum(full[:-1], full[1:])
            state[np.diff(times) > 15] = np.nan
            return times, state
    cells = min(max(int(end_s / _CELL_S), 1), 2_000_000)
    edges = np.linspace(0, end_s, cells + 1)
    due = table["due_s"].to_numpy()
    queued = start_s - due > max(idle_s, 0.0) + 0.02
    waiting = in_flight(np.where(queued, due, np.nan), start_s, (edges[:-1] + edges[1:]) / 2)
    return edges, (waiting >= 1).astype(float)


def overlap_s(observed: Observed, from_s: float, to_s: float) -> float:
    """Seconds within [from_s, to_s] in which requests were queued."""
    edges = np.clip(observed.full_edges_s, from_s, to_s)
    return float(np.nansum(np.diff(edges) * (observed.full >= FULL_SHARE)))


def _idle_ttft_s(table: pd.DataFrame) -> float:
    """What a first token takes when nothing is ahead, from the send time: the median of the least loaded stage, or where
    all stages had a queue the quickest ones."""
    by_stage = table.loc[table["ok"], ["stage", "ttft_sent_s"]].groupby("stage")["ttft_sent_s"]
    medians = by_stage.median()[by_stage.count() >= min(_FEWEST, by_stage.count().max())]
    if not len(medians) or not np.isfinite(medians.min()):
        return 0.0
    quickest = float(table.loc[table["ok"], "ttft_sent_s"].nsmallest(5).median())
    return quickest if medians.min() > _QUEUED * quickest else float(medians.min())


def _stages(header: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """stage, start_s, end_s, rate_rps (NaN = not planned as a rate): the plan's, or what the requests span."""
    found, present = spans_of(header, table), set(table["stage"])
    found = [s for s in found if s.number in present] or requested_spans(table)
    rows = [(s.number, s.start_s, s.end_s, s.plan.get("rate")) for s in found]
    return pd.DataFrame(rows, columns=["stage", "start_s", "end_s", "rate_rps"]).astype({"rate_rps": float})


def _replicas(observed: Observed, from_s: float, to_s: float) -> tuple[float, str | None]:
    """Replicas that served the time span, and a sentence when they changed in it."""
    counts: Iterable[float] = ()
    if observed.replicas is not None:
        frame = observed.replicas
        before = frame[frame["time_s"] <= from_s]["ready"].dropna().tail(1)
        counts = [*before, *frame[(frame["time_s"] > from_s) & (frame["time_s"] < to_s)]["ready"].dropna()]
    elif observed.series is not None:
        inside = observed.series[observed.series["time_s"].between(from_s, to_s)]
        counts = [inside["pods"].median()] if len(inside) else []
    known = sorted(set(counts))
    if not known:
        return 1.0, None
    if known == [0]:
        return 1.0, "no replica was ready in it"
    changed = f"replicas changed between {known[0]:g} and {known[-1]:g}" if len(known) > 1 else None
    return float(np.median(list(counts))), changed


def _little_ratio(observed: Observed, from_s: float, to_s: float) -> float:
    if observed.series is None:
        return np.nan
    inside = observed.series[observed.series["time_s"].between(from_s, to_s)].dropna(subset=["in_system"])
    if len(inside) < 3:
        return np.nan
    client = in_flight(observed.table["sent_s"], observed.table["left_s"], inside["time_s"]).mean()
    return float(inside["in_system"].mean() / client) if client > 0 else np.nan


def _client_reasons(header: dict[str, Any], stage: int, rows: pd.DataFrame) -> tuple[str, ...]:
    """The load generator's own verdict on the stage when the run has one (it saw more), else the requests' own."""
    verdict = header.get("client")
    for entry in (verdict.get("stages") or []) if isinstance(verdict, dict) else []:
        if entry.get("stage") == stage and "verdict" in entry:
            if entry["verdict"] != "limited":
                return ()
            return tuple(str(reason["sentence"]) for reason in entry["reasons"])
    return client_limited(rows)


def _statuses(table: pd.DataFrame) -> str:
    return ", ".join(f"{count} {status}" for status, count in table["status"].value_counts().items())
