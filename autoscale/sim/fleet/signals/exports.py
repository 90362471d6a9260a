"""What a simulated fleet, its gateway and kube-state-metrics export, as series with labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from analysis.errors import BadInput
from autoscale.keda.queries import origin_of
from autoscale.kube.gateway_names import NEW, gateway_metric
from autoscale.kube.vllm_names import COLUMN_COUNTERS, exported_names, metric_of, signal_of
from autoscale.profiles.profile import Profile
from autoscale.sim.engine import flow_control
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.state import DECODE, TRANSIT
from autoscale.sim.fleet.pods import Pods
from autoscale.sim.fleet.replica import FleetReplica, pod_name
from autoscale.sim.fleet.signals.latencies import HISTOGRAMS, Latencies
from autoscale.sim.fleet.signals.readings import seen
from autoscale.sim.fleet.signals.series import Labels, Rows

Serving = Mapping[int, FleetReplica]  # slot -> replica whose engine is up
ROUTER_COUNTER = "vllm:num_incoming_requests_total"
# labels by which the series of one fleet differ
LABELS = frozenset({"pod", "engine", "le", "priority", "stage", "model_server_endpoint", "endpoint_name"})
_COUNTERS = {metric: column for column, metric in COLUMN_COUNTERS.items()}


class Exports:
    """The series of `names`, read from the engines at the moment of a scrape.

    Raises BadInput for a name that nothing in this fleet exports.
    """

    def __init__(self, profile: Profile, engine: Any, names: Iterable[str]) -> None:
        self.profile, self.engine = profile, engine
        self._of = {name: self._reader(name) for name in names}
        self._latencies: dict[str, Latencies] = {}
        self._ended = 0  # requests
        self._holds: dict[int, int] = {}  # slot -> the replica whose latencies are counted there
        for name in self._of:
            metric = metric_of(name)
            if origin_of(name) == "engine" and metric in HISTOGRAMS:
                self._latencies[metric] = Latencies(engine, metric)
        self._follows = bool(self._latencies) or ROUTER_COUNTER in self._of
        if self._follows:
            engine.follow()

    def rows(self, pods: Pods, serving: Serving) -> dict[str, Rows]:
        """Every series as (labels, value)."""
        if self._follows:
            self._follow(serving)
        return {name: list(reader(pods, serving)) for name, reader in self._of.items()}

    def _reader(self, name: str) -> Callable[[Pods, Serving], Iterator[tuple[Labels, float]]]:
        origin, metric = origin_of(name), metric_of(name)
        if origin == "replicas":
            return lambda pods, _: _replicas(name, pods)
        if origin == "gateway":
            return self._gateway_reader(name)
        if name == ROUTER_COUNTER and isinstance(self.engine, Replicas):
            return lambda *_: self._incoming()
        if origin == "engine" and isinstance(self.engine, Replicas):
            signal = signal_of(name)
            if signal and name not in exported_names(self.profile.engine.vllm_version):
                return lambda *_: iter(())  # another version's name, beside this one's
            column = signal
            if name.endswith("_total"):
                column = _COUNTERS.get(metric)
            if column is not None:
                return lambda _, serving: self._gauges(column, serving)
            if metric in HISTOGRAMS and name.endswith(("_bucket", "_sum", "_count")):
                return lambda _, serving: self._histogram(metric, name, serving)
        raise BadInput(
            "a query reads a series that nothing in this fleet exports",
            value=name,
            expected=f"one of {', '.join(exported_names(self.profile.engine.vllm_version))}, a latency histogram or "
            "counter of vLLM, a gauge of the gateway, or replica counts",
        )

    def _incoming(self) -> Iterator[tuple[Labels, float]]:
        """What production-stack's router counts, with or without a backend; absent before the first request."""
        if came := self._ended + self.engine.in_flight:
            yield (), float(came)

    # --- the replicas ---

    def _pod(self, replica: FleetReplica) -> str:
        return pod_name(self.profile, replica)

    def _gauges(self, column: str, serving: Serving) -> Iterator[tuple[Labels, float]]:
        rows = self.engine.engine_gauges()
        for row in rows[np.isin(rows["slot"], list(serving))]:
            replica = serving[int(row["slot"])]
            yield (("pod", self._pod(replica)), ("engine", str(row["engine"]))), float(row[column])

    def _follow(self, serving: Serving) -> None:
        for slot, replica in serving.items():
            if self._holds.get(slot) != replica.ordinal:
                self._holds[slot] = replica.ordinal
                for latencies in self._latencies.values():
                    latencies.restart(slot)
        ended = self.engine.ended()
        self._ended += len(ended)
        for latencies in self._latencies.values():
            latencies.count(ended)

    def _histogram(self, metric: str, name: str, serving: Serving) -> Iterator[tuple[Labels, float]]:
        latencies = self._latencies[metric]
        counts, sums = latencies.now()
        bounds = [*(f"{bound:g}" for bound in latencies.bounds), "+Inf"]
        for slot, replica in serving.items():
            pod: Labels = (("pod", self._pod(replica)),)
            if name.endswith("_sum"):
                yield pod, float(sums[slot])
            elif name.endswith("_count"):
                yield pod, float(counts[slot].sum())
            else:
                for bound, value in zip(bounds, np.cumsum(counts[slot]).tolist(), strict=True):
                    yield (*pod, ("le", bound)), value

    # --- the gateway ---

    def _gateway_reader(self, name: str) -> Callable[[Pods, Serving], Iterator[tuple[Labels, float]]]:
        metric = gateway_metric(name)
        short = metric.new.removeprefix(NEW) if metric else ""
        reader = getattr(self, f"_gateway_{short}", None)
        if not isinstance(self.engine, Replicas) or not self.engine.state.gate[0]["on"]:
            raise BadInput(
                "a query reads a series that only an inference gateway exports",
                value=name,
                next_step="switch the gateway on with --gateway",
            )
        if reader is None:
            raise BadInput("a query reads a series that the simulated gateway does not export", value=name)
        return lambda _, serving: reader(serving)

    def _by_priority(self, column: str) -> Iterator[tuple[Labels, float]]:
        for band in self.engine.state.bands:
            yield (("priority", str(band["priority"])),), float(band[column])

    def _gateway_flow_control_queue_size(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        return self._by_priority("waiting")

    def _gateway_request_running(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        return self._by_priority("running")

    def _gateway_flow_control_pool_saturation(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        for stage in ("decode", "effective"):
            yield (("stage", stage),), float(flow_control.saturation(self.engine.state))

    def _gateway_flow_control_stale_endpoints(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        gate, pods = self.engine.state.gate[0], self._seen()
        stale = len(pods) if gate["refresh_s"] >= gate["stale_s"] else int((pods["fresh"] == 0).sum())
        yield (), float(stale)

    def _seen(self) -> Any:
        state = self.engine.state
        return state.seen[state.open_list[: int(state.clock[0]["open_slots"])]]

    def _gateway_ready_endpoints(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        yield (), float(self.engine.state.clock[0]["open_slots"])

    def _gateway_average_queue_size(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        if len(pods := self._seen()):
            yield (), float(pods["waiting"].mean())

    def _gateway_average_kv_cache_utilization(self, _: Serving) -> Iterator[tuple[Labels, float]]:
        if len(pods := self._seen()):
            yield (), float(pods["kv_usage"].mean())

    def _gateway_average_running_requests(self, serving: Serving) -> Iterator[tuple[Labels, float]]:
        rows = self.engine.gauges()
        if serving:
            yield (), float(rows["running"][list(serving)].mean())

    def _gateway_per_endpoint_queue_size(self, serving: Serving) -> Iterator[tuple[Labels, float]]:
        for slot, replica in serving.items():
            yield (
                (("model_server_endpoint", self._pod(replica)),),
                float(self.engine.state.seen[slot]["waiting"]),
            )

    def _gateway_inflight_requests(self, serving: Serving) -> Iterator[tuple[Labels, float]]:
        for slot, replica in serving.items():
            yield (("endpoint_name", self._pod(replica)),), float(self.engine.in_flight_of(slot))

    def _gateway_inflight_tokens(self, serving: Serving) -> Iterator[tuple[Labels, float]]:
        """Prompt tokens that no cache had and whose answer has not begun."""
        held = self.engine.state.requests
        held = held[(held["state"] >= TRANSIT) & (held["state"] <= DECODE) & np.isnan(held["first_s"])]
        block = self.engine.params.block_size
        cached = np.minimum(held["prefix"], held["prompt"] - 1) // block * block
        tokens = np.zeros(self.engine.slots)
        np.add.at(tokens, held["engine"] // self.engine.params.data_parallel, held["prompt"] - cached)
        for slot, replica in serving.items():
            yield (("endpoint_name", self._pod(replica)),), float(tokens[slot])


def _replicas(name: str, pods: Pods) -> Iterator[tuple[Labels, float]]:
    """kube-state-metrics: what the workload's spec and status say."""
    status = seen(pods)
    ready = status.ready or 0
    if name.endswith(("spec_replicas", "statefulset_replicas")):
        value = pods.desired
    elif name.endswith("unavailable"):
        value = max(0, status.replicas - ready)
    elif name.endswith(("available", "ready", "ready_replicas")):
        value = ready
    else:
        value = status.replicas
    yield (), math.floor(value)
