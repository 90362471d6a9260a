"""Metrics pages of every make become one number per replica, or a sentence that says what is there."""

import math
import re
from pathlib import Path

import pytest

from autoscale.observe import vllm_metrics

PAGES = Path(__file__).parent.parent / "fixtures" / "pages"


def look(text: str, model: str | None = "m") -> vllm_metrics.PageReading:
    return vllm_metrics.read_page(vllm_metrics.parse_exposition(text), model, "a:8000")


def only_row(text: str, model: str | None = "m") -> dict[str, float]:
    (row,) = look(text, model).rows.values()
    return row


@pytest.mark.parametrize(
    ("name", "kind", "row"),
    [
        pytest.param(
            "pid",
            "vllm",
            # the KV gauge of four processes is 0.62, 0.55, 0.653 and 0.0: the engine's is one of them, never 1.823
            {"waiting": 3, "running": 12, "kv_usage": 0.653, "preemptions_total": 0, "prompt_tokens_total": 1000,
             "generation_tokens_total": 5000, "requests_total": 100},
            id="vLLM with several API servers",
        ),
        pytest.param("ray", "vllm", {"waiting": 1, "running": 5, "kv_usage": 0.3}, id="vLLM below Ray Serve"),
        pytest.param("kserve", "vllm", {"waiting": 2, "running": 5, "kv_usage": 0.4}, id="vLLM below KServe"),
        pytest.param("nim", "nim", {"waiting": 2, "running": 5, "kv_usage": 0.1}, id="NIM without a prefix"),
        pytest.param(
            "sglang",
            "sglang",
            {"waiting": 2, "running": 5, "kv_usage": 0.28, "prompt_tokens_total": 8128902},
            id="SGLang",
        ),
        pytest.param(
            "triton", "triton", {"waiting": 3, "running": 4, "kv_usage": 0.6}, id="TensorRT-LLM behind Triton"
        ),
    ],
)  # fmt: skip
def test_a_page_is_one_row(name: str, kind: str, row: dict[str, float]):
    model = "tensorrt_llm" if kind == "triton" else "m"
    reading = look((PAGES / f"{name}.txt").read_text(), model)
    assert reading.rows == {("a:8000", "0"): row}
    assert reading.facts["engine_kind"] == kind


