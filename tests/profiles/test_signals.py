"""Names of the three signals by version and metric path."""

import pytest

from analysis.run import SIGNALS
from autoscale.kube.vllm_names import PATHS, exported_names, hpa_metric_name, prometheus_name, signal_of
from autoscale.sim.fleet.metric_path import exported_signal


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("version", ["0.8.5", "0.9.2", "0.32.0"])
@pytest.mark.parametrize("signal", SIGNALS)
def test_every_name_leads_back_to_its_signal(signal: str, version: str, path: str) -> None:
    assert signal_of(hpa_metric_name(signal, version, path)) == signal
    assert signal_of(prometheus_name(signal, version)) == signal
    assert (
        exported_signal(hpa_metric_name(signal, version, path), version, "spec.metrics[0].pods.metric.name")
        == signal
    )  # the fleet obeys it


@pytest.mark.parametrize(
    ("version", "name"),
    [
        pytest.param("0.9.1", "vllm:gpu_cache_usage_perc", id="the old name before 0.9.2"),
        pytest.param(
            "0.9.2rc1", "vllm:kv_cache_usage_perc", id="the new name from 0.9.2, candidates included"
        ),
        pytest.param("v0.11.0", "vllm:kv_cache_usage_perc", id="an image tag with a v"),
        pytest.param("0.32.0", "vllm:kv_cache_usage_perc", id="two digits are numbers, not text"),
    ],
)
def test_kv_usage_is_called_by_the_version(version: str, name: str) -> None:
    assert prometheus_name("kv_usage", version) == name


@pytest.mark.parametrize(
    ("version", "names"),
    [
        pytest.param("0.9.1", {"vllm:gpu_cache_usage_perc"}, id="the old name alone"),
        pytest.param("0.10.2", {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}, id="both"),
        pytest.param("0.11.0", {"vllm:kv_cache_usage_perc"}, id="the old one hidden"),
    ],
)
def test_a_version_exports_every_name_that_it_does_not_hide(version: str, names: set[str]) -> None:
    assert {name for name in exported_names(version) if signal_of(name) == "kv_usage"} == names


@pytest.mark.parametrize(
    ("name", "signal"),
    [
        pytest.param(
            "prometheus.googleapis.com|vllm:num_requests_waiting|gauge", "waiting", id="the tutorials' name"
        ),
        pytest.param("s0-prometheus-vllm_num_requests_waiting", "waiting", id="KEDA's external name"),
        pytest.param("vllm:num_requests_waiting_by_reason", None, id="another metric of vLLM"),
        pytest.param("http_requests_total", None, id="somebody else's metric"),
    ],
)
def test_names_as_users_write_them(name: str, signal: str | None) -> None:
    assert signal_of(name) == signal
