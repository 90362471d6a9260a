"""A small replica that starts in a minute, so that whole decisions take seconds."""

from dataclasses import replace

import pytest

from analysis.slo import parse_slo
from autoscale.profiles import Profile, load, overlay
from autoscale.recommend.scenario import Scenario
from autoscale.sim.engine import EngineParams
from loadgen import lengths, rates
from loadgen.traffic import LoadPlan, parse_arrivals

# about 1.4 requests/s of 64/64 tokens at 8 seats: 64 x 0.05 s for 8 at a time, and their prompts
ENGINE = EngineParams(0.05, 0.001, 1e-6, 1e-4, num_blocks=400, max_num_seqs=8, max_num_batched_tokens=256)


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
            lengths.parse("uniform:48,80"),
            lengths.parse("uniform:48,80"),
        )
        made = Scenario(small_profile(cold_s), ENGINE, plan, parse_slo(slo))
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture(autouse=True, scope="package")
def one_search_seed():
    """Searches look at one seed, not three: enough for these clear cases, and three times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoscale.recommend.decide.PANEL_MOST", 1)
        yield
