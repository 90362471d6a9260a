"""Queries by shape: what is read, how many elements it answers, and what a refused one should look like instead."""

import pytest

from autoscale.keda.queries import (
    Aggregation,
    Applied,
    Expression,
    FirstOf,
    HistogramQuantile,
    Instant,
    Number,
    Operation,
    OrElse,
    OverWindow,
    QueryMatcher,
    one_element,
    origin_of,
)
from autoscale.keda.query_parser import parse_query
from autoscale.keda.refusal import KedaRefusal
from autoscale.kube.gateway_names import GATEWAY_METRICS

WAITING, QUEUE, RUNNING = (
    "vllm:num_requests_waiting",
    "llm_d_epp_flow_control_queue_size",
    "llm_d_epp_request_running",
)
TTFT = "vllm:time_to_first_token_seconds_bucket"


def total(name: str, *matchers: QueryMatcher) -> Aggregation:
    return Aggregation("sum", Instant(name, matchers))


@pytest.mark.parametrize(
    ("query", "expression"),
    [
        (f"sum({WAITING})", total(WAITING)),
        (f'sum({QUEUE}{{inference_pool="p", priority!~"-.*"}})', total(QUEUE, QueryMatcher("inference_pool", "=", "p"), QueryMatcher("priority", "!~", "-.*"))),
        ('sum({__name__="vllm:num_requests_waiting"})', total(WAITING)),
        (f"(\n  sum({RUNNING}) / 16\n) or vector(0)", OrElse(Operation("/", total(RUNNING), Number(16.0)), 0.0)),
        (f"sum({WAITING}) or on () vector(0)", OrElse(total(WAITING), 0.0, on=True)),
        (f"sum({WAITING}) + sum({QUEUE}) * 2", Operation("+", total(WAITING), Operation("*", total(QUEUE), Number(2.0)))),
        (f"sum({QUEUE}) or sum(inference_extension_flow_control_queue_size)", FirstOf(total(QUEUE), total("inference_extension_flow_control_queue_size"))),
        (f"quantile(0.9, {WAITING})", Aggregation("quantile", Instant(WAITING), 0.9)),
        (f"clamp(avg({WAITING}), 1, 2)", Applied("clamp", Aggregation("avg", Instant(WAITING)), 1.0, 2.0)),
        (f"sum({WAITING}) by (model_name)", Aggregation("sum", Instant(WAITING), by=frozenset({"model_name"}))),
        ("sum(rate(vllm:num_incoming_requests_total[1m30s]) > bool 0)", Aggregation("sum", Operation(">", OverWindow("rate", "vllm:num_incoming_requests_total", (), 90.0), Number(0.0), as_bool=True))),
        (f"histogram_quantile(0.95, sum(rate({TTFT}[5m])) by (le))", HistogramQuantile(0.95, OverWindow("rate", TTFT, (), 300.0), pooled=True)),
        (f"histogram_quantile(0.95, sum by (le) (rate({TTFT}[5m])))", HistogramQuantile(0.95, OverWindow("rate", TTFT, (), 300.0), pooled=True)),
        (f"-sum({WAITING})", Operation("*", Number(-1.0), total(WAITING))),
        ("2 ^ 3 ^ 2 * vector(1)", Operation("*", Operation("^", Number(2.0), Operation("^", Number(3.0), Number(2.0))), Number(1.0, vector=True))),
        (f"sum({WAITING}) # the queue", total(WAITING)),
        ("max(kube_deployment_status_replicas)", Aggregation("max", Instant("kube_deployment_status_replicas"))),
    ],
)  # fmt: skip
def test_a_query_is_read_into_an_expression(query: str, expression: Expression) -> None:
    assert parse_query(query) == expression
    assert one_element(parse_query(query))


@pytest.mark.parametrize(
    "query",
    [
        WAITING,
        f"rate({TTFT}[1m])",
        f"histogram_quantile(0.9, rate({TTFT}[1m]))",
        f"{WAITING} * 2",
        f"{WAITING} or vector(0)",
        "llm_d_epp_flow_control_pool_saturation",  # one for each stage
        f"sum by (model_name) ({WAITING}) or vector(0)",  # the element of vector has no label, so both are there
    ],
)
def test_an_answer_of_several_elements_is_known_as_one(query: str) -> None:
    assert not one_element(parse_query(query))


