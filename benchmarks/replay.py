"""How well the engine model reproduces a real vLLM server: a recorded sweep, replayed with one step time fitted to it.

    python -m benchmarks.replay            the table of tests/sim/test_engine_replay.py, for people

The fit moves the four coefficients of the step time and the overhead per request until the replay's medians per stage
(TPOT, TTFT, mean running and KV usage) agree with the recording. What a prompt token costs shows in how TTFT grows with
the prompt; a weak pull to the start keeps apart what one shape of load cannot tell apart (batch and cache).
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from analysis import run
from autoscale.sim.engine import EngineParams, replay
from loadgen.traffic import Arrivals
from tests.recorded_sweeps import ENGINE, sweep_to_run

FITTED = ("base_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s", "request_overhead_s")
WEIGHTS = {"tpot_p50": 1.5, "running": 1.0, "kv_usage": 0.5, "ttft_p50": 0.3}
LEAN = 1.35  # a residual is |log error|^1.35: between the mean error (1) and the largest (infinity)


def sent(requests: pd.DataFrame) -> Arrivals:
    """The requests of a run in the order they were sent, due when they were sent."""
    rows = requests.sort_values("sent_s", kind="stable")
    tokens = [rows[name].to_numpy(np.int32) for name in ("prompt_tokens", "output_tokens")]
    return Arrivals(
        rows["sent_s"].to_numpy(float), *tokens, np.zeros(len(rows), np.int32), rows.index.to_numpy()
    )


def figures(requests: Any, gauges: Any, stages: list[dict[str, Any]]) -> pd.DataFrame:
    """Per stage: tpot_p50, ttft_p50, ttft_p95 (s), means of running, kv_usage and waiting, preemptions, served rate.

    `requests` has sent_s, first_token_s, last_token_s, output_tokens; `gauges` has time_s and the gauges.
    """
    ttft = np.asarray(requests["first_token_s"] - requests["sent_s"], float)
    span = np.asarray(requests["last_token_s"] - requests["first_token_s"], float)
    tpot = span / (np.asarray(requests["output_tokens"], float) - 1)
    sent_s, last_s, time_s = (
        np.asarray(c, float) for c in (requests["sent_s"], requests["last_token_s"], gauges["time_s"])
    )
    rows = []
    for stage in stages:
        of = (sent_s >= stage["start_s"]) & (sent_s < stage["end_s"])
        seen = (time_s >= stage["start_s"]) & (time_s <= stage["end_s"])
        preempted = np.asarray(gauges["preemptions_total"], float)[seen]
        ended = (last_s >= stage["start_s"]) & (last_s <= stage["end_s"])
        rows.append(
            {
                "rate": stage["rate"],
                "tpot_p50": np.median(tpot[of]),
                "ttft_p50": np.median(ttft[of]),
                "ttft_p95": np.percentile(ttft[of], 95),
                **{
                    name: np.mean(np.asarray(gauges[name], float)[seen])
                    for name in ("running", "kv_usage", "waiting")
                },
                "preemptions": preempted[-1] - preempted[0],
                "served_rps": ended.sum() / (stage["end_s"] - stage["start_s"]),
            }
        )
    return pd.DataFrame(rows)


def replayed(
    params: EngineParams, arrivals: Arrivals, time_s: Any, stages: list[dict[str, Any]]
) -> pd.DataFrame:
    """The same figures from the engine model."""
    done, series = replay(params, arrivals, time_s)
    return figures(done, series, stages)


def ttft_per_token_s(requests: Any, stages: list[dict[str, Any]]) -> float:
    """How much longer a request waits for its first token per prompt token, over stages without a queue (TTFT p50 < 0.2 s)."""
    prompt = np.asarray(requests["prompt_tokens"], float)
    ttft = np.asarray(requests["first_token_s"] - requests["sent_s"], float)
    sent_s = np.asarray(requests["sent_s"], float)
    products = []
    for stage in stages:
        of = (sent_s >= stage["start_s"]) & (sent_s < stage["end_s"])
        if np.median(ttft[of]) < 0.2:
            of &= ttft < 2 * np.median(ttft[of])
            x, y = prompt[of] - prompt[of].mean(), ttft[of] - ttft[of].mean()
            products.append((x @ y, x @ x))
    covariance, variance = np.sum(products, axis=0)
    return float(covariance / variance)


def fit(
    limits: EngineParams, requests: pd.DataFrame, gauges: pd.DataFrame, stages: list[dict[str, Any]]
) -> EngineParams:
    """`limits` with the step time and overhead whose replay comes nearest to the measured run."""
    truth, arrivals, time_s = (
        figures(requests, gauges, stages),
        sent(requests),
        gauges["time_s"].to_numpy(float),
    )
    slope_s = ttft_per_token_s(requests, stages)
    base_s = 0.93 * truth["tpot_p50"].min()
    start = np.array([base_s, 0.01 * base_s, 6e-5 * base_s, 0.85 * slope_s, 0.5 * base_s])

    def trial(factors: Any) -> EngineParams:
        return replace(limits, **dict(zip(FITTED, map(float, start * factors), strict=True)))

    def residuals(factors: Any) -> Any:
        done, series = replay(trial(factors), arrivals, time_s)
        model = figures(done, series, stages)
        errors = [w * _leaned(np.log(model[name] / truth[name])) for name, w in WEIGHTS.items()]
        slope = _leaned(np.log([max(ttft_per_token_s(done, stages), 1e-9) / slope_s]))
        return np.concatenate([*errors, 0.3 * slope, 0.02 * (factors - 1)])

    best = least_squares(residuals, np.ones(len(FITTED)), bounds=(0, 8), diff_step=0.05, max_nfev=30)
    return trial(best.x)


def _leaned(error: Any) -> Any:
    error = np.asarray(error, float)
    return np.sign(error) * np.abs(error) ** LEAN


def main() -> None:
    pd.set_option("display.width", 200, "display.max_columns", 20)
    with TemporaryDirectory() as folder:
        recorded = run.read(sweep_to_run("sweep_D", Path(folder) / "D"))
        requests, gauges, stages = recorded.requests, recorded.metrics, recorded.header["stages"]
    limits = EngineParams(
        0.01,
        0,
        0,
        0,
        **{k: ENGINE[k] for k in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens")},
    )
    fitted = fit(limits, requests, gauges, stages)
    truth = figures(requests, gauges, stages)
    model = replayed(fitted, sent(requests), gauges["time_s"].to_numpy(float), stages)
    print(fitted, "\n\nmeasured", truth.round(4), "\nreplayed", model.round(4), sep="\n")
    error = (model / truth - 1).drop(columns="rate")
    print("\nrelative error", error.round(3), "\nmedian |error|", error.abs().median().round(3), sep="\n")


if __name__ == "__main__":
    main()
