"""Names by version, and real exposition pages, become columns."""

import gzip
from pathlib import Path

import pytest

from autoscale.observe import vllm_metrics
from autoscale.observe.metric_names import COLUMNS, NAMES, engine_facts


def page(fixtures_dir: Path, name: str) -> str:
    with gzip.open(fixtures_dir / "vllm" / f"metrics_{name}.txt.gz", "rt") as file:
        return file.read()


def test_a_real_page_under_overload(fixtures_dir: Path):
    reading = vllm_metrics.read_page(
        vllm_metrics.parse_exposition(page(fixtures_dir, "overload_mid")), "tiny", "a:8000"
    )
    assert set(reading.rows) == {("a:8000", "0")}
    row = reading.rows["a:8000", "0"]
    assert row["waiting"] == 55
    assert row["kv_usage"] == 1.0
    assert set(row) == set(COLUMNS)
    assert reading.facts == {
        "block_size": 32,
        "num_blocks": 81,
        "kv_tokens": 2592,
        "vllm_version_by_metric_names": "0.11 or later",
        "engine_kind": "vllm",
    }


def test_columns_agree_with_a_plain_reading_of_the_lines(fixtures_dir: Path):
    text = page(fixtures_dir, "load_mid")
    row = vllm_metrics.read_page(vllm_metrics.parse_exposition(text)).rows["", "0"]
    prefix, columns = NAMES["vllm"]
    for column, names in columns.items():
        values = [
            float(line.split()[-1])
            for line in text.splitlines()
            if any(line.startswith((f"{prefix}{name}{{", f"{prefix}{name} ")) for name in names)
        ]
        assert row[column] == sum(values)


KV = """# TYPE vllm:{name} gauge
vllm:{name}{{engine="0",model_name="m"}} {value}
"""


@pytest.mark.parametrize(
    ("text", "usage", "version"),
    [
        pytest.param(
            KV.format(name="gpu_cache_usage_perc", value=0.4), 0.4, "before 0.9.2", id="only the old name"
        ),
        pytest.param(
            KV.format(name="kv_cache_usage_perc", value=0.5), 0.5, "0.11 or later", id="only the new name"
        ),
        pytest.param(
            KV.format(name="gpu_cache_usage_perc", value=0.4)
            + KV.format(name="kv_cache_usage_perc", value=0.5),
            0.5,
            "0.9.2 to 0.10",
            id="both: the new one is taken",
        ),
    ],
)
def test_kv_usage_by_version(text: str, usage: float, version: str):
    reading = vllm_metrics.read_page(vllm_metrics.parse_exposition(text))
    assert reading.rows["", "0"] == {"kv_usage": usage}
    assert reading.facts["vllm_version_by_metric_names"] == version


def test_engines_stay_apart_and_other_models_are_named():
    text = "# TYPE vllm:num_requests_running gauge\n" + "".join(
        f'vllm:num_requests_running{{engine="{engine}",model_name="{model}"}} {value}\n'
        for engine, model, value in (("0", "m", 1), ("1", "m", 2), ("0", "other", 9))
    )
    reading = vllm_metrics.read_page(vllm_metrics.parse_exposition(text), "m")
    assert reading.rows == {("", "0"): {"running": 1.0}, ("", "1"): {"running": 2.0}}
    assert reading.other_models == {"other"}


def test_a_fact_of_too_many_digits_is_left_out():
    facts = engine_facts({"num_gpu_blocks": "9" * 5000, "block_size": "16"})
    assert facts == {"block_size": 16}
