"""What `autoscale manifests --metrics keda` writes is what a simulation reads back: its series, its labels, its numbers."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.errors import BadInput
from autoscale.cli.inputs import hpa_in
from autoscale.deploy import objects, write_files, write_set
from autoscale.keda import ScaledObject
from autoscale.kube.vllm_names import OF_KEDA
from autoscale.lint.linter import lint_objects
from autoscale.profiles import Profile, load, names
from autoscale.recommend.choice.keda.scaled_object import Keda, keda_object, trigger
from autoscale.recommendation import Recommendation, parse_recommendation
from autoscale.sim.engine.gateway import InferenceGateway, parse_gateway
from autoscale.sim.fleet.control import FleetOptions
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
    return into / path / ("scaledobject.yaml" if path in OF_KEDA else "hpa.yaml")


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


ON_GKE = [name for name in names() if load(name).deploy.platform == "gke"]


@pytest.mark.parametrize("name", ON_GKE)
def test_the_linter_finds_nothing_in_the_llm_d_shape_that_is_not_in_the_set_for_keda(name: str):
    profile = load(name)
    shape, plain = (lint_objects(objects(profile, metrics=path)) for path in ("llm-d", "keda"))
    assert {(f.severity, f.code, f.kind, f.name) for f in shape.findings} <= {
        (f.severity, f.code, f.kind, f.name) for f in plain.findings
    }
    assert shape.notes == []  # no kind that no rule knows


@pytest.mark.parametrize("name", ON_GKE)
def test_the_llm_d_shape_is_simulated_behind_a_gateway(name: str, tmp_path: Path):
    profile = load(name)
    manifest = hpa_in(scaler_of(profile, None, "llm-d", tmp_path))
    arrivals = burst(0.4, 12, 600, 900, HOURS_S)
    options = FleetOptions(gateway=InferenceGateway())
    outcome = simulate(profile, manifest, arrivals, seed=3, duration_s=HOURS_S, engine=SMALL, options=options)
    assert outcome.decisions
    with pytest.raises(BadInput, match="--gateway"):
        simulate(profile, manifest, arrivals, seed=3, duration_s=HOURS_S, engine=SMALL)


def test_the_llm_d_shape_hangs_together_by_its_names():
    found = {(o["kind"], o["metadata"]["name"]): o for o in objects(load(ON_GKE[-1]), metrics="llm-d")}
    pool = next(o["spec"] for (kind, _), o in found.items() if kind == "InferencePool")
    picker = found["Deployment", pool["endpointPickerRef"]["name"]]["spec"]["template"]
    service = found["Service", pool["endpointPickerRef"]["name"]]["spec"]
    assert service["selector"].items() <= picker["metadata"]["labels"].items()
    assert pool["endpointPickerRef"]["port"]["number"] in {port["port"] for port in service["ports"]}
    [container] = picker["spec"]["containers"]
    assert "--pool-name=vllm" in container["args"]
    scrape = found["PodMonitor", pool["endpointPickerRef"]["name"]]["spec"]
    assert scrape["selector"]["matchLabels"].items() <= picker["metadata"]["labels"].items()
    assert scrape["podMetricsEndpoints"][0]["port"] in {port["name"] for port in container["ports"]}
    route = next(o["spec"] for (kind, _), o in found.items() if kind == "HTTPRoute")
    assert ("Gateway", route["parentRefs"][0]["name"]) in found
    assert ("InferencePool", route["rules"][0]["backendRefs"][0]["name"]) in found
    model = found["Deployment", "vllm"]["spec"]["template"]["metadata"]["labels"]
    assert pool["selector"]["matchLabels"].items() <= model.items()


def behind(options: str) -> Recommendation:
    """A recommendation that was judged behind a gateway, with the object that `recommend` makes of it."""
    profile = load(ON_GKE[0])
    triggers = [trigger(profile, "gateway_queue", 4), trigger(profile, "gateway_in_flight", 9.5)]
    metrics = [
        {"name": "gateway_queue", "averageValue": "4"},
        {"name": "gateway_in_flight", "averageValue": "9500m"},
    ]
    return parse_recommendation(
        {
            "answer": "autoscale", "metrics": metrics, "minReplicas": 2, "maxReplicas": 4, "gateway": options,
            "scaled_object": keda_object(profile, triggers, (2, 4), Keda(), None),
        }
    )  # fmt: skip


def test_what_was_recommended_behind_a_gateway_is_written_with_one(tmp_path: Path):
    """The same queries and thresholds as in the object that `recommend` wrote, beside the pool and its picker."""
    profile, found = load(ON_GKE[0]), behind(InferenceGateway().text)
    assert found.scaled_object is not None
    written = hpa_in(scaler_of(profile, found, "llm-d", tmp_path))
    told = [
        [(t["metricType"], t["metadata"]["query"], t["metadata"]["threshold"]) for t in o["spec"]["triggers"]]
        for o in (written, found.scaled_object)
    ]
    assert told[0] == told[1]
    assert (written["spec"]["minReplicaCount"], written["spec"]["maxReplicaCount"]) == (2, 4)
    assert (tmp_path / "llm-d" / "inference-pool.yaml").exists()


def picker_config(found: list[dict[str, Any]]) -> dict[str, float]:
    """Scorer -> weight of the one endpoint picker."""
    [told] = [o["data"]["epp.yaml"] for o in found if o["kind"] == "ConfigMap"]
    config = yaml.safe_load(told)
    plugins = {plugin["type"] for plugin in config["plugins"]}
    used = config["schedulingProfiles"][0]["plugins"]
    assert {plugin["pluginRef"] for plugin in used} == plugins
    return {plugin["pluginRef"]: plugin["weight"] for plugin in used if "weight" in plugin}


def test_the_picker_is_the_one_that_the_recommendation_was_judged_behind():
    """As recommended; without a recommendation llm-d's optimized baseline, behind which requests do not herd."""
    profile = load(ON_GKE[0])
    default = {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}
    for options, expected in (
        (InferenceGateway().text, default),
        (parse_gateway("lru_weight=2").text, default | {"no-hit-lru-scorer": 2}),
        (parse_gateway("queue_weight=0,kv_weight=1.5").text, {"kv-cache-utilization-scorer": 1.5, "prefix-cache-scorer": 3}),
    ):  # fmt: skip
        assert picker_config(objects(profile, behind(options), "llm-d")) == expected
    assert picker_config(objects(profile, metrics="llm-d")) == default | {"no-hit-lru-scorer": 2}


def test_the_llm_d_shape_is_refused_where_it_would_not_do():
    with pytest.raises(BadInput, match=r"--gateway ttl=300s.*expected --gateway on"):
        objects(load(ON_GKE[0]), behind(parse_gateway("ttl=5m").text), "llm-d")
    with pytest.raises(BadInput, match="GPUs on GKE"):
        objects(load("llama-3.1-70b-v6e8"), metrics="llm-d")
    with pytest.raises(BadInput, match="behind a gateway"):
        objects(load(ON_GKE[0]), recommended(waiting="2"), "llm-d")
