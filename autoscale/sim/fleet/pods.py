"""The life of replicas: from created to ready to gone, for Deployments and LeaderWorkerSets. No clock, no I/O.

    created -> node -> scheduled -> image -> started -> join -> weights -> engine init -> compile -> ready
                                                                     removed at any moment -> deleting -> gone

One replica is one pod, or a group of `size` pods that is all there or not: the engine starts when every member runs.
Members whose containers start further apart than the group's start-up timer make the group start over
(RecreateGroupOnPodRestart): nodes that came are kept and their images cached, the rest is waited for anew, so a group
that gets only a part of its nodes loops for as long as it exists.

Durations are log-normal (Phase: median and 95th percentile). The k-th replica that a fleet starts draws the same numbers
whatever happened before it, so two autoscalers that are compared under one seed see the same cold starts.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections import deque

from analysis.numbers import known
from autoscale.sim.fleet.draws import StartDraws, duration_s
from autoscale.sim.fleet.removal import removal_rank
from autoscale.sim.fleet.replica import UNLIMITED, FleetReplica, Nodes, PodEvent, PodLife
from autoscale.sim.fleet.weight_readers import WeightReaders

TEARDOWN_S = 1.2  # from the last container's end to the pod being gone, as seen on a real kubelet stand-in


class Pods:
    """All replicas of one workload, their nodes and their accelerators.

    `scale` asks for a number of replicas, `advance` lets time pass and returns what happened in order of time,
    `next_s` says when something happens next. Removing a ready replica waits for `release` (its requests are done or
    its grace is over). `replicas` are those that exist, ordered by creation.
    """

    def __init__(self, cold: PodLife, seed: int, nodes: Nodes = UNLIMITED, slots: int = 64) -> None:
        self.cold, self.nodes = cold, nodes
        self.replicas: list[FleetReplica] = []
        self.desired = 0
        self.next_s = math.inf
        self.now_s = 0.0
        self.accelerators_held = 0
        self.accelerator_s = 0.0  # integral of accelerators_held
        self.replica_s = 0.0  # integral of the replicas that exist
        self._draws = StartDraws(seed, 2 * cold.size + 4)
        self._started = 0
        self._warm = 0
        self._compiled = False
        self._free_slots = list(range(slots))
        self._free_nodes = nodes.standing
        self._grown = 0  # provisioned nodes, on their way or there
        self._without_node: deque[tuple[FleetReplica, int, int]] = deque()
        self._loader = WeightReaders(cold.weights_rate_bytes_s, cold.weights_shared)
        self._due: list[tuple[float, int, int, str, FleetReplica, int]] = []
        self._tick = 0
        self._out: list[PodEvent] = []

    def warm(self, replicas: int) -> list[PodEvent]:
        """Start with `replicas` that are ready already; they draw nothing, and their compile cache is filled."""
        self._pass(0.0)
        self.desired = replicas
        for _ in range(replicas):
            self._warm += 1
            replica = self._make(-self._warm, 0.0)
            for member in range(self.cold.size):
                if self._free_nodes > 0:
                    self._free_nodes -= 1
                else:
                    self._grown += 1
                self._scheduled(replica, member, 0.0)
                replica.member_started_s[member] = 0.0
            replica.started_s = replica.joined_s = replica.loaded_s = 0.0
            replica.initialised_s = replica.ready_s = 0.0
            self._tell(0.0, "ready", replica)
        self._compiled = self._compiled or replicas > 0
        return self._flush()

    def scale(self, replicas: int, now_s: float) -> list[PodEvent]:
        """Ask for `replicas` at `now_s`: creates what is missing, removes what is too many."""
        events = self.advance(now_s)
        self.desired = replicas
        if self.cold.kind == "LeaderWorkerSet":
            surplus = [r for r in self.replicas if r.slot >= replicas and not r.deleting]
            surplus.sort(key=lambda r: -r.slot)
        else:
            living = sorted(
                (r for r in self.replicas if not r.deleting), key=lambda r: removal_rank(r, now_s)
            )
            surplus = living[: max(0, len(living) - replicas)]
        for replica in surplus:
            self._delete(replica, now_s)
        self._create_missing(now_s)
        return events + self._flush()

    def release(self, replica: FleetReplica, now_s: float) -> None:
        """A replica that is being removed has no work left (or its grace is over): its pods end now."""
        if replica.deleting and replica.version >= 0:
            replica.version = -1
            self._plan(now_s + TEARDOWN_S, "gone", replica)

    def advance(self, until_s: float) -> list[PodEvent]:
        """Everything that happens up to and including `until_s`, in order of time."""
        while self.next_s <= until_s:
            loaded_s, ordinal = self._loader.next()
            if self._due and self._due[0][0] <= loaded_s:
                time_s, _, version, kind, replica, member = heapq.heappop(self._due)
                self._pass(time_s)
                if version == replica.version:
                    self._happen(kind, replica, member)
            else:
                self._pass(loaded_s)
                self._loader.cancel(ordinal, loaded_s)
                self._loaded(next(r for r in self.replicas if r.ordinal == ordinal))
            self._find_next()
        self._pass(until_s)
        return self._flush()

    def counts(self) -> tuple[int, int, int]:
        """Replicas that exist and are not being removed, of these with all nodes, of these ready."""
        living = [r for r in self.replicas if not known(r.deleting_s)]
        return len(living), sum(r.scheduled for r in living), sum(r.ready for r in living)

    def _make(self, ordinal: int, now_s: float) -> FleetReplica:
        size = self.cold.size
        if self.cold.kind == "LeaderWorkerSet":
            taken = {r.slot for r in self.replicas}
            slot = next(s for s in range(len(taken) + 1) if s not in taken)
            self._free_slots.remove(slot)
        else:
            slot = self._free_slots.pop(0)
        uid = float(self._draws.of(ordinal)[2 * size + 3])
        nan = [math.nan] * size
        replica = FleetReplica(
            ordinal, slot, uid, now_s, [math.inf] * size, nan[:], nan[:], [False] * size, attempt_s=now_s
        )
        self.replicas.append(replica)
        self._tell(now_s, "created", replica)
        return replica

    def _create_missing(self, now_s: float) -> None:
        living = [r for r in self.replicas if not r.deleting]
        for _ in range(self.desired - len(living)):
            if not self._free_slots:
                break
            if self.cold.kind == "LeaderWorkerSet":
                # a group's name is free again only when its pods are gone
                taken = {r.slot for r in self.replicas}
                if all(index in taken for index in range(self.desired)):
                    break
            replica = self._make(self._started, now_s)
            self._started += 1
            for member in range(self.cold.size):
                self._ask_node(replica, member)
        self._find_next()

    def _ask_node(self, replica: FleetReplica, member: int) -> None:
        now_s = self.now_s
        if self._free_nodes > 0:
            self._free_nodes -= 1
            replica.member_node_s[member] = now_s
            self._happen("scheduled", replica, member)
        elif self.nodes.maximum is None or self._grown < self.nodes.maximum:
            self._grown += 1
            delay = duration_s(self.cold.node, self._draws.of(replica.ordinal)[member])
            replica.member_node_s[member] = now_s + delay
            if delay > 0:
                self._plan(now_s + delay, "scheduled", replica, member)
            else:
                self._happen("scheduled", replica, member)
        else:
            self._without_node.append((replica, member, replica.version))

    def _scheduled(self, replica: FleetReplica, member: int, now_s: float) -> None:
        replica.member_node_s[member] = replica.member_scheduled_s[member] = now_s
        self.accelerators_held += self.cold.chips_per_pod
        self._tell(now_s, "scheduled", replica, member)

    def _happen(self, kind: str, replica: FleetReplica, member: int) -> None:
        now_s, draw = self.now_s, self._draws.of(replica.ordinal)
        size = self.cold.size
        if kind == "scheduled":
            self._scheduled(replica, member, now_s)
            image_s = (
                0.0 if replica.image_cached[member] else duration_s(self.cold.image, draw[size + member])
            )
            self._plan(now_s + image_s, "started", replica, member)
        elif kind == "started":
            replica.image_cached[member] = True
            replica.member_started_s[member] = now_s
            self._tell(now_s, "started", replica, member)
            running = [s for s in replica.member_started_s if known(s)]
            if len(running) == size:
                replica.started_s = now_s
                self._tell(now_s, "running", replica)
                self._plan(now_s + duration_s(self.cold.join, draw[2 * size]), "joined", replica)
            elif len(running) == 1:
                self._plan(now_s + self.cold.timer_s, "timeout", replica)
        elif kind == "timeout":
            if not known(replica.started_s):
                self._recreate(replica)
        elif kind == "joined":
            replica.joined_s = now_s
            self._tell(now_s, "joined", replica)
            self._loader.begin(replica.ordinal, self.cold.weight_bytes, now_s)
        elif kind == "initialised":
            replica.initialised_s = now_s
            self._tell(now_s, "initialised", replica)
            cached = self._compiled and self.cold.compile_cached is not None
            phase = self.cold.compile_cached if cached else self.cold.compile
            assert phase is not None
            self._plan(now_s + duration_s(phase, draw[2 * size + 2]), "ready", replica)
        elif kind == "ready":
            replica.ready_s = now_s
            self._compiled = True
            self._tell(now_s, "ready", replica)
        elif kind == "gone":
            self._gone(replica)

    def _loaded(self, replica: FleetReplica) -> None:
        replica.loaded_s = self.now_s
        self._tell(self.now_s, "loaded", replica)
        init_s = duration_s(self.cold.engine_init, self._draws.of(replica.ordinal)[2 * self.cold.size + 1])
        self._plan(self.now_s + init_s, "initialised", replica)

    def _recreate(self, replica: FleetReplica) -> None:
        """The group's pods end and are made anew; nodes that came stay, those on their way come when they come."""
        now_s = self.now_s
        replica.version += 1
        replica.recreations += 1
        replica.attempt_s = now_s
        self._tell(now_s, "recreated", replica)
        for member in range(self.cold.size):
            had_node = known(replica.member_scheduled_s[member])
            replica.member_scheduled_s[member] = replica.member_started_s[member] = math.nan
            if had_node:
                self.accelerators_held -= self.cold.chips_per_pod
                self._happen("scheduled", replica, member)
            elif replica.member_node_s[member] < math.inf:
                self._plan(max(now_s, replica.member_node_s[member]), "scheduled", replica, member)
            else:
                self._without_node.append((replica, member, replica.version))

    def _delete(self, replica: FleetReplica, now_s: float) -> None:
        replica.deleting_s = now_s
        replica.version += 1
        self._loader.cancel(replica.ordinal, now_s)
        self._tell(now_s, "deleting", replica)
        if not known(replica.ready_s):
            self.release(replica, now_s)

    def _gone(self, replica: FleetReplica) -> None:
        replica.gone_s = self.now_s
        self.replicas.remove(replica)
        bisect.insort(self._free_slots, replica.slot)
        for member in range(self.cold.size):
            held = known(replica.member_scheduled_s[member])
            if held:
                self.accelerators_held -= self.cold.chips_per_pod
            if held or replica.member_node_s[member] < math.inf:
                self._give_node_back()
        self._tell(self.now_s, "gone", replica)
        self._create_missing(self.now_s)

    def _give_node_back(self) -> None:
        while self._without_node:
            replica, member, version = self._without_node.popleft()
            if version == replica.version and not replica.deleting:
                replica.member_node_s[member] = self.now_s
                self._happen("scheduled", replica, member)
                return
        if self._grown > 0:
            self._grown -= 1
        else:
            self._free_nodes += 1

    def _plan(self, time_s: float, kind: str, replica: FleetReplica, member: int = 0) -> None:
        self._tick += 1
        heapq.heappush(self._due, (time_s, self._tick, replica.version, kind, replica, member))
        self._find_next()

    def _find_next(self) -> None:
        loaded_s, _ = self._loader.next()
        self.next_s = min(loaded_s, self._due[0][0] if self._due else math.inf)

    def _pass(self, now_s: float) -> None:
        passed = now_s - self.now_s
        if passed > 0:
            self.accelerator_s += passed * self.accelerators_held
            self.replica_s += passed * len(self.replicas)
            self.now_s = now_s

    def _tell(self, time_s: float, kind: str, replica: FleetReplica, member: int = 0) -> None:
        self._out.append(PodEvent(time_s, kind, replica, member))

    def _flush(self) -> list[PodEvent]:
        out, self._out = self._out, []
        return out
