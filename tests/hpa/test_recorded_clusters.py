"""The metric values that a real cluster's HPA was shown, at its sync times, give the same rescales and conditions."""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from autoscale.hpa import HpaSpec, PodMetric, decide, parse_quantity

RECORDED = Path(__file__).parent.parent / "fixtures" / "kubernetes"


def lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(RECORDED / f"{name}.jsonl.gz", "rt") as file:
        found = [json.loads(line) for line in file]
    for line in found:
        line["at_s"] = datetime.fromisoformat(line["ts"]).timestamp()
    return found


def syncs(recording: list[dict[str, Any]]) -> list[tuple[float, dict[str, list[PodMetric]]]]:
    """(time of the last query, reading per metric) of each sync; the queries of one sync are milliseconds apart."""
    found: list[tuple[float, dict[str, list[PodMetric]]]] = []
    for line in recording:
        if line["resource"] != "custommetrics":
            continue
        seen = line["object"]
        pods = [
            PodMetric(pod, phase, value_milli=parse_quantity(seen["values"][pod]).milli)
            for pod, phase in seen["pods"].items()
        ]
        if not found or line["at_s"] - found[-1][0] > 5:
            found.append((line["at_s"], {}))
        found[-1] = (line["at_s"], {**found[-1][1], seen["metric"]: pods})
    return found


@pytest.mark.parametrize(("name", "sizes"), [("deployment", [2, 3, 4, 1]), ("lws", [2, 3, 4, 3, 2, 1])])
def test_replaying_what_the_controller_read_gives_its_replica_sequence(name: str, sizes: list[int]):
    recording = lines(name)
    autoscalers = [line for line in recording if line["resource"] == "horizontalpodautoscalers"]
    spec = HpaSpec.from_manifest(autoscalers[0]["object"])
    memory, replicas, decisions = None, 1, []
    for at_s, readings in syncs(recording):
        decision = decide(spec, memory, replicas, readings, at_s)
        decisions.append((at_s, decision))
        memory, replicas = decision.memory, decision.replicas

    assert [decision.replicas for _, decision in decisions if decision.rescaled] == sizes
    said = [
        line["object"]["message"]
        for line in recording
        if line["resource"] == "events" and line["object"]["reason"] == "SuccessfulRescale"
    ]
    assert [event.message for _, d in decisions for event in d.events] == said
    for line in autoscalers[1:]:
        at_s, decision = min(decisions, key=lambda sync: abs(sync[0] - line["at_s"]))
        assert abs(at_s - line["at_s"]) < 1.0, "every status update belongs to a sync"
        status = line["object"]["status"]
        assert status["desiredReplicas"] == decision.replicas
        for condition in status["conditions"]:
            ours = decision.conditions[condition["type"]]
            assert (condition["status"], condition["reason"], condition["message"]) == (
                str(ours.status),
                ours.reason,
                ours.message,
            )
