"""What vLLM's metrics are called, by its version: the three signals, all it exports with their types, and HPA names.

A rename is a row of `SIGNAL_NAMES`, not code.

Sources: vLLM's metric names observed on 0.32.0 and its deprecation notes (kv_cache_usage_perc since 0.9.2, both until
0.10, the old one hidden in 0.11 and gone in 0.12); the Stackdriver adapter turns the slashes of a Cloud Monitoring type
into pipes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

MetricsPath = Literal[
    "stackdriver", "autoscalingmetric", "prometheus-adapter", "keda", "llm-d"
]  # how a gauge reaches the HPA; llm-d: KEDA on what an inference gateway counts
PATHS: tuple[MetricsPath, ...] = get_args(MetricsPath)
OF_KEDA: tuple[MetricsPath, ...] = ("keda", "llm-d")
PREFIX = "vllm:"
NEWEST = (9999,)  # latest, nightly
NEVER = (10_000,)


@dataclass(frozen=True)
class SignalName:
    """A gauge without the prefix, and the versions of vLLM that export it: from `since` up to `gone_in`.

    From `hidden_in` on only with --show-hidden-metrics-for-version. A name with a newer one says both.
    """

    name: str
    since: tuple[int, ...] = ()
    hidden_in: tuple[int, ...] = NEVER
    gone_in: tuple[int, ...] = NEVER

    @property
    def series(self) -> str:
        """As Prometheus shows it."""
        return PREFIX + self.name


SIGNAL_NAMES = {  # the newest first; the units are those of analysis.run.SIGNALS
    "waiting": (SignalName("num_requests_waiting"),),
    "running": (SignalName("num_requests_running"),),
    "kv_usage": (
        SignalName("kv_cache_usage_perc", since=(0, 9, 2)),
        SignalName("gpu_cache_usage_perc", hidden_in=(0, 11), gone_in=(0, 12)),
    ),
}
COLUMN_COUNTERS = {  # column of a run's metrics -> counter, without the _total of its page
    "preemptions_total": "num_preemptions",
    "prompt_tokens_total": "prompt_tokens",
    "generation_tokens_total": "generation_tokens",
    "requests_total": "request_success",
}
V0_GONE_IN = (0, 11)

_SIGNAL_OF = {known.name: signal for signal, names in SIGNAL_NAMES.items() for known in names}

GAUGES = {
    *_SIGNAL_OF, "num_requests_waiting_by_reason", "lora_requests_info", "cache_config_info", "engine_sleep_state",
}  # fmt: skip
V0_GAUGES = {
    "num_requests_swapped", "cpu_cache_usage_perc", "cpu_prefix_cache_hit_rate", "gpu_prefix_cache_hit_rate",
    "avg_prompt_throughput_toks_per_s", "avg_generation_throughput_toks_per_s",
}  # fmt: skip
COUNTERS = {
    *COLUMN_COUNTERS.values(), "prefix_cache_queries", "prefix_cache_hits", "gpu_prefix_cache_queries",
    "gpu_prefix_cache_hits", "external_prefix_cache_queries", "external_prefix_cache_hits", "mm_cache_queries",
    "mm_cache_hits", "corrupted_requests", "admission_rejections", "prompt_tokens_cached", "prompt_tokens_by_source",
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


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "0.9.2rc1" and "v0.9.2" -> (0, 9, 2)."""
    match = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def prometheus_name(signal: str, vllm_version: str) -> str:
    """The metric that this version of vLLM exports for a signal; the newest of its names where it exports several."""
    version = version_tuple(vllm_version)
    return next(known.series for known in SIGNAL_NAMES[signal] if known.since <= version)


def exported_names(vllm_version: str) -> tuple[str, ...]:
    """The metrics that this version of vLLM shows of the signals, all names of each, the newest first."""
    version = version_tuple(vllm_version)
    every = (known for names in SIGNAL_NAMES.values() for known in names)
    return tuple(known.series for known in every if known.since <= version < known.hidden_in)


def signal_names(series: str) -> tuple[SignalName, SignalName] | None:
    """The name of a signal that a Prometheus name is, and the newest one of that signal; None when it is none."""
    for newest, *older in SIGNAL_NAMES.values():
        for known in (newest, *older):
            if known.series == series:
                return known, newest
    return None


def hpa_metric_name(signal: str, vllm_version: str, path: MetricsPath) -> str:
    """The metric's name in the HPA behind `path`.

    stackdriver: `prometheus.googleapis.com|vllm:num_requests_waiting|gauge`; autoscalingmetric:
    `autoscaling.gke.io|vllm|num-requests-waiting` (object | name); prometheus-adapter and keda: the Prometheus name
    with an underscore for the colon, `vllm_num_requests_waiting`, as the adapter rule and the trigger name it.
    """
    name = prometheus_name(signal, vllm_version)
    if path == "stackdriver":
        return f"prometheus.googleapis.com|{name}|gauge"
    if path == "autoscalingmetric":
        return f"autoscaling.gke.io|vllm|{name.removeprefix('vllm:').replace('_', '-')}"
    return name.replace(":", "_")


def signal_of(metric_name: str) -> str | None:
    """The signal behind an HPA's or Prometheus' metric name, whatever the path; None when it is none of ours."""
    return _SIGNAL_OF.get(series_of(metric_name).removeprefix(PREFIX))


def series_of(metric_name: str) -> str:
    """The Prometheus name of the signal behind an HPA's metric name, whatever the path; "" when it is none of ours."""
    for word in reversed(re.split(r"[|:/]", metric_name.lower())):
        bare = re.sub(r"^.*vllm_", "", word.replace("-", "_"))
        if bare in _SIGNAL_OF:
            return PREFIX + bare
    return ""


def image_version(image: str) -> tuple[int, ...] | None:
    """vLLM's version by an image's tag; NEWEST for latest, nightly and no tag, None when the tag does not tell."""
    name = image.split("@")[0].rsplit("/", 1)[-1]
    name, _, tag = name.partition(":")
    if "vllm" not in name:
        return None
    if tag in ("", "latest") or tag.startswith("nightly"):
        return None if "@" in image else NEWEST
    return version_tuple(tag) if re.match(r"v?[0-9]{1,2}\.[0-9]{1,3}", tag) else None


def metric_of(series: str) -> str:
    """The metric's own name: without prefix, histogram parts and the counter's _total."""
    name = series.removeprefix("vllm:")
    if name in HISTOGRAMS:
        return name
    name = re.sub(r"_(bucket|sum|count|created)$", "", name)
    return name.removesuffix("_total") if name.removesuffix("_total") in COUNTERS else name


def of_router(series: str) -> bool:
    """Whether a router in front of the engines exports it, not the engines."""
    return series.removeprefix("vllm:") in ROUTER - V0_GAUGES


def type_of(series: str) -> str | None:
    """gauge, counter or histogram; None for a name that is not known."""
    name = metric_of(series)
    for kind, names in (("gauge", GAUGES | V0_GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS)):
        if name in names:
            return kind
    return None


def may_export(series: str) -> bool:
    """Whether vLLM is known to export a series, or it belongs to a family whose members change with each version."""
    return type_of(series) is not None or _FAMILIES.fullmatch(metric_of(series)) is not None
