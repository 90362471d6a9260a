"""What vLLM exports of an engine at one moment, as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.sim.engine.params import EngineParams

GAUGES = np.dtype(
    [
        ("time_s", "f8"),
        ("slot", "i4"),
        ("engine", "i4"),
        ("open", "?"),
        ("waiting", "f8"),
        ("running", "f8"),
        ("kv_usage", "f8"),
        ("preemptions_total", "f8"),
        ("prompt_tokens_total", "f8"),
        ("generation_tokens_total", "f8"),
        ("requests_total", "f8"),
        ("in_flight", "i8"),
    ]
)
_COUNTS = (
    ("waiting", "shown_waiting"),
    ("running", "shown_running"),
    ("preemptions_total", "preemptions"),
    ("prompt_tokens_total", "prompt_tokens"),
    ("generation_tokens_total", "generation_tokens"),
    ("requests_total", "completed"),
    ("in_flight", "in_flight"),
)


def fill_gauges(out: NDArray[Any], engines: NDArray[Any], params: EngineParams) -> None:
    """The counts and the KV usage of GAUGES, one row per row of `engines`: sums over its columns, mean of the usage."""
    for name, field in _COUNTS:
        out[name] = engines[field].sum(1)
    out["kv_usage"] = 1 - engines["shown_free"].mean(1) / (params.num_blocks - 1)
