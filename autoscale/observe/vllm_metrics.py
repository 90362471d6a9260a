"""vLLM's metrics: which name holds which column by version, and exposition text -> rows.

    column                    name                               versions
    kv_usage                  vllm:kv_cache_usage_perc           from 0.9.2
                              vllm:gpu_cache_usage_perc          until 0.10 (both in 0.9.2-0.10; the new one is taken)
    the others                one name in every version of the V1 engine

Counters keep their `_total`; requests finished are summed over finished_reason; histograms and `_created` are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

# column -> metric names, preferred first
NAMES: dict[str, tuple[str, ...]] = {
    "waiting": ("vllm:num_requests_waiting",),
    "running": ("vllm:num_requests_running",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions_total": ("vllm:num_preemptions_total",),
    "prompt_tokens_total": ("vllm:prompt_tokens_total",),
    "generation_tokens_total": ("vllm:generation_tokens_total",),
    "requests_total": ("vllm:request_success_total",),
}
COLUMNS = tuple(NAMES)
COUNTERS = tuple(column for column in COLUMNS if column.endswith("_total"))
FACTS = "vllm:cache_config_info"
COLUMN_OF = {name: column for column, names in NAMES.items() for name in names}
_WANTED_LINE = re.compile(
    rf"^(?:# TYPE )?(?:{'|'.join(map(re.escape, (*COLUMN_OF, FACTS)))})[{{ ].*$", re.MULTILINE
)


class Sample(NamedTuple):
    """One value of one series: metric name, labels, value."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass
class Reading:
    """What one look at one server gave: a row of columns per engine, engine facts, and models that were left out."""

    rows: dict[str, dict[str, float]] = field(default_factory=dict)  # engine -> column -> value
    facts: dict[str, object] = field(default_factory=dict)
    other_models: set[str] = field(default_factory=set)


def parse(text: str) -> list[Sample]:
    """The samples of an exposition text that matter here; the rest is skipped before parsing (a page is 50 kB)."""
    wanted = "\n".join(_WANTED_LINE.findall(text)) + "\n"
    return [
        Sample(sample.name, sample.labels, float(sample.value))
        for family in text_string_to_metric_families(wanted)
        for sample in family.samples
        if sample.name in COLUMN_OF or sample.name == FACTS
    ]


def read(samples: Iterable[Sample], model: str | None = None) -> Reading:
    """Rows per engine of one server; series of a model other than `model` are left out and named."""
    reading = Reading()
    sums: dict[tuple[str, str], float] = defaultdict(float)
    names = set()
    for name, labels, value in samples:
        if name == FACTS:
            reading.facts |= engine_facts(labels)
            continue
        if model is not None and labels.get("model_name", model) != model:
            reading.other_models.add(labels["model_name"])
            continue
        names.add(name)
        sums[labels.get("engine", "0"), name] += value
    for (engine, name), value in sums.items():
        column = COLUMN_OF[name]
        preferred = NAMES[column][0]
        if name == preferred or (engine, preferred) not in sums:
            reading.rows.setdefault(engine, {})[column] = value
    reading.facts |= version_facts(names)
    return reading


def engine_facts(labels: Mapping[str, str]) -> dict[str, object]:
    """Block size, number of blocks and KV tokens from the labels of vllm:cache_config_info; absent ones are left out."""
    facts: dict[str, object] = {}
    for fact, label in (
        ("block_size", "block_size"),
        ("num_blocks", "num_gpu_blocks"),
        ("kv_tokens", "kv_cache_size_tokens"),
    ):
        if (text := labels.get(label, "")).isdigit():
            facts[fact] = int(text)
    if "kv_tokens" not in facts and {"block_size", "num_blocks"} <= set(facts):
        facts["kv_tokens"] = int(labels["block_size"]) * int(labels["num_gpu_blocks"])
    return facts


def version_facts(names: Iterable[str]) -> dict[str, object]:
    """What the metric names tell about the version: only the KV gauge changed its name."""
    new, old = (name in set(names) for name in NAMES["kv_usage"])
    if not new and not old:
        return {}
    versions = "0.9.2 to 0.10" if new and old else "0.11 or later" if new else "before 0.9.2"
    return {"vllm_version_by_metric_names": versions}
