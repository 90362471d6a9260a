"""Whether `check --expect` tells a fleet that does as predicted from one that does not: ten fleets, five of each.

    python -m benchmarks.as_predicted                 a recommendation is made, then ten watches in virtual time are judged
    python -m benchmarks.as_predicted --recommendation runs/x/recommendation.json      one that is there already

Each fleet is watched in virtual time under a load of its own; its observations and its clients' requests are written as a
check writes them, and `check --replay DIR --expect FILE` judges them. What differs from the system of the recommendation
is the case's name; the table says the verdict and the criteria that failed. Exit code 1 when a verdict is not as it should.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run as runs
from autoscale.check import evidence
from autoscale.check.timeline import Timeline
from autoscale.check_command import Checked, run_check
from autoscale.forecast.virtual_watch import STARTED_AT, VirtualWatch, watched
from autoscale.kube.cluster import Observation
from autoscale.profiles import Profile, from_content, load, overlay
from autoscale.recommend import recommend
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommendation import Recommendation, read_recommendation
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import DEFAULTS, FleetOptions
from autoscale.sim.fleet.outcome import FleetRecorder
from autoscale.sim.fleet.run_writer import metric_columns, request_columns, write_run
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan, parse_arrivals

PROFILE = "llama-3.1-8b-1xl4"
SLO = "ttft_p95=2s,tpot_p95=150ms"
PROMPT, OUTPUT = "uniform:400,1200", "uniform:100,200"
START = {"node": 90, "image": 60, "engine_init": {"median_s": 60, "p95_s": 75}, "weights_rate_bytes_s": 5e8}
SWEEP = "0.5:120,1:120,1.5:120,2:120,2.5:120,3:120"  # requests/s:s, up to where one replica is full
AFTER_S = 600.0  # that the watch goes on after the load


@dataclass(frozen=True)
class Case:
    """A fleet under a load. `stages` are in multiples of one replica's capacity; the rest is what differs from the system
    of the recommendation. `named` is the criterion that has to fail, "" where all is as predicted."""

    name: str
    stages: str
    named: str = ""
    arrivals: str = "poisson"
    seed: int = 1
    step: float = 1.0
    start: float = 1.0
    options: FleetOptions = DEFAULTS
    hpa: Mapping[str, Any] | None = None  # changes to the spec of the recommended HPA


CASES = (
    Case("a step to one replica and a half", "0.4:300,1.5:1500"),
    Case("a step to two and a half", "0.4:300,2.5:1800", seed=2),
    Case("two steps", "0.4:300,1.4:900,2.2:1200", seed=3),
    Case("bursts", "0.5:300,1.6:1500", arrivals="gamma:2", seed=4),
    Case("what one replica holds", "0.4:300,0.7:1200", seed=5),
    Case("starts take three times as long", "0.4:300,1.5:1800", "became_ready", seed=6, start=3.0),
    Case("replicas are 40 % slower", "0.4:300,1.5:1500", "requests_in_bounds", seed=7, step=1.4),
    Case(
        "clients keep their connections",
        "0.4:300,1.5:1500",
        "new_replica_gets_its_share",
        seed=8,
        options=replace(DEFAULTS, connections=8),
    ),
    Case("maxReplicas is too low", "0.4:300,2.5:1800", "hpa_as_recommended", seed=9, hpa={"maxReplicas": 2}),
    Case(
        "the HPA flaps",
        "0.4:300,1.5:150,0.1:150,1.5:150,0.1:150,1.5:150,0.1:150,1.5:150,0.1:300",
        "no_flapping",
        seed=10,
        hpa={"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}},
    ),
)


def system() -> Profile:
    """One replica on an L4 that starts in four minutes."""
    return overlay(load(PROFILE), {"cold_start": START})


def recommended(folder: Path) -> Path:
    """recommendation.json of a simulated sweep of one replica of `system`, as `autoscale recommend` writes it."""
    sweep = LoadPlan(
        rates.parse_stages(SWEEP), prompt=lengths.parse_lengths(PROMPT), output=lengths.parse_lengths(OUTPUT)
    )
    profile = system()
    outcome = simulate(
        profile, None, sweep.arrivals(), seed=1, duration_s=sweep.duration_s, static_replicas=1, keep=True
    )
    run = write_run(outcome, folder / "sweep", plan=sweep)
    (folder / "measured.yaml").write_text(yaml.safe_dump({"cold_start": START}), encoding="utf-8")
    day = {
        "arrivals": "gamma:1.5",
        "prompt_tokens": PROMPT,
        "output_tokens": OUTPUT,
        "load": [
            {"constant": {"rate_rps": 0.8, "duration_s": 1200}},
            {"ramp": {"from_rps": 0.8, "to_rps": 5, "duration_s": 2400}},
            {"ramp": {"from_rps": 5, "to_rps": 0.8, "duration_s": 2400}},
            {"constant": {"rate_rps": 0.8, "duration_s": 1200}},
        ],
    }
    (folder / "traffic.yaml").write_text(yaml.safe_dump(day), encoding="utf-8")
    made = recommend(
        [run],
        profile=PROFILE,
        measured=folder / "measured.yaml",
        traffic=folder / "traffic.yaml",
        slo=SLO,
        out=folder / "answer",
        jobs=1,
    )
    return made.files[0]


def judged(case: Case, file: Path, folder: Path) -> Checked:
    """The case's fleet watched, its evidence written to `folder`, and judged against the recommendation in `file`."""
    recommendation = read_recommendation(file)
    _write(case, recommendation, folder)
    return run_check(
        fleet=None,
        namespace="default",
        hpa=None,
        context=None,
        load=str(folder / "load"),
        expect=file,
        timeout_s=1.0,
        scale_to=None,
        replay_dir=folder,
        out=None,
    )


