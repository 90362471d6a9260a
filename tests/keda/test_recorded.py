"""KEDA 2.20.2 as recorded: HPA specs, triggers, fallback, the scale loop, and a live operator beside a live HPA."""

import dataclasses
from datetime import datetime
from typing import Any

import pytest

from analysis.errors import BadInput
from autoscale.hpa.manifest import stored_spec
from autoscale.keda.cron import CronTrigger
from autoscale.keda.fallback import Health, Target, TargetPods, has_valid_fallback, with_fallback
from autoscale.keda.formula import compile_formula
from autoscale.keda.hpa_made import hpa_made, hpa_spec
from autoscale.keda.loop_status import LoopStatus
from autoscale.keda.metadata import Unreadable
from autoscale.keda.prometheus_trigger import PrometheusTrigger, QueryFailed, TriggerValue
from autoscale.keda.refusal import KedaRefusal
from autoscale.keda.scale_loop import hpa_query, poll
from autoscale.keda.scaled_object import Fallback, Modifiers, ScaledObject
from autoscale.kube.quantity import format_milli
from tests.keda.recorded import Replay, Row, answered, read_all, rows, shown


def of(name: str) -> Any:
    found = rows(name)
    return pytest.mark.parametrize("row", found, ids=[f"{row['id']} {row['note']}" for row in found])


def refusal_of(row: Row) -> str:
    """Why the API server or KEDA refuses the ScaledObject, "" when neither does."""
    expected = row["expected"]
    if not expected["crd_admission"]["accepted"]:
        return str(expected["crd_admission"]["error"])
    return str(next(iter(expected.get("check_errors", {}).values()), expected.get("error", "")))


@of("hpa_specs")
def test_the_hpa_that_keda_makes(row: Row) -> None:
    refused = refusal_of(row)
    if any(trigger["type"] in ("cpu", "memory") for trigger in row["scaled_object"]["spec"]["triggers"]):
        with pytest.raises(KedaRefusal, match=r"spec\.triggers\[\d\]\.type: \w+ triggers are not simulated"):
            ScaledObject.from_manifest(row["scaled_object"])
        return
    if refused:
        with pytest.raises(KedaRefusal) as raised:
            ScaledObject.from_manifest(row["scaled_object"])
        assert raised.value.said
        assert refused.endswith(raised.value.said)
        return
    expected = row["expected"]
    made = hpa_made(ScaledObject.from_manifest(row["scaled_object"]))
    assert made["metadata"]["labels"].pop("app.kubernetes.io/version") == "2.20.2"
    made["metadata"]["labels"]["app.kubernetes.io/version"] = "main"  # the recorder's own build
    metadata = {key: made["metadata"].get(key) for key in ("name", "labels", "annotations")}
    assert {**metadata, "spec": made["spec"]} == expected["hpa"]
    if expected["hpa_admission"]["accepted"]:
        assert stored_spec(made) == expected["hpa_admission"]["stored_spec"]
    else:
        with pytest.raises(BadInput, match="makes an HPA that the API server refuses"):
            hpa_spec(ScaledObject.from_manifest(row["scaled_object"]))


@of("prometheus")
def test_the_prometheus_trigger(row: Row) -> None:
    expected, index, kind = row["expected"], row["trigger_index"], row["metric_type"]
    if "build_error" in expected:
        with pytest.raises(Unreadable) as raised:
            PrometheusTrigger.from_trigger(index, "", kind, False, row["metadata"], "")
        assert str(raised.value) == expected["build_error"]
        return
    trigger = PrometheusTrigger.from_trigger(index, "", kind, False, row["metadata"], "")
    read = trigger.read(answered(row["answer"], trigger))
    external = expected["metric_spec"]["external"]
    assert trigger.metric_name == external["metric"]["name"]
    if isinstance(read, QueryFailed):
        assert (read.message, [], False) == (expected["error"], expected["metrics"], expected["active"])
    else:
        (metric,) = expected["metrics"]
        assert (read.quantity, read.milli, read.active) == (
            metric["value"],
            metric["value_milli"],
            expected["active"],
        )


@of("cron")
def test_the_cron_trigger(row: Row) -> None:
    expected, at = row["expected"], datetime.fromisoformat(row["at"]).timestamp()
    index, kind = row["trigger_index"], row["metric_type"]
    if "build_error" in expected:
        with pytest.raises(Unreadable) as raised:
            CronTrigger.from_trigger(index, "", kind, row["metadata"])
        assert str(raised.value) == expected["build_error"]
        return
    trigger = CronTrigger.from_trigger(index, "", kind, row["metadata"])
    value = trigger.value(at)
    assert trigger.metric_name == expected["metric_spec"]["external"]["metric"]["name"]
    if isinstance(value, QueryFailed):
        assert value.message == expected["error"]
    else:
        assert (value.milli, value.active) == (
            expected["metrics"][0]["value_milli"],
            expected["active"],
        )


