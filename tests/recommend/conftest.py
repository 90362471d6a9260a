"""A small replica that starts in a minute, so that whole decisions take seconds; and one of known step time, measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis import run as runs
from analysis.slo import parse_slo
from autoscale.profiles import Profile, load, overlay
from autoscale.recommend.choice import seeds
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.model.limits import LIMITS
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan, parse_arrivals

# about 1.4 requests/s of 64/64 tokens at 8 seats: 64 x 0.05 s for 8 at a time, and their prompts
ENGINE = EngineParams(0.05, 0.001, 1e-6, 1e-4, num_blocks=400, max_num_seqs=8, max_num_batched_tokens=256)

# A replica of known step time, and the sweep that measures it
TRUTH = EngineParams(
    0.02,
    4e-4,
    2e-6,
    2e-4,
    num_blocks=800,
    max_num_seqs=16,
    max_num_batched_tokens=512,
    request_overhead_s=0.01,
)
SWEEP = LoadPlan(
    rates.parse_stages("1:100,2:100,4:100,5:100"),
    prompt=lengths.parse_lengths("uniform:50,500"),
    output=lengths.parse_lengths("uniform:20,150"),
)


def swept(path: Path, plan: LoadPlan = SWEEP, replicas: int = 1, engine: EngineParams = TRUTH) -> Path:
    """The run directory of a plan served by standing replicas of that engine, its limits in the header."""
    outcome = simulate(
        load("llama-3.1-8b-1xl4"), None, plan.arrivals(), seed=1, duration_s=plan.duration_s, engine=engine,
        static_replicas=replicas, keep=True,
    )  # fmt: skip
    write_run(outcome, path, plan=plan)
    runs.update(path, engine={name: getattr(engine, name) for name in LIMITS})
    return path


@pytest.fixture(scope="package")
def measured(tmp_path_factory) -> runs.Run:
    """SWEEP as a run of one replica with the engine TRUTH."""
    return runs.read(swept(tmp_path_factory.mktemp("run") / "synthetic"))


def small_profile(cold_s: float) -> Profile:
    """The L4 profile with a start of `cold_s` seconds."""
    phases = dict.fromkeys(("node", "image", "group_join", "compile"), 0)
    profile = load("llama-3.1-8b-1xl4")
    rate = profile.model.weight_bytes / (0.5 * cold_s)
    return overlay(
        profile, {"cold_start": {**phases, "engine_init": 0.5 * cold_s, "weights_rate_bytes_s": rate}}
    )


@pytest.fixture(scope="package")
def small():
    """Factory: a scenario of the small replica under `stages` (RATE:SECONDS,...)."""

    def make(stages: str, slo: str = "ttft_p95=2s", cold_s: float = 60, **changes: object) -> Scenario:
        plan = LoadPlan(
            rates.parse_stages(stages),
            parse_arrivals("poisson"),
            lengths.parse_lengths("uniform:48,80"),
            lengths.parse_lengths("uniform:48,80"),
        )
        made = Scenario(small_profile(cold_s), ENGINE, plan, parse_slo(slo))
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True, scope="package")
def few_seeds():
    """Searches look at one seed and confirm over as few as show the promise: enough for these clear cases, and faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "CHOOSING", replace(seeds.CHOOSING, panel_most=1, neighbour_seeds=(2, 2)))
        yield
