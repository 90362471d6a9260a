"""A simulated fleet's past as a Prometheus would have it: written as OpenMetrics, made into blocks, served."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests

from autoscale.ports import free_ports
from autoscale.sim.fleet.outcome import Outcome

NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_usage": "vllm:kv_cache_usage_perc",
    "requests_total": "vllm:request_success_total",
    "prompt_tokens_total": "vllm:prompt_tokens_total",
    "generation_tokens_total": "vllm:generation_tokens_total",
}
BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000]
HISTOGRAMS = {
    "prompt_tokens": "vllm:request_prompt_tokens",
    "output_tokens": "vllm:request_generation_tokens",
}


def with_pods(outcome: Outcome, finished: pd.DataFrame) -> pd.DataFrame:
    """The requests with the pod that served each: the one that was scraped in its slot when its first token came."""
    assert outcome.requests is not None
    slots = pd.Series(outcome.requests["slot"], index=outcome.requests["request_id"])
    seen = pd.concat(
        pd.DataFrame({"at_s": at_s, "slot": rows["slot"].astype(np.int64), "pod": pods})
        for at_s, rows, pods in outcome.samples
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


@dataclass(frozen=True, eq=False)
class Series:
    """One series: its name and labels, seconds of its samples and their values, and how these are written."""

    labels: str
    times_s: Any
    values: Any
    form: str = ".0f"


Families = list[tuple[str, str, list[Series]]]  # name, kind


def open_metrics(
    path: Path,
    metrics: pd.DataFrame,
    finished: pd.DataFrame,
    zero: float,
    model: str,
    more: Mapping[str, list[tuple[str, pd.Series]]] | None = None,
    kv_blocks: tuple[int, int] | None = None,
) -> None:
    """The series of the pods at their scrapes; `finished` requests (first_ and last_token_s, due_s, tokens, pod).

    `more` are further gauges: name -> labels and values by time; `kv_blocks` is how many of how many tokens.
    """
    write(path, families(metrics, finished, model, more, kv_blocks), zero)


def write(path: Path, told: Families, zero: float, window: tuple[float, float] = (-np.inf, np.inf)) -> None:
    """The samples from the window's begin on and before its end (s) as OpenMetrics, `zero` (unix s) being their 0."""
    texts: dict[int, tuple[Any, list[str]]] = {}  # of times that several series share
    with open(path, "w") as file:
        for name, kind, many in told:
            file.write(f"# TYPE {name} {kind}\n")
            for one in many:
                inside = slice(*np.searchsorted(one.times_s, window))
                if (known := texts.get(id(one.times_s))) is None:
                    texts[id(one.times_s)] = known = (
                        one.times_s,
                        [f"{zero + t:.3f}" for t in one.times_s[inside]],
                    )
                form = f"{one.labels} %{one.form} %s\n"
                file.write(
                    "".join([form % pair for pair in zip(one.values[inside].tolist(), known[1], strict=True)])
                )
        file.write("# EOF\n")


def families(
    metrics: pd.DataFrame,
    finished: pd.DataFrame,
    model: str,
    more: Mapping[str, list[tuple[str, pd.Series]]] | None = None,
    kv_blocks: tuple[int, int] | None = None,
) -> Families:
    """All that `open_metrics` writes."""
    metrics = metrics.sort_values(["pod", "time_s"])
    pods = {str(pod): rows for pod, rows in metrics.groupby("pod")}
    times = {pod: rows["time_s"].to_numpy(float) for pod, rows in pods.items()}
    by_pod = {str(pod): mine for pod, mine in finished.groupby("pod")}
    found: Families = []
    for column, name in NAMES.items():
        counter = column.endswith("_total")
        reason = ',finished_reason="stop"' if column == "requests_total" else ""
        many = [
            Series(
                f'{name}{{pod="{pod}",model_name="{model}",engine="0"{reason}}}',
                times[pod],
                rows[column].to_numpy(float),
                ".0f" if counter else ".6g",
            )
            for pod, rows in pods.items()
        ]
        found.append((name.removesuffix("_total"), "counter" if counter else "gauge", many))
    served = [pod for pod in pods if pod in by_pod]
    for column, name in HISTOGRAMS.items():
        many = [
            one
            for pod in served
            for one in _histogram(name, _labels(pod, model), times[pod], by_pod[pod], column)
        ]
        found.append((name, "histogram", many))
    for name, of in LATENCIES.items():
        many = [
            one
            for pod in served
            for one in _latency(name, _labels(pod, model), times[pod], of(by_pod[pod], times[pod]))
        ]
        found.append((name, "histogram", many))
    if kv_blocks:
        many = [
            Series(
                f'vllm:cache_config_info{{pod="{pod}",engine="0",num_gpu_blocks="{kv_blocks[0]}",block_size="{kv_blocks[1]}"}}',
                times[pod],
                np.ones(len(times[pod])),
            )
            for pod in pods
        ]
        found.append(("vllm:cache_config_info", "gauge", many))
    for name, series in (more or {}).items():
        many = [
            Series(f"{name}{{{labels}}}", values.index.to_numpy(float), values.to_numpy(float), ".15g")
            for labels, values in series
        ]
        found.append((name, "gauge", many))
    return found


