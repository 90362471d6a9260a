"""What External metrics read: queries over the fleet's series as Prometheus answers them, and one way of reading for two loops."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import BadInput
from autoscale.hpa import HpaSpec
from autoscale.keda import ScaledObject, parse_query
from autoscale.keda.formula import compile_formula
from autoscale.profiles.profile import overlay
from autoscale.sim.engine.gateway import InferenceGateway, parse_gateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.scalers import read_scaler
from autoscale.sim.fleet.signals.external import External
from autoscale.sim.fleet.signals.query_values import QueryTime, bucket_quantile, evaluated
from autoscale.sim.fleet.signals.series import Samples
from autoscale.sim.fleet.signals.totals import gauge_total
from loadgen.plan.traffic import Arrivals
from tests.sim.test_fleet import L4, burst, load_of, run
from tests.sim.test_quiet import same

WAITING, RUNNING = "vllm:num_requests_waiting", "vllm:num_requests_running"
QUEUE, SATURATION = "llm_d_epp_flow_control_queue_size", "llm_d_epp_flow_control_pool_saturation"


def scaled(*triggers: tuple[str, str], low: int | None = 1, high: int = 4, **spec: Any) -> dict[str, Any]:
    """A ScaledObject of (query, threshold) triggers on the L4 profile's workload."""
    deploy = L4.deploy
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": "vllm", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": deploy.kind, "name": deploy.name},
            "maxReplicaCount": high,
            **({} if low is None else {"minReplicaCount": low}),
            "triggers": [
                {
                    "type": "prometheus",
                    "metadata": {"serverAddress": "http://prometheus:9090", "query": q, "threshold": t},
                }
                for q, t in triggers
            ],
            **spec,
        },
    }


# --- queries -----------------------------------------------------------------------------------------------------------


def answer(query: str, now_s: float, samples: Samples) -> list[float]:
    return [value for _, value in evaluated(parse_query(query), QueryTime(samples, now_s))]


def counted(name: str, points: list[tuple[float, float]], delay_s: float = 0.0) -> Samples:
    samples = Samples([name], delay_s, 600.0)
    for at_s, value in points:
        samples.scrape(at_s, {name: [((("pod", "a"),), value)]})
    return samples


TOKENS = "vllm:generation_tokens_total"


@pytest.mark.parametrize(
    ("points", "now_s", "rate"),
    [
        pytest.param(
            [(5, 0), (20, 30), (35, 60), (50, 90)],
            60.0,
            # 90 in 45 s, from zero at 5 s: to the start 5 s, but a counter cannot have been below 0; to the end 10 s
            90 * (45 + 0 + 10) / 45 / 60,
            id="extrapolated to the end, not below zero",
        ),
        pytest.param(
            [(10, 100), (25, 130), (40, 160), (55, 190)],
            60.0,
            90 * (45 + 10 + 5) / 45 / 60,
            id="both ends are near enough",
        ),
        pytest.param(
            [(30, 100), (45, 130)],
            60.0,
            30 * (15 + 7.5 + 15) / 15 / 60,
            id="the start is more than 1.1 intervals away: half of one",
        ),
        pytest.param(
            [(10, 100), (25, 5), (40, 35)],
            41.0,
            # reset at 25 s: grown 35; window from -19 s: 29 s to the start are too many, half an interval
            35 * (30 + 7.5 + 1) / 30 / 60,
            id="a restart loses nothing after it",
        ),
    ],
)
def test_a_rate_is_extrapolated_as_prometheus_does_it(
    points: list[tuple[float, float]], now_s: float, rate: float
):
    assert answer(f"sum(rate({TOKENS}[1m]))", now_s, counted(TOKENS, points)) == [pytest.approx(rate)]


def test_one_sample_has_no_rate_and_an_instant_value_is_five_minutes_old_at_most():
    one = counted(TOKENS, [(10, 5)])
    assert answer(f"sum(rate({TOKENS}[1m]))", 20.0, one) == []
    gauge = counted(WAITING, [(10, 5)], delay_s=7.0)
    assert answer(f"sum({WAITING})", 16.9, gauge) == []
    assert answer(f"sum({WAITING})", 17.0, gauge) == [5]
    assert answer(f"sum({WAITING})", 309.0, gauge) == [5]
    assert answer(f"sum({WAITING})", 310.0, gauge) == []


