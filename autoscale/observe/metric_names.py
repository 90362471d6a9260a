"""Which metric name holds which column: vLLM in every version and spelling, and the servers that mean the same.

    column     vLLM                          SGLang            TensorRT-LLM          TGI                  NIM: as vLLM,
    waiting    num_requests_waiting          num_queue_reqs    num_requests_waiting  queue_size           no prefix
    running    num_requests_running          num_running_reqs  num_requests_running  batch_current_size
    kv_usage   kv_cache_usage_perc (0.9.2-)  token_usage       kv_cache_utilization  -
               gpu_cache_usage_perc (-0.10)

A name may have anything before its engine (`ray_vllm_...`, `kserve_vllm:...`), `_` for `:`, and a counter may come without
its `_total`. A recording rule (`job:vllm:...`) is an aggregate and no replica's. TensorRT-LLM behind Triton tells the
states of its requests by a label. Histograms and `_created` are left out: TGI's tokens are only counted when a request
ends, so they have no column. Sources: vllm/v1/metrics/loggers.py; SGLang's production_metrics; tensorrt_llm/metrics;
the model server protocol of the Gateway API inference extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from analysis import run
from analysis.sound import told_count
from autoscale.kube.vllm_names import COLUMN_COUNTERS, PREFIX, SIGNAL_NAMES

COLUMNS = run.METRIC_COLUMNS
COUNTERS = tuple(column for column in COLUMNS if column.endswith("_total"))
TITLES = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "tensorrt-llm": "TensorRT-LLM",
    "triton": "TensorRT-LLM behind Triton",
    "tgi": "TGI",
    "nim": "NIM",
}

_VLLM: dict[str, tuple[str, ...]] = {
    **{signal: tuple(known.name for known in names) for signal, names in SIGNAL_NAMES.items()},
    **{column: (f"{name}_total",) for column, name in COLUMN_COUNTERS.items()},
}
# engine kind, the one that wins where a server shows two first -> (prefix, column -> names without it, preferred first)
NAMES: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "vllm": (PREFIX, _VLLM),
    "sglang": (
        "sglang:",
        {
            "waiting": ("num_queue_reqs",),
            "running": ("num_running_reqs",),
            "kv_usage": ("token_usage",),
            "preemptions_total": ("num_retracted_requests_total",),
            "prompt_tokens_total": ("prompt_tokens_total",),
            "generation_tokens_total": ("generation_tokens_total",),
            "requests_total": ("num_requests_total",),
        },
    ),
    "tensorrt-llm": (
        "trtllm_",
        {
            "waiting": ("num_requests_waiting",),
            "running": ("num_requests_running",),
            "kv_usage": ("kv_cache_utilization",),
            "prompt_tokens_total": ("prompt_tokens_total",),
            "generation_tokens_total": ("generation_tokens_total",),
            "requests_total": ("request_success_total",),
        },
    ),
    "tgi": (
        "tgi_",
        {
            "waiting": ("queue_size",),
            "running": ("batch_current_size",),
            "requests_total": ("request_success_total",),
        },
    ),
    "nim": ("", {**_VLLM, "requests_total": ("request_success_total", "request_finish_total")}),
}
# Triton's names -> (label, its value -> column)
TRITON: dict[str, tuple[str, dict[str, str]]] = {
    "nv_trt_llm_request_metrics": ("request_type", {"waiting": "waiting", "scheduled": "running"}),
    "nv_trt_llm_kv_cache_block_metrics": ("kv_cache_block_type", {"fraction": "kv_usage"}),
}
# names that tell a server whose metrics are not read: their beginning -> whose they are, and the next step
OTHERS = {
    "llamacpp:": ("llama.cpp", None),
    "lmdeploy:": ("LMDeploy", None),
    "dynamo_frontend_": ("Dynamo's frontend", "scrape its workers instead, each at its system port"),
    "litellm_": ("LiteLLM's proxy", "scrape the servers behind it instead"),
}
KINDS = ("vllm", "sglang", "tensorrt-llm", "triton", "tgi", "nim")
FACTS = "cache_config_info"  # vLLM's, no model_name among its labels

BY_NAMES = "vllm_version_by_metric_names"

_SPELLING = re.compile(r"(?:[A-Za-z0-9]+_)*?(vllm|sglang|trtllm|tgi)[:_](\w+)")
_KIND_OF = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm", "tgi": "tgi"}
_BASES = {
    (kind, name.removesuffix("_total")): (column, rank, column in COUNTERS)
    for kind, (_, columns) in NAMES.items()
    for column, names in columns.items()
    for rank, name in enumerate(names)
}


class Place(NamedTuple):
    """What a series is: its engine's kind, its column, and its rank among names of the column (the lowest is taken)."""

    kind: str
    column: str
    rank: int


