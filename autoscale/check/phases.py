"""The phases of a scale-out: contiguous spans, each ending where the next begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoscale.check.detection import AT_MOST
from autoscale.check.records import NAN
from autoscale.check.replicas import SeenReplica

Moment = tuple[str, float | None, str]  # phase, when it ended (None: cannot be seen, NaN: has not), note


@dataclass(frozen=True)
class Span:
    """One span. `covers` names what it holds when phases could not be told apart; `open`: it had not ended.

    `unseen`: nobody saw when it began, its seconds are NaN.
    """

    name: str
    start_s: float
    end_s: float  # NaN while it is open
    watched_s: float  # up to when it was watched: its end, or that of the watch
    covers: tuple[str, ...] = ()
    note: str = ""
    open: bool = False
    at_most: bool = False  # it began then or later
    unseen: bool = False

    @property
    def seconds(self) -> float:
        """Its length in s, NaN while it is open, and where it was not seen."""
        return NAN if self.unseen else self.end_s - self.start_s

    @property
    def so_far_s(self) -> float:
        """Its length in s as far as it was watched."""
        return self.watched_s - self.start_s


def end_s(phases: tuple[Span, ...], ready_s: float) -> float:
    """The last moment that was reached; what is not back after all replicas were ready does not count."""
    last = phases[-1]
    return last.start_s if last.open and not math.isnan(ready_s) else last.watched_s


def chain(moments: list[Moment], start_s: float, watched_s: float) -> tuple[Span, ...]:
    """Contiguous phases. A moment None cannot be seen: its phase joins the next. NaN has not happened: the chain ends.

    A `start_s` of NaN was not seen either, nor is how long the first phase took.
    """
    phases: list[Span] = []
    at_s, covers, notes = start_s, [], []
    for name, moment, note in moments:
        covers.append(name)
        notes += [note] if note else []
        if moment is None:
            continue
        is_open, unseen = math.isnan(moment), math.isnan(at_s)
        until_s = watched_s if is_open else moment
        at_s = until_s if unseen else at_s
        until_s = max(at_s, until_s)
        joined = name if len(covers) == 1 else f"{covers[0]}..{covers[-1]}"
        phases.append(
            Span(
                joined,
                at_s,
                NAN if is_open else until_s,
                until_s,
                tuple(covers) if len(covers) > 1 else (),
                "; ".join(notes),
                is_open,
                AT_MOST in notes,
                unseen,
            )
        )
        at_s, covers, notes = until_s, [], []
        if is_open:
            break
    return tuple(phases)


def start_phases(unit: SeenReplica) -> list[Moment]:
    """From the decision to ready, as its pods and the leader's log tell."""
    asked = [pod.asked_for_node_s for pod in unit.pods if not math.isnan(pod.asked_for_node_s)]
    waited = next(
        (pod.no_node or pod.unschedulable for pod in unit.pods if pod.no_node or pod.unschedulable), ""
    )
    node_note = (
        f"the node autoscaler was asked after {min(asked) - unit.leader.created_s:.1f} s" if asked else waited
    )
    pulled = [p.pulled_s - p.pulling_s for p in unit.pods if p.pulled_s >= p.pulling_s]
    first_s = unit.first_started_s if not math.isnan(unit.scheduled_s) else NAN
    phases: list[Moment] = [
        ("decision_to_pods", unit.created_s, ""),
        ("pods_to_scheduled", unit.scheduled_s, node_note),
        ("image", first_s, f"of it pulling {max(pulled):.1f} s" if pulled else ""),
    ]
    if unit.size > 1:
        phases.append(("group_join", unit.started_s, "last pod of the group"))
    told = sorted((time_s, phase) for phase, time_s in unit.leader.log_s.items())
    known = [phase for _, phase in told]
    for time_s, phase in told:
        phases.append((phase, time_s, "from the log"))
    if known:
        phases.append(("ready", unit.ready_s, ""))
    else:
        phases += [("weights", None, ""), ("compile", None, ""), ("engine_start", None, "")]
        phases.append(("ready", unit.ready_s, "without the log these cannot be told apart: started to ready"))
    return phases