def test_a_series_that_its_target_no_longer_exports_ends_at_the_next_scrape():
    samples = Samples([WAITING], 0.0, 60.0)
    samples.scrape(0.0, {WAITING: [((("pod", "a"),), 3.0), ((("pod", "b"),), 4.0)]})
    samples.scrape(15.0, {WAITING: [((("pod", "b"),), 5.0)]})
    assert answer(f"sum({WAITING})", 14.0, samples) == [7]
    assert answer(f"sum({WAITING})", 15.0, samples) == [5]
    assert answer(f"sum(max_over_time({WAITING}[30s]))", 15.0, samples) == [8]  # a window still sees it
    assert answer(WAITING, 14.0, samples) == [3, 4]


@pytest.mark.parametrize(
    ("query", "values"),
    [
        (f"avg({WAITING})", [2.0]),
        (f"max({WAITING})", [4.0]),
        (f"min({WAITING})", [0.0]),
        (f"count({WAITING})", [3.0]),
        (f"quantile(0.75, {WAITING})", [3.0]),  # 0, 2, 4: halfway between the upper two
        (f"sum({WAITING}) / 3 + 1", [3.0]),
        (f"sum({WAITING}) > 5", [6.0]),
        (f"sum({WAITING}) > 6", []),
        (f"sum({WAITING}) > bool 6", [0.0]),
        (f"clamp_max(sum({WAITING}), 4)", [4.0]),
        (f'sum({WAITING}{{pod="b"}})', [2.0]),
        (f'sum({WAITING}{{pod=~"a|c"}})', [4.0]),
        (f'sum({WAITING}{{model_name="any", namespace="where"}})', [6.0]),
        (f'sum({WAITING}{{pod="z"}}) or vector(0)', [0.0]),
        (f'sum({WAITING}{{pod="z"}})', []),
        (f"ceil(avg({WAITING}) / 3)", [1.0]),
        (f"sum({WAITING}) / count({WAITING})", [2.0]),
        (f"sum(avg by (pod) ({WAITING}))", [6.0]),
        (f"max(sum by (pod) ({WAITING}))", [4.0]),
    ],
)
def test_a_query_over_three_pods(query: str, values: list[float]):
    samples = Samples([WAITING], 0.0, 60.0)
    rows = [((("pod", pod),), value) for pod, value in (("a", 0.0), ("b", 2.0), ("c", 4.0))]
    samples.scrape(0.0, {WAITING: rows})
    assert answer(query, 1.0, samples) == pytest.approx(values)


@pytest.mark.parametrize(
    ("q", "buckets", "value"),
    [
        pytest.param(0.5, [(1, 10), (2, 20), (math.inf, 20)], 1.0, id="rank 10 is the end of the first"),
        pytest.param(0.75, [(1, 10), (2, 20), (math.inf, 20)], 1.5, id="halfway into the second"),
        pytest.param(0.99, [(1, 10), (2, 20), (math.inf, 40)], 2.0, id="above the last bound: that bound"),
        pytest.param(0.25, [(1, 10), (2, 20), (math.inf, 20)], 0.5, id="the first bucket begins at 0"),
    ],
)
def test_a_quantile_lies_linearly_within_its_bucket(
    q: float, buckets: list[tuple[float, float]], value: float
):
    assert bucket_quantile(q, buckets) == value


def test_a_quantile_of_nothing_is_not_a_number():
    assert math.isnan(bucket_quantile(0.95, [(1, 0), (math.inf, 0)]))
    assert math.isnan(bucket_quantile(0.95, [(1, 5)]))


@pytest.mark.parametrize(
    ("query", "simple"),
    [
        (f"sum({WAITING})", True),
        (f"avg({WAITING}) * 2", True),
        (f'sum({WAITING}{{model_name="m"}}) or vector(0)', True),
        (f"sum({QUEUE})", True),
        (f"max({SATURATION})", True),
        (f'sum({WAITING}{{pod=~"vllm-[a-z0-9]+-[a-z0-9]+"}})', True),
        (f'sum(avg by (pod) ({WAITING}{{pod=~"vllm-.*"}}))', True),
        (f'sum({WAITING}{{pod=~"vllm-[a-m0-9]+-[a-m0-9]+"}})', False),
        (f'sum({WAITING}{{pod="a"}})', False),
        (f"sum(rate({TOKENS}[1m]))", False),
        (f"quantile(0.9, {WAITING})", False),
        (f"sum({WAITING}) / count({WAITING})", False),
    ],
)
def test_which_queries_the_compiled_loop_knows(query: str, simple: bool):
    assert (gauge_total(parse_query(query), L4) is not None) == simple


