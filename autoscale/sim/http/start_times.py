"""When each replica really reached its stages: what an analysis of the fleet is held against."""

from __future__ import annotations

from collections.abc import Callable

from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.replica import FleetReplica, PodEvent, pod_name

STAGES = (
    "created", "scheduled", "image", "joined", "weights", "engine", "ready", "first_request", "deleting", "gone",
)  # fmt: skip
_STAGE_OF = {"running": "image", "loaded": "weights", "initialised": "engine"}

StartRow = dict[str, str | int | float | None]  # replica, slot, and unix s (None: not reached) by STAGES


class StartTimes:
    """A row per replica, in order of creation; times are control time as unix s from `started_at` on."""

    def __init__(self, profile: Profile, started_at: float) -> None:
        self.profile, self.started_at = profile, started_at
        self._rows: dict[int, StartRow] = {}

    @property
    def rows(self) -> list[StartRow]:
        """All replicas that ever were."""
        return list(self._rows.values())

    def pod(self, event: PodEvent) -> None:
        """A replica made a transition."""
        replica, stage = event.replica, _STAGE_OF.get(event.kind, event.kind)
        if (row := self._rows.get(replica.ordinal)) is None:
            name = pod_name(self.profile, replica)
            row = {"replica": name, "slot": replica.slot, **dict.fromkeys(STAGES)}
            self._rows[replica.ordinal] = row
        if stage in row and (row[stage] is None or stage == "scheduled"):  # of several pods the last counts
            row[stage] = self.started_at + event.time_s

    def first_request(self, replica: FleetReplica, speed: float) -> Callable[[float], None]:
        """To be told (engine seconds) when the replica gets a request; the first counts."""
        row = self._rows[replica.ordinal]

        def note(engine_s: float) -> None:
            if row["first_request"] is None:
                row["first_request"] = self.started_at + engine_s * speed

        return note
