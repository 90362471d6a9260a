"""Rules of one sync as rows, and what holds for every sequence of syncs."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import BadInput
from autoscale.hpa import (
    HpaBehavior,
    HpaSpec,
    Memory,
    MetricError,
    MetricTarget,
    PodMetric,
    Policy,
    ScalingRules,
    decide,
    format_milli,
    parse_quantity,
)
from autoscale.hpa.arithmetic import Band, external_size
from autoscale.hpa.manifest import stored_spec

PODS = MetricTarget("m", "Pods", 5000)


def spec(low: int = 1, high: int = 100, *metrics: MetricTarget, **changes: Any) -> HpaSpec:
    return HpaSpec("h", "ns", "apps/v1", "Deployment", "d", low, high, metrics or (PODS,), **changes)


def running(*values: int | None) -> list[PodMetric]:
    return [PodMetric(f"p-{i}", value_milli=value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("current", "values", "replicas"),
    [
        pytest.param(5, [5500] * 5, 5, id="exactly target x 1.1 stays"),
        pytest.param(5, [4500] * 5, 5, id="exactly target x 0.9 stays"),
        pytest.param(5, [5501] * 5, 6, id="one milli above the tolerance scales: ceil(1.1002 x 5)"),
        pytest.param(25, [5600] * 25, 29, id="1.12 x 25 = 28.000000000000004 in float64, so 29 and not 28"),
        pytest.param(4, [20000, None], 4, id="a missing pod counts 0: ceil(10000/5000 x 2) = 4"),
        pytest.param(
            3, [0, None, None], 2, id="missing pods count the target when scaling down: ceil(10/15 x 3)"
        ),
    ],
)
def test_proposals(current: int, values: list[int | None], replicas: int):
    assert decide(spec(), None, current, {"m": running(*values)}, 0).proposals["m"] == replicas


def test_pending_pods_count_zero_only_upwards_and_a_contradicting_count_keeps_the_size():
    # 9 on 5 with one running and one pending of 2: filled mean 4500, ratio 0.9, direction flipped, stays at 2
    pods = [PodMetric("a", value_milli=9000), PodMetric("b", "Pending")]
    assert decide(spec(), None, 2, {"m": pods}, 0).replicas == 2


def test_readiness_is_not_looked_at():
    unready = [PodMetric("a", ready=False, value_milli=9000)]
    assert decide(spec(), None, 1, {"m": unready}, 0).replicas == 2


@pytest.mark.parametrize(
    ("total", "current", "replicas"),
    [
        pytest.param(21000, 4, 4, id="21 over 5 x 4 is 1.05: inside the tolerance"),
        pytest.param(23000, 4, 5, id="23 over 20 is 1.15: ceil(23/5) = 5"),
        pytest.param(0, 4, 0, id="nothing waiting asks for nothing"),
        pytest.param(12000, 0, 3, id="from zero there is no tolerance"),
    ],
)
def test_external_average_value_divides_the_total(total: int, current: int, replicas: int):
    assert external_size(total, 5000, current, Band(0.9, 1.1))[0] == replicas


def test_an_external_metric_is_decided_on_and_named_with_its_selector():
    external = MetricTarget("s0", "External", 5000, "<nil>")
    decision = decide(spec(1, 100, external), None, 2, {"s0": 30000}, 0)
    assert decision.replicas == 4  # ceil(30/5) = 6, limited to max(2 x 2, 4)
    assert decision.metric == "external metric s0(<nil>)"
    assert decision.conditions["ScalingLimited"].reason == "ScaleUpLimit"
    failed = decide(spec(1, 100, external), None, 2, {"s0": MetricError("gone")}, 0)
    assert failed.reason == "FailedGetExternalMetric"
    assert failed.message.endswith("unable to get external metric ns/s0/<nil>: gone")


def test_size_outside_min_and_max_is_corrected_without_reading_metrics():
    above = decide(spec(1, 4), None, 9, {}, 0)
    assert (above.replicas, above.message) == (
        4,
        "New size: 4; reason: Current number of replicas above Spec.MaxReplicas",
    )
    assert decide(spec(3, 4), None, 1, {}, 0).replicas == 3


def test_zero_replicas_disable_scaling():
    decision = decide(spec(), None, 0, {"m": running(9000)}, 0)
    assert (decision.replicas, decision.reason) == (0, "ScalingDisabled")


def test_one_unreadable_metric_blocks_scale_down_but_not_scale_up():
    two = (PODS, MetricTarget("kv", "Pods", 850))
    unreadable = MetricError()
    up = decide(spec(1, 100, *two), None, 2, {"m": running(9000, 9000), "kv": unreadable}, 0)
    down = decide(spec(1, 100, *two), None, 2, {"m": running(1000, 1000), "kv": unreadable}, 0)
    assert up.replicas == 4
    assert (down.replicas, down.reason) == (2, "FailedGetPodsMetric")


RULES = st.builds(
    ScalingRules,
    window_s=st.none() | st.sampled_from([0, 15, 60, 300]),
    select=st.sampled_from(["Max", "Min", "Disabled"]),
    policies=st.lists(
        st.builds(
            Policy,
            kind=st.sampled_from(["Pods", "Percent"]),
            value=st.integers(1, 300),
            period_s=st.sampled_from([15, 30, 60, 600]),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    tolerance=st.none() | st.sampled_from([0.0, 0.05, 0.5]),
)
READING = st.lists(
    st.builds(
        PodMetric,
        name=st.just("p"),
        phase=st.sampled_from(["Running", "Running", "Pending", "Failed", "Succeeded", "Unknown", ""]),
        deleting=st.booleans(),
        ready=st.booleans(),
        value_milli=st.none() | st.integers(-1000, 10**13),
    ),
    max_size=6,
) | st.builds(MetricError)


@settings(max_examples=150, deadline=None)
@given(
    low=st.integers(1, 5),
    spread=st.integers(0, 20),
    behavior=st.none() | st.builds(HpaBehavior, scale_up=RULES, scale_down=RULES),
    readings=st.lists(READING, min_size=1, max_size=25),
    flag_s=st.sampled_from([0, 60, 300]),
)
def test_every_sequence_stays_within_bounds_and_is_a_pure_function(low, spread, behavior, readings, flag_s):
    hpa = spec(low, low + spread, behavior=behavior, downscale_stabilization_s=flag_s)
    memory: Memory | None = None
    replicas = low
    for i, reading in enumerate(readings):
        before = repr(memory)
        decision = decide(hpa, memory, replicas, {"m": reading}, 15.0 * i)
        assert repr(memory) == before, "memory is a value"
        assert decision == decide(hpa, memory, replicas, {"m": reading}, 15.0 * i)
        assert low <= decision.replicas <= low + spread
        if behavior and decision.replicas > replicas:
            assert behavior.scale_up.select != "Disabled"
        if behavior and decision.replicas < replicas:
            assert behavior.scale_down.select != "Disabled"
        assert (decision.reason == "SuccessfulRescale") == decision.rescaled
        assert len(decision.memory.recommendations) <= len(readings) + 1
        memory, replicas = decision.memory, decision.replicas


@settings(max_examples=200, deadline=None)
@given(milli=st.integers(1, 10**15))
def test_printed_quantities_read_back_to_the_same_value(milli: int):
    again = parse_quantity(format_milli(milli))
    assert again.milli == milli
    assert again.stored == format_milli(milli)
    assert math.isclose(again.approximate, milli / 1000)


@pytest.mark.parametrize("text", ["", "m", "five", "1.2.3", "5 m", "1e", "1mi", "--5", "0x5", "nan"])
def test_what_is_not_a_quantity_is_refused(text: str):
    with pytest.raises(BadInput, match="not a quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("0.85", "850m"),
        ("5.0", "5"),
        (1000, "1k"),
        (34.972, "34.972"),
        ("1024Ki", "1Mi"),
        ("0.5Ki", "512"),
        ("12e5", "1200e3"),
    ],
)
def test_stored_forms(text: object, stored: str):
    assert parse_quantity(text).stored == stored


@pytest.mark.parametrize(
    ("described", "refused"),
    [
        pytest.param({"apiVersion": "v1", "kind": "Namespace", "name": "n"}, None, id="the core group"),
        pytest.param({"kind": "Namespace", "name": "n"}, None, id="no version"),
        pytest.param(
            {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "n"}, None, id="a group"
        ),
        pytest.param({"apiVersion": "a/b/c", "kind": "X", "name": "n"}, "GroupVersion", id="two slashes"),
    ],
)
def test_a_described_object_may_be_of_the_core_group_and_a_scale_target_may_not(described, refused):
    target = {"type": "AverageValue", "averageValue": "3"}
    metric = {
        "type": "Object",
        "object": {"metric": {"name": "m"}, "describedObject": described, "target": target},
    }
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}

    def stored(reference):
        kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}}
        return stored_spec(
            {**kind, "spec": {"scaleTargetRef": reference, "maxReplicas": 2, "metrics": [metric]}}
        )

    if refused:
        with pytest.raises(BadInput, match=refused):
            stored(scaled)
        return
    assert stored(scaled)["metrics"][0]["object"]["describedObject"]["kind"] == described["kind"]
    with pytest.raises(BadInput, match="must specify API group"):
        stored({"apiVersion": "v1", "kind": "Pod", "name": "p"})
