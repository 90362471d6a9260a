"""Rows of KEDA's and the HPA's arithmetic together, each worked out by hand from their rules."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autoscale.keda.fallback import TargetPods
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import Answer, NoElement, PrometheusTrigger, QueryFailed
from autoscale.keda.scale_loop import read_triggers
from autoscale.keda.scaled_object import API, ScaledObject

T0 = 1_700_000_000.25  # off the whole second, as a running loop is
DISABLED = QueryFailed("prometheus query api returned error. status: 500")


def scaled(
    *thresholds: str, kind: str = "AverageValue", trigger: dict[str, Any] | None = None, **spec: Any
) -> ScaledObject:
    """A ScaledObject with a trigger on query q0, q1, ... for each threshold; windows off, so that a sync decides alone."""
    triggers = [
        {
            "type": "prometheus",
            "name": f"q{i}",
            "metricType": kind,
            "metadata": {"serverAddress": "http://p", "query": f"q{i}", "threshold": text, **(trigger or {})},
        }
        for i, text in enumerate(thresholds)
    ]
    config = {
        "behavior": {
            "scaleDown": {"stabilizationWindowSeconds": 0},
            "scaleUp": {"policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}]},
        }
    }
    spec = {"advanced": {"horizontalPodAutoscalerConfig": config}, "minReplicaCount": 1, **spec}
    return ScaledObject.from_manifest(
        {
            "apiVersion": API,
            "kind": "ScaledObject",
            "metadata": {"name": "vllm"},
            "spec": {"scaleTargetRef": {"name": "vllm"}, "triggers": triggers, **spec},
        }
    )


class World:
    """Both loops on a target whose pods are as ready as one says, else all of them."""

    def __init__(self, scaled: ScaledObject, replicas: int, ready: int | None = None) -> None:
        self.loops, self.replicas, self.ready = (
            Loops.started(scaled, math.floor(T0)),
            replicas,
            ready,
        )

    def reads(self, values: tuple[Answer, ...], after_s: float) -> dict[str, Any]:
        prometheus = [t for t in self.loops.scaled.triggers if isinstance(t, PrometheusTrigger)]
        answers = {t.metric_name: value for t, value in zip(prometheus, values, strict=True)}
        return read_triggers(self.loops.scaled, answers, T0 + after_s)

    @property
    def pods(self) -> TargetPods:
        return TargetPods(self.replicas, self.replicas if self.ready is None else self.ready)

    def poll(self, *values: Answer, after_s: float = 0.0) -> int:
        self.loops, step = self.loops.polled(self.reads(values, after_s), self.pods, T0 + after_s)
        self.events = step.events
        self.replicas = self.replicas if step.scale_to is None else step.scale_to
        return self.replicas

    def sync(self, *values: Answer, after_s: float = 0.0) -> int:
        self.loops, decision = self.loops.synced(
            self.reads(values, after_s), self.pods, self.replicas, T0 + after_s
        )
        assert decision is not None
        self.decision, self.replicas = decision, decision.replicas
        return self.replicas


@pytest.mark.parametrize(
    ("threshold", "value", "replicas", "wanted"),
    [
        pytest.param("5", 27.0, 5, 5, id="27/25 = 1.08 is within the tolerance"),
        pytest.param("5", 27.5, 5, 5, id="27.5/25 = 1.1 exactly stays"),
        pytest.param("5", 27.501, 5, 6, id="ceil(27.501/5) = 6"),
        pytest.param("5", 22.5, 5, 5, id="22.5/25 = 0.9 exactly stays"),
        pytest.param("5", 22.499, 5, 5, id="ceil(22.499/5) = ceil(4.4998) = 5"),
        pytest.param("5", 20.0, 3, 4, id="ceil(20/5) = 4"),
        pytest.param("5", 0.0, 4, 1, id="no load: minReplicas 1"),
        pytest.param("0.7", 1.0, 1, 2, id="a saturation of 1.0 asks for ceil(1/0.7) = 2 at 1"),
        pytest.param("0.7", 1.0, 2, 2, id="... at 2"),
        pytest.param("0.7", 1.0, 8, 2, id="... and at 8: a ratio under AverageValue never asks for more"),
        pytest.param("0.7", 1.54, 2, 2, id="1.54/1.4 = 1.1 stays"),
        pytest.param("0.7", 1.541, 2, 3, id="ceil(1.541/0.7) = 3"),
        pytest.param("16", 35.2, 2, 2, id="35.2/32 = 1.1 stays"),
        pytest.param("16", 35.201, 2, 3, id="ceil(35.201/16) = 3"),
        pytest.param("0.8", 1.76, 2, 2, id="a KV sum of 1.76/1.6 = 1.1 stays"),
        pytest.param("0.8", 1.761, 2, 3, id="ceil(1.761/0.8) = 3"),
        pytest.param("1.5", 40000 / 15928, 1, 2, id="40000 tokens in flight at 15928 tokens/s: ceil(2.511/1.5) = 2"),
    ],
)  # fmt: skip
def test_average_value(threshold: str, value: float, replicas: int, wanted: int) -> None:
    assert World(scaled(threshold), replicas).sync(value) == wanted


def test_loading_replicas_play_no_part_under_average_value() -> None:
    assert World(scaled("5"), 1, ready=0).sync(12.0) == 3  # ceil(12/5), though no pod is ready


@pytest.mark.parametrize(
    ("threshold", "value", "replicas", "ready", "wanted"),
    [
        pytest.param("5", 20.0, 3, 3, 12, id="ceil(20/5 x 3 ready) = 12"),
        pytest.param("0.7", 1.0, 4, 4, 6, id="ceil(1/0.7 x 4) = 6"),
        pytest.param("0.7", 0.75, 4, 4, 4, id="0.75/0.7 = 1.07 stays"),
        pytest.param("1", 3.0, 2, 2, 6, id="a desired number under Value runs away: 3 x 2 = 6"),
        pytest.param("1", 3.0, 6, 6, 18, id="... then 3 x 6 = 18"),
        pytest.param("1", 3.0, 3, 1, 3, id="3 in the spec, 1 ready: ceil(3 x 1) = 3"),
    ],
)
def test_value(threshold: str, value: float, replicas: int, ready: int, wanted: int) -> None:
    assert World(scaled(threshold, kind="Value"), replicas, ready).sync(value) == wanted


@pytest.mark.parametrize(("value", "wanted"), [(11.0, 10), (11.001, 12)])
def test_the_tolerance_hides_one_replica_of_ten_from_a_formula_that_is_the_number(
    value: float, wanted: int
) -> None:
    modifiers = {"scalingModifiers": {"formula": "q0", "target": "1"}}
    found = scaled("1", advanced={**modifiers, "horizontalPodAutoscalerConfig": {"behavior": {}}})
    assert World(found, 10).sync(value) == wanted


@pytest.mark.parametrize(("desired", "replicas", "wanted"), [(11, 10, 10), (10, 9, 10), (8, 10, 8)])
def test_cron(desired: int, replicas: int, wanted: int) -> None:
    window = {"timezone": "UTC", "start": "0 * * * *", "end": "59 * * * *", "desiredReplicas": str(desired)}
    config = {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
    manifest = {
        "apiVersion": API,
        "kind": "ScaledObject",
        "metadata": {"name": "vllm"},
        "spec": {
            "scaleTargetRef": {"name": "vllm"},
            "minReplicaCount": 1,
            "triggers": [{"type": "cron", "metadata": window}],
            "advanced": {"horizontalPodAutoscalerConfig": config},
        },
    }
    assert World(ScaledObject.from_manifest(manifest), replicas).sync() == wanted


@pytest.mark.parametrize(
    ("kind", "threshold", "fallback", "replicas", "ready", "wanted"),
    [
        ("AverageValue", "5", 10, 11, 11, 11),  # 10/11 = 0.909 is within the tolerance
        ("AverageValue", "5", 10, 12, 12, 10),
        ("Value", "1", 7, 3, 3, 7),  # 1 x 7/3 = 2.333, cut; ceil(2.333 x 3) = 7
    ],
)
def test_fallback(kind: str, threshold: str, fallback: int, replicas: int, ready: int, wanted: int) -> None:
    world = World(
        scaled(threshold, kind=kind, fallback={"failureThreshold": 3, "replicas": fallback}), replicas, ready
    )
    for nth in range(3):
        assert world.sync(DISABLED, after_s=15.0 * nth) == replicas
    assert world.sync(DISABLED, after_s=45.0) == wanted
    if kind == "Value":
        assert world.decision.metric_usage_milli == {"s0-prometheus": 2333}


def test_no_element_is_no_load_unless_null_values_are_told_from_it() -> None:
    assert World(scaled("5"), 4).sync(NoElement()) == 1
    strict = World(scaled("5", trigger={"ignoreNullValues": "false"}, minReplicaCount=0, cooldownPeriod=0), 4)
    assert strict.sync(NoElement()) == 4
    assert strict.decision.reason == "FailedGetExternalMetric"
    assert strict.poll(NoElement(), after_s=60.0) == 4  # an error never scales to zero


def test_two_elements_are_an_error_of_the_hpa_and_an_event_of_keda() -> None:
    found = scaled("5")
    trigger = found.triggers[0]
    assert isinstance(trigger, PrometheusTrigger)
    world = World(found, 2)
    assert world.sync(trigger.many()) == 2
    assert world.decision.reason == "FailedGetExternalMetric"
    world.poll(trigger.many())
    assert "Warning KEDAScalerFailed prometheus query q0 returned multiple elements" in world.events


def test_to_zero_one_cooldown_after_the_last_active_poll() -> None:
    world = World(scaled("5", minReplicaCount=0, cooldownPeriod=300, pollingInterval=30), 1)
    world.poll(7.0)
    assert [world.poll(0.0, after_s=30.0 * nth) for nth in range(1, 11)] == [1] * 9 + [0]


def test_to_zero_in_one_step_whatever_the_policies() -> None:
    behavior = {"scaleDown": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}]}}
    config = {"horizontalPodAutoscalerConfig": {"behavior": behavior}}
    world = World(scaled("5", minReplicaCount=0, cooldownPeriod=60, advanced=config), 5)
    world.poll(30.0)
    assert world.poll(0.0, after_s=61.0) == 0


def test_a_new_object_that_was_never_active_waits_for_its_initial_cooldown_alone() -> None:
    world = World(scaled("5", minReplicaCount=0, initialCooldownPeriod=60, pollingInterval=30), 3)
    assert [world.poll(0.0, after_s=30.0 * nth) for nth in range(3)] == [3, 3, 0]


def test_activation_wins_over_the_hpa() -> None:
    world = World(
        scaled("10", trigger={"activationThreshold": "50"}, minReplicaCount=0, cooldownPeriod=30), 4
    )
    world.poll(60.0)
    assert world.sync(40.0, after_s=15.0) == 4  # ceil(40/10): the HPA would keep 4
    assert world.poll(40.0, after_s=31.0) == 0
    assert world.poll(40.0, after_s=61.0) == 0


def test_from_zero_by_a_poll_and_on_by_the_next_sync() -> None:
    world = World(scaled("1", minReplicaCount=0, pollingInterval=15), 0)
    assert world.sync(1.0) == 0  # no metric is read at zero
    assert world.decision.reason == "ScalingDisabled"
    assert world.poll(3.0, after_s=15.0) == 1
    assert world.sync(3.0, after_s=15.2) == 3


def test_from_idle_to_the_minimum_at_once() -> None:
    assert World(scaled("5", minReplicaCount=3, idleReplicaCount=0), 0).poll(1.0) == 3


def test_an_outage_wakes_a_target_with_a_fallback_from_zero() -> None:
    found = scaled(
        "5", minReplicaCount=0, pollingInterval=30, fallback={"failureThreshold": 3, "replicas": 2}
    )
    world = World(found, 0)
    assert [world.poll(DISABLED, after_s=30.0 * nth) for nth in range(4)] == [0, 0, 0, 1]
    assert world.sync(DISABLED, after_s=95.0) == 2
