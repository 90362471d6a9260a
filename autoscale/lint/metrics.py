"""Which metrics a vLLM version exports, and what kind each is: gauge, counter or histogram."""

from __future__ import annotations

import difflib
import re

from autoscale.kube.vllm_names import KV_RENAMED_IN, NEW_KV, OLD_KV, version_tuple

NEWEST = (9999,)  # latest, nightly
OLD_HIDDEN_IN, OLD_GONE_IN = (0, 11), (0, 12)
V0_GONE_IN = (0, 11)

GAUGES = {
    "num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc",
    "gpu_cache_usage_perc", "lora_requests_info", "cache_config_info", "engine_sleep_state",
}  # fmt: skip
V0_GAUGES = {
    "num_requests_swapped", "cpu_cache_usage_perc", "cpu_prefix_cache_hit_rate", "gpu_prefix_cache_hit_rate",
    "avg_prompt_throughput_toks_per_s", "avg_generation_throughput_toks_per_s",
}  # fmt: skip
COUNTERS = {
    "num_preemptions", "prompt_tokens", "generation_tokens", "request_success", "prefix_cache_queries",
    "prefix_cache_hits", "gpu_prefix_cache_queries", "gpu_prefix_cache_hits", "external_prefix_cache_queries",
    "external_prefix_cache_hits", "mm_cache_queries", "mm_cache_hits", "corrupted_requests", "prompt_tokens_cached",
    "prompt_tokens_by_source",
}  # fmt: skip
HISTOGRAMS = {
    "iteration_tokens_total", "time_to_first_token_seconds", "time_per_output_token_seconds",
    "inter_token_latency_seconds", "request_time_per_output_token_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_inference_time_seconds", "request_prefill_time_seconds",
    "request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens", "request_params_n",
    "request_params_max_tokens", "request_max_num_generation_tokens", "request_prefill_kv_computed_tokens",
}  # fmt: skip
# what production-stack's router exports about its backends, not the engines (src/vllm_router/services/metrics_service)
ROUTER = {
    "current_qps", "avg_decoding_length", "num_prefill_requests", "num_decoding_requests", "healthy_pods_total",
    "avg_latency", "avg_itl", "num_requests_swapped", "num_incoming_requests", "num_incoming_requests_total",
    "router_queueing_delay_seconds",
}  # fmt: skip
_FAMILIES = re.compile(r"(spec_decode|nixl|kv_block|kv_offload|estimated|model|lora|tool_call|healthy)_?\w*")


def image_version(image: str) -> tuple[int, ...] | None:
    """vLLM's version by an image's tag; NEWEST for latest, nightly and no tag, None when the tag does not tell."""
    name = image.split("@")[0].rsplit("/", 1)[-1]
    name, _, tag = name.partition(":")
    if "vllm" not in name:
        return None
    if tag in ("", "latest") or tag.startswith("nightly"):
        return None if "@" in image else NEWEST
    return version_tuple(tag) if re.match(r"v?\d{1,2}\.\d{1,3}", tag) else None


def base(series: str) -> str:
    """The metric's own name: without prefix, histogram parts and the counter's _total."""
    name = series.removeprefix("vllm:")
    if name in HISTOGRAMS:
        return name
    name = re.sub(r"_(bucket|sum|count|created)$", "", name)
    return name.removesuffix("_total") if name.removesuffix("_total") in COUNTERS else name


def of_router(series: str) -> bool:
    """Whether a router in front of the engines exports it, not the engines."""
    return series.removeprefix("vllm:") in ROUTER - V0_GAUGES


def kind_of(series: str) -> str | None:
    """gauge, counter or histogram; None for a name that is not known."""
    name = base(series)
    for kind, names in (("gauge", GAUGES | V0_GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)):
        if name in names:
            return kind
    return None


def problem(
    series: str, version: tuple[int, ...] | None, argv: list[str], v1: bool
) -> tuple[str, str, str] | None:
    """Severity, sentence and fix when this version does not export the metric as written; None when it does.

    `version` None: unknown. `v1`: the environment chooses the V1 engine.
    """
    if not series.startswith("vllm:") or of_router(series):
        return None
    name, shown = base(series), ".".join(map(str, version or ()))
    shown = "latest" if version == NEWEST else shown
    if series == OLD_KV:
        if version is None:
            return (
                "warning",
                f"{OLD_KV} is gone from vLLM 0.12 on; the image's version is not known.",
                f"Use {NEW_KV}.",
            )
        if version >= OLD_GONE_IN:
            return "error", f"{OLD_KV} does not exist in vLLM {shown}: removed in 0.12.", f"Write {NEW_KV}."
        if version >= OLD_HIDDEN_IN and not any("show-hidden-metrics" in word for word in argv):
            return "error", f"{OLD_KV} is hidden in vLLM {shown}.", f"Write {NEW_KV}."
        if version >= KV_RENAMED_IN:
            return "warning", f"{OLD_KV} is deprecated since 0.9.2 and gone in 0.12.", f"Write {NEW_KV}."
        return None
    if series == NEW_KV and version is not None and version < KV_RENAMED_IN:
        return "error", f"{NEW_KV} does not exist in vLLM {shown}: it came with 0.9.2.", f"Write {OLD_KV}."
    if name in V0_GAUGES:
        gone = v1 or (version is not None and version >= V0_GONE_IN)
        severity = "error" if gone else "warning"
        return (
            severity,
            f"{series} exists in the V0 engine only.",
            "Use vllm:num_requests_waiting or running.",
        )
    if kind_of(series) is None and not _FAMILIES.fullmatch(name):
        near = difflib.get_close_matches(name, GAUGES | COUNTERS | HISTOGRAMS, n=1, cutoff=0.75)
        if near:
            return "error", f"vLLM exports no {series}.", f"Did you mean vllm:{near[0]}?"
        return (
            "warning",
            f"{series} is not a metric that vLLM is known to export.",
            "Check /metrics of a pod.",
        )
    return None