# --- a fleet under them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("triggers", "spec"),
    [
        pytest.param([(f"sum({WAITING})", "2")], {}, id="the queue"),
        pytest.param([(f"sum({WAITING})", "2"), (f"sum({RUNNING})", "3")], {}, id="two triggers"),
        pytest.param([(f"avg({WAITING})", "1")], {"value": True}, id="a mean under Value"),
        pytest.param([(f"max({RUNNING}) / 4 or vector(0)", "0.5")], {"value": True}, id="the largest share"),
        pytest.param([(f"sum({WAITING})", "2")], {"strict": True}, id="no data is an error"),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_compiled_ticks_read_gauges_as_the_rules_do(
    triggers: list[tuple[str, str]], spec: dict[str, Any], seed: int
):
    manifest = scaled(*triggers)
    for trigger in manifest["spec"]["triggers"]:
        if spec.get("value"):
            trigger["metricType"] = "Value"
        if spec.get("strict"):
            trigger["metadata"]["ignoreNullValues"] = "false"
    outcome = same(manifest, burst(0.4, 6, 300, 500, 2400), seed=seed, duration_s=2400.0)
    assert outcome.decisions


def test_an_external_metric_of_an_hpa_is_the_sum_of_its_series_and_asks_as_the_pods_metric_does():
    made = scaled((f"sum({WAITING})", "2"))
    spec = {
        **{k: made["spec"][k] for k in ("scaleTargetRef",)},
        "minReplicas": 1,
        "maxReplicas": 4,
        "metrics": [
            {
                "type": "External",
                "external": {
                    "metric": {"name": WAITING},
                    "target": {"type": "AverageValue", "averageValue": "2"},
                },
            }
        ],
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": spec,
    }
    arrivals = burst(0.4, 6, 300, 500, 2400)
    own = same(hpa, arrivals, duration_s=2400.0)
    keda = run(made, arrivals, duration_s=2400.0)
    assert [row[:3] for row in own.decisions] == [row[:3] for row in keda.decisions]


def test_a_latency_quantile_scales_and_is_late():
    query = "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[1m])))"
    manifest = scaled((query, "2"))
    manifest["spec"]["triggers"][0]["metricType"] = "Value"
    arrivals = burst(0.4, 6, 300, 500, 2400)
    latency = run(manifest, arrivals, duration_s=2400.0)
    queue = run(scaled((f"sum({WAITING})", "2")), arrivals, duration_s=2400.0)
    assert latency.decisions
    assert latency.peak_replicas > 1
    assert latency.decisions[0][0] >= queue.decisions[0][0]  # the wait is over before it is counted


def test_a_query_without_aggregation_works_with_one_pod_and_breaks_at_two():
    outcome = run(scaled((WAITING, "1"), high=4), burst(0.4, 6, 300, 900, 2400), duration_s=2400.0)
    assert outcome.peak_replicas == 4 or outcome.peak_replicas == 2
    sizes = [after for _, _, after, _ in outcome.decisions]
    assert (
        len(sizes) == 1
    )  # up once on one pod's value; with two series nothing can be read, and nothing moves


def test_a_bounded_ratio_under_average_value_never_asks_for_more_than_two_pods():
    options = FleetOptions(gateway=InferenceGateway(detector="concurrency", capacity=4))
    arrivals = [load_of(6, 1500)]
    average = run(scaled((f"max({SATURATION})", "0.7")), arrivals, duration_s=1500.0, options=options)
    assert average.peak_replicas == 2  # ceil(1.0 / 0.7)
    manifest = scaled((f"max({SATURATION})", "0.7"))
    manifest["spec"]["triggers"][0]["metricType"] = "Value"
    value = run(manifest, arrivals, duration_s=1500.0, options=options)
    assert value.peak_replicas == 4


def test_series_of_a_gateway_need_one():
    with pytest.raises(BadInput, match="--gateway"):
        run(scaled((f"sum({QUEUE})", "1")), [load_of(1, 60)], duration_s=60.0)
    with pytest.raises(BadInput, match="nothing in this fleet exports"):
        run(scaled(("sum(vllm:current_qps)", "1")), [load_of(1, 60)], duration_s=60.0)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        pytest.param(f"sum({WAITING}{{variant='a'}})", f"query: selects {WAITING} by a label.*'variant'.*Leave the label out", id="a label of nobody here"),
        pytest.param("sum(rate(vllm:request_success_total{finished_reason='stop'}[1m]))", "'finished_reason'", id="a part of a counter"),
        pytest.param("avg(vllm:gpu_cache_usage_perc)", "does not export: 'vllm:gpu_cache_usage_perc'. Use vllm:kv_cache_usage_perc", id="an older name alone"),
        pytest.param(f"sum({WAITING}) + max(vllm:gpu_cache_usage_perc)", "Use vllm:kv_cache_usage_perc", id="an older name beside another gauge"),
    ],
)  # fmt: skip
def test_a_query_that_would_answer_nothing_is_refused_before_the_simulation(query: str, sentence: str):
    with pytest.raises(BadInput, match=sentence) as refused:
        read_scaler(L4, scaled((query, "2")))
    assert str(refused.value).startswith("spec.triggers[0].metadata.query: ")


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        pytest.param("External", "wva_desired_replicas", "vllm:num_requests_waiting", id="External, a controller's own"),
        pytest.param("Pods", "prometheus.googleapis.com|tgi_queue_size|gauge", "vllm:num_requests_waiting", id="Pods, another server's"),
    ],
)  # fmt: skip
def test_an_hpas_metric_that_nothing_exports_is_refused_by_its_field_with_what_would_do(kind, name, expected):
    target = {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": "1"}}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "hpa"},
        "spec": {
            "scaleTargetRef": reference,
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [{"type": kind, kind.lower(): target}],
        },
    }
    with pytest.raises(BadInput) as refused:
        read_scaler(L4, hpa)
    said = str(refused.value)
    assert said.startswith(f"spec.metrics[0].{kind.lower()}.metric.name: ")
    assert name in said
    assert expected in said


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(f"sum({WAITING}{{container='vllm',endpoint='http',app='llm'}})", id="labels that all replicas share"),
        pytest.param(f"sum({WAITING}{{variant!='b'}})", id="all but a label that nobody has"),
        pytest.param("avg(vllm:kv_cache_usage_perc) or avg(vllm:gpu_cache_usage_perc)", id="the newer name or the older"),
    ],
)  # fmt: skip
def test_a_query_that_selects_the_whole_fleet_is_read(query: str):
    own = run(scaled((query, "0.05")), [load_of(2, 300)], duration_s=300.0)
    plain = query.partition("{")[0] + ")" if "{" in query else query.partition(" or ")[0]
    assert own.decisions == run(scaled((plain, "0.05")), [load_of(2, 300)], duration_s=300.0).decisions
    assert own.decisions