def place_of(name: str, labels: Mapping[str, str]) -> Place | None:
    """The column that a series holds; None for the rest of a page."""
    if name in TRITON:
        label, columns = TRITON[name]
        column = columns.get(labels.get(label, ""))
        return Place("triton", column, 0) if column else None
    return _place(name)


def is_known(name: str) -> bool:
    """Whether a series of this name may hold a column or engine facts."""
    return name in TRITON or _place(name) is not None or is_facts(name)


def columns_of(name: str) -> frozenset[str]:
    """The columns that series of this name may hold."""
    if name in TRITON:
        return frozenset(TRITON[name][1].values())
    place = _place(name)
    return frozenset() if place is None else frozenset({place.column})


@lru_cache(maxsize=16_384)
def is_facts(name: str) -> bool:
    """Whether it is vLLM's cache_config_info, however it is prefixed."""
    found = _SPELLING.fullmatch(name)
    return found is not None and found[1] == "vllm" and found[2] == FACTS


@lru_cache(maxsize=16_384)
def _place(name: str) -> Place | None:
    found = _SPELLING.fullmatch(name)
    kind, base = (_KIND_OF[found[1]], found[2]) if found else ("nim", name)
    known = _BASES.get((kind, base.removesuffix("_total")))
    if known is None:
        return None
    column, rank, counter = known
    if not counter and base.endswith("_total"):
        return None
    plain = NAMES[kind][0] + base == name and base.endswith("_total") == counter
    return Place(kind, column, 2 * rank + (not plain))


def plain_names() -> list[str]:
    """The names as their engines spell them; those without a prefix are anybody's and left out."""
    spelled = [
        prefix + name
        for prefix, columns in NAMES.values()
        if prefix
        for names in columns.values()
        for name in names
    ]
    return [*spelled, NAMES["vllm"][0] + FACTS, *TRITON]


def engine_facts(labels: Mapping[str, str]) -> Mapping[str, int]:
    """Block size, number of blocks and KV tokens from the labels of cache_config_info; absent ones are left out, and
    more than 10^9 of anything."""
    facts: dict[str, int] = {}
    for fact, label in (
        ("block_size", "block_size"),
        ("num_blocks", "num_gpu_blocks"),
        ("kv_tokens", "kv_cache_size_tokens"),
    ):
        if (count := told_count(labels.get(label, ""))) is not None:
            facts[fact] = count
    if "kv_tokens" not in facts and {"block_size", "num_blocks"} <= set(facts):
        facts["kv_tokens"] = facts["block_size"] * facts["num_blocks"]
    return facts


def version_facts(names: Iterable[str]) -> dict[str, object]:
    """What the metric names tell about vLLM's version: only the KV gauge changed its name."""
    bases = {found[2] for name in names if (found := _SPELLING.fullmatch(name)) and found[1] == "vllm"}
    new, old = (name in bases for name in _VLLM["kv_usage"])
    if not new and not old:
        return {}
    versions = "0.9.2 to 0.10" if new and old else "0.11 or later" if new else "before 0.9.2"
    return {BY_NAMES: versions}
