"""What a run's page says in rows: what was sent, what came back, what the server said, what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from analysis import plots
from analysis.latency import Percentile
from analysis.opened import OpenedRun
from analysis.run import SIGNALS, Run
from analysis.slo import Term
from analysis.steady import client_limited
from autoscale.show.over_time import gauges_of
from autoscale.show.words import DASH, clock, latency_name, number, share, span

METRICS = ("ttft", "tpot", "itl", "e2e")
MEANING = {
    "ttft": "first token after the request was due",
    "tpot": "time per output token after the first",
    "itl": "gap between streamed events",
    "e2e": "last token after the request was due",
}
PERCENTILES = (50.0, 95.0, 99.0)
SHOWN_EVENTS = 40
SCALED = ("SuccessfulRescale", "decision")  # kinds of events of the simulator and of a check


def when(run: Run) -> str:
    """What kind of run it is, when it began and how long it took."""
    started = datetime.fromtimestamp(run.started_at, UTC)
    ended = run.header.get("ended_at")
    length = f", {span(float(ended) - run.started_at)}" if ended else ", not ended"
    return f"{run.header.get('kind', 'run')}, {started:%Y-%m-%d %H:%M:%S} UTC{length}"


def sent(seen: OpenedRun) -> Iterator[tuple[str, str]]:
    """What the header says about the load and its target, in words; absent keys are left out."""
    header = seen.run.header
    load, lengths, engine = (header.get(key) or {} for key in ("load", "lengths", "engine"))
    facts = {
        "target": header.get("target"),
        "endpoint": header.get("endpoint"),
        "model": header.get("model"),
        "profile": header.get("profile"),
        "load": {
            "open": "open loop: requests leave when they are due",
            "closed": "closed loop: users wait for answers",
        }.get(load.get("loop", ""), load.get("loop")),
        "arrivals": load.get("arrivals"),
        "planned requests": None
        if load.get("expected_requests") is None
        else f"{load['expected_requests']:,.0f}",
        "in flight at most": load.get("max_in_flight"),
        "prompt tokens": lengths.get("prompt_tokens"),
        "output tokens": lengths.get("output_tokens"),
        "shared prefix": f"{lengths['shared_prefix_tokens']} tokens"
        if lengths.get("shared_prefix_tokens")
        else None,
        "SLO": header.get("slo"),
        "seed": header.get("seed"),
        "engine": ", ".join(f"{name} {value}" for name, value in engine.items()),
        "load generator": ", ".join(
            f"{name} {value}" for name, value in (header.get("versions") or {}).items()
        ),
        "HPA watched": (header.get("check") or {}).get("hpa"),
    }
    for name, value in facts.items():
        if value is not None and value != "":
            yield name, str(value)


@dataclass(frozen=True)
class ClientVerdict:
    """Whether the load generator was the limit, why, and by whose word."""

    limited: bool
    reasons: list[str]
    by: str


def client_verdict(seen: OpenedRun) -> ClientVerdict | None:
    """The load generator's verdict on itself, or what the requests alone say; None without requests or client."""
    if seen.table is None or seen.run.header.get("kind") == "simulated":
        return None
    verdict = seen.run.header.get("client")
    if isinstance(verdict, dict) and verdict.get("verdict"):
        reasons = [
            f"stage {stage.get('stage')}: {reason['sentence']}"
            for stage in verdict.get("stages") or []
            for reason in stage.get("reasons") or []
        ]
        return ClientVerdict(verdict["verdict"] == "limited", reasons, "the load generator")
    reasons = [
        f"stage {stage}: {sentence}"
        for stage, rows in seen.table.groupby("stage")
        for sentence in client_limited(rows)
    ]
    return ClientVerdict(bool(reasons), reasons, "the requests alone")


def stage_heads(seen: OpenedRun) -> tuple[str, ...]:
    """What the columns of `stage_rows` are, the SLO's percentiles among them."""
    named = [latency_name(term.name) for term in _percentiles(seen)]
    return (
        "stage",
        "planned",
        "offered",
        "finished",
        "ok",
        "failed",
        "dropped",
        *named,
        *(["what it tells"] if seen.capacity else []),
    )


def _percentiles(seen: OpenedRun) -> list[Term]:
    return [term for term in (seen.slo.percentile_terms() if seen.slo else ()) if term.percentile]


