"""From a gauge on a replica to the value that the HPA reads: names, scrapes, ingestion, and what a silent pod leaves behind.

A scrape at s becomes visible at s + ingestion delay. The adapter answers with a pod's newest visible point inside its
window (5 minutes), so a pod that stopped exporting keeps its last value that long, and a pod that never exported has none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from analysis.numbers import known
from autoscale.kube.vllm_names import exported_names, prometheus_name, series_of, signal_of
from autoscale.profiles.profile import MetricPath

Sample = tuple[float, float, float]  # one pod's gauges: waiting, running, kv_usage (analysis.run.SIGNALS)

SYNC_DRIFT_MIN_S, SYNC_DRIFT_MEAN_S, SYNC_DRIFT_MAX_S = 0.017, 0.06, 0.196  # 50 syncs of a v1.36.2 controller
SYNCS_DRAWN = 1024  # at a time, as sync_times draws its drifts


def exported_signal(metric: str, vllm_version: str, place: str) -> str:
    """Which gauge of a replica an HPA's metric name means: waiting, running or kv_usage; it stands at `place` of the HPA.

    Understands the names of every metric path (kube.vllm_names). Raises BadInput for one that says none of them, or
    one that this version of vLLM does not export.
    """
    signal = signal_of(metric)
    exported = exported_names(vllm_version)
    expected = f"one of {', '.join(exported)}, named as the metric path names it"
    if signal is None:
        raise BadInput(
            f"{place}: the HPA scales on a metric that the fleet does not export",
            value=metric,
            expected=expected,
        )
    stackdriver = metric.split("|")
    if stackdriver[0] == "prometheus.googleapis.com" and stackdriver[2:] != ["gauge"]:
        raise BadInput(
            f"{place}: the HPA asks for a gauge under another kind",
            value=metric,
            expected=f"prometheus.googleapis.com|{prometheus_name(signal, vllm_version)}|gauge",
        )
    if series_of(metric) not in exported:
        raise BadInput(
            f"{place}: the HPA scales on a metric that vLLM {vllm_version} does not export",
            value=metric,
            expected=expected,
            next_step=f"use {prometheus_name(signal, vllm_version)} in the HPA",
        )
    return signal


class SamplePath:
    """Samples on their way from the replicas to the HPA. Pods are named by any hashable key."""

    def __init__(self, timing: MetricPath) -> None:
        self.timing = timing
        self.on_the_way: deque[tuple[float, Mapping[int, Sample]]] = deque()
        self.latest: dict[int, tuple[float, Sample]] = {}

    def scrape(self, now_s: float, samples: Mapping[int, Sample]) -> None:
        """What the pods exported at `now_s`; a pod that did not answer is simply not in it."""
        self.on_the_way.append((now_s, samples))

    def forget(self, pod: int) -> None:
        """The pod is gone: nobody asks for it any more."""
        self.latest.pop(pod, None)

    def read(self, now_s: float) -> dict[int, tuple[float, Sample]]:
        """Per pod the newest visible (scraped_s, sample); the caller must not change it. Stale ones are left out."""
        visible_s = now_s - self.timing.ingestion_delay_s
        queue, latest = self.on_the_way, self.latest
        while queue and queue[0][0] <= visible_s:
            scraped_s, samples = queue.popleft()
            for pod, sample in samples.items():
                latest[pod] = (scraped_s, sample)
        oldest_s = now_s - self.timing.adapter_window_s
        for pod in [pod for pod, (scraped_s, _) in latest.items() if scraped_s < oldest_s]:
            del latest[pod]
        return latest


def thousandths(value: float) -> int:
    """A gauge as the adapters hand it out: truncated to thousandths."""
    return int(value * 1000 + 1e-9)


def gauge_milli(value: float) -> int | None:
    """The same; None when the gauge was not reported (NaN)."""
    return thousandths(value) if known(value) else None


class Syncs:
    """Sync times, the next one first, with a look at those to come."""

    def __init__(self, times: Iterator[float]) -> None:
        self._times = times
        self._known = np.zeros(0)
        self._at = 0

    @property
    def next_s(self) -> float:
        """The next sync."""
        return float(self.ahead(1)[0])

    def ahead(self, count: int) -> NDArray[np.float64]:
        """The next `count` syncs, at least."""
        if len(self._known) - self._at < count:
            more = np.fromiter(islice(self._times, max(count, SYNCS_DRAWN)), float)
            self._known, self._at = np.concatenate([self._known[self._at :], more]), 0
        return self._known[self._at :]

    def skip(self, count: int) -> None:
        """These have been."""
        self._at += count


def sync_times(period_s: float, rng: np.random.Generator, *, drift: bool = True) -> Iterator[float]:
    """When the HPA controller syncs, in s after the HPA was created: the first a period later, each 15.02-15.20 s apart.

    The drift is the controller's own: it waits a period after it has finished. Without it, syncs are k * period.
    """
    now_s = 0.0
    for k in range(1, 1 << 62):
        if not drift:
            yield k * period_s
            continue
        if k % 1024 == 1:
            tail = rng.standard_exponential(1024) * (SYNC_DRIFT_MEAN_S - SYNC_DRIFT_MIN_S)
            drifts = np.minimum(SYNC_DRIFT_MIN_S + tail, SYNC_DRIFT_MAX_S).tolist()
        now_s += period_s + drifts[(k - 1) % 1024]
        yield now_s
