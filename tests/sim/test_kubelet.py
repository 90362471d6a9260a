"""Pods that a kubelet runs: their stages are those that it tells, and what is removed before it is ready never serves."""

from autoscale.profiles import load
from autoscale.sim.fleet.kubelet import KubeletPods
from autoscale.sim.fleet.replica import FleetReplica

PROFILE = load("llama-3.1-8b-1xl4")


class Asked:
    """A kubelet that only notes what it is asked for."""

    def __init__(self) -> None:
        self.started: list[FleetReplica] = []
        self.stopped: list[FleetReplica] = []

    def start(self, replica: FleetReplica) -> None:
        self.started.append(replica)

    def stop(self, replica: FleetReplica) -> None:
        self.stopped.append(replica)


def trace(events) -> list[tuple[float, str]]:
    return [(event.time_s, event.kind) for event in events]


def test_nothing_happens_but_what_the_kubelet_tells():
    kubelet = Asked()
    pods = KubeletPods(PROFILE, kubelet, most=2)
    assert trace(pods.scale(1, 10.0)) == [(10, "created"), (10, "scheduled")]
    assert trace(pods.advance(5000.0)) == []  # the profile's own start takes minutes
    (replica,) = kubelet.started
    pods.reached("started", replica, 5001.0)
    pods.reached("ready", replica, 5002.0)
    told = [(5001, "started"), (5001, "running"), (5002, "ready")]
    assert trace(pods.advance(5003.0)) == told
    assert trace(pods.scale(0, 5004.0)) == [(5004, "deleting")]
    assert not kubelet.stopped  # it may finish its requests
    pods.release(replica, 5010.0)
    assert kubelet.stopped == [replica]
    assert trace(pods.advance(5020.0)) == []
    pods.reached("gone", replica, 5021.0)
    assert trace(pods.advance(5022.0)) == [(5021, "gone")]
    assert pods.replicas == []


def test_what_is_removed_before_it_is_ready_never_is():
    kubelet = Asked()
    pods = KubeletPods(PROFILE, kubelet, most=2)
    pods.scale(1, 0.0)
    (replica,) = kubelet.started
    pods.reached("ready", replica, 5.0)  # said, and not yet seen to, when the size is written
    assert trace(pods.scale(0, 4.0)) == [(4, "deleting")]
    assert kubelet.stopped == [replica]
    pods.reached("ready", replica, 6.0)
    pods.reached("gone", replica, 7.0)
    assert trace(pods.advance(8.0)) == [(7, "gone")]


def test_a_further_replica_waits_until_one_is_gone():
    kubelet = Asked()
    pods = KubeletPods(PROFILE, kubelet, most=1)
    pods.scale(1, 0.0)
    (replica,) = kubelet.started
    pods.scale(0, 1.0)
    pods.scale(1, 2.0)
    assert kubelet.started == [replica]
    pods.reached("gone", replica, 3.0)
    assert trace(pods.advance(4.0)) == [(3, "gone"), (3, "created"), (3, "scheduled")]
    assert len(kubelet.started) == 2
