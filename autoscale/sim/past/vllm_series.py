"""What vLLM's pages told at every scrape of a simulated fleet, pod by pod: gauges, counters, histograms of lengths, sums of latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autoscale.kube.vllm_buckets import TOKEN_BUCKETS
from autoscale.kube.vllm_names import COLUMN_COUNTERS, SIGNAL_NAMES
from autoscale.sim.fleet.outcome import Outcome

COUNTED = ("requests_total", "prompt_tokens_total", "generation_tokens_total")
# column of a run's metrics -> its series, by the newest name
NAMES = {signal: names[0].series for signal, names in SIGNAL_NAMES.items()} | {
    column: f"vllm:{COLUMN_COUNTERS[column]}_total" for column in COUNTED
}
HISTOGRAMS = {
    "prompt_tokens": "vllm:request_prompt_tokens",
    "output_tokens": "vllm:request_generation_tokens",
}
Floats = NDArray[np.float64]
Told = tuple[NDArray[Any], NDArray[Any]]  # sum and count at every scrape
Gauges = Mapping[str, list[tuple[str, pd.Series]]]  # name -> labels and values by time


@dataclass(frozen=True, eq=False)
class PastSeries:
    """One series: its name and labels, seconds of its samples and their values, and how these are written."""

    labels: str
    times_s: Floats
    values: NDArray[Any]
    form: str = ".0f"


Families = list[tuple[str, str, list[PastSeries]]]  # name, kind


def with_pods(outcome: Outcome, finished: pd.DataFrame) -> pd.DataFrame:
    """The requests with the pod that served each: the one that was scraped in its slot when its first token came."""
    assert outcome.requests is not None
    slots = pd.Series(outcome.requests["slot"], index=outcome.requests["request_id"])
    seen = pd.DataFrame(
        {
            "at_s": np.repeat(
                [at_s for at_s, _, _ in outcome.samples], [len(p) for _, _, p in outcome.samples]
            ),
            "slot": np.concatenate([rows["slot"] for _, rows, _ in outcome.samples]).astype(np.int64),
            "pod": [pod for _, _, pods in outcome.samples for pod in pods],
        }
    ).drop_duplicates(["at_s", "slot"])
    asked = finished.assign(slot=slots.loc[finished["request_id"]].to_numpy(np.int64))
    return pd.merge_asof(
        asked.sort_values("first_token_s"),
        seen.sort_values("at_s"),
        left_on="first_token_s",
        right_on="at_s",
        by="slot",
        direction="forward",
    ).dropna(subset=["pod"])


def families(
    metrics: pd.DataFrame,
    finished: pd.DataFrame,
    model: str,
    more: Gauges | None = None,
    kv_blocks: tuple[int, int] | None = None,
) -> Families:
    """The series of the pods at their scrapes (a run's metrics); `finished` requests with times, tokens and pod.

    `more` are further gauges; `kv_blocks` is how many of how many tokens.
    """
    metrics = metrics.sort_values(["pod", "time_s"])
    pods = {str(pod): rows for pod, rows in metrics.groupby("pod")}
    times = {pod: rows["time_s"].to_numpy(float) for pod, rows in pods.items()}
    by_pod = {str(pod): mine for pod, mine in finished.groupby("pod")}
    found: Families = []
    for column, name in NAMES.items():
        counter = column.endswith("_total")
        reason = ',finished_reason="stop"' if column == "requests_total" else ""
        many = [
            PastSeries(
                f"{name}{{{_labels(pod, model)}{reason}}}",
                times[pod],
                rows[column].to_numpy(float),
                ".0f" if counter else ".6g",
            )
            for pod, rows in pods.items()
        ]
        found.append((name.removesuffix("_total"), "counter" if counter else "gauge", many))
    served = [pod for pod in pods if pod in by_pod]
    for column, name in HISTOGRAMS.items():
        many = [one for pod in served for one in _lengths(name, _labels(pod, model), times[pod], by_pod[pod], column)]  # fmt: skip
        found.append((name, "histogram", many))
    for name, of in LATENCIES.items():
        many = [one for pod in served for one in _latency(name, _labels(pod, model), times[pod], of(by_pod[pod], times[pod]))]  # fmt: skip
        found.append((name, "histogram", many))
    if kv_blocks:
        blocks = f'num_gpu_blocks="{kv_blocks[0]}",block_size="{kv_blocks[1]}"'
        many = [
            PastSeries(f'vllm:cache_config_info{{pod="{pod}",engine="0",{blocks}}}', times[pod], np.ones(len(times[pod])))
            for pod in pods
        ]  # fmt: skip
        found.append(("vllm:cache_config_info", "gauge", many))
    for name, series in (more or {}).items():
        many = [
            PastSeries(f"{name}{{{labels}}}", values.index.to_numpy(float), values.to_numpy(float), ".15g")
            for labels, values in series
        ]
        found.append((name, "gauge", many))
    return found


def _labels(pod: str, model: str) -> str:
    return f'pod="{pod}",model_name="{model}",engine="0"'


def _lengths(
    name: str, labels: str, times_s: Floats, mine: pd.DataFrame, column: str
) -> Iterator[PastSeries]:
    """One histogram of one pod, counted when a request is finished."""
    mine = mine.sort_values("last_token_s")
    at = np.searchsorted(mine["last_token_s"].to_numpy(), times_s, side="right")
    sizes = mine[column].to_numpy()
    for bound in [*TOKEN_BUCKETS, np.inf]:
        counted = np.concatenate([[0], np.cumsum(sizes <= bound)])[at]
        le = "+Inf" if bound == np.inf else f"{bound:.1f}"
        yield PastSeries(f'{name}_bucket{{{labels},le="{le}"}}', times_s, counted)
    yield PastSeries(f"{name}_sum{{{labels}}}", times_s, np.concatenate([[0], np.cumsum(sizes)])[at])
    yield PastSeries(f"{name}_count{{{labels}}}", times_s, at)


def _latency(name: str, labels: str, times_s: Floats, told: Told) -> Iterator[PastSeries]:
    """Sum and count of a latency."""
    total, count = told
    yield PastSeries(f'{name}_bucket{{{labels},le="+Inf"}}', times_s, count)
    yield PastSeries(f"{name}_sum{{{labels}}}", times_s, total, ".9g")
    yield PastSeries(f"{name}_count{{{labels}}}", times_s, count)


def _first_tokens(mine: pd.DataFrame, times_s: Floats) -> Told:
    """Seconds until first tokens so far, and how many."""
    mine = mine.sort_values("first_token_s")
    at = np.searchsorted(mine["first_token_s"].to_numpy(), times_s, side="right")
    waits = (mine["first_token_s"] - mine["sent_s"]).to_numpy()
    return np.concatenate([[0], np.cumsum(waits)])[at], at


def _gaps(mine: pd.DataFrame, times_s: Floats) -> Told:
    """Seconds between tokens so far, and how many gaps: straight lines from each request's first to its last token."""
    first, last = mine["first_token_s"].to_numpy(float), mine["last_token_s"].to_numpy(float)
    rate = np.maximum(mine["output_tokens"].to_numpy(float) - 1, 0.0) / np.maximum(last - first, 1e-9)

    def grown(weight: Floats) -> Floats:
        order_first, order_last = np.argsort(first), np.argsort(last)
        total = np.zeros(len(times_s))
        for edges, order, sign in ((first, order_first, 1.0), (last, order_last, -1.0)):
            at = np.searchsorted(edges[order], times_s, side="right")
            sums = np.concatenate([[0.0], np.cumsum(weight[order])])[at]
            moments = np.concatenate([[0.0], np.cumsum((weight * edges)[order])])[at]
            total += sign * (sums * times_s - moments)
        return total

    count = np.maximum.accumulate(np.floor(grown(rate) + 1e-6))
    return np.maximum.accumulate(grown(np.where(rate > 0, 1.0, 0.0))), count


LATENCIES: Mapping[str, Callable[[pd.DataFrame, Floats], Told]] = {
    # TTFT, counted with the first token, and ITL, with every further one (evenly spread)
    "vllm:time_to_first_token_seconds": _first_tokens,
    "vllm:inter_token_latency_seconds": _gaps,
}
