"""What a served inference gateway exports on /metrics, under its newer and its older names (kube.gateway_names)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from autoscale.kube.gateway_names import NEW, gateway_metric
from autoscale.sim.http.flow_gate import FlowGate

WAIT_BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600)
PRIORITY, FLOW = "0", "default-flow"
Rows = list[tuple[dict[str, str], float]]


class GatewayMetrics(Collector):
    """The endpoint picker's metrics. `pods` gives slot -> pod name of the pods that take traffic."""

    def __init__(self, gate: FlowGate, pool: str, model: str, pods: Callable[[], Mapping[int, str]]) -> None:
        self.gate, self.pool, self.model, self.pods = gate, pool, model, pods
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._waits = [
            Histogram(
                name,
                "Time that requests waited in flow control.",
                ["fairness_id", "priority", "outcome", "inference_pool", "model_name", "target_model_name"],
                buckets=WAIT_BUCKETS,
                registry=self.registry,
            )
            for name in _names("flow_control_request_queue_duration_seconds")
        ]
        gate.told = self._waited

    def _waited(self, outcome: str, waited_s: float) -> None:
        for histogram in self._waits:
            histogram.labels(FLOW, PRIORITY, outcome, self.pool, self.model, self.model).observe(waited_s)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Every gauge and counter."""
        for short, rows in self._gauges():
            for name in _names(short):
                yield _filled(
                    GaugeMetricFamily(name, f"The endpoint picker's {short}.", labels=_labels(rows)), rows
                )
        told = CounterMetricFamily(
            NEW + "flow_control_requests",
            "Requests by what became of them in flow control.",
            labels=["outcome", "priority", "inference_pool"],
        )
        for outcome, count in sorted(self.gate.outcomes.items()):
            told.add_metric([outcome, PRIORITY, self.pool], float(count))
        yield told

    def _gauges(self) -> Iterator[tuple[str, Rows]]:
        held, running, saturation = self.gate.gauges
        model = {"model_name": self.model, "target_model_name": self.model}
        flow = {"fairness_id": FLOW, "priority": PRIORITY}
        stages = ("decode", "effective")
        if self.gate.options.flow_control:
            yield "flow_control_queue_size", [({**flow, "inference_pool": self.pool, **model}, held)]
        yield (
            "flow_control_pool_saturation",
            [({"inference_pool": self.pool, "stage": stage}, saturation) for stage in stages],
        )
        if self.gate.outcomes["Dispatched"]:
            yield "request_running", [({**model, **flow}, running)]
        pods, pool = self.pods(), {"name": self.pool}
        yield "ready_endpoints", [(pool, float(len(pods)))]
        if not pods:
            return
        seen = self.gate.replicas.gauges()[list(pods)]
        for short, column in (
            ("average_queue_size", "waiting"),
            ("average_running_requests", "running"),
            ("average_kv_cache_utilization", "kv_usage"),
        ):
            yield short, [(pool, float(seen[column].mean()))]
        waiting = zip(pods.values(), seen["waiting"].tolist(), strict=True)
        yield (
            "per_endpoint_queue_size",
            [({**pool, "model_server_endpoint": pod}, float(value)) for pod, value in waiting],
        )


def _names(short: str) -> list[str]:
    """Both names of a metric, where it has two."""
    found = gateway_metric(NEW + short)
    assert found is not None
    return [name for name in (found.new, found.old) if name]


def _labels(rows: Rows) -> list[str]:
    return list(rows[0][0])


def _filled(family: Any, rows: Rows) -> Metric:
    for labels, value in rows:
        family.add_metric(list(labels.values()), value)
    filled: Metric = family
    return filled
