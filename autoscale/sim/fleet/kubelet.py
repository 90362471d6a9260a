"""Pods that a kubelet runs in truth: nothing of their life is drawn but the order in which they are removed."""

from __future__ import annotations

from typing import Protocol

from autoscale.profiles.profile import Profile
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.replica import FleetReplica, Nodes, PodLife


class Kubelet(Protocol):
    """Starts and stops the containers of replicas, and says in `KubeletPods.reached` what became of them."""

    def start(self, replica: FleetReplica) -> None:
        """The replica's pod has its node: its containers are to start."""

    def stop(self, replica: FleetReplica) -> None:
        """The replica has no work left, or its grace is over: its containers are to stop."""


class KubeletPods(Pods):
    """Replicas of one pod each, up to `most` at once: so many nodes stand by, and a node is free when its pod is gone."""

    def __init__(self, profile: Profile, kubelet: Kubelet, most: int) -> None:
        nodes = Nodes(standing=most, maximum=0)
        super().__init__(PodLife.from_profile(profile), seed=0, nodes=nodes, slots=most)
        self.kubelet = kubelet

    def reached(self, kind: str, replica: FleetReplica, now_s: float) -> None:
        """A replica is started, ready or gone: it happens at the next `advance`. One that is removed gets no further."""
        if kind == "gone" or not replica.deleting:
            self._plan(now_s, kind, replica)

    def release(self, replica: FleetReplica, now_s: float) -> None:  # noqa: ARG002  # it takes as long as it takes
        """A replica that is being removed has no work left (or its grace is over): its containers are to stop."""
        self.kubelet.stop(replica)

    def _happen(self, kind: str, replica: FleetReplica, member: int) -> None:
        if kind == "scheduled":
            self._scheduled(replica, member, self.now_s)
            self.kubelet.start(replica)
        elif kind == "started":
            replica.started_s = replica.member_started_s[member] = self.now_s
            self._tell(self.now_s, "started", replica, member)
            self._tell(self.now_s, "running", replica)
        else:
            super()._happen(kind, replica, member)
