"""A whole check: preflight, watch, evidence, judgement, replay; over the real client, a fleet, and three virtual hours."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from analysis import run as runs
from analysis.errors import BadInput, BadRun
from autoscale import check_command
from autoscale.check import evidence, judge_again, prove
from autoscale.check.feeding import RESOURCES
from autoscale.check.live_view import settled
from autoscale.check.records import Resize
from autoscale.check.scaleout import history
from autoscale.check.timeline import Timeline
from autoscale.kube.cluster import ClusterError, Observation, read_observations
from autoscale.kube.live import LiveCluster
from autoscale.observe.fleet_door import FleetDoor
from autoscale.profiles import profile as profiles
from autoscale.sim.http.hosting import FleetThread
from autoscale.sim.http.server import FleetServer


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


class Counted(LiveCluster):
    """A live cluster that says how much it has told."""

    told = 0

    def observe(self, resources, namespace, stop):
        for seen in super().observe(resources, namespace, stop):
            yield seen
            self.told += seen.resource in RESOURCES


def play(server, cluster, rows):
    """Serve a recording row by row, each when the one before was received; metric values when the HPA asked."""
    server.now_s = rows[0].time_s
    server.wait_watching([r for r in RESOURCES if r not in server.absent])
    given = cluster.told
    for row in rows:
        server.now_s = max(server.now_s, row.time_s)
        if row.resource in RESOURCES:
            server.apply(row.resource, row.type, row.object)
            given += 1
            until = time.monotonic() + 10
            while cluster.told < given:
                assert time.monotonic() < until
                time.sleep(0.001)
        elif row.resource == "custommetrics":
            server.metrics[row.object["metric"]] = row.object["values"] or row.object.get("answer", 404)
            asked = sum("custom.metrics" in path and "/pods/" in path for path in server.requests)
            until = time.monotonic() + 1.0
            while sum("custom.metrics" in p and "/pods/" in p for p in server.requests) < asked + 4:
                if time.monotonic() > until:
                    break
                time.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "hpa", "namespace"),
    [("deployment", "vllm-dep-hpa", "deployment"), ("lws", "vllm-lws-hpa", "lws")],
    ids=["a Deployment", "a LeaderWorkerSet"],
)
def test_a_recorded_cluster_is_checked_through_the_api(server, fixtures_dir, tmp_path, name, hpa, namespace):
    rows = list(read_observations(fixtures_dir / "kubernetes" / f"{name}.jsonl.gz"))
    marks = [(o.time_s, o.object["text"]) for o in rows if o.resource == "mark"]
    rows = [o for o in rows if o.resource not in ("mark", "replicasets")]
    start = next(i for i, o in enumerate(rows) if o.resource == "horizontalpodautoscalers") + 1
    server.now_s = rows[start].time_s
    for row in rows[:start]:
        server.apply(row.resource, row.type, row.object)
    cluster = Counted(standin.client(server.url), clock=server.clock)
    stop, states, box = threading.Event(), [], {}
    run_dir = tmp_path / "run"

    def run():
        box["result"] = prove(
            cluster, namespace, hpa, run_dir, sample_s=0.02, settle_s=None, progress=states.append, stop=stop
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server.wait_watching(RESOURCES)
    already = sum(len(found) for resource, found in server.objects.items() if resource in RESOURCES)
    until = time.monotonic() + 10
    while cluster.told < already and time.monotonic() < until:
        time.sleep(0.005)
    play(server, cluster, rows[start:])
    stop.set()
    thread.join(timeout=20)
    result = box["result"]
    outs = result.judgement.history.scale_outs
    assert [(out.before, out.after) for out in outs] == [(1, 2), (2, 3), (3, 4)]
    for out in outs:
        assert out.attributed >= 0.95
        marked = next(t for t, text in marks if text.startswith(f"reached: {out.after} "))
        assert out.ready_s == pytest.approx(marked, abs=2.0)
    assert sum(each.before - each.after for each in result.judgement.history.scale_ins) == 3
    assert states[-1].metrics
    assert server.scaled == [], "a check changes nothing"
    answer = json.loads((run_dir / "check.json").read_text())
    again = judge_again(run_dir)
    assert [c.outcome for c in again.judgement.criteria] == [c.outcome for c in result.judgement.criteria]
    assert json.loads((run_dir / "check.json").read_text())["scale_outs"] == answer["scale_outs"]
    table = runs.read(run_dir).replicas
    assert table["ready"].max() == 4
    assert (
        yaml.safe_load((run_dir / "measured.yaml").read_text())["cold_start"]["engine_init"]["median_s"] > 2.5
    )
    assert runs.read(run_dir).events
    with pytest.raises(BadRun, match="already holds the evidence"):
        prove(cluster, namespace, hpa, run_dir)


@pytest.fixture
def logged(fixtures_dir, tmp_path):
    """The evidence of a recorded scale-out whose new replicas' logs tell that the weights took 2 s."""
    rows = list(read_observations(fixtures_dir / "kubernetes" / "deployment.jsonl.gz"))
    rows = [o for o in rows if o.resource not in ("mark", "replicasets")]
    started = [u for out in history(Timeline().extend(rows)).scale_outs for u in out.replicas]
    for unit in started:
        end = datetime.fromtimestamp(unit.started_s + 2, UTC).isoformat().replace("+00:00", "Z")
        line = {"time": end, "text": "Loading weights took 2.0 seconds"}
        rows.append(
            Observation(unit.ready_s + 0.1, "logs", "READ", {"pod": unit.leader.name, "lines": [line]})
        )
    run_dir = tmp_path / "logged"
    evidence.open_evidence(run_dir, {"kind": "live", "command": "check", "check": {"hpa": "vllm-dep-hpa"}})
    with evidence.Recorder(run_dir) as recorder:
        for row in sorted(rows, key=lambda o: o.time_s):
            recorder.write(row, row.time_s)
    return run_dir