@pytest.mark.parametrize(
    ("text", "row"),
    [
        pytest.param(
            '# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total{model_name="m"} 7.0 # {trace_id="x"} 1.0 9.5\n'
            'vllm:prompt_tokens_created{model_name="m"} 1.7e+09\nvllm:num_requests_running{model_name="m"} 2 1800000000.1\n# EOF\n',
            {"running": 2, "prompt_tokens_total": 7},
            id="OpenMetrics with an exemplar, a time stamp and _created",
        ),
        pytest.param(
            "vllm_num_requests_running 2\r\nvllm_prompt_tokens 5\r\n",
            {"running": 2, "prompt_tokens_total": 5},
            id="underscores, no _total, no labels, Windows line ends",
        ),
        pytest.param(
            'vllm:num_requests_running{model_name="m",pid="1"} 1\nvllm:generation_tokens_total{model_name="m",pid="1"} 10\n'
            'vllm:num_requests_running{model_name="m",pid="2"} 4\nvllm:generation_tokens_total{model_name="m",pid="2"} 30\n',
            {"running": 4, "generation_tokens_total": 40},
            id="processes: the gauge's largest, the counter's sum",
        ),
        pytest.param(
            "".join(
                f'sglang:{name}{{model_name="m",tp_rank="{rank}"}} {value}\n'
                for rank in (0, 1)
                for name, value in (("num_running_reqs", 4), ("generation_tokens_total", 100))
            ),
            {"running": 4, "generation_tokens_total": 100},
            id="tensor-parallel ranks tell the same engine",
        ),
        pytest.param(
            'sglang:num_running_reqs{priority=""} 7\nsglang:num_running_reqs{priority="1"} 3\nsglang:num_running_reqs{priority="2"} 4\n',
            {"running": 7},
            id="a total beside its parts",
        ),
        pytest.param(
            "trtllm_num_requests_waiting 1\ntrtllm_num_requests_running 2\ntrtllm_kv_cache_utilization 0.5\ntrtllm_prompt_tokens_total 9\n",
            {"waiting": 1, "running": 2, "kv_usage": 0.5, "prompt_tokens_total": 9},
            id="trtllm-serve",
        ),
        pytest.param(
            "tgi_queue_size 3\ntgi_batch_current_size 8\ntgi_request_success 44\ntgi_request_generated_tokens_sum 100\n",
            {"waiting": 3, "running": 8, "requests_total": 44},
            id="TGI: its tokens are counted at the end, so they are none of ours",
        ),
        pytest.param(
            "vllm:num_requests_running 2\nsglang:num_running_reqs 3\nray_vllm:num_requests_running 4\n",
            {"running": 2},
            id="a shim's copies: vLLM's own name wins",
        ),
        pytest.param(
            "vllm:num_requests_running 2\nprompt_tokens_total 100\n",
            {"running": 2},
            id="a counter without a prefix is anybody's",
        ),
        pytest.param(
            'vllm:num_requests_running{model_name="a}b, \\"c\\"# d"} 2\n', {"running": 2}, id="odd label values"
        ),
        pytest.param(
            'vllm:num_requests_running{model_name="m"} 2 1000\nvllm:num_requests_running{model_name="m"} 3 2000\n',
            {"running": 3},
            id="a series twice: the newer by its stamp",
        ),
    ],
)  # fmt: skip
def test_spellings_and_labels(text: str, row: dict[str, float]):
    assert only_row(text, None) == row


