"""What single replicas did in production: stretches of time, from the quietest to the busiest that there were.

A stretch is looked at from LEAD_S before it, so that what was running when it began is known; its replica was scraped all that
time and did not restart. All means are over the stretch. vLLM's histograms of latency have coarse buckets, but their sums
and counts are exact: only these are read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.errors import TooLittleData
from autoscale.history.service import STEP_S, Service
from autoscale.observe.metric_names import COLUMNS, engine_facts, version_facts
from autoscale.observe.prometheus import Refused
from autoscale.observe.series import NAMELESS_POD, replica_of
from autoscale.observe.window import WindowRead, read_window

if TYPE_CHECKING:
    import pandas as pd

STRETCH_S, LEAD_S = 900.0, 600.0
STRETCHES = 10  # between the quietest and the busiest
MOST_APART_S = 300.0  # of samples: three in a stretch
COMPLETE = 0.9  # of the scrapes that a stretch should have
LATENCIES = {
    "itl_s": ("inter_token_latency_seconds", "time_per_output_token_seconds"),  # the latter until 0.11
    "ttft_s": ("time_to_first_token_seconds",),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stretch:
    """What one engine of one pod did.

    start_s        unix s, LEAD_S before the stretch itself
    times_s        float64[n + 1], of scrapes, from `start_s` on
    came           float64[n], requests that came between two of them
    running, waiting, kv_usage   means over the scrapes of the stretch; NaN where not told
    prompt_tokens, output_tokens   tokens per second; NaN where not told
    itl_s, ttft_s  means over tokens and requests; NaN where not told
    """

    pod: str
    engine: str
    start_s: float
    times_s: Floats
    came: Floats
    running: float
    waiting: float
    kv_usage: float
    prompt_tokens: float
    output_tokens: float
    itl_s: float
    ttft_s: float

    @property
    def rate_rps(self) -> float:
        """Requests per second that came in the stretch itself."""
        first = int(np.searchsorted(self.times_s, LEAD_S))
        return float(self.came[first:].sum() / (self.times_s[-1] - self.times_s[first]))


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """Stretches of single replicas, and what each pod tells of its KV cache (observe.metric_names.engine_facts)."""

    stretches: tuple[Stretch, ...]
    facts: Mapping[str, Mapping[str, object]]

    def of_pods(self, pods: Collection[str]) -> OperatingPoints:
        """That of these pods alone."""
        return OperatingPoints(
            tuple(s for s in self.stretches if s.pod in pods),
            {p: f for p, f in self.facts.items() if p in pods},
        )


def points_of_operation(service: Service, progress: Callable[[float, str], None]) -> OperatingPoints:
    """What the replicas did in STRETCHES stretches of time, all replicas that were there from their leads on.

    Raises TooLittleData where no replica is told apart, or was scraped that long without a break and often enough.
    """
    if NAMELESS_POD in set(service.frame["pod"]):
        raise TooLittleData(
            "the series name no pod and no instance, so what one replica does is not known",
            expected="series of single replicas",
            next_step="ask the Prometheus that scrapes them, or measure one replica with `autoscale load`",
        )
    if round(service.interval_s) > MOST_APART_S:
        raise TooLittleData(
            "samples are too far apart to tell what a replica does",
            value=f"{service.interval_s:g} s",
            expected=f"{MOST_APART_S:g} s at most",
            next_step="ask the Prometheus that scrapes, not one that keeps less of it, or measure one replica with `autoscale load`",
        )
    begins_s = _chosen(service)
    if not begins_s:
        raise TooLittleData(
            "no replica was scraped for long enough to tell its speed",
            expected=f"{(LEAD_S + STRETCH_S) / 60:.0f} minutes with requests, without a gap or a restart",
            next_step="ask for a longer window with --last, or measure one replica with `autoscale load`",
        )
    found: list[Stretch] = []
    facts: dict[str, Mapping[str, object]] = {}
    for number, begin_s in enumerate(begins_s):
        progress((number + 1) / len(begins_s), "operating points")
        read = _read(service, service.start_s + begin_s)
        found += _of_all_pods(service, read, service.start_s + begin_s)
        names: dict[str, set[str]] = defaultdict(set)
        for labels in read.found.labels:
            names[replica_of(labels)[0]].add(labels.get("__name__", ""))
        told = {
            replica_of(labels)[0]: engine_facts(labels)
            for labels in (read.found.labels[k] for k in read.choice.facts)
        }
        facts |= {pod: {**told.get(pod, {}), **version_facts(some)} for pod, some in names.items()}
    return OperatingPoints(tuple(found), facts)


def _chosen(service: Service) -> list[float]:
    """Beginnings of stretches (s of the window): those in which some replica was as busy as a quantile of all of them."""
    frame = service.frame
    block = np.floor(frame["time_s"].to_numpy(np.float64) / STRETCH_S).astype(np.int64)
    held = frame[["running", "waiting"]].sum(axis=1, min_count=1)
    by = frame.assign(block=block, held=held).groupby(["pod", "engine", "block"])["held"]
    table = by.agg(["mean", "count"]).reset_index()
    whole = table["count"] >= COMPLETE * STRETCH_S / service.interval_s
    whole &= table["block"] < math.floor((service.end_s - service.start_s) / STRETCH_S)
    kept = table[whole & (table["mean"] > 0)]
    before = kept[["pod", "engine", "block"]].assign(block=kept["block"] + 1)
    kept = kept.merge(before, on=["pod", "engine", "block"]).sort_values("mean", ignore_index=True)
    if kept.empty:
        return []
    at = np.unique(np.rint(np.linspace(0.02, 1.0, STRETCHES) * (len(kept) - 1)).astype(int))
    return [float(b) * STRETCH_S for b in dict.fromkeys(kept["block"].to_numpy()[at].tolist())]


def _read(service: Service, begin_s: float) -> WindowRead:
    return read_window(
        service.door,
        (begin_s - LEAD_S, begin_s + STRETCH_S),
        step_s=STEP_S,
        matchers=service.asked,
        model=service.model,
        any_model=service.model is None,
        columns=COLUMNS,
    )


def _of_all_pods(service: Service, read: WindowRead, begin_s: float) -> Iterator[Stretch]:
    start_s, end_s, frame = begin_s - LEAD_S, begin_s + STRETCH_S, read.frame
    means = {name: _mean_latency(service, names, end_s) for name, names in LATENCIES.items()}
    for (pod, engine), rows in frame.groupby(["pod", "engine"], sort=True):
        rows = rows.dropna(subset=["requests_total", "running"]).sort_values("time_s")
        told = {name: by_pod.get((str(pod), str(engine)), math.nan) for name, by_pod in means.items()}
        if len(rows) < COMPLETE * (LEAD_S + STRETCH_S) / service.interval_s:
            continue
        if (one := _stretch(str(pod), str(engine), start_s, rows, told)) is not None:
            yield one


def _stretch(
    pod: str, engine: str, start_s: float, rows: pd.DataFrame, told: dict[str, float]
) -> Stretch | None:
    """None where a counter falls: the replica restarted."""
    times_s = rows["time_s"].to_numpy(np.float64)
    finished = rows["requests_total"].to_numpy(np.float64)
    held = rows[["running", "waiting"]].fillna(0.0).sum(axis=1).to_numpy(np.float64)
    if (np.diff(finished) < 0).any():
        return None
    inside = rows[times_s >= LEAD_S]
    seconds = float(np.ptp(inside["time_s"].to_numpy())) if len(inside) > 1 else math.nan

    def per_second(column: str) -> float:
        values = inside[column].to_numpy(np.float64)
        return float(values[-1] - values[0]) / seconds if len(values) > 1 else math.nan

    gauges = {name: float(inside[name].mean()) for name in ("running", "waiting", "kv_usage")}
    tokens = {name: per_second(f"{what}_tokens_total") for name, what in (("prompt_tokens", "prompt"), ("output_tokens", "generation"))}  # fmt: skip
    if math.isnan(told["itl_s"]) and tokens["output_tokens"] > 0:
        told |= {
            "itl_s": gauges["running"] / tokens["output_tokens"]
        }  # each running request makes a token per step
    came = np.maximum(np.diff(finished + held), 0.0)
    return Stretch(pod, engine, start_s, times_s - times_s[0], came, **gauges, **tokens, **told)


def _mean_latency(service: Service, names: Sequence[str], end_s: float) -> dict[tuple[str, str], float]:
    """(pod, engine) -> the mean of a histogram over the stretch that ends then; of the first name that is there."""
    for name in names:
        sums, counts = (_grown(service, f"{name}_{part}", end_s) for part in ("sum", "count"))
        if found := {key: sums[key] / n for key, n in counts.items() if n > 0 and key in sums}:
            return found
    return {}


def _grown(service: Service, name: str, end_s: float) -> dict[tuple[str, str], float]:
    grown: dict[tuple[str, str], float] = {}
    try:
        told = service.door.of_a_name(
            name,
            service.matchers,
            lambda selector: service.door.vector(f"increase({selector}[{STRETCH_S:.0f}s])", end_s),
        )
    except Refused:
        return {}
    for labels, value in told:
        key = replica_of(labels)
        grown[key] = grown.get(key, 0.0) + value
    return grown
