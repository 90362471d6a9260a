"""What a replica is while it lives: where its nodes come from, how long it takes to start, what stage it has reached."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from analysis.numbers import known
from autoscale.profiles.profile import Phase, Profile

RAY_TIMER_S = 300.0  # a group member gives up on the others after this long


@dataclass(frozen=True)
class Nodes:
    """Node supply: `standing` nodes are there from the start, up to `maximum` more come with the profile's delay.

    `maximum` None means no limit; 0 is a pool that does not grow. A pod beyond it stays Pending until another leaves.
    """

    standing: int = 0
    maximum: int | None = None


UNLIMITED = Nodes()


@dataclass(frozen=True)
class PodLife:
    """What the life of a pod needs of a profile; durations are (median_s, p95_s)."""

    kind: str  # Deployment | LeaderWorkerSet
    size: int  # pods per replica
    chips_per_pod: int
    node: Phase
    image: Phase
    join: Phase
    weight_bytes: float
    weights_rate_bytes_s: float
    weights_shared: bool
    engine_init: Phase
    compile: Phase
    compile_cached: Phase | None
    timer_s: float = RAY_TIMER_S

    @classmethod
    def from_profile(cls, profile: Profile) -> PodLife:
        """The cold start that the profile states."""
        cold = profile.cold_start
        return cls(
            kind=profile.deploy.kind,
            size=profile.replica.nodes,
            chips_per_pod=profile.replica.chips_per_node,
            node=cold.node,
            image=cold.image,
            join=cold.group_join,
            weight_bytes=profile.model.weight_bytes,
            weights_rate_bytes_s=cold.weights_rate_bytes_s,
            weights_shared=cold.weights_shared,
            engine_init=cold.engine_init,
            compile=cold.compile,
            compile_cached=cold.compile_cached,
        )


class PodEvent(NamedTuple):
    """One transition. Kinds: created, scheduled, started (both per member), running (all members), joined, loaded,
    initialised, ready, recreated, deleting, gone."""

    time_s: float
    kind: str
    replica: FleetReplica
    member: int = 0


@dataclass(slots=True)
class FleetReplica:
    """One replica and when it reached each stage; NaN = not reached."""

    ordinal: int  # the how-manieth start of the fleet, warm ones are negative
    slot: int  # engine slot; for a LeaderWorkerSet the group index
    uid: float  # random, breaks ties between pods of the same age
    created_s: float
    member_node_s: list[float]  # when a member's node is there; inf = nobody knows yet
    member_scheduled_s: list[float]
    member_started_s: list[float]
    image_cached: list[bool]
    started_s: float = math.nan  # all members run
    joined_s: float = math.nan
    loaded_s: float = math.nan
    initialised_s: float = math.nan
    ready_s: float = math.nan
    deleting_s: float = math.nan
    gone_s: float = math.nan
    recreations: int = 0
    attempt_s: float = math.nan  # when the current attempt's pods were created
    version: int = 0  # raised when planned transitions become void

    @property
    def ready(self) -> bool:
        """Whether it takes traffic."""
        return known(self.ready_s) and not known(self.deleting_s)

    @property
    def deleting(self) -> bool:
        """Whether it was asked to go and is still there."""
        return known(self.deleting_s) and not known(self.gone_s)

    @property
    def phase(self) -> str:
        """The pod phase of the member that counts (the leader): Pending until its container runs."""
        return "Running" if known(self.member_started_s[0]) else "Pending"

    @property
    def scheduled(self) -> bool:
        """Whether every member has a node."""
        return all(known(s) for s in self.member_scheduled_s)

    @property
    def state(self) -> str:
        """One word: pending, starting, ready, deleting or gone."""
        if known(self.gone_s):
            return "gone"
        if known(self.deleting_s):
            return "deleting"
        if known(self.ready_s):
            return "ready"
        return "starting" if self.scheduled else "pending"


_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def pod_name(profile: Profile, replica: FleetReplica, member: int = 0) -> str:
    """A pod's name as Kubernetes would build it: `<name>-<group>[-<member>]`, or a hash and five letters."""
    deploy = profile.deploy
    if deploy.kind == "LeaderWorkerSet":
        return f"{deploy.name}-{replica.slot}" + (f"-{member}" if member else "")
    number = int(abs(replica.uid) * 1e12) * 64 + replica.ordinal % 64
    suffix = ""
    for _ in range(5):
        number, letter = divmod(number, len(_LETTERS))
        suffix += _LETTERS[letter]
    return f"{deploy.name}-{template_hash(profile)}-{suffix}"


def names_like(profile: Profile) -> list[str]:
    """Names of pods that serve, with every letter at every place: a pattern that fits them fits all of the fleet's."""
    name = profile.deploy.name
    if profile.deploy.kind == "LeaderWorkerSet":
        return [f"{name}-{number}" for number in (*range(10), 10, 234, 567, 890, 1234, 3456)]
    suffixes = [(2 * _LETTERS)[at : at + 5] for at in range(len(_LETTERS))]
    return [f"{name}-{template_hash(profile)}-{suffix}" for suffix in suffixes]


def template_hash(profile: Profile) -> str:
    """A stable stand-in for the pod template's hash."""
    return f"{zlib.crc32(profile.name.encode()):x}"
