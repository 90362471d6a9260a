"""How well the engine model reproduces a real vLLM server: a recorded sweep, replayed with the step time fitted to it.

    python -m benchmarks.replay            the table of tests/sim/test_engine_replay.py, for people

With the public data (AUTOSCALE_SHARED) also the queue of four short runs of one server at 3 to 10 requests/s (paired/PD1 to
PD4), which are fitted together.

The fit is that of `autoscale recommend` (autoscale/recommend/model/calibrate.py); nothing but the engine's limits is known
beforehand.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run
from autoscale.recommend.model.blocks import blocks_of
from autoscale.recommend.model.calibrate import calibrate
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.limits import LIMITS
from autoscale.recommend.model.replaying import Slowed, replayed, source_of, stage_figures
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.sim.engine.replicas import EngineParams
from tests.recorded_sweeps import ENGINE, sweep_to_run


def calibrated(recorded: run.Run) -> ReplicaModel:
    """The engine model of a recorded sweep, from its limits alone."""
    return calibrate([recorded], EngineParams(0.01, 0, 0, 0, **{name: ENGINE[name] for name in LIMITS}))


def paired_queue(folder: Path) -> pd.DataFrame:
    """Mean waiting and running of the paired runs, measured and modelled, one row per run."""
    runs = [run.read(folder / f"PD{k}") for k in (1, 2, 3, 4)]
    limits = {name: ENGINE[name] for name in LIMITS}
    found = calibrate(runs, EngineParams(0.01, 0, 0, 0, **limits), scheduling_known=True)
    shown = found.replay[found.replay["figure"].isin(["waiting", "running"])]
    table = shown.pivot(index="run", columns="figure", values=["measured", "modelled"])
    return table.set_axis([one.header["stages"][0]["rate"] for one in runs]).rename_axis("requests/s")


def figures(of: ReplicaModel, side: str) -> pd.DataFrame:
    """Figures per stage (index), `side` measured or modelled."""
    return of.replay.pivot(index="stage", columns="figure", values=side)


def queue_at_own_speed(of: ReplicaModel, recorded: run.Run) -> pd.DataFrame:
    """Mean waiting per stage: measured, and replayed with every block of time as fast as its requests show it.

    What is left between the two is the scheduler's; what this replay takes away from the error was the server's wander.
    """
    source = source_of(recorded, set(), recorded.metrics)
    blocks = blocks_of(of.engine, source, 0)
    assert blocks is not None
    half = blocks.length_s / 2
    paces = tuple(
        Slowed(0, at - half, at + half, float(np.exp(ratio)))
        for at, ratio in zip(blocks.at_s, blocks.ratio, strict=True)
    )
    sides = {
        "measured": stage_figures(source.rows, source.metrics, source.windows),
        "modelled": replayed(of.engine, replace(source, slowed=paces)).figures,
    }
    return pd.DataFrame({name: figures["waiting"] for name, figures in sides.items()})


def queue_by_speed(of: ReplicaModel, recorded: run.Run) -> pd.DataFrame:
    """Mean waiting per stage, modelled, of an engine whose steps take so many per cent longer: how steep the queue is there."""
    source = source_of(recorded, set(), recorded.metrics)
    return pd.DataFrame(
        {
            f"steps {change:+d} %": replayed(scaled(of.engine, 1 + change / 100), source).figures["waiting"]
            for change in (-3, -1, 0, 1, 3)
        }
    )


def main() -> None:
    pd.set_option("display.width", 200, "display.max_columns", 20)
    with TemporaryDirectory() as folder:
        recorded = run.read(sweep_to_run("sweep_D", Path(folder) / "D"))
        found = calibrated(recorded)
        queue = queue_at_own_speed(found, recorded).join(queue_by_speed(found, recorded))
    print(found.engine, "\n")
    for side in ("measured", "modelled", "error"):
        print(side, figures(found, side).round(4), sep="\n", end="\n\n")
    print(
        "waiting: measured; replayed at the speed of every block of time; at another speed",
        queue.round(2),
        sep="\n",
        end="\n\n",
    )
    shared = os.environ.get("AUTOSCALE_SHARED")
    if shared:
        print(
            "paired runs", paired_queue(Path(shared) / "recordings" / "vllm" / "paired"), sep="\n", end="\n\n"
        )
    print("median |error|", pd.Series(found.median_error()).round(3), sep="\n")


if __name__ == "__main__":
    main()