def _write(case: Case, recommendation: Recommendation, folder: Path) -> None:
    """The evidence of a check in the folder, and the run of its load below it."""
    assert recommendation.system is not None
    assert recommendation.hpa is not None
    assert recommendation.capacity_rps.model is not None
    profile = _starting(from_content(recommendation.system.content, str(folder)), case.start)
    hpa = deepcopy(dict(recommendation.hpa))
    hpa["spec"] |= case.hpa or {}
    plan = _plan(case, recommendation.capacity_rps.model.value, recommendation)
    chunks = list(plan.arrivals())
    end_s = plan.duration_s + AFTER_S
    engine = EngineParams(**{k: v for k, v in recommendation.model_error.engine.items() if v is not None})
    watch = VirtualWatch(
        profile,
        hpa,
        scaled(engine, case.step),
        type(chunks[0])._make(_joined(chunks)),
        until_s=end_s,
        clients_s=end_s,
        options=case.options,
    )
    name = str(hpa["metadata"]["name"])
    facts = {"hpa": name, "clock_rate": 1.0, "clock_ahead_s": 0.0, "slo": None, "load": str(folder / "load")}
    evidence.open_evidence(folder, {"kind": "simulated", "command": "check", "check": facts})
    timeline = Timeline(name)
    with evidence.Recorder(folder) as recorder:

        def see(seen: Observation) -> None:
            recorder.write(seen, seen.time_s)
            timeline.add(seen)

        scraped = FleetRecorder(profile, keep=True, replicas=1)
        done = watched(watch, case.seed, see, scraped)
    runs.write_table(folder, "metrics", metric_columns(scraped.samples))
    evidence.write_replicas(folder, timeline, STARTED_AT)
    _dated(folder, STARTED_AT, end_s)
    header = {
        "kind": "simulated",
        "command": "benchmarks.as_predicted",
        "load": plan.describe() | {"loop": "open"},
        "stages": plan.stages,
        "slo": str(recommendation.slo.text),
    }
    runs.create(folder / "load", header)
    _dated(folder / "load", STARTED_AT, plan.duration_s)
    runs.write_table(folder / "load", "requests", request_columns(done, plan))


def _dated(folder: Path, started_at: float, length_s: float) -> None:
    runs.update(folder, started_at=started_at, ended_at=started_at + length_s)


def _joined(chunks: Sequence[Any]) -> list[Any]:
    import numpy as np

    return [None if column[0] is None else np.concatenate(column) for column in zip(*chunks, strict=True)]


def _starting(profile: Profile, factor: float) -> Profile:
    """The profile with every phase of a start so many times as long."""
    cold = profile.cold_start.model_dump(mode="json")
    phases = {
        name: {key: factor * value for key, value in phase.items()}
        for name, phase in cold.items()
        if isinstance(phase, dict)
    }
    return overlay(
        profile, {"cold_start": phases | {"weights_rate_bytes_s": cold["weights_rate_bytes_s"] / factor}}
    )


def _plan(case: Case, capacity_rps: float, recommendation: Recommendation) -> LoadPlan:
    stages = [part.split(":") for part in case.stages.split(",")]
    text = ",".join(f"{float(times) * capacity_rps:.3f}:{length_s}" for times, length_s in stages)
    prompt, output = (str(recommendation.traffic[key]) for key in ("prompt_tokens", "output_tokens"))
    return LoadPlan(
        rates.parse_stages(text),
        parse_arrivals(case.arrivals),
        lengths.parse_lengths(prompt),
        lengths.parse_lengths(output),
        seed=case.seed,
    )


def main() -> int:
    """Print the table; 1 when a verdict is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recommendation", type=Path, help="recommendation.json; default one is made")
    given = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        file = given.recommendation or recommended(Path(folder))
        print("| fleet | verdict | criteria that failed | s |\n|---|---|---|---|")
        for number, case in enumerate(CASES):
            began = time.monotonic()
            judgement = judged(case, file, Path(folder) / f"case-{number}").result.judgement
            failed = [criterion.code for criterion in judgement.of("fail")]
            right = (case.named in failed) if case.named else judgement.verdict == "PASSED"
            wrong += not right
            took_s = time.monotonic() - began
            print(
                f"| {case.name} | {judgement.verdict} | {', '.join(failed) or '-'} | {took_s:.0f} |",
                flush=True,
            )
            if not right:
                for criterion in judgement.criteria:
                    print(f"    {criterion.outcome:<10} {criterion.code}: {criterion.sentence}")
    print(f"{len(CASES) - wrong} of {len(CASES)} as they should be")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
