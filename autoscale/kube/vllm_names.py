"""What the three signals are called: by vLLM's version in Prometheus, and by the metric path in an HPA.

| signal | Prometheus name | unit per pod |
|---|---|---|
| waiting | vllm:num_requests_waiting | requests |
| running | vllm:num_requests_running | requests |
| kv_usage | vllm:kv_cache_usage_perc, before 0.9.2 vllm:gpu_cache_usage_perc | fraction 0-1 per engine |

Sources: vLLM's metric names observed on 0.32.0 and its deprecation notes (kv_cache_usage_perc since 0.9.2, both until
0.10, the old one hidden in 0.11 and gone in 0.12); the Stackdriver adapter turns the slashes of a Cloud Monitoring type
into pipes.
"""

from __future__ import annotations

import re

SIGNALS = ("waiting", "running", "kv_usage")
OLD_KV, NEW_KV = "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"
KV_RENAMED_IN = (0, 9, 2)

_PROMETHEUS = {"waiting": "vllm:num_requests_waiting", "running": "vllm:num_requests_running"}
_SIGNAL_OF = {
    "num_requests_waiting": "waiting",
    "num_requests_running": "running",
    "gpu_cache_usage_perc": "kv_usage",
    "kv_cache_usage_perc": "kv_usage",
}


def version_tuple(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "0.9.2rc1" and "v0.9.2" -> (0, 9, 2)."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def prometheus_name(signal: str, vllm_version: str) -> str:
    """The metric that this version of vLLM exports for a signal."""
    if signal == "kv_usage":
        return NEW_KV if version_tuple(vllm_version) >= KV_RENAMED_IN else OLD_KV
    return _PROMETHEUS[signal]


def hpa_metric_name(signal: str, vllm_version: str, path: str) -> str:
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
    words = re.split(r"[|:/]", metric_name.lower())
    for word in reversed(words):
        bare = re.sub(r"^.*vllm_", "", word.replace("-", "_"))
        if bare in _SIGNAL_OF:
            return _SIGNAL_OF[bare]
    return None
