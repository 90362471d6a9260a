"""A simulated fleet's past as a Prometheus would have it: written as OpenMetrics, made into blocks, served."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import requests

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
    metrics = metrics.sort_values(["pod", "time_s"])
    pods = dict(list(metrics.groupby("pod")))
    by_pod = dict(list(finished.groupby("pod")))
    with open(path, "w") as file:
        for column, name in NAMES.items():
            counter = column.endswith("_total")
            file.write(f"# TYPE {name.removesuffix('_total')} {'counter' if counter else 'gauge'}\n")
            reason = ',finished_reason="stop"' if column == "requests_total" else ""
            for pod, rows in pods.items():
                labels = f'{name}{{pod="{pod}",model_name="{model}",engine="0"{reason}}}'
                file.writelines(
                    f"{labels} {v:.6g} {zero + t:.3f}\n"
                    if not counter
                    else f"{labels} {v:.0f} {zero + t:.3f}\n"
                    for t, v in zip(rows["time_s"], rows[column], strict=True)
                )
        for column, name in HISTOGRAMS.items():
            file.write(f"# TYPE {name} histogram\n")
            for pod, rows in pods.items():
                if pod in by_pod:
                    _histogram(file, name, _labels(pod, model), rows, by_pod[pod], column, zero)
        _latencies(file, pods, by_pod, model, zero)
        if kv_blocks:
            file.write("# TYPE vllm:cache_config_info gauge\n")
            for pod, rows in pods.items():
                labels = f'pod="{pod}",engine="0",num_gpu_blocks="{kv_blocks[0]}",block_size="{kv_blocks[1]}"'
                file.writelines(
                    f"vllm:cache_config_info{{{labels}}} 1 {zero + t:.3f}\n" for t in rows["time_s"]
                )
        for name, series in (more or {}).items():
            file.write(f"# TYPE {name} gauge\n")
            for labels, values in series:
                file.writelines(f"{name}{{{labels}}} {v:.15g} {zero + t:.3f}\n" for t, v in values.items())
        file.write("# EOF\n")


def pod_series(outcome: Outcome, zero: float) -> dict[str, list[tuple[str, pd.Series]]]:
    """What kube-state-metrics tells of the starts of the pods, every minute of their lives."""
    lives: dict[str, list[dict[str, float]]] = {}
    for time_s, kind, pod, _ in outcome.events:
        mine = lives.setdefault(pod, [{}])
        if kind == "created" and mine[-1]:  # a group's pods come back under their names
            mine.append({})
        mine[-1].setdefault(kind, time_s)
    names = {
        "created": "created",
        "status_scheduled_time": "scheduled",
        "container_state_started": "started",
        "status_ready_time": "ready",
    }
    found: dict[str, list[tuple[str, pd.Series]]] = {}
    for name, kind in names.items():
        some = [
            (
                f'pod="{pod}",namespace="default",uid="{pod}-{number}"',
                pd.Series(zero + seen[kind], index=lived),
            )
            for pod, mine in lives.items()
            for number, seen in enumerate(mine)
            if kind in seen
            and len(lived := pd.Index(np.arange(seen[kind], seen.get("deleting", outcome.duration_s), 60.0)))
        ]
        found[f"kube_pod_{name}"] = some
    return found


def hpa_series(
    outcome: Outcome, manifest: Mapping[str, Any], until_s: float
) -> dict[str, list[tuple[str, pd.Series]]]:
    """What kube-state-metrics, scraped every 15 s, tells of the HPA that scaled the fleet."""
    spec, times = manifest["spec"], pd.Index(np.arange(15.0, until_s, 15.0))
    labels = f'namespace="default",horizontalpodautoscaler="{manifest["metadata"]["name"]}"'
    changed_s, desired = (
        np.array([row[0] for row in outcome.replicas]),
        np.array([row[1] for row in outcome.replicas]),
    )
    at = np.maximum(np.searchsorted(changed_s, times, side="right") - 1, 0)
    prefix = "kube_horizontalpodautoscaler_"

    def always(value: float) -> pd.Series:
        return pd.Series(value, index=times)

    targets = []
    for metric in spec["metrics"]:
        pods = metric["pods"]
        text = str(pods["target"]["averageValue"])
        value = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
        more = f'{labels},metric_name="{pods["metric"]["name"]}",metric_target_type="average"'
        targets.append((more, always(value)))
    return {
        f"{prefix}spec_min_replicas": [(labels, always(spec["minReplicas"]))],
        f"{prefix}spec_max_replicas": [(labels, always(spec["maxReplicas"]))],
        f"{prefix}spec_target_metric": targets,
        f"{prefix}status_desired_replicas": [(labels, pd.Series(desired[at], index=times))],
    }


def _labels(pod: str, model: str) -> str:
    return f'pod="{pod}",model_name="{model}",engine="0"'


def _histogram(
    file: TextIO, name: str, labels: str, rows: pd.DataFrame, mine: pd.DataFrame, column: str, zero: float
) -> None:
    """One histogram of one pod, counted when a request is finished."""
    mine = mine.sort_values("last_token_s")
    at = np.searchsorted(mine["last_token_s"].to_numpy(), rows["time_s"], side="right")
    sizes = mine[column].to_numpy()
    times = [f"{zero + t:.3f}" for t in rows["time_s"]]
    for bound in [*BOUNDS, np.inf]:
        counted = np.concatenate([[0], np.cumsum(sizes <= bound)])[at]
        le = "+Inf" if bound == np.inf else f"{bound:.1f}"
        file.writelines(
            f'{name}_bucket{{{labels},le="{le}"}} {v} {t}\n' for t, v in zip(times, counted, strict=True)
        )
    total = np.concatenate([[0], np.cumsum(sizes)])[at]
    file.writelines(f"{name}_sum{{{labels}}} {v} {t}\n" for t, v in zip(times, total, strict=True))
    file.writelines(f"{name}_count{{{labels}}} {v} {t}\n" for t, v in zip(times, at, strict=True))


def _latencies(
    file: TextIO,
    pods: Mapping[Any, pd.DataFrame],
    by_pod: Mapping[Any, pd.DataFrame],
    model: str,
    zero: float,
) -> None:
    """Sums and counts of TTFT, counted with the first token, and of ITL, with every further one (evenly spread)."""
    for name, of in (
        ("vllm:time_to_first_token_seconds", _first_tokens),
        ("vllm:inter_token_latency_seconds", _gaps),
    ):
        file.write(f"# TYPE {name} histogram\n")
        for pod, rows in pods.items():
            if pod not in by_pod:
                continue
            times_s = rows["time_s"].to_numpy(float)
            total, count = of(by_pod[pod], times_s)
            labels, times = _labels(str(pod), model), [f"{zero + t:.3f}" for t in times_s]
            file.writelines(
                f'{name}_bucket{{{labels},le="+Inf"}} {v:.0f} {t}\n'
                for t, v in zip(times, count, strict=True)
            )
            file.writelines(
                f"{name}_sum{{{labels}}} {v:.9g} {t}\n" for t, v in zip(times, total, strict=True)
            )
            file.writelines(
                f"{name}_count{{{labels}}} {v:.0f} {t}\n" for t, v in zip(times, count, strict=True)
            )


def _first_tokens(mine: pd.DataFrame, times_s: Any) -> tuple[Any, Any]:
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
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
