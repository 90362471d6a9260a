"""recommendation.json: what is written is read again, byte for byte, and what is wrong in a file is named with its place."""

import copy
import json
import math
from pathlib import Path

import pytest

from analysis.errors import BadInput
from autoscale.recommendation import (
    AskedSlo,
    Drift,
    Estimated,
    EstimatedRate,
    Forecast,
    MeasuredCapacity,
    Reason,
    Recommendation,
    ReplicaCapacity,
    Tried,
    parse_recommendation,
    read_recommendation,
    recommendation_text,
)
from autoscale.signal_target import SignalTarget

MADE = Recommendation(
    answer="autoscale",
    profile="llama-3.1-8b-1xl4",
    slo=AskedSlo("ttft_p95=2s", None, "ttft_p95"),
    metrics=(SignalTarget("waiting", "5", ("3", "7500m"), metric="vllm_num_requests_waiting"),),
    min_replicas=1,
    max_replicas=4,
    behavior={"scaleDown": {"stabilizationWindowSeconds": 600}},
    predicted=Forecast("waiting 5, 1-4, down 10 min", True, 4, Estimated(0.97, 0.96, 0.98), cost=None),
    capacity_rps=ReplicaCapacity(MeasuredCapacity(knee=EstimatedRate(math.nan, 2.5, math.inf, "from below"))),
    reasons=(Reason("queue", "the queue is the signal"),),
    candidates=(Tried("waiting 9", "waiting", False, "breaches", math.nan, 0.5, 0),),
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "recommendation.json", tmp_path / "again.json"
    first.write_text(recommendation_text(MADE))
    second.write_text(recommendation_text(read_recommendation(first)))
    assert second.read_bytes() == first.read_bytes()
    assert read_recommendation(first).metrics == MADE.metrics
    assert read_recommendation(first).achieved


def test_the_file_has_kubernetes_names_null_for_what_is_not_known_and_no_key_for_what_was_not_asked() -> None:
    content = MADE.as_json()
    assert list(content)[:3] == ["schema_version", "answer", "profile"]
    assert content["metrics"][0] == {
        "name": "waiting",
        "metric": "vllm_num_requests_waiting",
        "averageValue": "5",
        "interval": ["3", "7500m"],
    }
    assert (content["minReplicas"], content["maxReplicas"], content["hpa"]) == (1, 4, None)
    assert content["capacity_rps"]["measured"]["knee"] == {
        "value": None,
        "low": 2.5,
        "high": None,
        "how": "from below",
    }
    assert content["predicted"]["cost"] is None
    assert not {"drift"} & set(content)
    assert not {"model"} & set(content["capacity_rps"])
    assert not {"replay", "intervals"} & set(content["model_error"])
    assert parse_recommendation(
        {"answer": "infeasible", "drift": {"holds": None, "sentence": "no"}}
    ).drift == Drift(None, sentence="no")


def at(*path: object, value: object):
    """The whole document with one value changed."""
    content = copy.deepcopy(MADE.as_json())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(at("answer", value="yes"), "answer: 'yes'; expected one of autoscale, ", id="answer"),
        pytest.param(
            at("predicted", "holds", value="yes"),
            "predicted.holds: 'yes'; expected true or false",
            id="a flag",
        ),
        pytest.param(
            at("predicted", "slo_attainment", "low", value="0.9"),
            "predicted.slo_attainment.low: '0.9'; expected a finite number, or null",
            id="a number as text",
        ),
        pytest.param(
            at("predicted", "slo_attainment", "low", value=math.inf),
            "expected a finite number",
            id="infinity",
        ),
        pytest.param(at("predicted", "seeds", value=4.5), "seeds: 4.5; expected a whole number", id="a part"),
        pytest.param(at("predicted", value=[]), r"predicted: \[\]; expected an object", id="a list"),
        pytest.param(
            at("minReplicas", value=True),
            "minReplicas: True; expected a whole number of at least 1",
            id="true",
        ),
        pytest.param(
            at("metrics", 0, "averageValue", value="0"),
            r"metrics\[0\].averageValue: '0'; expected a quantity of at least 1m",
            id="a target of nothing",
        ),
        pytest.param(
            at("metrics", 0, "name", value=[None]),
            r"metrics\[0\].name: \[None\]; expected ",
            id="a name that is a list",
        ),
        pytest.param(
            at("reasons", 0, value={"code": "queue"}),
            r"reasons\[0\].sentence; expected text",
            id="no sentence",
        ),
        pytest.param(at("hpa", value="hpa.yaml"), "hpa: 'hpa.yaml'; expected an object", id="a file's name"),
        pytest.param(at("schema_version", value=2), "schema_version: 2; expected 1", id="a later version"),
    ],
)
def test_what_cannot_be_is_refused_with_file_field_and_value(tmp_path: Path, content, sentence) -> None:
    file = tmp_path / "recommendation.json"
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=f"recommendation.json: {sentence}|recommendation.json.*{sentence}"):
        read_recommendation(file)


def test_a_file_of_another_kind_is_no_recommendation(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 1}')
    with pytest.raises(BadInput, match="is not a recommendation"):
        read_recommendation(tmp_path / "run.json")