@pytest.mark.parametrize("known", [True, False], ids=["the profile that is named", "no profile"])
def test_the_weights_read_rate_is_measured_where_log_and_profile_tell(logged, known):
    """In 2 s all weights were read; without their size these 2 s belong to engine_init."""
    nothing = dict.fromkeys(("fleet", "hpa", "context", "load", "scale_to", "out", "expect"))
    name = "llama-3.1-8b-1xh100"
    check_command.run_check(
        **nothing, namespace="", timeout_s=1, replay_dir=logged, profile=name if known else None
    )
    cold = yaml.safe_load((logged / "measured.yaml").read_text())["cold_start"]
    if not known:
        assert cold["weights_rate_bytes_s"] == 1e18
        assert cold["engine_init"]["median_s"] > 2
    else:
        size = profiles.load(name).model.weight_bytes
        assert cold["weights_rate_bytes_s"] == pytest.approx(size / 2, rel=0.3)  # stamps of whole seconds
        changed = profiles.overlay(profiles.load(name), {"cold_start": cold})
        assert changed.cold_start.median_s(size) > 2


def test_a_profile_that_is_not_there_is_refused_before_the_watch(logged):
    nothing = dict.fromkeys(("fleet", "hpa", "context", "load", "scale_to", "out", "expect"))
    with pytest.raises(BadInput, match="no-such"):
        check_command.run_check(**nothing, namespace="", timeout_s=1, replay_dir=logged, profile="no-such")


def test_an_hpa_that_is_not_there_ends_the_check_at_once(server, tmp_path):
    result = prove(LiveCluster(standin.client(server.url)), "ns", "nothing", tmp_path / "run")
    assert not result.passed
    assert [f.code for f in result.findings] == ["hpa-not-found"]
    assert "preflight" in result.ended


def test_a_cluster_that_does_not_answer_is_a_source_error(tmp_path):
    with pytest.raises(ClusterError, match=r"no API server answers at 127\.0\.0\.1:1"):
        prove(LiveCluster(standin.client("http://127.0.0.1:1")), "ns", "h", tmp_path / "run")


def test_evidence_that_is_not_there_is_named(tmp_path):
    runs.create(tmp_path / "run", {})
    with pytest.raises(BadRun, match=r"has no observations\.jsonl\.gz"):
        judge_again(tmp_path / "run")


# --- the simulated fleet -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b-1xl4", "llama-3.1-405b-2x8h100-hdml"], ids=["pods", "groups of two"]
)
def test_a_fleet_is_checked_by_the_same_judge_and_agrees_with_its_truth(tmp_path, name):
    start = {"node": 25, "image": 15, "engine_init": 30, "group_join": 5, "weights_rate_bytes_s": 1e12}
    profile = profiles.overlay(profiles.load(name), {"cold_start": start})  # 75 s and a little
    version = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1"}[profile.deploy.kind]
    metric = {
        "metric": {"name": "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"},
        "target": {"type": "AverageValue", "averageValue": "5"},
    }
    hpa = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "namespace": profile.deploy.namespace},
        "spec": {
            "scaleTargetRef": {
                "kind": profile.deploy.kind,
                "name": profile.deploy.name,
                "apiVersion": version,
            },
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [{"type": "Pods", "pods": metric}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3600}},
        },
    }
    server = FleetServer(profile, hpa, port=0, speed=40.0, seed=3)
    with FleetThread(server) as fleet:
        door = FleetDoor(fleet.url)
        result = prove(
            door,
            profile.deploy.namespace,
            "h",
            tmp_path / "run",
            scale_to=2,
            timeout_s=20,
            settle_s=5.0,
        )
        truth = next(t for t in door.truth()["replicas"] if t["created"] > door.started_at + 0.001)
    (out,) = [each for each in result.judgement.history.scale_outs if each.after == 2]
    assert not out.by_hpa
    assert out.ready_s == pytest.approx(truth["ready"], abs=1.0)
    (unit,) = out.replicas
    assert unit.leader.created_s == pytest.approx(truth["created"], abs=1.0)
    assert unit.scheduled_s == pytest.approx(truth["scheduled"], abs=1.0)
    assert unit.started_s == pytest.approx(truth["image"], abs=1.0)
    assert out.attributed >= 0.95
    assert len({pod.node for pod in unit.pods}) == profile.replica.nodes


