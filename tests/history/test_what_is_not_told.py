"""A Prometheus that does not tell what is asked of it: the right answer all the same, or one sentence with the next step."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.errors import BadInput, SourceUnavailable, TooLittleData
from autoscale.cli import app
from autoscale.history import learned as history
from autoscale.history.pod_moments import pod_moments
from autoscale.history.production import learn_production
from autoscale.history.service import find_service
from autoscale.local_servers import local_prometheus
from autoscale.profiles import load
from autoscale.recommend.pipeline import answers_directory
from autoscale.sim.fleet.run_writer import metric_columns, request_columns
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.past.database import add_blocks, write_open_metrics
from autoscale.sim.past.vllm_series import families, with_pods
from loadgen.plan.traffic import LoadPlan
from tests.history.test_learned import ZERO, needs_prometheus
from tests.observe import servers

HOURS, RATE = 5, 0.5


def learn_traffic(service):
    """The traffic of a service with the lives of its pods, as `autoscale traffic` asks for both."""
    return history.learn_traffic(service, pod_moments(service))


@pytest.fixture(scope="module")
def told():
    """What two standing replicas told in five hours, and how many requests came between their first and last scrape."""
    needs_prometheus()
    plan = LoadPlan.from_options(
        rate=RATE,
        duration_s=HOURS * 3600.0,
        prompt_tokens="uniform:100,500",
        output_tokens="uniform:20,80",
        seed=5,
    )
    profile = load("llama-3.1-8b-1xl4")
    outcome = simulate(
        profile,
        None,
        plan.arrivals(),
        seed=3,
        duration_s=HOURS * 3600.0,
        static_replicas=2,
        keep=True,
    )
    metrics = pd.DataFrame(metric_columns(outcome.samples))
    done = pd.DataFrame(request_columns(outcome.requests, None))
    return families(metrics, with_pods(outcome, done[done["status"] == "ok"]), "meta/m"), RATE * HOURS * 3600


def renamed(told, changes):
    """The series with texts of their names and labels replaced; without those whose text becomes empty."""
    made = []
    for name, kind, many in told:
        named, some = name, []
        for pattern, text in changes.items():
            named = re.sub(pattern, text, named)
        for one in many:
            labels = one.labels
            for pattern, text in changes.items():
                labels = re.sub(pattern, text, labels)
            some.append(replace(one, labels=labels))
        made.append((named, kind, some))
    return made


def beside(*all_told):
    """The series of several services in one Prometheus."""
    merged = {}
    for name, kind, many in (family for told in all_told for family in told):
        merged.setdefault((name, kind), []).extend(many)
    return [(name, kind, many) for (name, kind), many in merged.items()]


def of(told, keep):
    return [(name, kind, [one for one in many if keep(one)]) for name, kind, many in told]


def every(told, seconds):
    """One sample of so many seconds: what a downsampled database keeps."""
    made = []
    for name, kind, many in told:
        some = []
        for one in many:
            block = np.floor(one.times_s / seconds)
            first = np.r_[True, block[1:] != block[:-1]]
            some.append(replace(one, times_s=one.times_s[first], values=np.asarray(one.values)[first]))
        made.append((name, kind, some))
    return made


class Told:
    """A real Prometheus over such series, and what is asked of it."""

    def __init__(self, folder):
        self.folder = folder

    def ask(self, told, then, flags=(), hours=HOURS, **asked):
        (self.folder / "tsdb").mkdir()
        write_open_metrics(self.folder / "text", told, ZERO)
        add_blocks(self.folder / "text", self.folder)
        config = "global: {scrape_interval: 15s}\n"
        with local_prometheus(self.folder, config, ["--storage.tsdb.retention.time=100y", *flags]) as url:
            return then(find_service(url, hours * 3600.0, until=ZERO + HOURS * 3600.0, **asked))


@pytest.fixture
def prometheus(tmp_path):
    return Told(tmp_path)


def production(service):
    return learn_production(service, None, lambda *_: None)


def test_a_server_that_limits_its_queries_is_asked_for_less_at_a_time(told, prometheus):
    series, came = told
    learned = prometheus.ask(series, learn_traffic, flags=["--query.max-samples=1500"])
    assert learned.came.counts.sum() == pytest.approx(
        came, rel=0.03
    )  # Poisson: 1.1 % is a standard deviation
    assert learned.prompt is not None
    assert learned.prompt.mean == pytest.approx(300, rel=0.02)


def test_a_server_that_takes_only_whole_names_tells_lengths_and_latencies(told, prometheus):
    def through(service):
        to = servers.passing_on(service.door.url)

        def answer(path, query):
            refused = "__name__=~" in query.get("query", "")
            return (400, '{"status":"error","error":"unsupported"}') if refused else to(path, query)

        with servers.serving(answer) as server:
            return production(find_service(server.url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0))

    found = prometheus.ask(told[0], through)
    assert found.traffic.prompt is not None
    assert found.traffic.prompt.mean == pytest.approx(300, rel=0.02)
    assert all(one.ttft_s > 0 for one in found.points.stretches)


def test_a_limit_below_any_chunk_is_a_sentence(told, prometheus):
    with pytest.raises(SourceUnavailable, match=r"too many samples.*--selector, or raise the server's limit"):
        prometheus.ask(told[0], learn_traffic, flags=["--query.max-samples=20"])


def test_services_in_several_namespaces_are_named_and_parted(told, prometheus):
    chat = renamed(told[0], {r"\{": '{namespace="chat",'})
    batch = renamed(told[0], {r"\{": '{namespace="batch",', "vllm-": "other-"})

    def both(service):
        alone = find_service(service.door.url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0, namespace="chat")
        return learn_traffic(service), learn_traffic(alone)

    mixed, alone = prometheus.ask(beside(chat, batch), both)
    assert any("2 namespaces (batch, chat)" in note and "--namespace" in note for note in mixed.notes)
    assert mixed.came.counts.sum() == pytest.approx(2 * alone.came.counts.sum())
    assert not alone.notes


def test_tenants_by_label_are_named_with_a_selector(told, prometheus):
    one = renamed(told[0], {r"\{": '{tenant="a",'})
    other = renamed(told[0], {r"\{": '{tenant="b",', "vllm-": "other-"})
    notes = prometheus.ask(beside(one, other), learn_traffic).notes
    assert any("2 tenants (a, b)" in note and "--selector 'tenant=\"a\"'" in note for note in notes)


def test_pods_of_one_name_in_two_namespaces_are_not_taken_for_one(told, prometheus):
    both = beside(*(renamed(told[0], {r"\{": f'{{namespace="{name}",'}) for name in ("chat", "batch")))
    with pytest.raises(BadInput, match=r"same names are in several namespaces: 'batch, chat'.*--namespace"):
        prometheus.ask(both, learn_traffic)


def test_recording_rules_alone_are_named(told, prometheus):
    rules = renamed(told[0], {"vllm:num_requests_running": "job:vllm_num_requests_running:sum"})
    rules = [family for family in rules if family[0].startswith("job:")]
    with pytest.raises(
        TooLittleData, match=r"it has job:vllm_num_requests_running:sum, which recording rules made"
    ):
        prometheus.ask(rules, learn_traffic)


def test_series_without_a_pod_tell_traffic_and_no_replica(told, prometheus):
    pod = re.search('pod="[^"]+"', told[0][0][2][0].labels)[0]
    nameless = renamed(of(told[0], lambda one: pod in one.labels), {f"{pod},": ""})

    def both(service):
        notes = learn_traffic(service).notes
        with pytest.raises(TooLittleData, match=r"name no pod and no instance.*`autoscale load`"):
            production(service)
        return notes

    assert any("taken as of one replica" in note for note in prometheus.ask(nameless, both))


def test_two_versions_side_by_side_are_told_by_their_names(told, prometheus):
    pod = re.search('pod="[^"]+"', told[0][0][2][0].labels)[0]
    new = of(told[0], lambda one: pod in one.labels)
    names = {"kv_cache_usage_perc": "gpu_cache_usage_perc", "inter_token_latency": "time_per_output_token"}
    old = renamed(of(told[0], lambda one: pod not in one.labels), names)
    found = prometheus.ask(beside(new, old), production)
    (note,) = [note for note in found.notes if "versions" in note]
    assert re.search(
        r"pods of 2 versions: vLLM 0\.11 or later .*; vLLM before 0\.9\.2 .*the replica is learned", note
    )
    assert {one.pod for one in found.points.stretches} == {pod.split('"')[1]}


def test_samples_that_are_far_apart_tell_traffic_and_no_replica(told, prometheus):
    def both(service):
        with pytest.raises(
            TooLittleData, match="too far apart to tell what a replica does: '1800 s'; expected 300 s"
        ):
            production(service)
        return learn_traffic(service)

    learned = prometheus.ask(every(told[0], 1800), both)
    assert learned.came.counts.sum() == pytest.approx(told[1] * (HOURS - 0.5) / HOURS, rel=0.04)


def test_burstiness_that_samples_leave_open_is_not_taken_from_its_middle(told, prometheus):
    learned = prometheus.ask(every(told[0], 300), learn_traffic)
    assert learned.burstiness is None or not learned.burstiness.told
    assert learned.cv == 1.0
    assert "arrivals: poisson" in learned.yaml()
    assert any("taken as Poisson" in said for said in learned.caveats())


def test_a_recommendation_says_how_little_of_the_window_is_told(told, prometheus):
    silent = [
        (name, kind, [replace(o, times_s=o.times_s[k], values=np.asarray(o.values)[k]) for o in many for k in [~((o.times_s > 7200) & (o.times_s < 10_800))]])
        for name, kind, many in told[0]
    ]  # fmt: skip
    notes = " ".join(prometheus.ask(silent, production, hours=14 * 24).notes)
    assert re.search(r"of the 14 days that were asked for 4\.9\d h are told", notes)
    assert "less than a day: what comes in its other hours is not known" in notes
    assert re.search(r"nothing was scraped in 2[01]\.\d% of the time", notes)


def test_a_label_that_no_series_has_is_answered_with_theirs(told, prometheus):
    with pytest.raises(TooLittleData, match=r"none with a label podd \(they have pod, model_name, engine\)"):
        prometheus.ask(told[0], learn_traffic, selector='podd="a"')


@pytest.mark.parametrize("verb", [["traffic", "--prometheus"], ["recommend", "--from-prometheus"]])
def test_a_server_that_wants_a_key_says_how_to_give_it(verb, tmp_path):
    with servers.serving(servers.FakePrometheus([]), wanted={"Authorization": "Bearer k"}) as server:
        result = CliRunner().invoke(app, [*verb, server.url, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, SourceUnavailable)
    assert re.search(r"401 \(it wants a key\).*--token-file FILE", str(result.exception))


def test_an_answer_that_was_interrupted_does_not_stand_in_the_way(tmp_path):
    (tmp_path / "traffic.yaml").write_text("arrivals: poisson\n")
    assert answers_directory(tmp_path, (), "any") == tmp_path
    (tmp_path / "mine.txt").write_text("mine\n")
    with pytest.raises(BadInput, match="something else"):
        answers_directory(tmp_path, (), "any")
