"""The recorded sweeps become complete, consistent run directories whose figures are those of the recording."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from analysis import run


@pytest.mark.parametrize("name", ["sweep_A", "sweep_D"])
def test_the_run_directory_is_valid_and_reproduces_the_recorded_table(
    sweep_run, fixtures_dir: Path, name: str
):
    recorded = run.read(sweep_run(name))
    assert run.validate(recorded) == []
    with open(fixtures_dir / "vllm" / name / "summary.csv") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(recorded.header["stages"])
    for stage, row in enumerate(table):
        requests = recorded.requests[recorded.requests["stage"] == stage]
        assert len(requests) == int(row["ok"])
        assert requests["output_tokens"].sum() == int(row["tokens"])
        ttft_s = requests["first_token_s"] - requests["sent_s"]  # the table counts from sending
        assert ttft_s.median() == pytest.approx(float(row["ttft_p50"]), rel=0.01)
        bounds = recorded.header["stages"][stage]
        within = recorded.metrics["time_s"].between(bounds["start_s"], bounds["end_s"])
        window: pd.DataFrame = recorded.metrics[within]
        for column, key in (
            ("waiting", "waiting_mean"),
            ("running", "running_mean"),
            ("kv_usage", "kv_mean"),
        ):
            assert window[column].mean() == pytest.approx(float(row[key]), rel=0.05, abs=0.06)
