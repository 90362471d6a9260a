"""A Grafana dashboard over vLLM, the HPA and the replicas of any set; namespace and HPA are chosen in Grafana."""

from __future__ import annotations

import json

from autoscale.kube.objects import Object

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VLLM = '{namespace="$namespace"}'
HPA = '{namespace="$namespace",horizontalpodautoscaler="$hpa"}'


def _quantiles(metric: str) -> list[tuple[str, str]]:
    rate = f"sum by (le) (rate({metric}_bucket{VLLM}[$__rate_interval]))"
    return [(f"p{share * 100:g}", f"histogram_quantile({share}, {rate})") for share in (0.5, 0.95, 0.99)]


# title, unit, what it tells, (legend, query) ...
PANELS: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    (
        "Replicas",
        "none",
        "Desired above serving: replicas are loading. Desired at max: the HPA cannot help any further.",
        [
            ("desired", f"max(kube_horizontalpodautoscaler_status_desired_replicas{HPA})"),
            ("serving", f"count(count by (pod) (vllm:num_requests_running{VLLM}))"),
            ("max", f"max(kube_horizontalpodautoscaler_spec_max_replicas{HPA})"),
            ("min", f"max(kube_horizontalpodautoscaler_spec_min_replicas{HPA})"),
        ],
    ),
    (
        "HPA conditions",
        "none",
        "ScalingActive at 0: the metric is unreadable. ScalingLimited at 1: held by min, max or a policy.",
        [
            (
                "{{condition}}",
                f'max by (condition) (kube_horizontalpodautoscaler_status_condition{HPA[:-1]},status="true"}})',
            )
        ],
    ),
    (
        "Waiting requests per replica",
        "none",
        "The queue of the scheduler: compare with the HPA's target.",
        [
            ("{{pod}}", f"sum by (pod) (vllm:num_requests_waiting{VLLM})"),
            (
                "mean",
                f"sum(vllm:num_requests_waiting{VLLM}) / count(count by (pod) (vllm:num_requests_waiting{VLLM}))",
            ),
        ],
    ),
    (
        "Running requests per replica",
        "none",
        "The batch: flat at the engine's limit means that latency grows in the queue.",
        [("{{pod}}", f"sum by (pod) (vllm:num_requests_running{VLLM})")],
    ),
    (
        "KV cache use per replica",
        "percentunit",
        "Near 1 the newest requests are preempted and computed again.",
        [
            (
                "{{pod}}",
                'avg by (pod) ({__name__=~"vllm:(kv|gpu)_cache_usage_perc",namespace="$namespace"})',
            )
        ],
    ),
    (
        "Preemptions",
        "ops",
        "Work that is done twice.",
        [("{{pod}}", f"sum by (pod) (rate(vllm:num_preemptions_total{VLLM}[$__rate_interval]))")],
    ),
    (
        "Time to first token",
        "s",
        "From vLLM's histogram, whose buckets are coarse: long waits read too long. A load test measures it exactly.",
        _quantiles("vllm:time_to_first_token_seconds"),
    ),
    (
        "Inter-token latency",
        "s",
        "From vLLM's histogram.",
        _quantiles("vllm:inter_token_latency_seconds"),
    ),
    (
        "Requests finished",
        "reqps",
        "A client that disconnects is not counted.",
        [
            (
                "{{finished_reason}}",
                f"sum by (finished_reason) (rate(vllm:request_success_total{VLLM}[$__rate_interval]))",
            )
        ],
    ),
    (
        "Tokens",
        "none",
        "Tokens per second over all replicas.",
        [
            ("prompt", f"sum(rate(vllm:prompt_tokens_total{VLLM}[$__rate_interval]))"),
            ("generated", f"sum(rate(vllm:generation_tokens_total{VLLM}[$__rate_interval]))"),
        ],
    ),
]


def dashboard() -> str:
    """The dashboard as JSON text, ready for Grafana's import."""
    content = {
        "title": "vLLM autoscaling",
        "uid": "llm-autoscale",
        "tags": ["vllm", "autoscaling"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(index, *panel) for index, panel in enumerate(PANELS)],
    }
    return json.dumps(content, indent=2) + "\n"


def _variables() -> list[Object]:
    hpas = 'label_values(kube_horizontalpodautoscaler_spec_max_replicas{namespace="$namespace"}, horizontalpodautoscaler)'
    queries = {"namespace": "label_values(vllm:num_requests_running, namespace)", "hpa": hpas}
    return [{"name": "datasource", "type": "datasource", "query": "prometheus"}] + [
        {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2}
        for name, query in queries.items()
    ]


def _panel(index: int, title: str, unit: str, description: str, queries: list[tuple[str, str]]) -> Object:
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(queries)
        ],
    }
