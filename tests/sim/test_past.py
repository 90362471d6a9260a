"""What a simulated fleet did, as a real Prometheus tells it."""

import pytest
import requests

from analysis.errors import SourceUnavailable
from autoscale.profiles import load
from autoscale.recommend.choice.settings import Behavior, Candidate
from autoscale.sim import EngineParams, simulate
from autoscale.sim.past.database import add_blocks, past_server, write_past
from loadgen.plan.traffic import LoadPlan
from tests.history.test_learned import needs_prometheus

BEGINS = 1_790_000_000.0
HOURS = 2


def asked(url: str, promql: str) -> list[tuple[dict[str, str], float]]:
    found = requests.get(
        f"{url}/api/v1/query", {"query": promql, "time": BEGINS + 3600 * HOURS}, timeout=30
    ).json()
    return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]


def test_a_prometheus_tells_what_was_simulated(tmp_path) -> None:
    needs_prometheus()
    profile = load("llama-3.1-8b-1xl4")
    engine = EngineParams.from_profile(profile)
    plan = LoadPlan.from_options(stages="1:3600,4:3600", seed=1)
    hpa = Candidate((("running", 6.0),), Behavior(), 1, 4).manifest(profile)
    outcome = simulate(
        profile, hpa, plan.arrivals(), seed=1, duration_s=3600.0 * HOURS, engine=engine, keep=True
    )
    write_past(outcome, tmp_path, BEGINS, engine, hpa)
    with past_server(tmp_path) as url:
        ((_, finished),) = asked(url, "sum(max_over_time(vllm:request_success_total[2h]))")
        # counted at the last scrape of each pod, so those of the last seconds are missing
        assert finished == pytest.approx((outcome.requests["last_token_s"] <= 3600 * HOURS).sum(), rel=0.005)
        assert asked(url, "sum(max_over_time(vllm:request_prompt_tokens_count[2h]))") == [({}, finished)]
        ((labels, one),) = asked(url, "last_over_time(kube_horizontalpodautoscaler_info[1h])")
        assert (labels["scaletargetref_kind"], labels["scaletargetref_name"], one) == (
            "Deployment",
            "vllm",
            1,
        )
        most = "max_over_time(kube_horizontalpodautoscaler_status_desired_replicas[2h])"
        assert [value for _, value in asked(url, most)] == [outcome.peak_replicas]
        created = asked(url, "max_over_time(kube_pod_created[2h])")
        assert len(created) == sum(kind == "created" for _, kind, _, _ in outcome.events)


def test_where_it_is_not_installed_a_sentence_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailable, match=r"promtool is not installed.*apt-get install prometheus"):
        add_blocks(tmp_path / "text", tmp_path)
    with (
        pytest.raises(SourceUnavailable, match=r"prometheus is not installed.*make prometheus"),
        past_server(tmp_path),
    ):
        pass