def test_a_scaled_object_is_read_as_a_scaler_and_a_paused_one_is_told():
    assert isinstance(read_scaler(L4, scaled((f"sum({WAITING})", "2"))), ScaledObject)
    paused = scaled((f"sum({WAITING})", "2"))
    paused["metadata"]["annotations"] = {"autoscaling.keda.sh/paused": "true"}
    with pytest.raises(BadInput, match="paused"):
        read_scaler(L4, paused)


@pytest.mark.parametrize(
    ("s", "c", "size"), [(1.1, 1.0, 8), (1.1, 0.5, 4), (0.5, 1.0, 4), (0.2, 1.0, 2), (0.0, 1.0, 0)]
)
def test_the_formula_of_the_slo_aware_guide_at_four_replicas(s: float, c: float, size: int):
    text = "s > 0.55 ? n + ceil(n * (s * c / 0.55 - 1)) : s < 0.40 ? n - floor(n * (1 - s / 0.40)) : n"
    assert compile_formula(text, ["s", "c", "n"]).result({"s": s, "c": c, "n": 4.0}) == size


# --- to zero and from zero -----------------------------------------------------------------------------------------------

NIGHT = FleetOptions(gateway=InferenceGateway(ttl_s=600.0, no_endpoint_ttl_s=900.0))