def test_no_fleet_is_said_with_a_next_step():
    with pytest.raises(ClusterError, match="no fleet answers"):
        FleetDoor("http://127.0.0.1:1")


# --- three hours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "over"),
    [
        pytest.param(None, True, id="none since"),
        pytest.param(Resize(400.0, 3, 4, True), False, id="another scale-out, not judged yet"),
        pytest.param(Resize(400.0, 2, 1, True), True, id="a scale-in"),
        pytest.param(Resize(495.0, 2, 1, True), True, id="a scale-in just now, long after it was absorbed"),
    ],
)
def test_a_watch_ends_when_no_scale_out_is_under_way(newest, over):
    first = Resize(100.0, 1, 2, True)
    judged = SimpleNamespace(decided_s=100.0, by_hpa=True, absorbed_s=300.0, ready_s=250.0)
    timeline = SimpleNamespace(decisions=[first, *([newest] if newest else [])])
    past = SimpleNamespace(scale_outs=[judged])
    assert settled(timeline, past, 60.0, 500.0) is over
    assert settled(timeline, past, 600.0, 500.0) is False


THREE_HOURS = """
import json, re, sys, tempfile
from autoscale.check import prove
from autoscale.kube.cluster import Observation
METRIC = "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"

class Virtual:
    tells_queries = True
    simulated = True
    at = 1_800_000_000.0
    def now_s(self): return self.at
    def list(self, resource, namespace=None, selector=""):
        return [HPA] if resource == "horizontalpodautoscalers" else [target(2)] if resource == "deployments" else []
    def custom_metric(self, namespace, metric, selector): return {"vllm-0": 6000}
    def scale(self, hpa, replicas): raise AssertionError
    def observe(self, resources, namespace, stop):
        yield Observation(self.at, "horizontalpodautoscalers", "ADDED", HPA)
        yield Observation(self.at, "deployments", "ADDED", target(2))
        for second in range(3 * 3600):
            self.at += 1.0
            values = {f"vllm-{p}": f"{(second * 7919 + p) % 9000}m" for p in range(16)}
            for metric in (METRIC, METRIC + "2"):
                yield Observation(self.at, "custommetrics", "QUERY", {"metric": metric, "labelSelector": "", "values": values})
            if second % 10 == 0:
                for p in range(16):
                    yield Observation(self.at, "pods", "ADDED" if not second else "MODIFIED", pod(p, self.at, second))
                for n in range(16):
                    yield Observation(self.at, "nodes", "MODIFIED", {"metadata": {"name": f"n{n}"}, "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": str(second)}] * 5}})
                yield Observation(self.at, "events", "ADDED", {"metadata": {"name": f"e{second}"}, "involvedObject": {"kind": "Pod", "name": f"job-{second}"}, "reason": "Pulled", "message": "x" * 200})

HPA = {"metadata": {"name": "h", "namespace": "ns"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "vllm", "apiVersion": "apps/v1"}, "maxReplicas": 20,
    "metrics": [{"type": "Pods", "pods": {"metric": {"name": m}, "target": {"averageValue": "5"}}} for m in (METRIC, METRIC + "2")]}, "status": {}}
def target(n): return {"kind": "Deployment", "metadata": {"name": "vllm"}, "spec": {"replicas": n, "selector": {"matchLabels": {"app": "vllm"}}}, "status": {}}
def pod(p, at, second):
    return {"metadata": {"name": f"vllm-{p}", "uid": f"vllm-{p}", "labels": {"app": "vllm"}, "creationTimestamp": "2027-01-15T08:00:00Z", "annotations": {"a": "x" * 500}},
        "spec": {"containers": [{"name": "vllm"}]}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2027-01-15T08:00:00Z"}]}}
def peak_mb():  # of this process alone: ru_maxrss would keep its parent's from before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024
result = prove(Virtual(), "ns", "h", tempfile.mkdtemp() + "/run", settle_s=None, timeout_s=600, progress=lambda state: None)
print(json.dumps({"peak_mb": peak_mb(), "pandas": "pandas" in sys.modules, "ended": result.ended, "seconds": result.timeline.last_s - result.timeline.first_s}))
"""


def test_a_watch_of_three_hours_stays_under_200_mb():
    done = subprocess.run([sys.executable, "-c", THREE_HOURS], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["ended"] == "the source ended"
    assert told["seconds"] == 3 * 3600
    assert not told["pandas"]  # 45 MB more, 65 of a file that was just written
    assert told["peak_mb"] < 200
