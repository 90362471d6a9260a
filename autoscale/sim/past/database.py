"""A past in the database of a real Prometheus: written as OpenMetrics, made into blocks by promtool, served."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autoscale.local_servers import installed, local_prometheus
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.run_writer import metric_columns, request_columns
from autoscale.sim.past.kube_state import hpa_series, pod_series
from autoscale.sim.past.vllm_series import Families, families, with_pods

HOUR_S = 3600.0
BLOCK_H = 54  # of a block, which begins at a multiple of that: one of Prometheus' own lengths, few files, little memory


def write_past(
    outcome: Outcome, folder: Path, begins: float, engine: EngineParams, hpa: Mapping[str, Any] | None
) -> None:
    """Put a simulation that kept everything, and began at `begins` (unix s), into the database of a folder.

    vLLM's series of every pod, kube-state-metrics' of the pods, and of the HPA where one scaled them. Raises SourceUnavailable
    where promtool is not installed.
    """
    assert outcome.requests is not None
    metrics = pd.DataFrame(metric_columns(outcome.samples))
    done = pd.DataFrame(request_columns(outcome.requests, None))
    more = pod_series(outcome, begins)
    if hpa is not None:
        more |= hpa_series(outcome, hpa, outcome.duration_s)
    told = families(
        metrics,
        with_pods(outcome, done[done["status"] == "ok"]),
        outcome.profile.model.id,
        more=more,
        kv_blocks=(engine.num_blocks, engine.block_size),
    )
    block_s = BLOCK_H * HOUR_S
    with tempfile.TemporaryDirectory() as text:
        for start in np.arange(begins // block_s * block_s, begins + outcome.duration_s, block_s):
            window = (start - begins, start - begins + block_s)
            write_open_metrics(Path(text) / "slice", told, begins, window)
            add_blocks(Path(text) / "slice", folder)


def write_open_metrics(
    path: Path, told: Families, begins: float, window: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """The samples from the window's begin on and before its end (s) as OpenMetrics; `begins` (unix s) is their 0."""
    texts: dict[int, tuple[Any, list[str]]] = {}  # of times that several series share
    with open(path, "w", encoding="utf-8") as file:
        for name, kind, many in told:
            file.write(f"# TYPE {name} {kind}\n")
            for one in many:
                inside = slice(*np.searchsorted(one.times_s, window))
                if (known := texts.get(id(one.times_s))) is None:
                    stamps = [f"{begins + t:.3f}" for t in one.times_s[inside]]
                    texts[id(one.times_s)] = known = (one.times_s, stamps)
                form = f"{one.labels} %{one.form} %s\n"
                pairs = zip(one.values[inside].tolist(), known[1], strict=True)
                file.write("".join([form % pair for pair in pairs]))
        file.write("# EOF\n")


def add_blocks(text: Path, folder: Path) -> None:
    """Put the samples of an OpenMetrics file into the database of a folder. Raises SourceUnavailable without promtool."""
    blocks = [f"--max-block-duration={BLOCK_H}h", "openmetrics", str(text), str(folder / "tsdb")]
    command = [installed("promtool"), "tsdb", "create-blocks-from", *blocks]
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def past_server(folder: Path) -> Iterator[str]:
    """A real Prometheus over the database of a folder: its address. Raises SourceUnavailable where it is not installed."""
    config, keep = "global: {scrape_interval: 15s}\n", "--storage.tsdb.retention.time=100y"
    with local_prometheus(folder, config, [keep]) as url:
        yield url
