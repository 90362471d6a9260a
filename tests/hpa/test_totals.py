"""External and Object metrics: one number for all pods, under AverageValue and Value targets, and sizes from and to zero."""

from typing import Any

import pytest

from analysis.errors import BadInput
from autoscale.hpa import HpaDecision, HpaSpec, MetricError, MetricTarget, PodMetric, Seen, decide


def spec(*metrics: MetricTarget, low: int = 1, high: int = 100) -> HpaSpec:
    return HpaSpec("h", "ns", "apps/v1", "Deployment", "d", low, high, metrics)


def asked(
    target: float, total: float, replicas: int, *, average: bool = True, ready: int | None = None
) -> int | None:
    """What one External metric asks for before behavior, min and max."""
    metric = MetricTarget("s0", "External", round(target * 1000), average=average)
    seen = Seen(replicas, replicas if ready is None else ready)
    return decide(spec(metric), None, replicas, {"s0": round(total * 1000)}, 0, seen).proposals["s0"]


@pytest.mark.parametrize(
    ("target", "total", "replicas", "size"),
    [
        pytest.param(5, 27, 5, 5, id="27 / 25 = 1.08 is inside the tolerance"),
        pytest.param(5, 27.5, 5, 5, id="exactly 1.1 stays"),
        pytest.param(5, 27.501, 5, 6, id="a milli above scales: ceil(27.501 / 5)"),
        pytest.param(5, 22.5, 5, 5, id="exactly 0.9 stays"),
        pytest.param(5, 22.499, 5, 5, id="below 0.9, and ceil(4.4998) is 5 all the same"),
        pytest.param(5, 20, 3, 4, id="20 / 5"),
        pytest.param(5, 12, 1, 3, id="pods that are not ready count nowhere"),
        pytest.param(5, 0, 4, 0, id="nothing asks for nothing; min holds it"),
        pytest.param(0.7, 1.0, 1, 2, id="a ratio of 1.0 asks for two on one"),
        pytest.param(0.7, 1.0, 2, 2, id="for two on two"),
        pytest.param(0.7, 1.0, 8, 2, id="and for two on eight: a bounded metric never holds more"),
        pytest.param(0.7, 1.54, 2, 2, id="1.54 / 1.4 is exactly 1.1"),
        pytest.param(0.7, 1.541, 2, 3, id="1.541 is above"),
        pytest.param(16, 35.2, 2, 2, id="35.2 / 32 is exactly 1.1"),
        pytest.param(16, 35.201, 2, 3, id="35.201 is above"),
        pytest.param(0.8, 1.76, 2, 2, id="sum of KV 1.76 stays"),
        pytest.param(0.8, 1.761, 2, 3, id="1.761 scales"),
        pytest.param(1.5, 40000 / 15928, 1, 2, id="40,000 tokens at 15,928 a second are 2.511 s"),
        pytest.param(
            1, 0.5 * 8192 / 2696, 1, 2, id="8,192 tokens at 2,696 a second twice a second: 1.52 replicas"
        ),
        pytest.param(1, 11.0, 10, 10, id="a formula that is the size hides one more at ten"),
        pytest.param(1, 11.001, 10, 12, id="and then adds two"),
        pytest.param(1, 11, 10, 10, id="cron 11 at 10 never arrives"),
        pytest.param(1, 10, 9, 10, id="cron 10 at 9 does"),
        pytest.param(1, 8, 10, 8, id="cron 8 at 10 goes down"),
        pytest.param(1, 10, 11, 11, id="fallback 10 at 11 stays"),
        pytest.param(1, 10, 12, 10, id="at 12 it moves"),
    ],
)
def test_what_a_total_asks_for_under_an_average_value(target: float, total: float, replicas: int, size: int):
    assert asked(target, total, replicas) == size


@pytest.mark.parametrize(
    ("target", "value", "replicas", "ready", "size"),
    [
        pytest.param(5, 20, 3, 3, 12, id="20 / 5 x 3"),
        pytest.param(0.7, 1.0, 4, 4, 6, id="saturation 1.0 on 0.7 with four ready: ceil(5.71)"),
        pytest.param(0.7, 0.75, 4, 4, 4, id="0.75 / 0.7 = 1.07 keeps the spec"),
        pytest.param(1, 3, 3, 1, 3, id="pods that start are left out of the product: 3 x 1, not 9"),
        pytest.param(1, 3, 3, 2, 6, id="a desired count under Value runs away: 3 x 2"),
        pytest.param(1, 3, 6, 6, 18, id="and on: 3 x 6"),
        pytest.param(1, 2.333, 3, 3, 7, id="KEDA's fallback 7 with three ready is 2333m"),
        pytest.param(5, 20, 3, 0, 0, id="no pod is ready: nothing times anything"),
    ],
)
def test_what_a_value_target_asks_for(target: float, value: float, replicas: int, ready: int, size: int):
    assert asked(target, value, replicas, average=False, ready=ready) == size


