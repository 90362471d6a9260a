"""The ledger of predictions on real servers: every line can be read, and none is left out of the table."""

import math

import pytest

from benchmarks.ledger import LEDGER, as_text, error, read
from benchmarks.one_gpu import measure
from loadgen.plan import rates


def test_every_entry_is_a_row_of_the_table():
    entries = read()
    assert len(entries) == len(LEDGER.read_text(encoding="utf-8").splitlines()) >= 1
    rows = as_text(entries).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == [entry["at"][:16] for entry in entries]
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)


@pytest.mark.parametrize(
    ("predicted", "measured", "expected"),
    [
        pytest.param(1.2, 1.0, 0.2, id="a fifth too high"),
        pytest.param(0.5, 1.0, -0.5, id="half of it"),
        pytest.param(math.inf, 1.0, math.nan, id="a queue that grows has no error"),
        pytest.param(0.0, 0.0, math.nan, id="nothing was to be told"),
    ],
)
def test_an_error_is_relative_to_what_was_measured(predicted, measured, expected):
    assert error({"predicted": predicted, "measured": measured}) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("rates_rps", [[0.4], [0.4, 0.8]], ids=["one rate", "two rates"])
def test_the_load_client_takes_the_stages_of_a_sweep(rates_rps, tmp_path, monkeypatch):
    """One rate takes no turns: with --interleave the client refuses it, and the run would end before its prediction."""
    said = {}
    monkeypatch.setattr(
        measure, "_load", lambda *args: said.update(zip(args[-1][::2], args[-1][1::2], strict=True))
    )
    measure.sweep(
        tmp_path, "http://h", "http://p", ("1", "1"), "ttft_p95=1s", rates_rps, 2.0 * measure.PIECE_S
    )
    stages = rates.parse_stages(said["--stages"])
    if (piece := said.get("--interleave")) is not None:
        stages = rates.interleaved(stages, float(piece.removesuffix("s")), seed=0)
    assert stages.duration_s == len(rates_rps) * 2.0 * measure.PIECE_S