def with_any_fallback(manifest: Row) -> ScaledObject:
    """The object with a fallback and modifiers as they are, also those that an API server refuses."""
    spec = {key: value for key, value in manifest["spec"].items() if key not in ("fallback", "advanced")}
    scaled = ScaledObject.from_manifest({**manifest, "spec": spec})
    given, advanced = manifest["spec"].get("fallback"), manifest["spec"].get("advanced")
    if given:
        behavior = given.get("behavior", "")
        fallback = Fallback(given["failureThreshold"], given["replicas"], behavior)
        scaled = dataclasses.replace(scaled, fallback=fallback)
    if advanced:
        modifiers = advanced["scalingModifiers"]
        formula = compile_formula(modifiers["formula"], [trigger.name for trigger in scaled.triggers])
        kind = modifiers.get("metricType") or "AverageValue"
        scaled = dataclasses.replace(scaled, modifiers=Modifiers(formula, modifiers["target"], 0.0, kind))
    return scaled


@of("fallback")
def test_the_fallback_of_one_read(row: Row) -> None:
    scaled, expected, name = with_any_fallback(row["scaled_object"]), row["expected"], "s0-prometheus"
    before = row["failures_before"]
    health = {} if before is None else {name: Health(before, True)}
    read = TriggerValue(row["scaler_value_milli"], "", True)
    value, after = with_fallback(
        scaled,
        health,
        name,
        Target(row["target_type"], row["target"]),
        QueryFailed(row["scaler_error"]) if row["scaler_error"] else read,
        TargetPods(row["current_replicas"], row["ready_pods"]),
    )
    metric = {"metric": value.name, "value": format_milli(value.milli or 0), "value_milli": value.milli}
    assert ([] if value.milli is None else [metric]) == expected["metrics"]
    assert value.error == expected.get("error")
    assert value.active == expected["fallback_active"]
    assert has_valid_fallback(scaled) == expected["valid_fallback"]
    assert shown(dict(after)) == expected["health"]


class Sequence:
    """A recorded sequence of polls and queries, on the row's clock."""

    def __init__(self, row: Row) -> None:
        self.row, self.scaled = row, ScaledObject.from_manifest(row["scaled_object"])
        self.status, self.replicas, self.fails = LoopStatus(), row["initial_replicas"], False
        self.answers: dict[str, str] = {}

    def step(self, step: Row) -> Row:
        self.answers.update(step.get("answers") or {})
        self.replicas = step.get("set_replicas", self.replicas)
        self.fails = step.get("scale_update_fails", self.fails)
        changed = {**self.scaled.annotations, **(step.get("set_annotations") or {})}
        annotations = {key: value for key, value in changed.items() if value is not None}
        self.scaled = dataclasses.replace(self.scaled, annotations=annotations)
        before, reads = self.replicas, read_all(self.scaled, self.answers, step["t"])
        pods = TargetPods(before, self.row.get("ready_pods", before))
        if step["op"] == "poll":
            done = poll(self.scaled, self.status, reads, pods, step["t"], 0.0, scale_fails=self.fails)
        else:
            done = hpa_query(self.scaled, self.status, step["metric"], reads, pods)
        self.status = status = done.status
        self.replicas = before if done.scale_to is None else done.scale_to
        conditions = {
            "Active": status.active,
            "Fallback": status.fallback,
            "Paused": status.paused,
            "Ready": status.ready,
        }
        found: Row = {
            "action": None if done.scale_to is None else {"scale_to": done.scale_to},
            "replicas_before": before,
            "replicas_after": self.replicas,
            "last_active_t": status.last_active_s,
            "triggers_activity": dict(status.triggers_activity),
            "events": sorted(done.events),
            "conditions": {name: one._asdict() for name, one in conditions.items()},
        }
        if status.health:
            found["health"] = shown(dict(status.health))
        if done.error is not None:
            found["error"] = done.error
        if done.metrics is not None:
            found["metrics"] = [
                {"metric": name, "value": format_milli(milli), "value_milli": milli}
                for name, milli in done.metrics.items()
            ]
        return found


@of("executor")
def test_the_scale_loop(row: Row) -> None:
    sequence = Sequence(row)
    for step in row["steps"]:
        assert sequence.step(step) == {**step["expected"], "events": sorted(step["expected"]["events"])}


@of("fallback_sequences")
def test_polls_and_queries_count_failures_together(row: Row) -> None:
    sequence = Sequence(row)
    for step in row["steps"]:
        assert sequence.step(step) == {**step["expected"], "events": sorted(step["expected"]["events"])}


@of("live")
def test_a_live_operator_and_a_live_hpa_change_the_replicas_as_the_rules_do(row: Row) -> None:
    replay = Replay(row)
    expected = [
        (change["t"], change["from"], change["to"], change["by"]) for change in row["replica_changes"]
    ]
    found = replay.run()
    assert [change[1:] for change in found] == [change[1:] for change in expected]
    assert all(abs(ours[0] - theirs[0]) < 1.5 for ours, theirs in zip(found, expected, strict=True))
