"""When a server really reached its stages, and what a check says of the same: pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoscale.check.scaleout import ScaleOut

NAN = math.nan
LEAST_S = 10.0  # of which a rate of completions is told


@dataclass
class ServerTimes:
    """Unix seconds by the clock of the kubelet and the gateway; NaN: not reached."""

    asked_s: float  # the control loop wants it
    started_s: float = NAN  # its process runs
    healthy_s: float = NAN  # GET /health was answered with 200
    request_s: float = NAN  # the gateway sent it its first request
    token_s: float = NAN  # and got the first bytes of the answer
    stopping_s: float = NAN  # it was told to end
    ended_s: float = NAN  # its process, and what that started, is no more


@dataclass(frozen=True)
class Compared:
    """How long something took by the check and by our own clock, in s."""

    what: str
    check_s: float
    own_s: float

    @property
    def difference_s(self) -> float:
        """How much longer it was by the check."""
        return self.check_s - self.own_s


def compared(out: ScaleOut, own: ServerTimes) -> list[Compared]:
    """The phases of a scale-out by one replica that both can tell."""
    seen = out.replicas[-1]
    ends = {phase.name: phase.end_s for phase in out.phases}
    return [
        Compared("decision to process started", seen.started_s - out.decided_s, own.started_s - own.asked_s),
        Compared("process started to ready", seen.ready_s - seen.started_s, own.healthy_s - own.started_s),
        Compared("decision to ready", out.ready_s - out.decided_s, own.healthy_s - own.asked_s),
        Compared(
            "ready to first traffic",
            ends.get("ready_to_traffic", NAN) - out.ready_s,
            own.request_s - own.healthy_s,
        ),
    ]


def rate_between(done_s: Sequence[float], from_s: float, to_s: float) -> float:
    """Completions per second in [from_s, to_s); NaN where that is less than LEAST_S, or not known."""
    if not to_s - from_s >= LEAST_S:
        return NAN
    return sum(from_s <= moment_s < to_s for moment_s in done_s) / (to_s - from_s)


def comparison_lines(rows: list[Compared]) -> list[str]:
    """A table for the terminal."""
    head = f"{'by the check and by our own clock, s':<40}{'check':>8}{'own':>8}{'difference':>12}"
    return [
        head,
        *(f"{row.what:<40}{row.check_s:8.2f}{row.own_s:8.2f}{row.difference_s:+12.2f}" for row in rows),
    ]
