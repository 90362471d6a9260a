"""Linting a live cluster: lists over the real client against a small API server, rights that are missing."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest
import yaml

from analysis.errors import BadInput, SourceUnavailable
from autoscale.deploy import objects
from autoscale.kube.api import PAGE
from autoscale.kube.kinds import KINDS
from autoscale.lint.linter import lint_cluster
from autoscale.lint.live import READ
from autoscale.profiles import load

NOT_GZIP = b"not compressed as it says"


class Server(ThreadingHTTPServer):
    """Answers lists of what `objects` holds, page by page; `status` overrides the answer for a plural."""

    def __init__(self, objects_):
        super().__init__(("127.0.0.1", 0), Handler)
        self.held, self.status, self.methods = objects_, {}, set()
        self.instead = {}  # plural -> what is answered in the place of its list


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.methods.add(self.command)
        url = urlparse(self.path)
        parts = url.path.strip("/").split("/")
        plural, query = parts[-1], parse_qs(url.query)
        space = parts[parts.index("namespaces") + 1] if "namespaces" in parts else None
        kind = next((kind for kind in READ if KINDS[kind].plural == plural), None)
        found = [
            {
                key: value for key, value in o.items() if key not in ("kind", "apiVersion")
            }  # as API servers list them
            for o in self.server.held
            if o["kind"] == kind and space in (None, o["metadata"].get("namespace"))
        ]
        status = self.server.status.get(plural, 200)
        start, limit = int(query.get("continue", ["0"])[0]), int(query["limit"][0])
        more = {"continue": str(start + limit)} if start + limit < len(found) else {}
        body = json.dumps({"metadata": more, "items": found[start : start + limit]}).encode()
        body = self.server.instead.get(plural, body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if body == NOT_GZIP:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A server that holds a generated set, and a KUBECONFIG that points to it."""
    with Server(objects(load("llama-3.1-405b-2x8h100"))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
        }
        file = tmp_path / "config"
        file.write_text(yaml.safe_dump(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        yield server
        server.shutdown()


def of(cluster, kind):
    return next(o for o in cluster.held if o["kind"] == kind)


def test_a_sound_cluster_has_no_error_and_is_only_read(cluster):
    report = lint_cluster()
    assert report.errors == 0
    assert report.objects >= 5
    assert cluster.methods == {"GET"}


def test_a_mismatch_between_live_objects_is_found(cluster):
    of(cluster, "PodMonitoring")["spec"]["endpoints"][0]["port"] = 8000
    assert [f.code for f in lint_cluster("default").findings if f.severity == "error"] == ["scrape-port"]


def test_what_may_not_be_read_is_said_and_not_taken_for_missing(cluster):
    cluster.status = {"podmonitorings": 403, "leaderworkersets": 403}
    report = lint_cluster("default")
    assert report.errors == 0
    assert any("podmonitorings were not seen" in note and "403" in note for note in report.notes)


def test_kinds_that_the_cluster_does_not_have_are_no_findings(cluster):
    cluster.status = {"podmonitors": 404, "scaledobjects": 404, "autoscalingmetrics": 404}
    report = lint_cluster()
    assert report.errors == 0
    assert not any("podmonitors" in note for note in report.notes)


def test_long_lists_are_read_page_by_page(cluster):
    hpa = of(cluster, "HorizontalPodAutoscaler")
    for number in range(PAGE + 10):
        cluster.held.append({**hpa, "metadata": {"name": f"h{number}", "namespace": "many"}})
    assert lint_cluster("many").objects == PAGE + 10


def test_a_cluster_that_refuses_everything_is_a_source_that_is_not_there(cluster):
    cluster.status = {KINDS[kind].plural: 403 for kind in READ}
    with pytest.raises(SourceUnavailable, match="nothing"):
        lint_cluster()


def test_an_unknown_context_is_a_source_that_is_not_there(cluster):
    with pytest.raises(SourceUnavailable, match="kubeconfig"):
        lint_cluster(context="elsewhere")


def test_what_answers_404_to_a_kind_that_every_cluster_has_is_no_cluster(cluster):
    cluster.status = {KINDS[kind].plural: 404 for kind in READ}
    with pytest.raises(
        SourceUnavailable,
        match=r"^127\.0\.0\.1:.* does not answer like a Kubernetes API server: it answers 404",
    ):
        lint_cluster()


def test_a_namespace_that_holds_nothing_is_not_called_fine(cluster):
    with pytest.raises(
        BadInput, match=r"^no HPA, ScaledObject or workload in namespace gone: nothing to lint"
    ):
        lint_cluster("gone")


NO_LISTS = {
    "null": b"null",
    "a list": b"[]",
    "a number": b"5",
    "nested without end": b"[" * 100_000,
    "no list of items": b'{"items": "abc"}',
    "no items": b"{}",
    "items that are NaN": b'{"items": NaN}',
    "items that are no objects": b'{"items": [1, null, "x"]}',
    "an item without metadata": b'{"items": [{"spec": {}}]}',
    "an item whose metadata is a list": b'{"items": [{"metadata": []}]}',
    "an item without a name": b'{"items": [{"metadata": {"name": null}}]}',
    "metadata of the list that is text": b'{"items": [], "metadata": "x"}',
    "half a surrogate pair": b'{"items": [{"metadata": {"name": "\\ud800"}}]}',
    "a page of a proxy": b"<html>sign in</html>",
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
    "not compressed as it says": NOT_GZIP,
    "a page after itself": b'{"items": [], "metadata": {"continue": "7"}}',
    "a page after a number": b'{"items": [], "metadata": {"continue": 5}}',
}


@pytest.mark.parametrize("body", NO_LISTS.values(), ids=NO_LISTS)
def test_what_is_no_list_of_objects_is_a_sentence(cluster, body):
    cluster.instead = {"deployments": body}
    said = "no Kubernetes (object|list): '|was cut off or is not JSON: |the pages of .* have no end"
    with pytest.raises(SourceUnavailable, match=said):
        lint_cluster()


def test_a_list_that_is_null_is_an_empty_one(cluster):
    cluster.instead = {"podmonitors": b'{"items": null, "metadata": {}}'}  # as servers in Go write none
    assert lint_cluster().errors == 0


def test_owners_of_another_form_are_none(cluster):
    of(cluster, "LeaderWorkerSet")["metadata"]["ownerReferences"] = "x"
    of(cluster, "Service")["metadata"]["ownerReferences"] = ["x", None]
    assert lint_cluster().errors == 0
