"""KEDA's fallback in a simulated fleet: a query with an element for each pod fails as soon as the second pod answers."""

from itertools import pairwise
from typing import Any

import pytest

from autoscale.sim.fleet.control import FleetOptions
from tests.sim.test_fleet import burst, run
from tests.sim.test_quiet import same
from tests.sim.test_signals import WAITING, scaled

DURATION_S = 1500.0
ONE_AT_A_TIME = {
    "horizontalPodAutoscalerConfig": {
        "behavior": {
            "scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 180}]},
            "scaleDown": {"stabilizationWindowSeconds": 0},
        }
    }
}


def sizes(manifest: dict[str, Any]) -> list[int]:
    """The replicas that were asked for, one after another."""
    outcome = run(manifest, burst(0.6, 8, 300, 600, DURATION_S), duration_s=DURATION_S)
    asked = [change[1] for change in outcome.replicas]
    return [asked[0], *(after for before, after in pairwise(asked) if after != before)]


@pytest.mark.parametrize("kind", ["AverageValue", "Value"])
@pytest.mark.parametrize(
    ("behavior", "replicas", "ends"),
    [
        # with two pods the trigger cannot be read; from the fourth failure on the fallback's size is wanted instead
        pytest.param("static", 4, [1, 2, 3, 4], id="static: as many, one at a time as the policy lets"),
        pytest.param("currentReplicas", 4, [1, 2], id="currentReplicas: what is there"),
        pytest.param("currentReplicasIfHigher", 4, [1, 2, 3, 4], id="currentReplicasIfHigher: the larger, which is 4"),
        pytest.param("currentReplicasIfHigher", 1, [1, 2], id="currentReplicasIfHigher: the larger, which is there"),
        pytest.param("currentReplicasIfLower", 4, [1, 2], id="currentReplicasIfLower: the smaller, which is there"),
    ],
)  # fmt: skip
def test_a_query_that_fails_with_the_second_pod_leads_to_the_fallbacks_size(
    kind: str, behavior: str, replicas: int, ends: list[int]
) -> None:
    fallback = {"failureThreshold": 3, "replicas": replicas, "behavior": behavior}
    manifest = scaled((WAITING, "2"), low=1, high=6, advanced=ONE_AT_A_TIME, fallback=fallback)
    manifest["spec"]["triggers"][0]["metricType"] = kind
    assert sizes(manifest) == ends


@pytest.mark.parametrize("behavior", ["static", "currentReplicasIfLower"])
def test_a_fallback_of_one_replica_mends_the_query_which_asks_for_two_again(behavior: str) -> None:
    """The smaller of both, or one: the pod that is left can be read, its queue asks for more, and so on to the end."""
    fallback = {"failureThreshold": 3, "replicas": 1, "behavior": behavior}
    found = sizes(scaled((WAITING, "2"), low=1, high=6, advanced=ONE_AT_A_TIME, fallback=fallback))
    assert found[:5] == [1, 2, 1, 3, 1]


def test_without_a_fallback_the_size_stays() -> None:
    assert sizes(scaled((WAITING, "2"), low=1, high=6, advanced=ONE_AT_A_TIME)) == [1, 2]


@pytest.mark.parametrize("behavior", ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"])  # fmt: skip
@pytest.mark.parametrize("threshold", [0, 8])
def test_failures_are_counted_alike_where_quiet_syncs_are_compiled(behavior: str, threshold: int) -> None:
    """While the first pod starts there is no element, which this trigger takes for an error."""
    fallback = {"failureThreshold": threshold, "replicas": 3, "behavior": behavior}
    manifest = scaled((f"sum({WAITING})", "2"), low=1, high=6, pollingInterval=15, fallback=fallback)
    manifest["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] = "false"
    same(manifest, burst(0.4, 7, 300, 600, 2400), duration_s=2400.0, options=FleetOptions(warm=False))