def waves(seed: int) -> list[Arrivals]:
    """Two stretches of requests with half an hour of nothing between them."""
    first = load_of(0.5, 600, seed, 60.0)
    second = load_of(0.5, 600, seed + 1, 2400.0, len(first.due_s))
    return [first, second]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_to_zero_and_from_zero_nobody_is_lost_and_every_wait_has_its_reason(seed: int):
    manifest = scaled(
        (f"sum({QUEUE})", "1"),
        ("sum(llm_d_epp_request_running)", "3"),
        low=0,
        pollingInterval=15,
        cooldownPeriod=300,
    )
    outcome = run(manifest, waves(seed), seed=seed, duration_s=3600.0, options=NIGHT, keep=True)
    same_ = run(manifest, waves(seed), seed=seed, duration_s=3600.0, options=NIGHT)
    assert outcome.decisions == same_.decisions
    assert outcome.offered == outcome.finished + outcome.unserved + outcome.rejected
    assert outcome.unserved == 0
    sizes = [after for _, _, after, _ in outcome.decisions]
    assert 0 in sizes
    woken = [row for row in outcome.decisions if row[1] == 0]
    assert [row[0] > at_s for row, at_s in zip(woken, (60.0, 2400.0), strict=True)] == [True, True]
    assert all("KEDAScaleTargetActivated" in row[3] for row in woken)
    done = outcome.requests
    assert done is not None
    spans = [(t, row_t) for t, row_t in _no_pod(outcome)]
    for row in done:
        waited = row["sent_s"] - row["due_s"]
        without = sum(max(0.0, min(row["sent_s"], b) - max(row["due_s"], a)) for a, b in spans)
        assert waited == pytest.approx(without + row["held_s"], abs=1e-6)


