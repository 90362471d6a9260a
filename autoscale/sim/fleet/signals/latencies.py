"""vLLM's latency histograms of each replica, as they stand at a scrape.

A first token counts when it is out, an answer when it ends. The engine knows no gap between two tokens: every gap of an
answer counts as long as they were on average, when it ends.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.run import STATUSES
from autoscale.kube.vllm_buckets import ITL_BUCKETS, LATENCY_BUCKETS, TTFT_BUCKETS
from autoscale.sim.engine.replicas import Replicas
from autoscale.sim.engine.state import DECODE, TRANSIT

HISTOGRAMS = {
    "time_to_first_token_seconds": TTFT_BUCKETS,
    "inter_token_latency_seconds": ITL_BUCKETS,
    "time_per_output_token_seconds": ITL_BUCKETS,
    "request_time_per_output_token_seconds": ITL_BUCKETS,
    "e2e_request_latency_seconds": LATENCY_BUCKETS,
}
PER_TOKEN = {"inter_token_latency_seconds", "time_per_output_token_seconds"}


class Latencies:
    """The histograms of one metric, by the slots that replicas hold; `restart` when a slot gets a new replica."""

    def __init__(self, engine: Replicas, metric: str) -> None:
        self.metric, self.bounds = metric, HISTOGRAMS[metric]
        self._counts = np.zeros((engine.slots, len(self.bounds) + 1))
        self._sums = np.zeros(engine.slots)
        self._engine = engine

    def restart(self, slot: int) -> None:
        """A new replica has counted nothing."""
        self._counts[slot], self._sums[slot] = 0, 0

    def count(self, ended: NDArray[Any]) -> None:
        """Requests that ended (engine.FINISHED)."""
        ended = ended[ended["slot"] >= 0]
        first_s, last_s = ended["first_token_s"], ended["last_token_s"]
        more = np.maximum(ended["output_tokens"] - 1, 0)
        ok = ended["status"] == STATUSES.index("ok")
        times = np.ones(len(ended))
        if self.metric == "time_to_first_token_seconds":
            values = first_s - ended["sent_s"]
        elif self.metric == "e2e_request_latency_seconds":
            values = np.where(ok, last_s - ended["sent_s"], math.nan)
        else:
            values = np.where(ok & (more > 0), (last_s - first_s) / np.maximum(more, 1), math.nan)
            times = more if self.metric in PER_TOKEN else times
        self._add(self._counts, self._sums, ended["slot"], values, times)

    def now(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(counts per slot and bucket, the last one open; sums per slot), with the first tokens of requests under way."""
        counts, sums = self._counts.copy(), self._sums.copy()
        if self.metric == "time_to_first_token_seconds":
            held = self._engine.state.requests
            held = held[(held["state"] >= TRANSIT) & (held["state"] <= DECODE)]
            slots = held["engine"] // self._engine.params.data_parallel
            self._add(counts, sums, slots, held["first_s"] - held["sent_s"], np.ones(len(held)))
        return counts, sums

    def _add(
        self,
        counts: NDArray[Any],
        sums: NDArray[Any],
        slots: NDArray[Any],
        values: NDArray[Any],
        times: NDArray[Any],
    ) -> None:
        known = np.isfinite(values)
        slots, values, times = slots[known], values[known], times[known]
        np.add.at(counts, (slots, np.searchsorted(self.bounds, values)), times)
        np.add.at(sums, slots, values * times)
