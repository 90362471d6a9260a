"""What a Prometheus of production answers that cannot be: a sentence, or nothing learned from it."""

import json
import re

import numpy as np
import pytest

from analysis.errors import SourceUnavailable
from autoscale.history.learned import learn_traffic
from autoscale.history.pod_moments import pod_moments
from autoscale.history.service import find_service
from autoscale.history.told_hpa import PREFIX, past_hpa
from tests.observe import servers

END = 1_790_006_400.0
METRICS = {"num_requests_running": 3.0, "num_requests_waiting": 1.0, "request_success_total": 0.5}
HOUR = END - 3600.0  # until which the last hour's growth is told


def told(kind, rows):
    return 200, json.dumps({"status": "success", "data": {"resultType": kind, "result": rows}})


def production(path, query):
    """One replica that finished a request every two seconds, and told the lengths of none."""
    labels = {"model_name": "m", "pod": "a", "engine": "0"}
    times = END - 7200 + 15.0 * np.arange(480)
    series = [
        ({"__name__": f"vllm:{name}", **labels}, [[t, str(v * (t - times[0]) if v < 1 else v)] for t in times.tolist()])
        for name, v in METRICS.items()
    ]  # fmt: skip
    if (
        path == "/api/v1/query"
        and not re.search(r"\[\d+ms\]$", query["query"])
        and query["query"] != "time()"
    ):
        return told("vector", [])
    if path == "/api/v1/query_range":
        return told("matrix", [])
    return servers.FakePrometheus(series)(path, query)


def answering(asked, answer):
    return lambda path, query: answer if asked in query.get("query", "") else production(path, query)


def service(url):
    return find_service(url, 7200.0, until=END)


def bucket(bound, value, at_s=HOUR):
    return {"metric": {"le": bound}, "values": [[at_s, value]]}


def traffic_of(service):
    return learn_traffic(service, pod_moments(service))


@pytest.mark.parametrize(
    "rows",
    [
        [bucket("abc", "5")],
        [bucket("NaN", "5")],
        [{"metric": {}, "values": [[HOUR, "5"]]}],
        [bucket("10", "abc")],
        [bucket("10", "5", "abc")],
        [bucket("10", "5", 10**400)],
    ],
    ids=["a bound of letters", "a bound of NaN", "no bound", "a count of letters", "a time of letters", "a time beyond floats"],
)  # fmt: skip
def test_a_histogram_that_is_none_tells_no_lengths(rows):
    with servers.serving(answering("_bucket", told("matrix", rows))) as server:
        found = traffic_of(service(server.url))
    assert found.prompt is found.output is None
    assert found.came.rate_rps.mean() == pytest.approx(0.5, rel=0.05)


def test_lengths_whose_sum_is_below_zero_are_none():
    def answer(path, query):
        for part, rows in {"_bucket": [bucket("10", "5")], "_sum": "-30", "_count": "5"}.items():
            if part in query.get("query", ""):
                return told(
                    "matrix", rows if isinstance(rows, list) else [{"metric": {}, "values": [[HOUR, rows]]}]
                )
        return production(path, query)

    with servers.serving(answer) as server:
        assert traffic_of(service(server.url)).prompt is None


@pytest.mark.parametrize("row", [{"value": [1, "1"]}, {"metric": {"pod": "a"}}, 5, {"metric": {"pod": 5}, "value": [1, "1"]}])  # fmt: skip
def test_moments_that_are_none_are_not_prometheus(row):
    with servers.serving(answering("kube_pod_", told("vector", [row]))) as server:
        found = service(server.url)
        with pytest.raises(SourceUnavailable, match="not like Prometheus: a result has no labels"):
            pod_moments(found)


TARGET = {"metric_name": "vllm:num_requests_waiting", "metric_target_type": "average", "horizontalpodautoscaler": "h", "namespace": "n"}  # fmt: skip


@pytest.mark.parametrize(
    ("target", "replicas", "said"),
    [
        ("NaN", "3", "spec_target_metric that is no target"),
        ("+Inf", "3", "spec_target_metric that is no target"),
        ("1e300", "3", "spec_target_metric that is no target"),
        ("5", "NaN", "has no kube_horizontalpodautoscaler_spec_min_replicas"),
        ("5", "+Inf", "has no kube_horizontalpodautoscaler_spec_min_replicas"),
        ("5", "-1", "has no kube_horizontalpodautoscaler_spec_min_replicas"),
        ("5", "3", None),
    ],
)
def test_an_hpa_of_numbers_that_cannot_be_is_not_taken(target, replicas, said):
    def answer(path, query):
        asked = query.get("query", "")
        if "spec_target_metric" in asked:
            return told("vector", [{"metric": TARGET, "value": [END, target]}])
        if f"{PREFIX}status" in asked:
            values = [[END - 45, "NaN"], [END - 30, "1e300"], [END - 15, "2"]]
            return told(
                "matrix", [{"metric": {"__name__": f"{PREFIX}status_desired_replicas"}, "values": values}]
            )
        if PREFIX in asked:
            return told("vector", [{"metric": {}, "value": [END, replicas]}])
        return production(path, query)

    with servers.serving(answer) as server:
        found, sentences = past_hpa(service(server.url))
    if said is None:
        assert found.desired.tolist() == [2]
        assert found.manifest["spec"]["maxReplicas"] == 3
    else:
        assert found is None
        assert said in sentences[0]
