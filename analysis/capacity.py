"""Capacity of one replica from a load sweep: saturated throughput, knee, and the highest rate that holds an SLO.

Saturated throughput is what was completed per second while requests were queued. The knee is the rate at which every
second request finds the batch full (`analysis.queueing`): below it the median TTFT is that of an idle server. The rate
that holds an SLO comes from requests measured below saturation, to which the queue of that replica adds its wait.

Intervals are 95 % and come from draws of all that is uncertain: the measured throughput, how far the server's speed
wandered between stages, the slowdown with the batch, and the burstiness of the queue, each draw weighted by how well
it explains the breaches that were counted. What was not measured leaves its side of the interval open.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.errors import TooLittleData
from analysis.holding import holds
from analysis.points import operating_points
from analysis.queueing import ReplicaQueue
from analysis.run import Run
from analysis.saturation import Estimate, FittedServer, fit_server, knee_and_saturation
from analysis.slo import Slo, samples_needed
from analysis.steady import Observed, StageWindow, observe, windows


@dataclass(frozen=True)
class Capacity:
    """What a run says about one replica; all rates are per replica.

    `points` is `analysis.points.operating_points`; `per_term` the highest rate that holds each term of the SLO alone;
    `capacity` the rate that holds them all, or the knee without an SLO; `binds` the term that sets it ("saturation"
    when all would hold up to there); `wander` how far the server's speed moved between stages (relative standard
    deviation); `settled` whether the queued stages were long enough for a full batch; `notes` sentences on what was set aside and what disagrees; `next_command` is a sweep that would close
    an open interval, None when nothing is open.
    """

    windows: tuple[StageWindow, ...]
    points: pd.DataFrame
    saturated: Estimate
    knee: Estimate
    slo: Slo | None
    per_term: dict[str, Estimate]
    capacity: Estimate
    binds: str | None
    wander: float
    settled: bool
    replica: ReplicaQueue | None
    notes: tuple[str, ...]
    next_command: str | None


def analyse(run: Run | Observed, slo: Slo | None = None) -> Capacity:
    """The capacity of one replica from a run (or from `observe(run)`), with an SLO or without.

    Raises BadRun without requests, TooLittleData when no stage can be used, with the command to run next.
    """
    observed = run if isinstance(run, Observed) else observe(run)
    spans = windows(observed)
    asked = [t.percentile for t in (slo.terms if slo else ()) if t.percentile is not None]
    points = operating_points(observed, spans, asked)
    usable = points[points["usable"] & points["throughput_rps"].notna()]
    if usable.empty:
        raise TooLittleData(
            "no stage of the run can be used: " + "; ".join(str(w) for w in spans),
            next_step=f"measure again: {_command(observed.header, _spread(1.0, 8.0))}",
        )
    rng = np.random.default_rng(0)  # the same run gives the same intervals
    server = fit_server(usable, observed.header, rng)
    knee, saturated = knee_and_saturation(usable, server)
    per_term: dict[str, Estimate] = {}
    capacity, binds = knee, None
    if slo is not None:
        per_term = {
            t.name: holds(observed, spans, usable, Slo((t,)), server, rng) for t in slo.terms if t.percentile
        }
        if slo.goodput is not None:
            per_term["goodput"] = holds(observed, spans, usable, slo, server, rng, goodput=True)
        judged = [name for name, estimate in per_term.items() if estimate.known] or list(per_term)
        binds = min(judged, key=lambda name: (_at(per_term[name]), per_term[name].high))
        capacity = per_term[binds]
        if server and server.measured and _at(capacity) > 0.99 * server.replica.saturated_rps:
            binds = "saturation"
    return Capacity(
        spans,
        points,
        saturated,
        knee,
        slo,
        per_term,
        capacity,
        binds,
        server.wander if server else np.nan,
        server is not None and server.settled,
        server.replica if server else None,
        (*_notes(observed, spans, usable), *_weak(per_term, slo, usable)),
        _next(observed.header, usable, server),
    )


def _at(estimate: Estimate) -> float:
    return estimate.low if np.isnan(estimate.value) else estimate.value


def _notes(observed: Observed, spans: tuple[StageWindow, ...], usable: pd.DataFrame) -> list[str]:
    notes = []
    for window in spans:
        if window.client:
            name = (
                f"{window.planned_rps:g}" if np.isfinite(window.planned_rps) else f"{window.offered_rps:.2f}"
            )
            notes.append(
                f"the {name} req/s step was limited by the client and set aside: {'; '.join(window.client)}"
            )
        elif window.state == "unusable":
            notes.append(f"stage {window.stage} ({window.offered_rps:.2f} req/s) has no window: {window.why}")
    if observed.clock.offset_s:
        notes.append(str(observed.clock))
    if observed.left_out:
        notes.append(observed.left_out)
    odd = [w for w in spans if not 0.7 <= (1.0 if np.isnan(w.little_ratio) else w.little_ratio) <= 1.4]
    if len(odd) > len(spans) / 2 and not any("died" in w.why for w in spans):
        ratio = float(np.median([w.little_ratio for w in odd]))
        notes.append(
            f"the server reports {ratio:.1f} times the requests that this client has in flight: metrics of other"
            " models or other clients' load are mixed in"
        )
    replicas = sorted(set(usable["replicas"]))
    if replicas != [1.0]:
        notes.append(
            f"rates are per replica; {' and '.join(f'{r:g}' for r in replicas)} replicas served the load"
        )
    return notes


def _weak(per_term: dict[str, Estimate], slo: Slo | None, usable: pd.DataFrame) -> list[str]:
    """Sentences on terms that could not be judged, or whose percentile has too few samples in every stage."""
    notes = [f"{name} could not be judged: {e.how}" for name, e in per_term.items() if not e.known]
    most = int(usable["count"].max())
    for term in slo.terms if slo else ():
        if term.metric == "itl" or term.percentile is None or not per_term[term.name].known:
            continue
        if most < (needed := samples_needed(term.percentile)):
            notes.append(
                f"{term.name} rests on at most {most} requests per stage, {needed} are needed to see it: its rate is a"
                " guess from the queue's model; lengthen the stages"
            )
    return notes


def _next(header: dict[str, Any], usable: pd.DataFrame, server: FittedServer | None) -> str | None:
    """The sweep that would close what is open, as a command; None when both sides of the knee were measured."""
    states = set(usable["state"])
    if states == {"steady", "queued"}:
        return None
    replicas = float(usable["replicas"].max())
    if "queued" in states:
        top = float(usable["throughput_rps"].max()) * replicas
        return _command(header, _spread(0.3 * top, 1.2 * top))
    top = float(usable["throughput_rps"].max()) * replicas
    guess = server.replica.saturated_rps * replicas if server else 2 * top
    return _command(header, _spread(0.5 * guess, max(1.5 * guess, 2 * top)))


def _spread(low: float, high: float) -> list[float]:
    return [float(f"{rate:.2g}") for rate in np.linspace(low, high, 6)]


def _command(header: dict[str, Any], rates: list[float]) -> str:
    host = shlex.quote(str(header.get("target") or "URL"))
    stages = ",".join(f"{rate:g}:60" for rate in rates)
    return f"autoscale load --headless --host {host} --stages {stages}"
