"""What tests and benchmarks need beside autoscale.sim.past: a run's own tables as a past, and a Prometheus over one file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from autoscale.sim.past.database import add_blocks, past_server, write_open_metrics
from autoscale.sim.past.vllm_series import Gauges, families


def open_metrics(
    path: Path,
    metrics: pd.DataFrame,
    finished: pd.DataFrame,
    zero: float,
    model: str,
    more: Gauges | None = None,
    kv_blocks: tuple[int, int] | None = None,
) -> None:
    """The series of the pods as OpenMetrics, `zero` (unix s) being the 0 of their times."""
    write_open_metrics(path, families(metrics, finished, model, more, kv_blocks), zero)


@contextlib.contextmanager
def prometheus(text: Path, folder: Path) -> Iterator[str]:
    """A real Prometheus over the blocks of an OpenMetrics file: its address."""
    add_blocks(text, folder)
    with past_server(folder) as url:
        yield url
