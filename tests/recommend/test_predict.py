"""A measured replica is asked about lengths that were not measured."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from analysis.errors import BadInput
from autoscale.recommend.model.calibrate import calibrate
from autoscale.recommend.model.predict import as_json, predict
from autoscale.recommend.model.replaying import full_batch
from autoscale.show.terminal.prediction import prediction_lines
from loadgen.plan import lengths
from tests.recommend.conftest import TRUTH


@pytest.fixture(scope="module", autouse=True)
def fitted_once():
    """The engine is fitted to the same run once, not for every shape and SLO that is asked about."""
    known = {}

    def remembered(runs, *limits, exclude, **options):
        key = (*(run.path for run in runs), *map(tuple, exclude))
        if key not in known:
            known[key] = calibrate(runs, *limits, exclude=exclude, **options)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoscale.recommend.model.learning.calibrate", remembered)
        yield


@pytest.fixture(scope="module")
def predicted(measured):
    """Factory: a prediction from the synthetic sweep (50-500 prompt and 20-150 output tokens); made once per shape."""
    made = {}

    def make(prompt: str, output: str, **options):
        key = (prompt, output, *options.items())
        if key not in made:
            made[key] = predict([measured.path], prompt, output, slo="ttft_p95=2s", **options)
        return made[key]

    return make


@pytest.mark.parametrize(
    ("prompt", "output"),
    [
        pytest.param("uniform:800,1200", "uniform:20,60", id="long prompts, short answers"),
        pytest.param("uniform:20,60", "uniform:300,500", id="short prompts, long answers"),
    ],
)
def test_the_capacity_at_other_lengths_is_that_of_the_true_engine(predicted, prompt, output) -> None:
    found = predicted(prompt, output)
    rng = np.random.default_rng(7)
    truth, _ = full_batch(
        TRUTH, lengths.parse_lengths(prompt).draw(rng, 4000), lengths.parse_lengths(output).draw(rng, 4000)
    )
    # one shape of load parts a sequence's cost from its tokens' by a prior alone: the interval knows
    assert found.saturated.value == pytest.approx(truth, rel=0.1)
    assert found.saturated.low <= truth <= found.saturated.high
    assert found.knee.value < found.saturated.value
    assert any("were not measured" in note for note in found.notes)


def test_lengths_that_were_measured_are_known_better_than_others(predicted) -> None:
    widths = [
        (p.saturated.high - p.saturated.low) / p.saturated.value
        for p in (
            predicted("uniform:50,500", "uniform:20,150"),
            predicted("uniform:800,1200", "uniform:20,60"),
        )
    ]
    assert widths[0] < widths[1]


def test_the_rates_are_the_asked_ones_and_latencies_rise_with_them(predicted) -> None:
    found = predicted("uniform:50,500", "uniform:20,150", rates_rps=(4.0, 1.0))
    assert found.points["rate_rps"].tolist() == [1, 4]
    for name in ("ttft_p95", "tpot_p50"):
        assert found.points[f"{name}_s"].is_monotonic_increasing
        assert (found.points[f"{name}_low"] <= found.points[f"{name}_s"]).all()
        assert (found.points[f"{name}_s"] <= found.points[f"{name}_high"]).all()


def test_above_saturation_the_queue_is_said_to_grow(predicted) -> None:
    found = predicted("uniform:50,500", "uniform:20,150")
    rate = 2 * found.saturated.value
    beyond = predicted("uniform:50,500", "uniform:20,150", rates_rps=(rate,))
    row = beyond.points.iloc[0]
    assert row["queue_grows"]
    assert not found.points["queue_grows"].any()
    assert np.isinf(row["ttft_p95_s"])
    assert np.isfinite(row["tpot_p95_s"])
    assert any("the queue grows" in note for note in beyond.notes)
    assert as_json(beyond)["points"][0]["ttft_p95_s"] is None
    console = Console(width=100, file=StringIO(), record=True)
    console.print(*prediction_lines(beyond))
    assert "grows" in console.export_text()


def test_it_is_written_for_machines_and_within_a_hundred_columns(predicted) -> None:
    found = predicted("uniform:800,1200", "uniform:20,60")
    content = json.loads(json.dumps(as_json(found), allow_nan=False))
    assert content["knee_rps"]["low"] < content["knee_rps"]["value"] < content["knee_rps"]["high"]
    console = Console(width=100, file=StringIO(), record=True)
    console.print(*prediction_lines(found))
    text = console.export_text()
    rows = [line for line in text.splitlines() if line[:1].isdigit()]
    assert len(rows) == len(found.points), "one line per rate: no cell is folded"
    assert found.verify.split()[-1] in text


def test_an_slo_that_an_idle_replica_breaks_is_said_so(measured) -> None:
    found = predict([measured.path], "fixed:2000", "fixed:20", slo="ttft_p95=100ms", rates_rps=(0.1,))
    assert found.capacity is None
    assert "idle replica misses ttft_p95" in found.binds


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        pytest.param(
            ("trace", "fixed:20"), {}, "expected a distribution", id="a trace has no lengths of its own"
        ),
        pytest.param(("fixed:20", "long"), {}, "long", id="no such distribution"),
        pytest.param(("fixed:20", "fixed:20"), {"rates_rps": [0.0]}, "above 0", id="no load"),
        pytest.param(("fixed:12000", "fixed:1000"), {}, "does not fit into the KV cache", id="too long"),
    ],
)
def test_what_cannot_be_predicted_is_refused(measured, arguments, options, message) -> None:
    with pytest.raises(BadInput, match=message):
        predict([measured.path], *arguments, **options)
