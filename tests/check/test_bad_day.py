"""A cluster on a bad day: what a check says when the HPA, its metric, a node or the API server fails under it."""

import importlib.util
import io
import json
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from rich.console import Console

from autoscale import check_command
from autoscale.check import judge_again, prove
from autoscale.check.feeding import RESOURCES
from autoscale.check.preflight import diagnose
from autoscale.check.snapshot import take
from autoscale.kube.cluster import read_observations
from autoscale.kube.live import LiveCluster
from autoscale.show.terminal.check import check_lines


def _standin():
    spec = importlib.util.spec_from_file_location(
        "kubernetes_standin", Path(__file__).parent.parent / "kubernetes_standin.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


standin = _standin()


@pytest.fixture
def server():
    running = standin.ApiServer()
    yield running
    running.stop()


class Day:
    """A check of one HPA in a thread, over an API server whose clock and objects the test moves."""

    def __init__(self, server, run_dir, hpa, **options):
        self.server, self.run_dir, self.states, self.box = server, run_dir, [], {}
        self.stop = threading.Event()
        cluster = LiveCluster(standin.client(server.url), clock=server.clock)
        given = {"settle_s": None, "sample_s": 0.02, "stop": self.stop, "progress": self.states.append}

        def run():
            self.box["result"] = prove(cluster, "ns", hpa, run_dir, **given | options)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        server.wait_watching([r for r in RESOURCES if r not in server.absent | server.forbidden])

    def until(self, condition, timeout_s=10.0):
        end = time.monotonic() + timeout_s
        while not (self.states and condition(self.states[-1])):
            assert time.monotonic() < end, self.states[-1:]
            assert self.thread.is_alive()
            time.sleep(0.02)

    def play(self, rows):
        """Serve a recording, the clock with it, for as long as somebody watches; each row is seen before the next."""
        for row in rows:
            if not self.thread.is_alive():
                return
            self.server.now_s = max(self.server.now_s, row.time_s)
            if row.resource in RESOURCES:
                self.server.apply(row.resource, row.type, row.object)
                if row.resource == "horizontalpodautoscalers":
                    time.sleep(0.3)  # longer than the watch takes to look for an end
            elif row.resource == "custommetrics":
                values = row.object["values"]
                self.server.metrics[row.object["metric"]] = (
                    row.object.get("answer", 404) if values is None else values
                )
                time.sleep(0.1)  # some samples long

    def end(self):
        """Stop it, or wait for its own end."""
        self.thread.join(timeout=2.0)
        self.stop.set()
        self.thread.join(timeout=20)
        return self.box["result"]


def verdicts(result):
    return {criterion.code: criterion for criterion in result.judgement.criteria}


def recorded(fixtures_dir, server, name, hpa):
    """The rows of a recording from where its HPA was first seen; what came before is served at once."""
    rows = [
        o
        for o in read_observations(fixtures_dir / "kubernetes" / f"{name}.jsonl.gz")
        if o.resource not in ("mark", "replicasets")
    ]
    start = 1 + next(
        i
        for i, o in enumerate(rows)
        if o.resource == "horizontalpodautoscalers" and o.object["metadata"]["name"] == hpa
    )
    server.now_s = rows[start - 1].time_s
    for row in rows[:start]:
        if row.resource in RESOURCES:
            server.apply(row.resource, row.type, row.object)
    return rows[start:]


# --- the HPA cannot act ------------------------------------------------------------------------------------------------


def test_an_unreadable_metric_is_said_at_once_and_ends_the_check_after_three_syncs(
    server, fixtures_dir, tmp_path
):
    """The recorded HPA cannot read its metric from 17:38:19 on; 45 s after that the check ends, long before its timeout
    and before 17:40:04, when the metric comes."""
    rows = recorded(fixtures_dir, server, "failures", "miss")
    day = Day(server, tmp_path / "run", "miss")
    day.play(rows)
    result = day.end()
    assert result.ended.startswith("the HPA has not read its metric since 17:38:")
    assert "vllm:does_not_exist" in result.ended
    assert 45 <= result.timeline.last_s - result.timeline.hindrance.unreadable_s < 60
    assert any("has not read its metric" in state.hindered for state in day.states)
    assert not result.passed
    assert "metric-not-found" in {found.code for found in result.findings if found.severity == "error"}
    told = verdicts(result)["scaled_when_it_should"]
    assert (told.outcome, "never stood above" in told.sentence) == ("not_judged", False)
    assert "has not read its metric" in told.sentence
    events = (tmp_path / "run" / "events.jsonl").read_text()
    assert "unable to get metric" in events
    again = {found.code for found in judge_again(tmp_path / "run").findings}
    assert "metric-not-found" in again


@pytest.mark.parametrize(
    ("load", "least_s"), [(None, 45.0), (nullcontext(), 180.0)], ids=["without load", "with load"]
)
def test_a_metric_that_was_unreadable_for_hours_is_given_the_time_that_a_first_value_takes(
    server, fixtures_dir, tmp_path, load, least_s
):
    """A series that only requests make has no value before the load, and none at once."""
    rows = recorded(fixtures_dir, server, "failures", "miss")
    for row in rows[:200]:
        if row.resource in RESOURCES and row.time_s < rows[0].time_s + 60:
            server.apply(row.resource, row.type, row.object)
    server.now_s = begun_s = rows[0].time_s + 7200.0
    day = Day(server, tmp_path / "run", "miss", loading=load)
    day.until(lambda state: "has not read its metric since 17:38:" in state.hindered)
    while day.thread.is_alive() and server.now_s < begun_s + 400:
        server.now_s += 5.0
        time.sleep(0.3)
    result = day.end()
    assert result.ended.startswith("the HPA has not read its metric since 17:38:")
    assert least_s <= server.now_s - begun_s < least_s + 30
    assert not result.passed


def test_one_unreadable_metric_of_two_does_not_end_the_check(server, fixtures_dir, tmp_path):
    """The HPA `part` still scales out on its other metric, even while ScalingActive is False."""
    rows = recorded(fixtures_dir, server, "failures", "part")
    day = Day(server, tmp_path / "run", "part")
    day.play([row for row in rows if row.time_s < rows[0].time_s + 140])
    assert day.thread.is_alive()
    result = day.end()
    assert result.ended == "stopped"
    assert result.timeline.decisions


def test_an_hpa_that_is_deleted_meanwhile_is_called_deleted_at_its_time(server, fixtures_dir, tmp_path):
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.until(lambda state: state.desired)
    gone = next(iter(server.objects["horizontalpodautoscalers"].values()))
    server.now_s = rows[0].time_s + 10.0
    server.apply("horizontalpodautoscalers", "DELETED", gone)
    day.until(lambda state: "deleted" in state.hindered)
    server.now_s += 46.0
    result = day.end()
    at = time.strftime("%H:%M:%SZ", time.gmtime(rows[0].time_s + 10.0))
    assert result.ended.startswith(f"the HPA was deleted at {at}")
    for each in (result, judge_again(tmp_path / "run")):
        told = {found.code: found for found in each.findings}
        assert "hpa-not-found" not in told
        assert at in told["hpa-deleted"].cause
    answer = json.loads((tmp_path / "run" / "check.json").read_text())
    assert answer["passed"] is False


def test_an_hpa_that_is_replaced_goes_on_being_watched(server, fixtures_dir, tmp_path):
    recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.until(lambda state: state.desired)
    gone = next(iter(server.objects["horizontalpodautoscalers"].values()))
    server.apply("horizontalpodautoscalers", "DELETED", gone)
    day.until(lambda state: "deleted" in state.hindered)
    server.apply("horizontalpodautoscalers", "ADDED", gone)
    day.until(lambda state: not state.hindered)
    server.now_s += 60.0
    result = day.end()
    assert result.ended == "stopped"
    assert not {"hpa-deleted", "hpa-not-found"} & {found.code for found in result.findings}


# --- the API server goes away --------------------------------------------------------------------------------------------


def blind_for(server, day, seconds, steps=8):
    """An outage of that many seconds of the cluster's clock; returns when it began and ended."""
    from_s = server.now_s
    server.outage()
    for _ in range(steps):
        time.sleep(0.3)
        server.now_s += seconds / steps
    return from_s, server.now_s


def test_what_falls_in_an_outage_is_named_with_its_times_and_not_judged(server, fixtures_dir, tmp_path):
    """The API server is away for 80 s around the first decision and has forgotten old versions when it is back."""
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.until(lambda state: state.desired == 1)
    first = next(
        i for i, o in enumerate(rows) if o.resource == "deployments" and o.object["spec"]["replicas"] == 2
    )
    day.play(rows[:first])
    time.sleep(0.5)
    from_s, to_s = blind_for(server, day, 80.0)
    for row in rows[first : first + 15]:
        if row.resource in RESOURCES:
            server.apply(row.resource, row.type, row.object)
    server.compact()
    server.down = False
    day.until(lambda state: state.desired == 2)
    time.sleep(1.5)
    result = day.end()
    told = verdicts(result)
    span = [time.strftime("%H:%M:%SZ", time.gmtime(int(at_s))) for at_s in (from_s, to_s)]
    pods = next(line for line in result.judgement.history.unseen if line.startswith("pods were not seen"))
    assert pods.startswith(f"pods were not seen from {span[0]} to {span[1]}: ")
    for code in ("scaled_when_it_should", "no_flapping", "no_wasted_replica", "became_ready"):
        assert told[code].outcome == "not_judged", code
        assert span[1] in told[code].sentence
    assert not result.passed
    again = verdicts(judge_again(tmp_path / "run"))
    assert {code: each.outcome for code, each in again.items()} == {c: e.outcome for c, e in told.items()}


def test_an_outage_that_lasts_to_the_end_is_a_gap_and_no_crash(server, fixtures_dir, tmp_path):
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.play(rows[:5])
    day.until(lambda state: state.desired == 1)
    blind_for(server, day, 80.0, steps=16)
    result = day.end()
    assert result.ended == "stopped"
    lost = [line for line in result.judgement.history.unseen if "were not seen from" in line]
    assert {line.split()[0] for line in lost} >= {"pods", "horizontalpodautoscalers", "custommetrics"}
    assert not {"rbac-missing"} & {found.code for found in result.findings if found.severity == "error"}


ODD_EVENTS = {
    "null": b"null",
    "a status of a proxy": b'{"kind":"Status","status":"Failure","code":502}',
    "a list": b"[]",
    "no metadata": b'{"type":"MODIFIED","object":{"kind":"Deployment"}}',
    "an error that is text": b'{"type":"ERROR","object":"gone"}',
    "nested without end": b"[" * 100_000,
    "no JSON": b"<html>",
}


@pytest.mark.parametrize("line", ODD_EVENTS.values(), ids=ODD_EVENTS)
def test_an_event_that_is_none_is_a_gap_and_the_watch_goes_on(server, fixtures_dir, tmp_path, line):
    """The event in whose place it came is seen all the same, by the next list or watch."""
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.until(lambda state: state.desired == 1)
    decided = next(o for o in rows if o.resource == "deployments" and o.object["spec"]["replicas"] == 2)
    server.now_s = decided.time_s
    server.instead["deployments"] = line
    server.apply("deployments", decided.type, decided.object)
    day.until(lambda state: state.desired == 2)
    assert server.instead == {}
    result = day.end()
    assert result.ended == "stopped"
    assert [made.after for made in result.timeline.decisions] == [2]


# --- a node goes away ----------------------------------------------------------------------------------------------------


def transition(found, kind, status, at_s):
    """The object with one condition as it is after its transition."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_s))
    others = [c for c in found["status"].get("conditions") or [] if c["type"] != kind]
    changed = {"type": kind, "status": status, "lastTransitionTime": stamp, "reason": "NodeStatusUnknown"}
    return {**found, "status": {**found["status"], "conditions": [*others, changed]}}


@pytest.fixture
def lost_node(server, fixtures_dir):
    """The node of all recorded pods stopped 100 s ago; 30 s later its pods lost Ready."""
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    for row in rows[:60]:
        if row.resource in RESOURCES:
            server.apply(row.resource, row.type, row.object)
    now_s = server.now_s = float(int(rows[60].time_s)) + 200.0  # stamps are whole seconds
    pods = list(server.objects["pods"].values())
    names = {pod["spec"]["nodeName"] for pod in pods}
    for node in [n for n in server.objects["nodes"].values() if n["metadata"]["name"] in names]:
        server.apply("nodes", "MODIFIED", transition(node, "Ready", "Unknown", now_s - 100))
    for pod in pods:
        server.apply("pods", "MODIFIED", transition(pod, "Ready", "False", now_s - 70))
        about = {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        name = {"name": f"{about['name']}.1", "uid": f"e-{about['name']}"}
        event = {"metadata": name, "involvedObject": about, "reason": "NodeNotReady", "type": "Warning"}
        server.apply("events", "ADDED", event | {"message": "Node is not ready"})
    return LiveCluster(standin.client(server.url), clock=server.clock), names


def test_a_node_that_is_not_ready_is_named_and_no_readiness_probe(lost_node):
    cluster, names = lost_node
    found = {
        each.code: each
        for each in diagnose(take(cluster, "ns", "vllm-dep-hpa", cluster.now_s), "vllm-dep-hpa")
    }
    told = found["node-not-ready"]
    assert told.severity == "error"
    assert f"node {next(iter(names))} is not ready for 100 s" in told.cause
    assert "pods-not-ready" not in found


def test_without_rights_on_nodes_the_pods_events_name_the_node(server, lost_node):
    cluster, names = lost_node
    server.forbidden = {"nodes"}
    found = {
        each.code: each
        for each in diagnose(take(cluster, "ns", "vllm-dep-hpa", cluster.now_s), "vllm-dep-hpa")
    }
    assert f"node {next(iter(names))} is not ready;" in found["node-not-ready"].cause
    assert "pods-not-ready" not in found


def test_a_pod_that_lost_ready_is_unready_since_then_and_not_since_its_start(server, lost_node):
    """The node is well again; the pods lost Ready 70 s ago and ran for minutes before."""
    cluster, _ = lost_node
    for node in list(server.objects["nodes"].values()):
        server.apply("nodes", "MODIFIED", transition(node, "Ready", "True", server.now_s - 5))
    (told,) = [
        f
        for f in diagnose(take(cluster, "ns", "vllm-dep-hpa", cluster.now_s), "vllm-dep-hpa")
        if f.code == "pods-not-ready"
    ]
    assert "for 70 s)" in told.cause


# --- what had not ended, and what is only a bound ------------------------------------------------------------------------


def shown(lines) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    for line in lines:
        console.print(line)
    return console.export_text()


def test_open_phases_and_bounds_are_marked_wherever_phases_are_shown(server, fixtures_dir, tmp_path):
    """The watch ends while the recorded third replica's pod has not started; no load was given, so that the begin of
    `load to metric` is a bound."""
    rows = recorded(fixtures_dir, server, "deployment", "vllm-dep-hpa")
    first = next(i for i, o in enumerate(rows) if o.resource == "deployments")
    pod = next(i for i, o in enumerate(rows) if o.resource == "pods" and o.type == "ADDED")
    day = Day(server, tmp_path / "run", "vllm-dep-hpa")
    day.play(rows[:first])
    server.now_s += 2.0
    for metric, values in server.metrics.items():
        server.metrics[metric] = dict.fromkeys(values, "6")
    time.sleep(0.2)
    day.play(rows[first : pod + 1])
    day.until(lambda state: state.desired == 2)
    time.sleep(0.5)
    result = day.end()
    (out,) = result.judgement.history.scale_outs
    first, last = out.phases[0], out.phases[-1]
    assert (first.at_most, last.open) == (True, True), out.phases
    drawn = check_command._draw(result, None)
    (told,) = json.loads((tmp_path / "run" / "check.json").read_text())["scale_outs"]
    assert told["phases"][0]["at_most"] is True
    assert (told["phases"][-1]["open"], told["phases"][-1]["end_s"]) == (True, None)
    page = next(file for file in drawn if file.suffix == ".html").read_text()
    for text in (shown(check_lines(result)), page):
        assert f"at most {first.seconds:,.1f} s" in text
        assert f"open, {last.so_far_s:,.1f} s so far" in text