def stage_rows(seen: OpenedRun) -> Iterator[tuple[str, ...]]:
    """Per stage: planned and offered rate, finished per s, how the requests ended, the SLO's percentiles, what it tells."""
    if seen.table is None:
        return
    tells = {window.stage: window.tells for window in seen.capacity.windows} if seen.capacity else {}
    for stage, start_s, end_s, plan in seen.stages:
        rows = seen.table[seen.table["stage"] == stage]
        if rows.empty:
            continue
        length_s = end_s - start_s
        status = rows["status"].value_counts()
        ok, dropped, cut = (int(status.get(name, 0)) for name in ("ok", "dropped", "cancelled"))
        done = int((seen.table["ok"] & seen.table["last_token_s"].between(start_s, end_s)).sum())
        yield (
            str(stage),
            plan or DASH,
            f"{len(rows) / length_s:.2f}",
            f"{done / length_s:.2f}",
            f"{ok:,}",
            f"{len(rows) - ok - dropped - cut:,}" + (f", and {cut:,} cut off" if cut else ""),
            f"{dropped:,}",
            *(_known(seen.percentile(t.metric, t.percentile or 0.0, stage)) for t in _percentiles(seen)),
            *([tells.get(stage, DASH)] if seen.capacity else []),
        )


@dataclass(frozen=True)
class LatencyTable:
    """One metric: what it means, and percentiles with the number of samples per stage."""

    title: str
    meaning: str
    rows: list[tuple[str, ...]]


def latency_tables(seen: OpenedRun) -> Iterator[LatencyTable]:
    """Per metric a table of percentiles by stage, with the number of samples; a metric without any is left out."""
    if seen.table is None:
        return
    for metric in METRICS:
        rows = []
        for stage in [*sorted(seen.table["stage"].unique().tolist()), None]:
            known = [seen.percentile(metric, p, stage) for p in PERCENTILES]
            if known[0].count:
                label = "all" if stage is None else str(stage)
                rows.append((label, *(_known(p) for p in known), f"{known[0].count:,}"))
        if len(rows) == 2:  # one stage: "all" would say it twice
            rows = rows[:1]
        if rows:
            yield LatencyTable(metric.upper(), MEANING[metric], rows)


def _known(known: Percentile) -> str:
    return "too few" if math.isnan(known.value) else span(known.value)


def slo_rows(seen: OpenedRun) -> Iterator[tuple[str, str, str, str]]:
    """Per term of the SLO how the whole run stands to it: name, value, share within, verdict."""
    for verdict in seen.verdicts:
        value = share(verdict.value, 2) if verdict.name == "goodput" else span(verdict.value)
        asked = f"{share(verdict.share_within, 2)} of {share(verdict.asked, 0)}"
        yield verdict.name, value, asked, "kept" if verdict.holds else "broken"


def failure_rows(seen: OpenedRun) -> list[tuple[str, str, str]]:
    """How requests failed: status, count, the most frequent error."""
    if seen.table is None:
        return []
    rows = seen.run.requests
    found = []
    for status, count in rows["status"].value_counts().items():
        if status != "ok":
            errors = rows.loc[rows["status"] == status, "error"].dropna().value_counts()
            found.append((str(status), f"{count:,}", str(errors.index[0]) if len(errors) else DASH))
    return found


def server_rows(seen: OpenedRun) -> Iterator[tuple[str, str, str]]:
    """Signals as mean and maximum over the run, and what its counters counted."""
    gauges = gauges_of(seen.run)
    if gauges is None:
        return
    for signal in SIGNALS:
        if gauges[signal].notna().any():
            yield plots.LABELS[signal], number(gauges[signal].mean()), number(gauges[signal].max())
    yield "replicas that reported", number(gauges["pods"].mean()), number(gauges["pods"].max(), "g")
    for label, column in {
        "preemptions": "preemptions_total",
        "prompt tokens": "prompt_tokens_total",
        "generated tokens": "generation_tokens_total",
        "finished requests": "requests_total",
    }.items():
        if math.isfinite(counted := _counted(seen.run.metrics, column)):
            yield f"{label} (counted)", f"{counted:,.0f}", ""


def _counted(metrics: pd.DataFrame, column: str) -> float:
    """What a counter counted over all pods; a fall is a restart. NaN when it was not reported."""
    known = metrics.dropna(subset=[column]).sort_values("time_s")
    if known.empty:
        return math.nan
    steps = known.groupby(["pod", "engine"])[column].diff()
    return float(steps.clip(lower=0).sum())


@dataclass(frozen=True)
class EventsShown:
    """Rows of what happened (moment, kind, message), and how many more there are."""

    rows: list[tuple[str, str, str]]
    more: int


def events_shown(run: Run, rate: float = 1.0) -> EventsShown:
    """What happened, at most SHOWN_EVENTS rows: of a longer log the changes of the number of replicas first.

    `rate` is that of the clock shown against the run's.
    """
    events = [e for e in run.events if "message" in e]
    scaled = [e for e in events if e.get("kind") in SCALED] if len(events) > SHOWN_EVENTS else []
    rows = [
        (clock(rate * float(e.get("time_s") or 0.0)), str(e.get("kind", "")), str(e["message"]))
        for e in (scaled or events)[:SHOWN_EVENTS]
    ]
    return EventsShown(rows, len(events) - len(rows))
