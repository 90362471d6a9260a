"""The real kubernetes client against a small API server that does what real ones do to watchers."""

import importlib.util
import os
import re
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from analysis.errors import BadInput, SourceUnavailable
from autoscale.kube import kubeconfig
from autoscale.kube.api import connect
from autoscale.kube.clocks import Clocks
from autoscale.kube.cluster import ClusterError, read_observations
from autoscale.kube.kinds import resource_path
from autoscale.kube.live import LiveCluster
from tests.threaded import running


def _standin():
    spec = importlib.util.spec_from_file_location(
        "kubernetes_standin", Path(__file__).parent.parent / "kubernetes_standin.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


standin = _standin()


def pod(name: str, *, ready: bool = False, uid: str | None = None) -> dict:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or name,
            "managedFields": [{"manager": "x"}],
        },
        "spec": {"containers": [{"name": "vllm"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


class Watch:
    """Observes in a thread and lets a test wait for what it expects."""

    def __init__(self, cluster, resources):
        self.seen, self.stop = [], threading.Event()
        self.thread = threading.Thread(target=self._run, args=(cluster, resources), daemon=True)
        self.thread.start()

    def _run(self, cluster, resources):
        for seen in cluster.observe(resources, "ns", self.stop):
            self.seen.append(seen)

    def until(self, condition, timeout_s=10.0):
        end = time.monotonic() + timeout_s
        while not condition(self.seen):
            assert time.monotonic() < end, (
                f"not seen within {timeout_s} s: {[(o.resource, o.type) for o in self.seen]}"
            )
            time.sleep(0.005)
        return self.seen

    def names(self, kind):
        return [o.object["metadata"]["name"] for o in self.seen if o.type == kind]

    def close(self):
        self.stop.set()
        self.thread.join(timeout=5)
        assert not self.thread.is_alive()


@pytest.fixture
def server():
    running = standin.ApiServer()
    yield running
    running.stop()


@pytest.fixture
def cluster(server):
    return LiveCluster(standin.client(server.url), clock=server.clock)


@pytest.fixture
def watch(cluster):
    open_ones = []

    def start(*resources):
        open_ones.append(Watch(cluster, list(resources)))
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def test_it_lists_then_tells_each_change_without_bulk(server, watch):
    server.apply("pods", "ADDED", pod("a"))
    seen = watch("pods")
    server.wait_watching(["pods"])
    server.apply("pods", "ADDED", pod("b"))
    server.apply("pods", "DELETED", pod("a"))
    seen.until(lambda rows: any(o.type == "DELETED" for o in rows))
    assert [(o.type, o.object["metadata"]["name"]) for o in seen.seen if o.resource == "pods"] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    assert "managedFields" not in seen.seen[0].object["metadata"]
    assert seen.seen[0].object["kind"] == "Pod", "a list leaves kind to its head; an observation has it"


def test_a_long_list_comes_in_pages(server, cluster):
    for index in range(1203):
        server.apply("pods", "ADDED", pod(f"p{index}"))
    assert len(cluster.list("pods", "ns")) == 1203
    assert sum("limit=500" in path for path in server.requests) == 3


def test_a_dropped_connection_goes_on_from_the_last_version_and_loses_nothing(server, watch):
    seen = watch("pods")
    server.wait_watching(["pods"])
    server.apply("pods", "ADDED", pod("a"))
    seen.until(lambda rows: len(rows) > 0)
    server.drop()
    server.apply("pods", "ADDED", pod("b"))
    seen.until(lambda rows: "b" in seen.names("ADDED"))
    assert seen.names("ADDED") == ["a", "b"]
    assert not [o for o in seen.seen if o.resource == "gap" and o.object["lost"]]


def test_an_expired_version_lists_again_and_tells_the_differences_and_the_gap(server, watch):
    server.apply("pods", "ADDED", pod("stays"))
    server.apply("pods", "ADDED", pod("changes"))
    server.apply("pods", "ADDED", pod("goes"))
    seen = watch("pods")
    server.wait_watching(["pods"])
    with server.changed:  # nobody is told: the changes happen while the watcher is blind
        server.drop()
        server.apply("pods", "MODIFIED", pod("changes", ready=True))
        server.apply("pods", "DELETED", pod("goes"))
        server.apply("pods", "ADDED", pod("comes"))
        server.compact()
    seen.until(lambda rows: "comes" in seen.names("ADDED"))
    assert seen.names("DELETED") == ["goes"]
    assert seen.names("MODIFIED") == ["changes"]
    assert seen.names("ADDED") == ["stays", "changes", "goes", "comes"]
    gap = next(o for o in seen.seen if o.resource == "gap")
    assert gap.object["lost"]
    assert gap.object["resource"] == "pods"
    assert gap.object["to_s"] >= gap.object["from_s"]
    assert seen.seen.index(gap) < seen.seen.index(next(o for o in seen.seen if o.type == "DELETED"))


def test_a_restarted_api_server_is_found_again(server, cluster, watch):
    server.apply("pods", "ADDED", pod("before"))
    seen = watch("pods")
    server.wait_watching(["pods"])
    port = server.server_address[1]
    server.stop()
    time.sleep(0.3)
    again = standin.ApiServer(port)
    try:
        again.version = 5000  # a new store: old versions are unknown to it
        again.oldest = 5000
        again.apply("pods", "ADDED", pod("after", uid="new"))
        seen.until(lambda rows: "after" in seen.names("ADDED"), timeout_s=20)
        assert seen.names("DELETED") == ["before"]
        assert [o for o in seen.seen if o.resource == "gap" and o.object["lost"]]
        seen.close()
    finally:
        again.stop()
        server.serving = threading.Thread()  # the fixture stops a server that is already stopped
        server.stop = lambda: None


def test_a_forbidden_resource_is_named_once_and_the_others_go_on(server, watch):
    server.forbidden = {"nodes"}
    server.apply("pods", "ADDED", pod("a"))
    seen = watch("pods", "nodes")
    seen.until(lambda rows: {"pods", "gap"} <= {o.resource for o in rows})
    gap = next(o for o in seen.seen if o.resource == "gap")
    assert (gap.object["resource"], gap.object["status"]) == ("nodes", 403)
    assert "forbidden" in gap.object["reason"]


def test_a_permission_that_fails_for_a_moment_is_asked_for_again_at_once(server, watch):
    """As after a restart of the API server: it answers, but knows no roles yet."""
    server.apply("pods", "ADDED", pod("a"))
    seen = watch("pods")
    server.wait_watching(["pods"])
    server.outage()
    time.sleep(2.5)
    server.forbidden, server.down = {"pods"}, False
    seen.until(lambda rows: any(o.object.get("status") == 403 for o in rows if o.resource == "gap"))
    server.forbidden = set()
    server.apply("pods", "ADDED", pod("b"))
    seen.until(lambda rows: "b" in seen.names("ADDED"), timeout_s=3.0)
    gaps = [o.object for o in seen.seen if o.resource == "gap"]
    assert gaps[0]["to_s"] is None, "said while it lasts"
    assert gaps[-1]["to_s"] - gaps[-1]["from_s"] > 2.0
    assert not gaps[-1]["lost"], "the watch went on from its last version"


def test_a_kind_that_the_cluster_lacks_is_named_and_does_not_stop_the_rest(server, watch):
    server.absent = {"leaderworkersets"}
    server.apply("pods", "ADDED", pod("a"))
    seen = watch("leaderworkersets", "pods")
    seen.until(lambda rows: {"pods", "gap"} <= {o.resource for o in rows})
    assert next(o for o in seen.seen if o.resource == "gap").object["status"] == 404


def test_throttling_is_waited_out(server, cluster, watch):
    server.apply("pods", "ADDED", pod("a"))
    server.throttled = 2
    seen = watch("pods")
    seen.until(lambda rows: "a" in seen.names("ADDED"))


def test_the_log_of_a_pod_that_gets_ready_tells_its_phases(server, watch):
    server.logs["a"] = (
        "2026-11-20T17:00:01.5Z INFO something\n"
        "2026-11-20T17:00:30.25Z INFO Loading weights took 28.7 seconds\n"
        "2026-11-20T17:01:00.5Z INFO init engine (profile, create kv cache, warmup model) took 30.0 seconds\n"
    )
    seen = watch("pods")
    server.wait_watching(["pods"])
    server.apply("pods", "ADDED", pod("a"))
    server.apply("pods", "MODIFIED", pod("a", ready=True))
    seen.until(lambda rows: any(o.resource == "logs" for o in rows))
    lines = next(o for o in seen.seen if o.resource == "logs").object["lines"]
    assert [line["time"] for line in lines] == ["2026-11-20T17:00:30.25Z", "2026-11-20T17:01:00.5Z"]


METRIC = "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"


def test_the_metric_is_asked_as_the_hpa_asks(server, cluster):
    server.metrics[METRIC] = {"a": "5500m", "b": "34.972", "c": "1k"}
    assert cluster.custom_metric("ns", METRIC, "app=vllm") == {"a": 5500, "b": 34972, "c": 1_000_000}
    assert server.requests[-1].endswith("labelSelector=app%3Dvllm")


@pytest.mark.parametrize(
    ("api", "status", "absent"),
    [("up", 404, False), ("down", 503, False), ("absent", 404, True)],
    ids=["no such metric is 404", "a stopped adapter is 503", "no adapter is 404 and absent"],
)
def test_why_a_metric_has_no_value(server, cluster, api, status, absent):
    server.metrics_api = api
    with pytest.raises(ClusterError) as raised:
        cluster.custom_metric("ns", METRIC, "app=vllm")
    assert (raised.value.status, raised.value.absent) == (status, absent)


def test_scaling_writes_the_scale_subresource_and_nothing_else(server, cluster):
    reference = {"kind": "LeaderWorkerSet", "name": "vllm", "apiVersion": "leaderworkerset.x-k8s.io/v1"}
    cluster.scale({"metadata": {"namespace": "ns"}, "spec": {"scaleTargetRef": reference}}, 3)
    assert server.scaled == [
        (
            "/apis/leaderworkerset.x-k8s.io/v1/namespaces/ns/leaderworkersets/vllm/scale",
            {"spec": {"replicas": 3}},
        )
    ]


def test_no_server_at_all_is_said_with_a_next_step():
    cluster = LiveCluster(standin.client("http://127.0.0.1:1"))
    with pytest.raises(
        ClusterError, match=r"^no API server answers at 127\.0\.0\.1:1\. Check the kubeconfig"
    ):
        cluster.list("pods", "ns")


def test_an_address_that_redirects_is_said_to(server):
    class Elsewhere(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/login?token=x")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as proxy, running(proxy):
        cluster = LiveCluster(standin.client(f"http://127.0.0.1:{proxy.server_port}"))
        with pytest.raises(
            ClusterError, match=r"it redirects to http://127\.0\.0\.1:1, where nobody answers\."
        ):
            cluster.list("pods", "ns")


@pytest.mark.parametrize("value", ["x", None, {}, [1], {"describedObject": 5}])
def test_a_metric_that_is_none_is_a_cluster_error(server, cluster, value):
    server.metrics[METRIC] = {"a": value}
    with pytest.raises(ClusterError, match="something that is no value of prometheus"):
        cluster.custom_metric("ns", METRIC, "app=vllm")


SECRET = "planted-9q7z"
CONFIG = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": SECRET}}],
}


def of_user(**user):
    return yaml.safe_dump(CONFIG | {"users": [{"name": "u", "user": user}]})


def of_cluster(**cluster):
    return yaml.safe_dump(CONFIG | {"clusters": [{"name": "k", "cluster": cluster}]})


def exec_of(command, *arguments):
    return of_user(
        exec={"apiVersion": "client.authentication.k8s.io/v1", "command": command, "args": list(arguments)}
    )


KUBECONFIGS = {
    "bytes": (b"\xff\xfe\x00", "the kubeconfig FILE is not text"),
    "nested without end": ("[" * 100_000, "the kubeconfig FILE, line 1, column 101: nested more than"),
    "a list": ("[1]", "the kubeconfig FILE holds a list; expected clusters"),
    "text": ("text", "the kubeconfig FILE holds text"),
    "empty": ("", "the kubeconfig FILE: .*empty"),
    "half of YAML": (f"users: [{{token: {SECRET}", r"the kubeconfig FILE, line \d, column "),
    "a key twice": (f"users: []\nusers: [{SECRET}]", 'line 2, column 1: key "users" is there twice'),
    "users that are text": (f"users: {SECRET}", "the kubeconfig FILE, users; expected a list"),
    "a user that is text": (f"users: [{{name: u, user: {SECRET}}}]", "the kubeconfig FILE, user u; expected a mapping"),
    "a context that is a number": ("contexts: [5]", "the kubeconfig FILE, contexts; expected a list of a name"),
    "a server that is a number": (of_cluster(server=5), "the kubeconfig FILE, cluster k: server is no text"),
    "a port that is none": (of_cluster(server="http://h:99999"), "cluster k: server is no address: 'http://h:99999'"),
    "another scheme": (of_cluster(server=f"ftp://u:{SECRET}@h"), "cluster k: server is no address"),
    "certificates that are no base64": (
        of_cluster(server="https://h", **{"certificate-authority-data": f"{SECRET}*"}),
        "cluster k: certificate-authority-data is no base64",
    ),
    "a token that is a number": (of_user(token=5), "user u: token is no text"),
    "a token of two lines": (of_user(token=f"{SECRET}\nX: y"), "the token of the kubeconfig has a line break"),
    "a token that is not Latin": (of_user(token=f"{SECRET}\u20ac"), r"the token of the kubeconfig has the character U\+20AC"),
    "a file that is not there": (of_user(tokenFile="/no/such"), "the kubeconfig FILE: .*'/no/such'"),
    "a provider's time that is none": (
        of_user(**{"auth-provider": {"name": "gcp", "config": {"access-token": SECRET, "expiry": "xx"}}}),
        "the kubeconfig FILE cannot be used: ValueError",
    ),
    "a program that fails": (exec_of("sh", "-c", "exit 3"), "fetches credentials failed: .*3"),
    "a program that is not there": (exec_of("no-such-program"), "fetches credentials failed: .*no-such-program"),
    "a program that does not end": (exec_of("sleep", "5"), r"\(exec\) has not ended within 0 s"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), KUBECONFIGS.values(), ids=KUBECONFIGS)
def test_a_kubeconfig_that_cannot_be_read_is_one_sentence_without_its_secrets(
    tmp_path, monkeypatch, content, said
):
    monkeypatch.setattr(kubeconfig, "LOGIN_S", 0.3 if "not ended" in said else 60.0)
    file = tmp_path / "config"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        (BadInput, SourceUnavailable), match=said.replace("FILE", re.escape(str(file)))
    ) as raised:
        connect(kubeconfig=str(file))
    assert SECRET not in str(raised.value)


def test_a_kubeconfig_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config")
    with pytest.raises(
        BadInput, match=f"the kubeconfig {tmp_path}/config is a pipe; expected a regular file"
    ):
        connect(kubeconfig=str(tmp_path / "config"))


def test_an_unknown_context_is_bad_input(tmp_path):
    with pytest.raises(SourceUnavailable, match="no usable kubeconfig"):
        connect(context="nowhere", kubeconfig=str(tmp_path / "none"))
    with pytest.raises(BadInput, match="unknown resource"):
        resource_path("gadgets", "ns")


def test_the_clock_difference_is_found_from_date_headers_to_a_fraction_of_a_second():
    """Server 7.3 s behind: answers at many phases of its second pin the offset to where the whole seconds turn."""
    clocks = Clocks()
    for k in range(40):
        at_s = 1_000_000.0 + k * 1.037
        server_s = at_s + 0.002 - 7.3
        clocks.add(at_s, at_s + 0.004, formatdate(int(server_s), usegmt=True))
    assert clocks.low_s <= 7.3 <= clocks.high_s
    assert clocks.high_s - clocks.low_s < 0.1
    assert clocks.offset_s == pytest.approx(7.3, abs=0.05)


def test_a_clock_that_was_set_is_measured_anew():
    clocks = Clocks()
    clocks.add(100.0, 100.0, "Thu, 01 Jan 1970 00:01:40 GMT")
    clocks.add(200.0, 200.0, "Thu, 01 Jan 1970 00:02:20 GMT")
    assert 59.0 <= clocks.offset_s <= 60.0


@pytest.mark.parametrize("name", ["deployment", "lws"])
def test_a_recording_served_by_the_api_is_seen_as_it_was_recorded(server, cluster, watch, fixtures_dir, name):
    rows = [
        o
        for o in read_observations(fixtures_dir / "kubernetes" / f"{name}.jsonl.gz")
        if o.resource not in ("custommetrics", "mark")
    ]
    resources = sorted({o.resource for o in rows})
    server.now_s = rows[0].time_s
    seen = watch(*resources)
    server.wait_watching(resources)
    for count, row in enumerate(rows, start=1):
        server.now_s = max(server.now_s, row.time_s)
        server.apply(row.resource, row.type, row.object)
        seen.until(lambda got, n=count: sum(o.resource in resources for o in got) == n)
    got = [o for o in seen.seen if o.resource in resources]
    assert [(o.resource, o.type, o.object["metadata"]["name"]) for o in got] == [
        (o.resource, o.type, o.object["metadata"]["name"]) for o in rows
    ]
    assert max(abs(a.time_s - b.time_s) for a, b in zip(got, rows, strict=True)) < 0.5