@pytest.mark.parametrize(
    "query", ["inference_pool_average_queue_size", "llm_d_epp_ready_endpoints", "kube_statefulset_replicas"]
)
def test_a_pool_has_one_element(query: str) -> None:
    assert one_element(parse_query(query))


@pytest.mark.parametrize(
    ("query", "problem", "shape"),
    [
        ("up", "reads up, which is not simulated", WAITING),
        ("sum(vllm_num_requests_running)", "reads vllm_num_requests_running", "vllm:num_requests_running"),
        ('sum(wva_desired_replicas{variant_name="v"})', "reads wva_desired_replicas", QUEUE),
        (f"sum by (pod) ({WAITING})", "has an element per pod", r"without by \(pod\)"),
        (f"sum without (pod) ({WAITING})", "groups with without", "sum"),
        (f"scalar(sum({WAITING}))", "answers a scalar", r"vector\(0\)"),
        ("5", "answers a scalar", "sum"),
        (f"{WAITING} + vllm:num_requests_running", "between series of several elements", r"sum\(...\) \+ sum"),
        (f"sum({WAITING}) / kube_deployment_status_replicas", "elements with other labels", r"on \(\)"),
        (f"rate({WAITING}[1m])", "takes the rate of a gauge", "avg_over_time"),
        ("avg_over_time(vllm:prompt_tokens_total[1m])", "avg_over_time of a counter", "rate"),
        (f"avg_over_time(sum({WAITING})[45s:15s])", "takes a window of an expression", "avg_over_time"),
        (f"max_over_time({WAITING}[45s:15s])", "needs a window", r"\[1m\]"),
        (f"sum({WAITING} offset 5m)", "uses offset|lacks", "sum"),
        (f"sum(label_replace({WAITING}, 'a', '$1', 'pod', '(.+)'))", r"uses label_replace\(\)", "one of sum"),
        (f"sum({WAITING} and on (pod) vllm:num_requests_running)", "uses and|lacks", "sum"),
        (f"topk(1, {WAITING})", r"uses topk\(\)", "one of sum"),
        (f"histogram_quantile(0.9, sum({WAITING}))", "something else than buckets", "sum by"),
        (f"histogram_quantile(0.9, sum by (le, pod) (rate({TTFT}[1m])))", "by le alone", "sum by"),
        (f"sum({WAITING}", "lacks '\\)'", "sum"),
        (f"sum({WAITING}))", "stops making sense at '\\)'", "sum"),
        ("", "stops making sense at 'its end'", "sum"),
        (f"sum({WAITING}[1m])", "lacks", "sum"),
        ("histogram_quantile(0.95, 1me_to_first_token_seconds1", "has a window or number '1me_to_first_token_seconds1'", "0.95"),
        ("rate(vllm:prompt_tokens_total[1 m])", "has a window", r"\[1m\]"),
        (f"rate(vllm:prompt_tokens_total[{'9' * 400}m])", "has a window", r"\[1m\]"),
        (f"rate(vllm:prompt_tokens_total[{'9' * 5000}m])", "has a window", r"\[1m\]"),
        ("rate(vllm:prompt_tokens_total[0s])", "has a window", r"\[1m\]"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_refused_with_the_shape_that_would(
    query: str, problem: str, shape: str
) -> None:
    with pytest.raises(KedaRefusal, match=problem) as raised:
        parse_query(query, "spec.triggers[0].metadata.query")
    assert raised.value.field == "spec.triggers[0].metadata.query"
    assert raised.match(f"expected a shape such as .*{shape}")


def test_every_metric_of_a_gateway_is_known_in_both_generations() -> None:
    for metric in GATEWAY_METRICS:
        for name in filter(None, (metric.new, metric.old)):
            assert origin_of(f"{name}_bucket" if metric.type == "histogram" else name) == "gateway", name
