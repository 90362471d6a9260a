"""What one vLLM replica exports on /metrics: gauges and counters from the engine, histograms from what requests saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analysis.run import STATUSES
from autoscale.kube.vllm_buckets import ITL_BUCKETS, LATENCY_BUCKETS, TOKEN_BUCKETS, TTFT_BUCKETS
from autoscale.kube.vllm_names import exported_names, signal_of, version_tuple
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.http.prefix_cache import PrefixCache

ITL_RENAMED_IN = (0, 11)  # vllm:time_per_output_token_seconds before

_COUNTERS = (
    ("vllm:num_preemptions", "preemptions_total", "Cumulative number of preemption from the engine."),
    ("vllm:prompt_tokens", "prompt_tokens_total", "Number of prefill tokens processed."),
    ("vllm:generation_tokens", "generation_tokens_total", "Number of generation tokens processed."),
)
_HELP = {  # of every signal, whatever this version calls it
    "waiting": "Number of requests waiting to be processed.",
    "running": "Number of requests in model execution batches.",
    "kv_usage": "KV-cache usage. 1 means 100 percent usage.",
}


class ReplicaMetrics(Collector):
    """The metrics of one replica from its start on; `gauges` returns engine.GAUGES with one row per engine."""

    def __init__(
        self,
        profile: Profile,
        params: EngineParams,
        gauges: Callable[[], NDArray[Any]],
        cache: PrefixCache,
    ) -> None:
        self.profile, self.params, self.gauges, self.cache = profile, params, gauges, cache
        self.registry = CollectorRegistry()
        self.registry.register(self)
        version = profile.engine.vllm_version
        itl = "inter_token_latency" if version_tuple(version) >= ITL_RENAMED_IN else "time_per_output_token"
        self._ttft = self._histogram("time_to_first_token_seconds", TTFT_BUCKETS, "time to first token")
        self._itl = self._histogram(f"{itl}_seconds", ITL_BUCKETS, "inter-token latency")
        self._e2e = self._histogram("e2e_request_latency_seconds", LATENCY_BUCKETS, "e2e request latency")
        self._queue = self._histogram(
            "request_queue_time_seconds", LATENCY_BUCKETS, "time spent in WAITING phase"
        )
        self._tpot = self._histogram(
            "request_time_per_output_token_seconds", ITL_BUCKETS, "time_per_output_token per request"
        )
        self._prompt = self._histogram("request_prompt_tokens", TOKEN_BUCKETS, "prefill tokens processed")
        self._output = self._histogram("request_generation_tokens", TOKEN_BUCKETS, "generation tokens")
        success = Counter(
            "vllm:request_success",
            "Count of successfully processed requests.",
            ["engine", "finished_reason", "model_name"],
            registry=self.registry,
        )
        self._success = {
            reason: success.labels("0", reason, profile.model.id) for reason in ("stop", "length", "abort")
        }

    def _histogram(self, name: str, buckets: tuple[float, ...], what: str) -> Any:
        histogram = Histogram(
            f"vllm:{name}",
            f"Histogram of {what}.",
            ["engine", "model_name"],
            registry=self.registry,
            buckets=buckets,
        )
        return histogram.labels("0", self.profile.model.id)

    def collect(self) -> Iterator[Metric]:
        """Gauges, counters and cache facts, read from the engine at the moment of the scrape."""
        rows, model = self.gauges(), self.profile.model.id
        for name in exported_names(self.profile.engine.vllm_version):
            signal = signal_of(name) or ""
            gauge = GaugeMetricFamily(name, _HELP[signal], labels=["engine", "model_name"])
            for row in rows:
                gauge.add_metric([str(row["engine"]), model], float(row[signal]))
            yield gauge
        for name, column, text in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["engine", "model_name"])
            for row in rows:
                counter.add_metric([str(row["engine"]), model], float(row[column]))
            yield counter
        for name, tokens, text in (
            (
                "vllm:prefix_cache_queries",
                self.cache.queries,
                "Prefix cache queries, in terms of number of queried tokens.",
            ),
            (
                "vllm:prefix_cache_hits",
                self.cache.hits,
                "Prefix cache hits, in terms of number of cached tokens.",
            ),
        ):
            counter = CounterMetricFamily(name, text, labels=["engine", "model_name"])
            counter.add_metric(["0", model], float(tokens))
            yield counter
        facts = {
            "block_size": str(self.params.block_size),
            "num_gpu_blocks": str(self.params.num_blocks),
            "kv_cache_size_tokens": str(self.params.num_blocks * self.params.block_size),
            "gpu_memory_utilization": str(self.profile.engine.memory_utilization),
            "enable_prefix_caching": "True",
        }
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=[*facts, "engine"]
        )
        for row in rows:
            info.add_metric([*facts.values(), str(row["engine"])], 1.0)
        yield info

    def first_token(self, ttft_s: float) -> None:
        """A request got its first token this long after it was received."""
        self._ttft.observe(ttft_s)

    def gap(self, gap_s: float, tokens: int) -> None:
        """`tokens` more came out, `gap_s` after the ones before."""
        for _ in range(tokens):
            self._itl.observe(gap_s / tokens)

    def finished(self, done: Any) -> None:
        """A request ended (one record of engine.FINISHED). A client that went away does not count, as in vLLM."""
        if done["status"] != STATUSES.index("ok"):
            return
        self._success["length"].inc()
        first_s, last_s, tokens = done["first_token_s"], done["last_token_s"], int(done["output_tokens"])
        self._e2e.observe(last_s - done["sent_s"])
        if tokens > 1:
            self._tpot.observe((last_s - first_s) / (tokens - 1))
        prefill_s = self.params.step_s(1, 0, float(done["prompt_tokens"]))
        self._queue.observe(max(0.0, first_s - done["sent_s"] - prefill_s))
        self._prompt.observe(float(done["prompt_tokens"]))
        self._output.observe(tokens)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
