"""A served inference gateway: it holds requests, exports its metrics under both names, and wakes a fleet from zero."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from analysis.errors import BadInput
from autoscale.check.preflight import diagnose
from autoscale.check.snapshot import take
from autoscale.kube.gateway_names import gateway_metric
from autoscale.observe.fleet_door import FleetDoor
from autoscale.profiles.profile import overlay
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.server import FleetServer
from tests.sim.test_server import L4, MODEL, QUICK
from tests.sim.test_signals import scaled

QUICK_START = overlay(
    L4,
    {
        "cold_start": {"node": 10, "image": 5, "weights_rate_bytes_s": 3e9, "engine_init": 5},
        "metric_path": {"scrape_interval_s": 5, "ingestion_delay_s": 0},
    },
)
SPEED = 20.0


def ask(url: str, tokens: int = 8) -> tuple[int, float]:
    """HTTP status and seconds of one completion."""
    body = json.dumps({"model": MODEL, "prompt": "a b c", "max_tokens": tokens, "ignore_eos": True})
    asked = urllib.request.Request(
        url + "/v1/completions", body.encode(), {"Content-Type": "application/json"}
    )
    begun_s = time.monotonic()
    try:
        with urllib.request.urlopen(asked, timeout=90) as answer:
            answer.read()
            return answer.status, time.monotonic() - begun_s
    except urllib.error.HTTPError as error:
        with error:
            return error.code, time.monotonic() - begun_s


def exported(url: str) -> dict[str, float]:
    """Sum over the series of every name on the gateway's /metrics."""
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


def served(hpa=None, *, replicas: int | None = None, speed: float = SPEED, **options) -> FleetThread:
    gateway = FleetOptions(gateway=InferenceGateway(**options))
    server = FleetServer(
        QUICK_START, hpa, port=0, engine=QUICK, speed=speed, replicas=replicas, options=gateway
    )
    return FleetThread(server)


def test_its_metrics_have_both_names_and_the_same_values():
    with served(replicas=2) as server:
        assert ask(server.url)[0] == 200
        found = exported(server.url)
        own = {name for name in found if gateway_metric(name)}
        assert {"llm_d_epp_flow_control_queue_size", "llm_d_epp_request_running"} <= own
        for name in own:
            metric = gateway_metric(name)
            if metric.old and name == metric.new:
                assert found[metric.old] == found[name], name
        assert found["llm_d_epp_ready_endpoints"] == found["inference_pool_ready_pods"] == 2
        assert found["llm_d_epp_flow_control_requests_total"] == 1
        targets = json.loads(urllib.request.urlopen(server.url + "/fleet/sd", timeout=10).read())
        assert server.url.removeprefix("http://") in targets[0]["targets"]


def test_it_holds_what_would_saturate_the_pool_and_lets_all_through_in_the_end():
    with served(replicas=1, detector="concurrency", capacity=2) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, server.url, 200) for _ in range(8)]
        most = (0.0, 0.0)
        while not all(each.done() for each in asked):
            found = exported(server.url)
            most = max(
                most,
                (found["llm_d_epp_flow_control_queue_size"], found.get("llm_d_epp_request_running", 0.0)),
            )
            time.sleep(0.05)
        assert [each.result()[0] for each in asked] == [200] * 8
        assert most == (6.0, 2.0)  # two in flight fill it
        assert exported(server.url)["llm_d_epp_request_running"] == 0


def test_without_pods_a_request_ends_with_503_by_the_gateways_own_limit_and_in_full_with_429():
    with served(replicas=0, no_endpoint_ttl_s=20.0, band_requests=1) as server:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, server.url)
            time.sleep(0.3)
            assert ask(server.url)[0] == 503  # no room in the band, and no pod either
            status, waited_s = first.result()
        assert status == 503
        assert 20.0 / SPEED <= waited_s < 20.0 / SPEED + 5
    saturated = served(replicas=1, detector="concurrency", capacity=1, ttl_s=0.5)
    with saturated as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, server.url, 1500)  # 3 s
        time.sleep(0.3)
        assert ask(server.url)[0] == 429
        assert first.result()[0] == 200


def test_flow_control_off_sends_everything_on_and_has_no_queue():
    with served(replicas=1, flow_control=False, detector="concurrency", capacity=1) as server:
        assert ask(server.url)[0] == 200
        assert "llm_d_epp_flow_control_queue_size" not in exported(server.url)


def test_a_scaled_object_wakes_the_fleet_from_zero_while_the_request_waits_at_the_gateway():
    manifest = scaled(
        ("sum(llm_d_epp_flow_control_queue_size)", "1"),
        ("sum(inference_objective_running_requests)", "4"),
        low=0,
        high=2,
        pollingInterval=5,
        cooldownPeriod=30,
    )
    with served(manifest, replicas=0, no_endpoint_ttl_s=3600.0) as server:
        status, waited_s = ask(server.url)
        assert status == 200
        assert waited_s * SPEED > 15  # node, image, weights and init of one cold start, compressed
        door = FleetDoor(server.url)
        sizes = [seen.object for _, seen in door._rows(0, follow=False) if seen.resource == "deployments"]
        assert next(each["spec"]["replicas"] for each in sizes) == 0
        assert max(each["spec"]["replicas"] for each in sizes) == 1
        found = {each.code for each in diagnose(take(door, "default", server.spec.name), server.spec.name)}
        assert not {"target-at-zero", "keda-object-missing", "two-scalers-one-target"} & found
        until_s = time.monotonic() + 60
        while server.fleet.desired and time.monotonic() < until_s:
            time.sleep(0.1)
        assert server.fleet.desired == 0  # the cooldown is over, and nothing was in flight


def test_a_gateways_series_need_a_gateway_in_front():
    with (
        pytest.raises(BadInput, match="gateway"),
        FleetThread(
            FleetServer(L4, scaled(("sum(llm_d_epp_flow_control_queue_size)", "1")), port=0, engine=QUICK)
        ),
    ):
        pass
