"""useCachedMetrics: the HPA gets what the last poll kept, until an error clears it."""

from __future__ import annotations

from typing import Any

from autoscale.keda.fallback import TargetPods
from autoscale.keda.loop_status import LoopStatus, Step
from autoscale.keda.prometheus_trigger import Answer, QueryFailed
from autoscale.keda.scale_loop import hpa_query, poll, read_triggers
from autoscale.keda.scaled_object import API, ScaledObject

NAME = "s0-prometheus"
FAILED = QueryFailed("prometheus query api returned error. status: 500")


class World:
    """One cached trigger; polled and asked in turn."""

    def __init__(self, **spec: Any) -> None:
        trigger = {
            "type": "prometheus",
            "useCachedMetrics": True,
            "metadata": {"serverAddress": "http://p", "query": "q", "threshold": "5"},
        }
        self.scaled = ScaledObject.from_manifest(
            {
                "apiVersion": API,
                "kind": "ScaledObject",
                "metadata": {"name": "vllm"},
                "spec": {"scaleTargetRef": {"name": "vllm"}, "triggers": [trigger], **spec},
            }
        )
        self.status, self.pods = LoopStatus(), TargetPods(2, 2)

    def poll(self, answer: Answer) -> None:
        reads = read_triggers(self.scaled, {NAME: answer}, 0.0)
        self.status = poll(self.scaled, self.status, reads, self.pods, 0.0, 0.0, scale_fails=False).status

    def ask(self, answer: Answer) -> Step:
        step = hpa_query(
            self.scaled, self.status, NAME, read_triggers(self.scaled, {NAME: answer}, 0.0), self.pods
        )
        self.status = step.status
        return step


def test_a_query_reads_the_last_poll() -> None:
    world = World()
    assert world.ask(3.0).metrics == {NAME: 3000}  # no poll yet: Prometheus
    world.poll(7.0)
    assert world.ask(9.0).metrics == {NAME: 7000}
    assert world.ask(FAILED).metrics == {NAME: 7000}


def test_a_kept_error_is_told_once() -> None:
    world = World()
    world.poll(FAILED)
    assert world.ask(9.0).error == f"metric:{NAME} encountered error"
    assert world.ask(9.0).metrics == {NAME: 9000}


def test_a_kept_error_is_counted_a_kept_fallback_ends_the_count() -> None:
    world = World(fallback={"failureThreshold": 1, "replicas": 4})
    world.poll(FAILED)
    assert world.ask(9.0).metrics == {NAME: 20000}  # the poll's error, read again: the second failure
    assert world.status.health[NAME].failures == 2
    world.poll(FAILED)
    assert world.ask(FAILED).metrics == {NAME: 20000}
    assert world.status.health[NAME].failures == 0