def _labels(pod: str, model: str) -> str:
    return f'pod="{pod}",model_name="{model}",engine="0"'


def _histogram(name: str, labels: str, times_s: Any, mine: pd.DataFrame, column: str) -> Iterator[Series]:
    """One histogram of one pod, counted when a request is finished."""
    mine = mine.sort_values("last_token_s")
    at = np.searchsorted(mine["last_token_s"].to_numpy(), times_s, side="right")
    sizes = mine[column].to_numpy()
    for bound in [*BOUNDS, np.inf]:
        counted = np.concatenate([[0], np.cumsum(sizes <= bound)])[at]
        le = "+Inf" if bound == np.inf else f"{bound:.1f}"
        yield Series(f'{name}_bucket{{{labels},le="{le}"}}', times_s, counted)
    yield Series(f"{name}_sum{{{labels}}}", times_s, np.concatenate([[0], np.cumsum(sizes)])[at])
    yield Series(f"{name}_count{{{labels}}}", times_s, at)


def _latency(name: str, labels: str, times_s: Any, told: tuple[Any, Any]) -> Iterator[Series]:
    """Sum and count of a latency."""
    total, count = told
    yield Series(f'{name}_bucket{{{labels},le="+Inf"}}', times_s, count)
    yield Series(f"{name}_sum{{{labels}}}", times_s, total, ".9g")
    yield Series(f"{name}_count{{{labels}}}", times_s, count)


def _first_tokens(mine: pd.DataFrame, times_s: Any) -> tuple[Any, Any]:
    """Seconds until first tokens so far, and how many."""
    mine = mine.sort_values("first_token_s")
    at = np.searchsorted(mine["first_token_s"].to_numpy(), times_s, side="right")
    waits = (mine["first_token_s"] - mine["sent_s"]).to_numpy()
    return np.concatenate([[0], np.cumsum(waits)])[at], at


def _gaps(mine: pd.DataFrame, times_s: Any) -> tuple[Any, Any]:
    """Seconds between tokens so far, and how many gaps: straight lines from each request's first to its last token."""
    first, last = mine["first_token_s"].to_numpy(float), mine["last_token_s"].to_numpy(float)
    rate = np.maximum(mine["output_tokens"].to_numpy(float) - 1, 0.0) / np.maximum(last - first, 1e-9)

    def grown(weight: Any) -> Any:
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


LATENCIES = {  # TTFT, counted with the first token, and ITL, with every further one (evenly spread)
    "vllm:time_to_first_token_seconds": _first_tokens,
    "vllm:inter_token_latency_seconds": _gaps,
}


def add_blocks(text: Path, folder: Path) -> None:
    """Put the samples of an OpenMetrics file into the database of a folder; quick for two hours of them, from an even hour on."""
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", text, folder / "tsdb"]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def prometheus(text: Path, folder: Path) -> Iterator[str]:
    """A real Prometheus over the blocks of an OpenMetrics file: its address."""
    add_blocks(text, folder)
    with serving(folder) as url:
        yield url


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A real Prometheus over the database of a folder (add_blocks): its address."""
    config = folder / "prometheus.yml"
    config.write_text("global: {scrape_interval: 15s}\n")
    port = free_ports(1)
    command = [
        shutil.which("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"{url}/-/ready", timeout=2).ok:
                        break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)
