"""Every recorded decision of the real controller, and every recorded answer of a real API server, is reproduced."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec, MetricError, PodMetric, decide, format_milli, parse_quantity

RECORDED = Path(__file__).parent.parent / "fixtures" / "hpa"
NOT_FOUND = MetricError(
    "unable to fetch metrics from custom metrics API: the server could not find the metric m for pods"
)


def recorded(name: str) -> Any:
    with gzip.open(RECORDED / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def manifest(
    metrics: dict[str, object], low: int = 1, high: int = 100000, behavior: object = None
) -> dict[str, Any]:
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": [
            {
                "type": "Pods",
                "pods": {"metric": {"name": n}, "target": {"type": "AverageValue", "averageValue": v}},
            }
            for n, v in metrics.items()
        ],
    }
    if behavior is not None:
        spec["behavior"] = behavior
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": spec,
    }


@pytest.mark.parametrize("row", recorded("calculator"), ids=lambda row: row["id"])
def test_proposals_of_the_replica_calculator(row: dict[str, Any]):
    behavior = {
        "scaleUp": {"tolerance": str(row["tolerance_up"])},
        "scaleDown": {"tolerance": str(row["tolerance_down"])},
    }
    spec = HpaSpec.from_manifest(manifest({"m": f"{row['target_average_value_milli']}m"}, behavior=behavior))
    pods = [
        PodMetric(pod["name"], pod["phase"], pod["deleting"], pod["ready"], pod["value_milli"])
        for pod in row["pods"]
    ]
    pods += [
        PodMetric(p["name"], phase="", value_milli=p["value_milli"]) for p in row.get("extra_metrics", [])
    ]
    decision = decide(spec, None, row["current_replicas"], {"m": pods}, 0)
    if row.get("error"):
        assert decision.conditions["ScalingActive"].message.endswith(f"replica count: {row['error']}")
        assert decision.proposals == {"m": None}
        assert not decision.rescaled
    else:
        assert decision.proposals == {"m": row["replicas"]}
        assert decision.metric_usage_milli == {"m": row["usage_milli"]}
        assert format_milli(row["usage_milli"]) == row["usage_quantity"]


@pytest.mark.parametrize("sequence", recorded("behavior"), ids=lambda sequence: sequence["id"])
def test_sequences_of_stabilisation_policies_and_limits(sequence: dict[str, Any]):
    spec = replace(
        HpaSpec.from_manifest(
            manifest({"m": "1000"}, sequence["min_replicas"], sequence["max_replicas"], sequence["behavior"])
        ),
        downscale_stabilization_s=sequence["controller_downscale_stabilization_seconds"],
        tolerance=0.0,
    )
    assert spec.stored.get("behavior") == sequence["effective_behavior"]
    memory, replicas = None, sequence["initial_replicas"]
    for step in sequence["steps"]:
        replicas = step.get("set_replicas", replicas)
        assert replicas == step["current"]
        # current pods whose truncated mean asks for exactly `desired`: ceil(floor(d/c * 10^6)/10^6 * c) = d
        mean_milli = step["desired"] * 1_000_000 // replicas if replicas else 0
        pods = [PodMetric(f"p-{i}", value_milli=mean_milli) for i in range(replicas)]
        decision = decide(
            spec, memory, replicas, {"m": NOT_FOUND if step.get("no_metric") else pods}, step["t"]
        )
        memory, replicas = decision.memory, decision.replicas
        assert replicas == step["replicas"], step
        assert decision.rescaled == step["rescaled"]
        assert {
            kind: {"status": str(c.status), "reason": c.reason, "message": c.message}
            for kind, c in decision.conditions.items()
        } == step["conditions"]
        assert [str(event) for event in decision.events] == step["events"]
        assert memory.last_scale_s == step["last_scale_time"]
        assert decision.error == step.get("error")
        assert step["status"] == {
            "currentReplicas": decision.current_replicas,
            "desiredReplicas": memory.desired_replicas,
        }


@pytest.mark.parametrize("row", recorded("multimetric"), ids=lambda row: row["id"])
def test_the_largest_proposal_of_several_metrics(row: dict[str, Any]):
    targets = {m["name"]: f"{m['target_average_value_milli']}m" for m in row["metrics"]}
    spec = HpaSpec.from_manifest(manifest(targets))
    readings = {
        m["name"]: [PodMetric(f"p-{i}", value_milli=v) for i, v in enumerate(m["values_milli"])]
        for m in row["metrics"]
    }
    decision = decide(spec, None, row["current_replicas"], readings, 0)
    assert decision.proposals == {m["name"]: m["proposal"] for m in row["metrics"]}
    for metric in row["metrics"]:
        usage = decision.metric_usage_milli[metric["name"]]
        assert metric.get("usage_quantity") == (None if usage is None else format_milli(usage))
    active = decision.conditions["ScalingActive"]
    expected = row["scaling_active"]
    assert (str(active.status), active.reason, active.message) == (
        expected["status"],
        expected["reason"],
        expected["message"],
    )
    assert decision.metric == row["metric"]
    if row["replicas"] == -1:
        assert not decision.rescaled
    else:
        assert max(p for p in decision.proposals.values() if p is not None) == row["replicas"]
    assert (decision.error or "").endswith(row.get("error", ""))
    assert (decision.error is None) == ("error" not in row)


@pytest.mark.parametrize("row", recorded("validation")["quantities"], ids=lambda row: repr(row["input"]))
def test_quantities_are_stored_or_refused_as_by_an_api_server(row: dict[str, Any]):
    given = manifest({"m": row["input"]})
    if "error" in row:
        with pytest.raises(BadInput, match="averageValue"):
            HpaSpec.from_manifest(given)
    else:
        stored = HpaSpec.from_manifest(given).stored["metrics"][0]["pods"]["target"]["averageValue"]
        assert stored == row["stored"]
        assert parse_quantity(stored).value == parse_quantity(row["input"]).value


@pytest.mark.parametrize("row", recorded("validation")["specs"], ids=lambda row: row["case"])
def test_specs_are_defaulted_or_refused_as_by_an_api_server(row: dict[str, Any]):
    given = manifest({"m": "5"}, 1, 4)
    if isinstance(row["input"], str):  # a metric name
        given["spec"]["scaleTargetRef"] = {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "name": "x",
        }
        given["spec"]["metrics"][0]["pods"]["metric"]["name"] = row["input"]
    else:
        given["spec"] = row["input"]
    if row["accepted"]:
        assert HpaSpec.from_manifest(given).stored == row["spec"]
    else:
        with pytest.raises(BadInput) as refused:
            HpaSpec.from_manifest(given)
        refusals = re.findall(
            r"(?:spec\.[\w.\[\]]+)", row["message"]
        )  # the server lists all, we say the first
        assert refusals[0] in str(refused.value)
