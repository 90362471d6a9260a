"""What an entry of the league is, and the loads that are simulated for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan.traffic import Arrivals

FIGURES = {  # what is compared -> its heading
    "tpot_s": "TPOT",
    "e2e_mean_s": "E2E",
    "ttft_mean_s": "TTFT",
    "ttft_p50_s": "TTFT p50",
    "ttft_p99_s": "TTFT p99",
    "rate_rps": "requests/s",
    "replicas": "replicas",
    "most_replicas": "most replicas",
    "kv_usage": "KV usage",
}
Figures = dict[str, float]


@dataclass(frozen=True)
class Entry:
    """One public measurement: where it stands, what was served, what was measured, and how it is simulated.

    `blind` is False where the prior's constants were fitted on it.
    """

    name: str
    family: str
    source: str
    blind: bool
    measured: Figures
    predict: Callable[[], Figures]


def served(params: EngineParams, requests: Arrivals) -> pd.DataFrame:
    """The simulated requests of one replica: due_s, ttft_s, e2e_s, output_tokens."""
    done, _ = replay(params, requests)
    return pd.DataFrame(
        {
            "due_s": done["due_s"],
            "ttft_s": done["first_token_s"] - done["due_s"],
            "e2e_s": done["last_token_s"] - done["due_s"],
            "output_tokens": done["output_tokens"],
        }
    )


def poisson(rate_rps: float, prompt: NDArray[Any], output: NDArray[Any], prefix: NDArray[Any]) -> Arrivals:
    """Requests of these lengths that come at random, always the same."""
    due_s = np.cumsum(np.random.default_rng(1).exponential(1 / rate_rps, len(prompt)))
    return Arrivals(
        due_s, *(a.astype(np.int32) for a in (prompt, output, prefix)), np.arange(len(prompt), dtype=np.int64)
    )