def test_several_metrics_take_the_largest_and_an_unreadable_one_blocks_only_the_way_down():
    queue, running = MetricTarget("s0", "External", 1000), MetricTarget("s1", "External", 16000)
    both = spec(queue, running)
    up = decide(both, None, 2, {"s0": 0, "s1": 80000}, 0)
    assert (up.replicas, up.metric) == (
        4,
        "external metric s1(<nil>)",
    )  # ceil(80 / 16) = 5, at most max(2 x 2, 4)
    blocked = decide(both, None, 3, {"s0": 0, "s1": MetricError("gone")}, 0)
    assert (blocked.replicas, blocked.reason) == (3, "FailedGetExternalMetric")
    assert decide(both, None, 3, {"s0": 9000, "s1": MetricError("gone")}, 0).replicas == 6


def test_a_value_target_without_any_pod_cannot_be_computed():
    value = MetricTarget("s0", "External", 1000, average=False)
    decision = decide(spec(value), None, 2, {"s0": 9000}, 0, Seen(0, None))
    assert decision.reason == "FailedGetExternalMetric"
    assert "unable to calculate ready pods: no pods returned by selector" in decision.message
    assert (
        decide(spec(value), None, 2, {"s0": 1000}, 0, Seen(0, None)).replicas == 2
    )  # inside the tolerance nobody asks


def manifest(target: dict[str, Any], *, low: int = 1, **metric: Any) -> dict[str, Any]:
    described = {"apiVersion": "v1", "kind": "Service", "name": "router"}
    source = {"metric": {"name": "m"}, "describedObject": described, "target": target}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "minReplicas": low,
            "maxReplicas": 9,
            "metrics": [metric or {"type": "Object", "object": source}],
        },
    }


def test_an_object_metric_is_read_under_either_target_and_named_as_the_controller_names_it():
    value = HpaSpec.from_manifest(manifest({"type": "Value", "value": "2"}))
    decision = decide(value, None, 2, {"m": 5000}, 0)
    assert (decision.proposals["m"], decision.metric) == (5, "Service metric m")  # 2.5 x 2
    average = HpaSpec.from_manifest(manifest({"type": "AverageValue", "averageValue": "2"}))
    decision = decide(average, None, 2, {"m": 5000}, 0)
    assert (decision.proposals["m"], decision.metric) == (3, "external metric m(<nil>)")
    failed = decide(average, None, 2, {"m": MetricError("gone")}, 0)
    assert failed.message.endswith("unable to get metric m: Service on default router/gone")
    assert failed.error is not None
    assert "failed to get object metric value: failed to get m object metric: " in failed.error


def test_an_object_target_of_one_type_with_the_value_of_the_other_is_refused_by_its_field():
    with pytest.raises(BadInput, match=r"spec\.metrics\[0\]\.object\.target"):
        HpaSpec.from_manifest(manifest({"type": "Value", "averageValue": "2"}))


def test_a_field_of_a_newer_kubernetes_is_refused_with_the_version_that_knows_it():
    external = {
        "metric": {"name": "q"},
        "target": {"type": "Value", "value": "2"},
        "fallback": {"replicas": 3},
    }
    with pytest.raises(BadInput, match=r"external\.fallback.*1\.36"):
        HpaSpec.from_manifest(manifest({}, type="External", external=external))


def test_minimum_zero_is_behind_its_gate_and_needs_a_metric_that_lives_without_pods():
    zero = manifest({"type": "Value", "value": "2"}, low=0)
    with pytest.raises(BadInput, match=r"spec\.minReplicas: must be greater than or equal to 1"):
        HpaSpec.from_manifest(zero)
    assert HpaSpec.from_manifest(zero, scale_to_zero=True).min_replicas == 0
    pods = {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "2"}}
    with pytest.raises(BadInput, match="at least one Object or External metric"):
        HpaSpec.from_manifest(manifest({}, low=0, type="Pods", pods=pods), scale_to_zero=True)


def test_to_zero_and_back_by_the_controller_and_not_after_a_hand_scaled_it_there():
    external = MetricTarget("q", "External", 2000)
    zero = spec(external, MetricTarget("kv", "Pods", 800), low=0)
    pods = [PodMetric("a", value_milli=0)]

    def sync(
        before: HpaDecision | None, at: int, queue: int, now_s: float, kv: list[PodMetric]
    ) -> HpaDecision:
        return decide(zero, before and before.memory, at, {"q": queue, "kv": kv}, now_s)

    down = sync(None, 1, 0, 0, pods)
    assert down.replicas == 1  # the size at the start is held for 300 s
    down = sync(down, 1, 0, 301, pods)
    assert (down.replicas, down.conditions["ScaledToZero"].status) == (0, True)
    still = sync(down, 0, 0, 316, [])
    assert (still.replicas, still.rescaled) == (0, False)
    up = sync(still, 0, 5000, 331, [])  # ceil(5 / 2); the pods' metric cannot be read and asks for nothing
    assert (up.replicas, up.conditions["ScaledToZero"].status) == (3, False)
    by_hand = sync(up, 0, 5000, 346, [])
    assert (by_hand.replicas, by_hand.reason) == (0, "ScalingDisabled")
