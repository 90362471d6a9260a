"""A real vLLM server's sweep, replayed through the engine model with one step time fitted to all of it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import run

ROOT = Path(__file__).parent.parent.parent


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem + "_for_engine", path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(measured, replayed) figures per stage, and the fitted parameters."""
    bench, sweeps = module(ROOT / "benchmarks" / "replay.py"), module(ROOT / "tests" / "recorded_sweeps.py")
    recorded = run.read(sweeps.sweep_to_run("sweep_D", tmp_path_factory.mktemp("run") / "D"))
    found = bench.calibrated(recorded)
    rates = [stage["rate"] for stage in recorded.header["stages"]]
    tables = [bench.figures(found, side).assign(rate=rates) for side in ("measured", "modelled")]
    return *tables, found.engine


@pytest.mark.parametrize(
    ("figure", "median", "worst"),
    [
        pytest.param("tpot_p50_s", 0.08, 0.20, id="time per token"),
        pytest.param("running", 0.08, 0.20, id="mean running"),
        pytest.param("kv_usage", 0.08, 0.20, id="mean KV usage"),
        pytest.param("ttft_p50_s", 0.15, None, id="median time to first token"),
        pytest.param("ttft_p95_s", 0.25, None, id="95th percentile of the time to first token"),
    ],
)
def test_the_replay_comes_near_the_real_server(compared, figure, median, worst):
    error = (compared[1][figure] / compared[0][figure] - 1).abs()
    assert error.median() <= median
    assert worst is None or error.max() <= worst


def test_the_queue_in_overload_is_as_long_as_it_was(compared):
    measured, modelled, _ = compared
    assert modelled["waiting"].iloc[-1] == pytest.approx(measured["waiting"].iloc[-1], rel=0.25)


def test_preemptions_agree_within_a_factor_of_one_and_a_half(compared):
    measured, modelled, _ = compared
    assert 1 / 1.5 <= modelled["preemptions"].sum() / measured["preemptions"].sum() <= 1.5


def test_the_knee_lies_where_it_was(compared):
    """Throughput at the highest rate, where the server is saturated: 4.58 requests/s measured."""
    measured, modelled, _ = compared
    assert modelled["throughput_rps"].max() == pytest.approx(measured["throughput_rps"].max(), rel=0.07)
    queued = [table.loc[table["waiting"] > 1, "rate"].min() for table in (measured, modelled)]
    assert queued[0] == queued[1]


def test_the_fitted_step_time_is_physical(compared):
    """Every term costs something, and a prompt token less than a tenth of a step."""
    p = compared[2]
    assert min(p.per_sequence_s, p.per_kv_token_s, p.per_prefill_token_s) > 0
    assert 0 < p.per_prefill_token_s < p.base_s / 10
    assert np.isfinite(p.request_overhead_s)
