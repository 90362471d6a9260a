"""What a run's page says first: the answer in one sentence, and the few figures that it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from analysis.opened import OpenedRun
from analysis.saturation import Estimate
from autoscale.show import words
from autoscale.show.pages.key_figures import KeyFigure
from autoscale.show.words import number, share, span


def headline(seen: OpenedRun) -> str:
    """How much one replica takes, by this run; whether the SLO was kept, where it says nothing of one replica."""
    capacity = seen.capacity
    if capacity is not None and capacity.capacity.known:
        if capacity.slo is None:
            return f"Without an SLO: the knee of one replica is {_rate(capacity.knee)}"
        return f"One replica holds the SLO up to {_rate(capacity.capacity)}"
    if seen.verdicts:
        broken = [_name(verdict.name) for verdict in seen.verdicts if not verdict.holds]
        return f"SLO broken: {', '.join(broken)}" if broken else "SLO kept"
    return "What a check watched" if seen.run.watched else f"Run {seen.name}"


def run_keys(seen: OpenedRun) -> Iterator[KeyFigure]:
    """The figures behind the headline: rates of one replica, else the SLO's terms; then how the requests ended.

    A sweep goes beyond what a replica takes: its terms over the whole run say how far it went, so they are not here.
    """
    capacity, how = seen.capacity, _how(seen)
    if capacity is not None and capacity.capacity.known:
        if capacity.slo is not None:
            binds = f"; {_binds(capacity.binds)}" if capacity.binds else ""
            by = f": {capacity.capacity.how}" if how == "measured" else ""
            yield KeyFigure("one replica holds", _rate(capacity.capacity), f"{how}{by}{binds}")
        if capacity.knee.known:
            yield KeyFigure("knee", _rate(capacity.knee), f"{how}; every second request finds the batch full")
        if capacity.saturated.known:
            yield KeyFigure("saturated", _rate(capacity.saturated), f"{how}; finished/s with a queue")
    for verdict in seen.verdicts if capacity is None or not capacity.capacity.known else ():
        value = share(verdict.value, 1) if verdict.name == "goodput" else span(verdict.value)
        within = f"{share(verdict.share_within, 1)} within, {share(verdict.asked, 0)} asked"
        yield KeyFigure(f"{_name(verdict.name)}, whole run", value, f"{how}; {within}")
    if seen.table is not None:
        ok = int(seen.table["ok"].sum())
        yield KeyFigure("finished", f"{ok:,} of {len(seen.table):,} requests", _not_finished(seen))


def _rate(estimate: Estimate) -> str:
    """A rate with its 95 % interval; an open side in words."""
    low, high = number(estimate.low, ".3g"), number(estimate.high, ".3g")
    if math.isnan(estimate.value):
        return f"at least {low} requests/s" if math.isinf(estimate.high) else f"{low} to {high} requests/s"
    ends = f"at least {low}" if math.isinf(estimate.high) else f"{low} to {high}"
    return f"{number(estimate.value, '.3g')} requests/s ({ends})"


def _name(term: str) -> str:
    return term if term == "goodput" else words.latency_name(term)


def _binds(term: str) -> str:
    return "saturation ends it" if term == "saturation" else f"{_name(term)} binds"


def _how(seen: OpenedRun) -> str:
    return "simulated" if seen.run.header.get("kind") == "simulated" else "measured"


def _not_finished(seen: OpenedRun) -> str:
    counts = seen.run.requests["status"].value_counts()
    ended = [
        f"{count:,} {str(status).replace('_', ' ')}" for status, count in counts.items() if status != "ok"
    ]
    return ", ".join(ended) or "none failed, none dropped"
