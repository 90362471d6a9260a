"""The PromQL of a trigger for each signal (kube.scaling_signals), of one profile's replicas: always one element."""

from __future__ import annotations

from autoscale.kube.gateway_names import NEW
from autoscale.kube.vllm_names import prometheus_name
from autoscale.profiles.profile import Profile

LATENCY_WINDOW = "1m"  # of rates: four scrapes
_HISTOGRAMS = {"ttft_p95": "time_to_first_token_seconds", "itl_p95": "inter_token_latency_seconds"}


def pods_pattern(profile: Profile) -> str:
    """The pods of the profile's workload as a label matcher knows them; of a LeaderWorkerSet its leaders, which serve."""
    deploy = profile.deploy
    if deploy.kind == "LeaderWorkerSet":
        return f"{deploy.name}-[0-9]+"
    return f"{deploy.name}-[a-z0-9]+-[a-z0-9]+"


def trigger_query(profile: Profile, signal: str) -> str:
    """PromQL of a signal: the sum over the replicas of what has an AverageValue, else the value itself; none without data.

    The share of the KV cache that several engines of a pod show is their mean, as it is of one.
    """
    deploy, engines = profile.deploy, profile.replica.data_parallel
    namespace = f'namespace="{deploy.namespace}"'
    pods = f'{namespace},pod=~"{pods_pattern(profile)}"'
    pool = f'{namespace},inference_pool="{deploy.name}"'  # whose picker is in its namespace: it is named without one
    if signal in _HISTOGRAMS:
        buckets = f"vllm:{_HISTOGRAMS[signal]}_bucket{{{pods}}}"
        return f"histogram_quantile(0.95, sum by (le) (rate({buckets}[{LATENCY_WINDOW}])))"
    match signal:
        case "in_flight":
            return f"{trigger_query(profile, 'waiting')} + {trigger_query(profile, 'running')}"
        case "gateway_queue":
            return f"sum({NEW}flow_control_queue_size{{{pool}}})"
        case "gateway_in_flight":
            return f'sum({NEW}request_running{{{namespace},model_name="{profile.model.id}"}})'
        case "gateway_saturation":
            return f"max({NEW}flow_control_pool_saturation{{{pool}}})"
    total = f"sum({prometheus_name(signal, profile.engine.vllm_version)}{{{pods}}})"
    return f"{total} / {engines}" if signal == "kv_usage" and engines > 1 else total
