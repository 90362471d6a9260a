"""What is said of the prior's error is what the public rows give."""

import numpy as np
import pytest

from autoscale.profiles import profile
from autoscale.profiles.prior_error import ERRORS, prior_error
from benchmarks import prior_fit, published
from benchmarks.league.__main__ import compared, entries, page


def test_a_mixture_of_experts_is_known_less_well_than_a_dense_model():
    assert prior_error(profile.load("llama-3.1-8b-1xl4")) is ERRORS["dense"]
    assert prior_error(profile.load("deepseek-r1-2x8h100")) is ERRORS["experts"]


def test_the_constants_are_those_that_the_fit_finds(shared_dir):
    """Refitted on 194 rows of vLLM, rounded to four digits as they stand in the source."""
    table = published.vllm_rows(shared_dir)
    assert len(table) == ERRORS["dense"].step.figures
    served = [published.described(r.model_path, r.system, r.tp_size) for r in table.itertuples()]
    found = prior_fit.fitted(table, served)
    overhead_s = profile.load("llama-3.1-8b-1xh100").engine.request_overhead_s
    assert overhead_s == pytest.approx(found.request_s, abs=5e-4)
    assert found.older_ranks_s == pytest.approx(prior_fit.OLDER_RANKS_S, rel=5e-3)
    for name in ("step_s", "sequence_s", "cache_bandwidth"):
        assert getattr(prior_fit.OLDER, name) == pytest.approx(getattr(found.older, name), rel=5e-3), name
    for name, value in vars(found.constants).items():
        assert getattr(prior_fit.prior.FITTED, name) == pytest.approx(value, rel=5e-3), name


def test_errors_of_mixtures_of_experts_are_the_leagues(shared_dir):
    table = compared(entries(shared_dir))
    of_experts = table[table["entry"].str.contains("mixtral|DeepSeek")]
    for error, name in ((ERRORS["experts"].step, "tpot_s"), (ERRORS["experts"].ttft, "ttft_mean_s")):
        size = of_experts[name].dropna().abs()
        assert len(size) == error.figures
        assert (np.median(size), np.quantile(size, 0.9)) == pytest.approx((error.median, error.p90), abs=1e-3)


def test_the_league_shows_what_was_frozen_and_no_prediction_is_of_another_engine(shared_dir):
    """The page is what the command prints; three entries, simulated again, give what was frozen."""
    found = entries(shared_dir)
    root = prior_fit.Path(prior_fit.__file__).parents[1]
    table = compared(found)
    assert (root / "docs" / "league.md").read_text() == page(table)
    for entry in (found[0], found[9], found[-1]):
        row = table[table["entry"] == entry.name].iloc[0]
        for name, value in entry.predict().items():
            if name in entry.measured:
                assert row[f"{name} predicted"] == pytest.approx(value, rel=1e-4)
