"""A simulated fleet's past as a Prometheus would have it: written as OpenMetrics, made into blocks, served."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import requests

NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "requests_total": "vllm:request_success_total",
}
BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000]
HISTOGRAMS = {
    "prompt_tokens": "vllm:request_prompt_tokens",
    "output_tokens": "vllm:request_generation_tokens",
}


def open_metrics(path: Path, metrics: pd.DataFrame, finished: pd.DataFrame, zero: float, model: str) -> None:
    """The series of the pods at their scrapes; `finished` requests (last_token_s, tokens) count for a pod of the time."""
    metrics = metrics.sort_values(["pod", "time_s"])
    pods = dict(list(metrics.groupby("pod")))
    rng = np.random.default_rng(1)
    names = list(pods)
    first = np.array([pods[name]["time_s"].iloc[0] for name in names])
    last = np.array([pods[name]["time_s"].iloc[-1] for name in names])
    ends = finished["last_token_s"].to_numpy()
    there = (first[None, :] <= ends[:, None]) & (ends[:, None] <= last[None, :] + 15)
    of = np.argmax(rng.random(there.shape) * there, axis=1)
    with open(path, "w") as file:
        for column, name in NAMES.items():
            counter = column.endswith("_total")
            file.write(f"# TYPE {name.removesuffix('_total')} {'counter' if counter else 'gauge'}\n")
            more = ',finished_reason="stop"' if counter else ""
            for pod, rows in pods.items():
                labels = f'{name}{{pod="{pod}",model_name="{model}",engine="0"{more}}}'
                file.writelines(
                    f"{labels} {v:g} {zero + t:.3f}\n"
                    for t, v in zip(rows["time_s"], rows[column], strict=True)
                )
        for column, name in HISTOGRAMS.items():
            file.write(f"# TYPE {name} histogram\n")
            tokens = finished[column].to_numpy()
            for k, (pod, rows) in enumerate(pods.items()):
                mine = of == k
                order = np.argsort(ends[mine])
                at = np.searchsorted(ends[mine][order], rows["time_s"], side="right")
                sizes = tokens[mine][order]
                labels = f'pod="{pod}",model_name="{model}",engine="0"'
                times = [f"{zero + t:.3f}" for t in rows["time_s"]]
                for bound in [*BOUNDS, np.inf]:
                    counted = np.concatenate([[0], np.cumsum(sizes <= bound)])[at]
                    le = "+Inf" if bound == np.inf else f"{bound:.1f}"
                    file.writelines(
                        f'{name}_bucket{{{labels},le="{le}"}} {v} {t}\n'
                        for t, v in zip(times, counted, strict=True)
                    )
                total = np.concatenate([[0], np.cumsum(sizes)])[at]
                file.writelines(
                    f"{name}_sum{{{labels}}} {v} {t}\n" for t, v in zip(times, total, strict=True)
                )
                file.writelines(f"{name}_count{{{labels}}} {v} {t}\n" for t, v in zip(times, at, strict=True))
        file.write("# EOF\n")


@contextlib.contextmanager
def prometheus(text: Path, folder: Path) -> Iterator[str]:
    """A real Prometheus over the blocks of an OpenMetrics file: its address."""
    data = folder / "tsdb"
    subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", "openmetrics", text, data], check=True, capture_output=True
    )
    config = folder / "prometheus.yml"
    config.write_text("global: {scrape_interval: 15s}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        shutil.which("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
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
