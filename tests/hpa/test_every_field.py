"""Every field of autoscaling/v2's HorizontalPodAutoscalerSpec has its verdict: what is written changes what is simulated, or is
refused by its name."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec
from autoscale.profiles import load
from autoscale.sim.fleet.scalers import queries_of, read_scaler

L4 = load("llama-3.1-8b-1xl4")
SELECTOR = {"matchLabels": {"model_name": "a"}}
EXPRESSIONS = [{"key": "model_name", "operator": "In", "values": ["a"]}]


def external(**more: Any) -> dict[str, Any]:
    metric = {"name": "vllm:num_requests_waiting", **more.pop("metric", {})}
    target = {"type": "AverageValue", "averageValue": "5", **more.pop("target", {})}
    return {"type": "External", "external": {"metric": metric, "target": target, **more}}


def described(**more: Any) -> dict[str, Any]:
    about = {"apiVersion": "v1", "kind": "Service", "name": "vllm", **more.pop("about", {})}
    metric = {"name": "vllm:num_requests_waiting", **more.pop("metric", {})}
    target = {"type": "Value", "value": "5", **more.pop("target", {})}
    return {"type": "Object", "object": {"describedObject": about, "metric": metric, "target": target}}


def pods(**more: Any) -> dict[str, Any]:
    metric = {"name": "vllm:num_requests_waiting", **more.pop("metric", {})}
    target = {"type": "AverageValue", "averageValue": "5", **more}
    return {"type": "Pods", "pods": {"metric": metric, "target": target}}


def spec(*metrics: dict[str, Any], **more: Any) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}
    return {"scaleTargetRef": target, "maxReplicas": 4, "metrics": list(metrics) or [external()], **more}


def behavior(direction: str, **rules: Any) -> dict[str, Any]:
    return spec(behavior={direction: rules})


POLICY = {"type": "Pods", "value": 2, "periodSeconds": 60}
LABEL = {"selector": SELECTOR}
# field -> two specs that differ in it alone: each is simulated differently
SIMULATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "minReplicas": (spec(), spec(minReplicas=2)),
    "maxReplicas": (spec(), spec(maxReplicas=5)),
    "scaleTargetRef.apiVersion": (spec(), spec(scaleTargetRef={"apiVersion": "x.io/v1", "kind": "Deployment", "name": "vllm"})),
    "scaleTargetRef.kind": (spec(), spec(scaleTargetRef={"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "vllm"})),
    "scaleTargetRef.name": (spec(), spec(scaleTargetRef={"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"})),
    "metrics[].type": (spec(pods()), spec(external())),
    "metrics[].pods.metric.name": (spec(pods()), spec(pods(metric={"name": "vllm:num_requests_running"}))),
    "metrics[].pods.target.averageValue": (spec(pods()), spec(pods(averageValue="6"))),
    "metrics[].external.metric.name": (spec(), spec(external(metric={"name": "vllm:num_requests_running"}))),
    "metrics[].external.metric.selector.matchLabels": (spec(), spec(external(metric=LABEL))),
    "metrics[].external.metric.selector.matchExpressions[].key": (spec(), spec(external(metric={"selector": {"matchExpressions": EXPRESSIONS}}))),
    "metrics[].external.metric.selector.matchExpressions[].operator": (
        spec(external(metric={"selector": {"matchExpressions": EXPRESSIONS}})),
        spec(external(metric={"selector": {"matchExpressions": [{**EXPRESSIONS[0], "operator": "NotIn"}]}})),
    ),
    "metrics[].external.metric.selector.matchExpressions[].values": (
        spec(external(metric={"selector": {"matchExpressions": EXPRESSIONS}})),
        spec(external(metric={"selector": {"matchExpressions": [{**EXPRESSIONS[0], "values": ["a", "b"]}]}})),
    ),
    "metrics[].external.target.averageValue": (spec(), spec(external(target={"averageValue": "6"}))),
    "metrics[].external.target.value": (spec(), spec({"type": "External", "external": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "Value", "value": "5"}}})),
    "metrics[].object.metric.name": (spec(described()), spec(described(metric={"name": "vllm:num_requests_running"}))),
    "metrics[].object.metric.selector.matchLabels": (spec(described()), spec(described(metric=LABEL))),
    "metrics[].object.metric.selector.matchExpressions[].key": (spec(described()), spec(described(metric={"selector": {"matchExpressions": EXPRESSIONS}}))),
    "metrics[].object.describedObject.kind": (spec(described()), spec(described(about={"kind": "Namespace"}))),
    "metrics[].object.describedObject.name": (spec(described()), spec(described(about={"name": "other"}))),
    "metrics[].object.target.value": (spec(described()), spec(described(target={"value": "6"}))),
    "metrics[].object.target.averageValue": (spec(described()), spec(described(target={"type": "AverageValue", "averageValue": "5", "value": None}))),
    "metrics[].object.target.type": (spec(described()), spec(described(target={"type": "AverageValue", "averageValue": "5", "value": None}))),
    **{
        f"behavior.{direction}.{field}": (behavior(direction, policies=[POLICY]), behavior(direction, policies=[POLICY], **{field: value}))
        for direction in ("scaleUp", "scaleDown")
        for field, value in (("stabilizationWindowSeconds", 90), ("selectPolicy", "Min"), ("tolerance", "50m"))
    },
    **{
        f"behavior.{direction}.policies[].{field}": (behavior(direction, policies=[POLICY]), behavior(direction, policies=[{**POLICY, field: value}]))
        for direction in ("scaleUp", "scaleDown")
        for field, value in (("type", "Percent"), ("value", 3), ("periodSeconds", 30))
    },
}  # fmt: skip
# field -> a spec with it, and the words with which it is refused
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "metrics[].resource": (spec({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}), "Resource"),
    "metrics[].containerResource": (spec({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "vllm", "target": {"type": "Utilization", "averageUtilization": 60}}}), "ContainerResource"),
    "metrics[].external.fallback": (spec(external(fallback={"failureThreshold": 3, "replicas": 2})), "Kubernetes 1.36"),
    "metrics[].pods.metric.selector": (spec(pods(metric={"selector": {"matchLabels": {"engine": "0"}}})), "engine"),
    "metrics[].pods.target.value": (spec({"type": "Pods", "pods": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "Value", "value": "5"}}}), "target"),
    "metrics[].pods.target.averageUtilization": (spec({"type": "Pods", "pods": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "Utilization", "averageUtilization": 5}}}), "target"),
    "metrics[].external.target.averageUtilization": (spec({"type": "External", "external": {"metric": {"name": "vllm:num_requests_waiting"}, "target": {"type": "Utilization", "averageUtilization": 5}}}), "target"),
    "metrics[].object.target.averageUtilization": (spec(described(target={"type": "Utilization", "averageUtilization": 5, "value": None})), "target"),
}  # fmt: skip
# what the controller itself does not look at, or what says once more what another field says
WITHOUT_EFFECT = {
    "metrics[].object.describedObject.apiVersion": "the controller prints kind and name alone",
    "metrics[].pods.target.type": "averageValue is the only target of a Pods metric",
    "metrics[].external.target.type": "the controller takes the value that is there",
    "metrics[].object.metric.selector.matchExpressions[].operator": "as an External metric's",
    "metrics[].object.metric.selector.matchExpressions[].values": "as an External metric's",
}


def fields(model: str, path: str = "") -> list[str]:
    """The paths of a model's leaves, as Kubernetes' own client knows the schema."""
    found: list[str] = []
    kind = getattr(client, model)
    for attribute, name in kind.attribute_map.items():
        given = kind.openapi_types[attribute]
        inner = re.sub(r"^list\[(.*)\]$", r"\1", given, flags=re.IGNORECASE)
        where = f"{path}.{name}".lstrip(".") + ("[]" if inner != given else "")
        whole = not hasattr(client, inner) or where in REFUSED
        found += [where.removesuffix("[]")] if whole else fields(inner, where)
    return found


def manifest(of: dict[str, Any]) -> dict[str, Any]:
    kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}}
    return {**kind, "spec": copy.deepcopy(of)}


def simulated(of: dict[str, Any]) -> tuple[object, object]:
    """What a simulation takes of it: the rules' view, and the queries that are asked."""
    found = HpaSpec.from_manifest(manifest(of))
    return replace(found, stored={}), queries_of(found)


def test_every_field_of_the_schema_has_a_verdict():
    known = {*SIMULATED, *REFUSED, *WITHOUT_EFFECT}
    assert set(fields("V2HorizontalPodAutoscalerSpec")) - known == set()


@pytest.mark.parametrize("field", SIMULATED)
def test_a_field_that_is_simulated_changes_what_is(field: str):
    one, other = map(simulated, SIMULATED[field])
    assert one != other


@pytest.mark.parametrize("field", [field for field in SIMULATED if ".external.metric.selector" in field])
def test_a_selector_changes_the_series_that_are_asked_for(field: str):
    one, other = (simulated(each)[1] for each in SIMULATED[field])
    assert one != other


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_is_not_is_refused_by_its_name(field: str):
    given, words = REFUSED[field]
    with pytest.raises(BadInput, match=words):
        read_scaler(L4, manifest(given))
