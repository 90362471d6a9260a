"""The README's picture: an HPA under traffic that rises and falls, simulated.

After docs/pipeline.md: `python -m benchmarks.picture runs/first/hpa.yaml traffic.yaml`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from analysis import plots
from analysis.opened import open_run
from autoscale.kube.scaler import Hpa
from autoscale.profiles import load
from autoscale.recommend import scenario_of
from autoscale.recommend.choice.settings import Given
from autoscale.show.over_time import run_over_time
from autoscale.sim import write_run

PROFILE = "llama-3.1-8b-1xl4"
SLO = "ttft_p95=1s,tpot_p95=150ms"


def picture(hpa: Path, traffic: Path, out: Path) -> str:
    """Simulate the HPA on a load file and draw it to `out`; returns what to say below."""
    with TemporaryDirectory() as folder:
        scenario = scenario_of(load(PROFILE), traffic=traffic, slo=SLO)
        manifest = yaml.safe_load(hpa.read_text())
        outcome = scenario.outcome(Given(manifest), 1, keep=True)
        seen = open_run(write_run(outcome, Path(folder) / "run"))
        target = Hpa(manifest).signal_targets()
        figure = run_over_time(
            seen.run, slo=scenario.slo, table=seen.table, target=target, show=list(target), clock="simulated time",
            title="Traffic rises, the HPA scales out",
        )  # fmt: skip
        assert figure is not None
        plots.save(figure, out)
    return f"{outcome.offered:,} requests, {outcome.attainment:.1%} within every bound, {outcome.peak_replicas} replicas at most"


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("hpa", type=Path)
    asked.add_argument("traffic", type=Path)
    asked.add_argument("--out", type=Path, default=Path("docs/img/scale-out.png"))
    given = asked.parse_args()
    print(picture(given.hpa, given.traffic, given.out))
