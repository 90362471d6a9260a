"""What `autoscale manifests --metrics keda` writes is what a simulation reads back: its series, its labels, its numbers."""

from pathlib import Path

import pytest

from autoscale.cli.inputs import hpa_in
from autoscale.deploy import write_files, write_set
from autoscale.keda import ScaledObject
from autoscale.profiles import Profile, load, names
from autoscale.recommendation import Recommendation, parse_recommendation
from autoscale.sim.fleet.scalers import read_scaler
from autoscale.sim.fleet.simulate import simulate
from tests.sim.test_fleet import SMALL, burst

HOURS_S = 2 * 3600.0


def recommended(**targets: str) -> Recommendation:
    metrics = [{"name": name, "averageValue": value} for name, value in targets.items()]
    return parse_recommendation(
        {"answer": "autoscale", "metrics": metrics, "minReplicas": 1, "maxReplicas": 4}
    )


def scaler_of(profile: Profile, recommendation: Recommendation | None, path: str, into: Path) -> Path:
    write_files(write_set(profile, recommendation, path), into / path)
    return into / path / ("scaledobject.yaml" if path == "keda" else "hpa.yaml")


@pytest.mark.parametrize("name", names())
def test_a_set_for_keda_scales_as_the_same_set_for_an_adapter_does(name: str, tmp_path: Path):
    profile = load(name)
    for targets in ({"waiting": "1500m"}, {"kv_usage": "250m", "running": "3"}):
        found = recommended(**targets)
        files = [scaler_of(profile, found, path, tmp_path) for path in ("keda", "prometheus-adapter")]
        scaler = read_scaler(profile, hpa_in(files[0]))
        assert isinstance(scaler, ScaledObject)
        of_keda, of_adapter = (
            simulate(
                profile, hpa_in(file), burst(0.4, 6, 600, 900, HOURS_S), seed=3, duration_s=HOURS_S, engine=SMALL
            )
            for file in files
        )  # fmt: skip
        assert of_keda.decisions
        assert [row[:3] for row in of_keda.decisions][:1] == [row[:3] for row in of_adapter.decisions][:1]


@pytest.mark.parametrize("name", names())
def test_the_tutorials_set_for_keda_finds_series_of_every_pod(name: str, tmp_path: Path):
    profile = load(name)
    manifest = hpa_in(scaler_of(profile, None, "keda", tmp_path))
    kept = [
        simulate(
            profile, manifest, burst(0.4, 6, 300, 600, 3600), seed=3, duration_s=3600, engine=SMALL, keep=keep
        )
        for keep in (True, False)
    ]
    assert kept[0].decisions == kept[1].decisions != []