@pytest.mark.parametrize(
    ("text", "column", "sentence"),
    [
        pytest.param("vllm:kv_cache_usage_perc 45", "kv_usage", "kv_usage of 45 is left out", id="per cent"),
        pytest.param("vllm:kv_cache_usage_perc -0.1", "kv_usage", "a fraction is 0 to 1", id="a negative fraction"),
        pytest.param("vllm:num_requests_waiting -1", "waiting", "waiting of -1 is left out", id="a negative gauge"),
        pytest.param("vllm:num_requests_waiting +Inf", "waiting", "waiting that is no finite number", id="infinity"),
        pytest.param(
            "vllm:num_requests_waiting 1\nvllm:num_requests_waiting 2", "waiting", "twice, 1 and 2", id="twice"
        ),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_none_and_is_said(text: str, column: str, sentence: str):
    reading = look(f"vllm:num_requests_running 1\n{text}\n")
    assert math.isnan(reading.rows["a:8000", "0"][column])
    assert sentence in "; ".join(reading.notes.sentences())


def test_nan_on_a_page_stays_nan_and_a_rounded_full_cache_is_full():
    row = only_row(
        "vllm:num_requests_waiting NaN\nvllm:num_requests_running abc\nvllm:kv_cache_usage_perc 1.0000001\n"
    )
    assert math.isnan(row["waiting"])
    assert math.isnan(row["running"])
    assert row["kv_usage"] == 1.0


def test_engines_and_servers_behind_one_page_are_rows_of_their_own():
    text = "".join(
        f'ray_vllm_num_requests_running{{ReplicaId="{replica}",engine="{engine}",model_name="m"}} {value}\n'
        for replica, engine, value in (("x", 0, 1), ("x", 1, 2), ("y", 0, 3))
    )
    reading = look(text)
    assert reading.rows == {
        ("a:8000/x", "0"): {"running": 1},
        ("a:8000/x", "1"): {"running": 2},
        ("a:8000/y", "0"): {"running": 3},
    }
    assert "tells of 2 servers (ReplicaId: x, y)" in reading.notes.sentences()[0]


def test_a_gauge_in_parts_that_nobody_knows_is_not_read():
    reading = look(
        'vllm:num_requests_running 1\nvllm:num_requests_waiting{q="a"} 1\nvllm:num_requests_waiting{q="b"} 2\n'
    )
    assert reading.rows == {("a:8000", "0"): {"running": 1}}
    assert "waiting comes once per q (a, b)" in reading.notes.sentences()[0]


MODELS = "".join(f'vllm:num_requests_running{{model_name="{name}"}} 1\n' for name in ("base", "other"))


def test_the_only_model_of_a_page_is_taken_and_said_and_one_of_several_is_asked_for():
    one = look(MODELS.splitlines()[0] + "\n", "adapter")
    assert one.rows == {("a:8000", "0"): {"running": 1}}
    assert one.notes.sentences() == [
        "the metrics are of model base, the only one there; the run's is adapter"
    ]
    for wanted in ("adapter", None):
        several = look(MODELS, wanted)
        assert several.rows == {}
        assert "models base, other" in vllm_metrics.fault(MODELS, several, wanted)[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            (PAGES / "router.txt").read_text(),
            r"a router's page.*server: http://10.0.0.5:8000, http://10.0.0.6:8000.*--scrape once per replica",
            id="a router's copies of its backends",
        ),
        pytest.param(
            (PAGES / "no_values.txt").read_text(),
            r"declares .*num_requests_running.* no values.*--disable-log-stats.*PROMETHEUS_MULTIPROC_DIR",
            id="types without values",
        ),
        pytest.param(
            '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{num_gpu_blocks="9",engine="0"} 1.0\n'
            "# TYPE vllm:num_requests_running gauge\n",
            r"declares vllm:num_requests_running but gives no values.*--disable-log-stats",
            id="types without values beside the engine's facts",
        ),
        pytest.param(
            'sglang_num_running_reqs{worker_addr="grpc://10.0.0.5:8001"} 3\n'
            'sglang_num_running_reqs{worker_addr="grpc://10.0.0.6:8001"} 4\n',
            r"a router's page.*worker_addr: grpc://10.0.0.5:8001, grpc://10.0.0.6:8001.*--scrape once per replica",
            id="SGLang's gateway, which shows its workers' metrics",
        ),
        pytest.param("llamacpp:requests_processing 1\n", "has metrics of llama.cpp, which are not read: it has llamacpp:", id="llama.cpp"),
        pytest.param("dynamo_frontend_queued_requests 1\n", "of Dynamo's frontend, .* scrape its workers instead", id="a frontend before its workers"),
        pytest.param('[{"numActiveRequests": 1}]', r"answers JSON.*/prometheus/metrics", id="TensorRT-LLM's JSON"),
        pytest.param("<!doctype html><html>", "it is a web page", id="HTML"),
        pytest.param("", "the page is empty", id="nothing"),
        pytest.param("hello\n", "it is no metrics page", id="text"),
        pytest.param("[" * 100_000, "it is no metrics page", id="nested JSON"),
        pytest.param(
            "sgl_router_requests_total 4\npython_gc_objects_collected_total 5\n",
            "it has sgl_router_requests_total",
            id="another program",
        ),
        pytest.param(
            "job:vllm:num_requests_waiting:sum 5\n",
            "it has job:vllm:num_requests_waiting:sum",
            id="a recording rule is no replica's",
        ),
        pytest.param(
            'vllm:num_requests_waiting{q="a"} 1\nvllm:num_requests_waiting{q="b"} 2\n',
            "waiting comes once per q",
            id="nothing but parts",
        ),
    ],
)  # fmt: skip
def test_a_page_without_a_row_says_what_is_there(text: str, sentence: str):
    reading = look(text)
    assert reading.rows == {}
    assert re.search(sentence, " ".join(filter(None, vllm_metrics.fault(text, reading, "m"))))