@given(
    seed=st.integers(0, 1000),
    thresholds=st.tuples(st.sampled_from(["1", "5"]), st.sampled_from(["0.8", "3"])),
    above=st.sampled_from(["0", "0.5", "2"]),
    rest=st.sampled_from([{"minReplicaCount": 0}, {"minReplicaCount": 2, "idleReplicaCount": 0}]),
    cooldown_s=st.sampled_from([60, 137, 300, 1200]),
    first_s=st.sampled_from([0, 600]),
    polling_s=st.sampled_from([5, 15, 40]),
    drift=st.booleans(),
    strict=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_polls_that_leave_the_size_are_those_of_the_scale_loop(
    seed: int,
    thresholds: tuple[str, str],
    above: str,
    rest: dict[str, int],
    cooldown_s: int,
    first_s: int,
    polling_s: int,
    drift: bool,
    strict: bool,
):
    queue, sent = thresholds
    manifest = scaled((f"sum({QUEUE})", queue), ("sum(llm_d_epp_request_running)", sent))
    times = {
        "cooldownPeriod": cooldown_s,
        "initialCooldownPeriod": first_s,
        "pollingInterval": polling_s,
    }
    manifest["spec"] |= rest | times
    for trigger in manifest["spec"]["triggers"]:
        trigger["metadata"] |= {"activationThreshold": above, "ignoreNullValues": str(not strict).lower()}
    options = replace(NIGHT, drift=drift)
    same(manifest, waves(seed), seed=seed, duration_s=4800.0, options=options)


def test_a_night_at_zero_takes_few_polls_one_by_one(monkeypatch: pytest.MonkeyPatch):
    polls = []
    poll = External.poll
    monkeypatch.setattr(External, "poll", lambda *given: polls.append(1) or poll(*given))
    manifest = scaled((f"sum({QUEUE})", "1"), low=0, pollingInterval=5, cooldownPeriod=600)
    for keep in (True, False):
        polls.clear()
        run(manifest, waves(1), seed=1, duration_s=3600.0, options=NIGHT, keep=keep)
        assert len(polls) > 700 if keep else len(polls) < 70


@pytest.mark.parametrize("high", [1, 2])
def test_production_stacks_own_object_goes_to_zero_and_its_routers_counter_wakes_it(high: int):
    manifest = scaled(
        (WAITING, "5"),
        ("sum(rate(vllm:num_incoming_requests_total[1m]) > bool 0)", "1"),  # as its tutorial has it
        low=0,
        high=high,
        pollingInterval=15,
        cooldownPeriod=360,
    )
    outcome = run(manifest, waves(4), duration_s=3600.0)
    woken = [row for row in outcome.decisions if row[1] == 0]
    assert all("s1-prometheus" in row[3] for row in woken)
    assert (
        60.0 < woken[0][0] < 60.0 + 75
    )  # a rate needs a second sample that is larger: two requests, two scrapes
    if high == 1:
        assert len(woken) == 2
        assert 2400.0 < woken[1][0] < 2400.0 + 75
    else:  # with two pods the first query has two elements: KEDA neither scales in nor goes to zero again
        assert outcome.decisions[-1][2] == 2
    assert outcome.lost == outcome.unserved == 0


def _no_pod(outcome: Any) -> list[tuple[float, float]]:
    """Stretches in which no pod was ready."""
    rows = [*outcome.replicas, (math.inf, 0, 0, 0, 0)]
    return [(a[0], b[0]) for a, b in pairwise(rows) if a[4] == 0]


def test_a_saturation_trigger_at_minimum_zero_wakes_an_idle_fleet_again_and_again():
    manifest = scaled((f"max({SATURATION})", "0.7"), low=0, pollingInterval=30, cooldownPeriod=60)
    outcome = run(manifest, [load_of(0.2, 60)], duration_s=1800.0, options=NIGHT)
    assert sum(before == 0 for _, before, _, _ in outcome.decisions) >= 3  # an empty pool reads 1.0


def test_an_idle_count_and_a_minimum_are_kept():
    manifest = scaled((f"sum({RUNNING})", "3"), low=2, idleReplicaCount=0, cooldownPeriod=120)
    outcome = run(manifest, [load_of(0.5, 300)], duration_s=1200.0)
    assert outcome.decisions[-1][2] == 0  # from two to none, with no wake-up: the pods' own series are gone


def test_the_options_of_a_gateway_are_read_and_refused_by_name():
    gateway = parse_gateway("flow_control=off,detector=concurrency,capacity=16,ttl=5m,no_endpoint_ttl=0s")
    assert gateway == InferenceGateway(
        flow_control=False, detector="concurrency", capacity=16, ttl_s=300.0, no_endpoint_ttl_s=math.inf
    )
    assert parse_gateway("on") == InferenceGateway()
    assert InferenceGateway().text == "on"
    assert parse_gateway(gateway.text) == gateway
    with pytest.raises(BadInput, match="queue_depht"):
        parse_gateway("queue_depht=5")
    with pytest.raises(BadInput, match="a number"):
        parse_gateway("queue_depth=many")


def test_minimum_zero_of_an_hpa_scales_to_zero_and_back_on_the_gateways_queue():
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": L4.deploy.kind, "name": L4.deploy.name},
        "minReplicas": 0,
        "maxReplicas": 4,
        "metrics": [
            {
                "type": "External",
                "external": {
                    "metric": {"name": name},
                    "target": {"type": "AverageValue", "averageValue": target},
                },
            }
            for name, target in ((QUEUE, "1"), ("llm_d_epp_request_running", "3"))
        ],
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": spec,
    }
    assert isinstance(read_scaler(L4, hpa), HpaSpec)
    outcome = run(hpa, waves(5), duration_s=3600.0, options=NIGHT)
    assert any(before == 0 for _, before, _, _ in outcome.decisions)
    assert outcome.lost == outcome.unserved == 0


def test_two_engines_per_pod_are_summed_and_other_aggregates_ask_prometheus():
    two = overlay(L4, {"replica": {"data_parallel": 2}})
    assert gauge_total(parse_query(f"sum({WAITING})"), two) is not None
    assert gauge_total(parse_query(f"max({WAITING})"), two) is None
    assert np.isfinite(bucket_quantile(0.5, [(1, 1), (math.inf, 1)]))


def test_cron_goes_by_the_moment_of_the_week_at_which_the_load_begins():
    """Tuesday 07:00, and three replicas are wanted from 08:00; a Monday has no such hour."""
    made = scaled(low=1, high=4)
    when = {"timezone": "Etc/UTC", "start": "0 8 * * 2", "end": "0 20 * * 2", "desiredReplicas": "3"}
    made["spec"]["triggers"] = [{"type": "cron", "metadata": when}]
    peaks = {}
    for day in (0, 1):
        options = FleetOptions(begins_s=86_400.0 * day + 7 * 3600)
        rows = run(made, [load_of(0.2, 7200)], duration_s=7200.0, options=options).replicas
        peaks[day] = max(row[1] for row in rows)
        first = next((row[0] for row in rows if row[1] == 3), math.nan)
        assert day == 0 or 3600 <= first < 3600 + 60
    assert peaks == {0: 1, 1: 3}
