"""A ScaledObject: every field is kept, or refused by its name with a sentence that says what to write."""

import copy
from typing import Any

import pytest

from autoscale.keda.cron import CronTrigger
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import PrometheusTrigger
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scaled_object import API, Fallback, ScaledObject, ScaleTarget

METADATA = {
    "serverAddress": "http://prometheus:9090",
    "query": "sum(vllm:num_requests_waiting)",
    "threshold": "5",
}
CRON = {"timezone": "Europe/Berlin", "start": "0 6 * * *", "end": "0 20 * * *", "desiredReplicas": "3"}
MINIMAL: dict[str, Any] = {
    "apiVersion": API,
    "kind": "ScaledObject",
    "metadata": {"name": "vllm"},
    "spec": {
        "scaleTargetRef": {"name": "vllm"},
        "triggers": [{"type": "prometheus", "metadata": METADATA}],
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The minimal object with one field set; `triggers.0.type` goes into lists."""
    manifest: Any = copy.deepcopy(MINIMAL)
    *way, last = path.split(".")
    place = manifest
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
    if isinstance(place, list):
        place.append(value)
    else:
        place[last] = value
    return manifest  # type: ignore[no-any-return]


def test_defaults_are_those_of_keda() -> None:
    found = ScaledObject.from_manifest(MINIMAL)
    assert found == ScaledObject(
        "vllm",
        "default",
        ScaleTarget("apps/v1", "Deployment", "vllm"),
        (
            PrometheusTrigger(
                0, "", "AverageValue", False, METADATA["serverAddress"], METADATA["query"], 5.0, 0.0, True
            ),
        ),
        polling_interval_s=30,
        cooldown_period_s=300,
        initial_cooldown_period_s=0,
        max_replica_count=100,
    )
    assert (found.min_replicas, found.hpa_min_replicas) == (0, 1)


def test_every_field_is_kept() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60, "tolerance": "0.05"}}
    found = ScaledObject.from_manifest(
        {
            **MINIMAL,
            "metadata": {"name": "so", "namespace": "llm", "labels": {"a": "b"}, "annotations": {"c": "d"}},
            "status": {"hpaName": "whatever"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "lws", "envSourceContainerName": "vllm"},
                "pollingInterval": 15,
                "cooldownPeriod": 120,
                "initialCooldownPeriod": 60,
                "idleReplicaCount": 0,
                "minReplicaCount": 2,
                "maxReplicaCount": 8,
                "fallback": {"failureThreshold": 3, "replicas": 4, "behavior": "currentReplicasIfHigher"},
                "advanced": {
                    "restoreToOriginalReplicaCount": True,
                    "horizontalPodAutoscalerConfig": {"name": "my-hpa", "behavior": behavior},
                    "scalingModifiers": {"formula": "max(queue, running / 16)", "target": "2", "activationTarget": "0.5", "metricType": "Value"},
                },
                "triggers": [
                    {"type": "prometheus", "name": "queue", "metricType": "Value", "useCachedMetrics": True, "authenticationRef": {"name": "secret", "kind": "ClusterTriggerAuthentication"}, "metadata": {**METADATA, "activationThreshold": "1.5", "ignoreNullValues": "false", "metricName": "old"}},
                    {"type": "prometheus", "name": "running", "metadata": METADATA},
                    {"type": "cron", "metadata": CRON},
                ],
            },
        }
    )  # fmt: skip
    first = found.triggers[0]
    assert isinstance(first, PrometheusTrigger)
    assert (first.metric_type, first.cached, first.authentication) == ("Value", True, "secret")
    assert (first.activation_threshold, first.ignore_null_values, first.ignored) == (
        1.5,
        False,
        ("metricName",),
    )
    assert found.triggers[2] == CronTrigger(
        2, "", "AverageValue", "Europe/Berlin", "0 6 * * *", "0 20 * * *", 3
    )
    assert found.metric_names == ("s0-prometheus", "s1-prometheus", "s2-cron-Europe-Berlin-06xxx-020xxx")
    assert found.modifiers is not None
    assert found.modifiers.formula.names == ("queue", "running")
    assert (found.modifiers.target, found.modifiers.activation_target, found.modifiers.metric_type) == (
        "2",
        0.5,
        "Value",
    )
    assert found.fallback == Fallback(3, 4, "currentReplicasIfHigher")
    stored = {
        "scaleDown": {"stabilizationWindowSeconds": 60, "tolerance": "50m"}
    }  # as an API server writes it
    assert (found.hpa_name, found.behavior, found.restore_to_original) == ("my-hpa", stored, True)
    assert (found.idle_replica_count, found.min_replica_count, found.max_replica_count) == (0, 2, 8)
    assert found.target == ScaleTarget("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "lws")


FIRST = "spec.triggers.0"
SCALING = "spec.advanced.scalingModifiers"


@pytest.mark.parametrize(
    ("path", "value", "field", "sentence"),
    [
        ("kind", "ScaledJob", "kind", "expected ScaledObject"),
        ("apiVersion", "keda.sh/v2", "apiVersion", "keda.sh/v1alpha1"),
        ("metadata.name", "", "metadata.name", "Give the ScaledObject a name"),
        ("metadata.name", "v" * 64, "metadata.name", "at most 63 characters"),
        ("metadata.annotations.paused", True, "metadata.annotations.paused", "text in quotes"),
        ("spec.minReplicas", 1, "spec.minReplicas", "Did you mean minReplicaCount"),
        ("spec.minReplicaCount", "1", "spec.minReplicaCount", "without quotes"),
        ("spec.minReplicaCount", -1, "spec.minReplicaCount", "greater than or equal to 0"),
        ("spec.minReplicaCount", 101, "spec.minReplicaCount", "less than or equal to maxReplicaCount"),
        ("spec.pollingInterval", 0, "spec.pollingInterval", "greater than or equal to 1"),
        ("spec.idleReplicaCount", 0, "spec.idleReplicaCount", "IdleReplicaCount=0 must be less than MinReplicaCount=0"),
        ("spec.scaleTargetRef.name", "", "spec.scaleTargetRef.name", "Required value"),
        ("spec.scaleTargetRef.replicas", 1, "spec.scaleTargetRef.replicas", "unknown field"),
        ("spec.triggers", [], "spec.triggers", "at least 1 items"),
        ("spec.triggers", {}, "spec.triggers", "expected a list"),
        (f"{FIRST}.type", "cpu", "spec.triggers[0].type", "cpu triggers are not simulated"),
        (f"{FIRST}.type", "memory", "spec.triggers[0].type", "memory triggers are not simulated"),
        (f"{FIRST}.type", "external", "spec.triggers[0].type", "triggers of type external are not simulated"),
        (f"{FIRST}.type", "promethus", "spec.triggers[0].type", "Did you mean prometheus"),
        (f"{FIRST}.metadata.threshold", 5, "spec.triggers[0].metadata.threshold", "text in quotes"),
        (f"{FIRST}.metadata.threshold", "5m", "spec.triggers[0].metadata", "after top-level value"),
        (f"{FIRST}.metadata.query", "", "spec.triggers[0].metadata", 'missing required parameter "query"'),
        (f"{FIRST}.metadata.authenticationRef", {"name": "x"}, "spec.triggers[0].metadata.authenticationRef", "is no string"),
        (f"{FIRST}.metadata.ignoreNullValues", "yes", "spec.triggers[0].metadata", "unable to parse boolean value"),
        (f"{FIRST}.metricType", "Utilization", "spec.triggers[0].metricType", "'Utilization' metric type is unsupported"),
        (f"{FIRST}.authenticationRef", {}, "spec.triggers[0].authenticationRef.name", "Required value"),
        (f"{FIRST}.interval", 5, "spec.triggers[0].interval", "unknown field"),
        ("spec.triggers.x", {"type": "cron", "metadata": CRON, "useCachedMetrics": True}, "spec.triggers[1].useCachedMetrics", 'not supported for "cron"'),
        ("spec.triggers.x", {"type": "cron", "metadata": {**CRON, "end": "0 6 * * *"}}, "spec.triggers[1].metadata", "can not have exactly same time"),
        ("spec.fallback", {"replicas": 1}, "spec.fallback.failureThreshold", "Required value"),
        ("spec.fallback", {"replicas": 1, "failureThreshold": -1}, "spec.fallback", "must both be greater than or equal to 0"),
        ("spec.fallback", {"replicas": 1, "failureThreshold": 1, "behavior": "hold"}, "spec.fallback.behavior", "currentReplicasIfHigher"),
        (SCALING, {"formula": "1", "target": "x"}, f"{SCALING}.target", "error converting target"),
        (SCALING, {"formula": "q", "target": "1"}, f"{SCALING}.formula", "unknown name q"),
        (SCALING, {"formula": "count([1])", "target": "1"}, f"{SCALING}.formula", "function count is not simulated|is not simulated"),
        (SCALING, {"formula": "1"}, f"{SCALING}.target", "target is empty"),
        (SCALING, {"target": "1"}, f"{SCALING}.formula", "Formula is mandatory"),
        (SCALING, {"formula": "1", "target": "1", "activationTarget": "x"}, f"{SCALING}.activationTarget", "parsing error"),
        (SCALING, {"formula": "1", "target": "1", "metricType": "Utilization"}, f"{SCALING}.metricType", "supported values"),
        ("spec.advanced.horizontalPodAutoscalerConfig.behavior", {"scaleUp": {"window": 1}}, "spec.advanced.horizontalPodAutoscalerConfig.behavior", "unknown field"),
        ("metadata.annotations", {"autoscaling.keda.sh/paused-replicas": "two"}, "metadata.annotations.autoscaling.keda.sh/paused-replicas", "a whole number"),
    ],
)  # fmt: skip
def test_a_field_is_refused_by_its_name(path: str, value: object, field: str, sentence: str) -> None:
    with pytest.raises(KedaRefusal, match=sentence) as raised:
        ScaledObject.from_manifest(changed(path, value))
    assert raised.value.field == field
    assert str(raised.value).count(". ") < 2, "one sentence and a next step"


def test_what_only_the_hpa_of_it_refuses_is_told_when_the_loops_start() -> None:
    scaled = ScaledObject.from_manifest(changed(f"{FIRST}.metadata.threshold", "0.0001"))  # three decimals: 0
    with pytest.raises(
        KedaRefusal, match=r"spec.metrics\[0\].external.target.averageValue: must be positive"
    ):
        Loops.started(scaled, 0.0)


@pytest.mark.parametrize(
    ("text", "paused"),
    [("true", True), ("", True), ("maybe", True), ("false", False), ("F", False), ("0", False)],
)
def test_a_pause_is_whatever_does_not_say_false(text: str, paused: bool) -> None:
    scaled = ScaledObject.from_manifest(changed("metadata.annotations", {"autoscaling.keda.sh/paused": text}))
    assert scaled.paused == paused


def test_a_paused_object_has_no_hpa_and_a_new_one_without_memory_afterwards() -> None:
    running = ScaledObject.from_manifest(MINIMAL)
    paused = ScaledObject.from_manifest(
        changed("metadata.annotations", {"autoscaling.keda.sh/paused-replicas": "4"})
    )
    loops = Loops.started(running, 0.0)
    assert loops.hpa is not None
    loops, replicas = loops.changed(paused)
    assert (loops.hpa, replicas) == (None, 4)
    loops, replicas = loops.changed(running)
    assert (loops.hpa is not None, loops.memory, replicas) == (True, None, None)
