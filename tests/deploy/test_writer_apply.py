"""Applying asks first, shows the difference, and leaves alone what it did not write."""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from analysis.errors import BadInput, NotAchieved, SourceUnavailable
from autoscale.deploy import changes as room
from autoscale.deploy import writer
from autoscale.deploy.changes import ApiServer, apply, commit, preview
from autoscale.deploy.choices import Options
from autoscale.profiles import load, names

PLACES = Options(project="p", region="r", zone="z", cluster="c", bucket="b", disk="d")


class MemoryServer:
    """An API server of a dict: refuses what `invalid` names, counts what is really written."""

    def __init__(self, *live, invalid=()):
        self.stored = {room.api_path(document): copy.deepcopy(document) for document in live}
        self.invalid, self.written = set(invalid), []

    def get(self, path):
        return self.stored.get(path)

    def apply(self, path, document, *, dry_run):
        if document["kind"] in self.invalid:
            raise BadInput(f'strict decoding error: unknown field "spec.x" in {document["kind"]}')
        after = {**copy.deepcopy(document), "status": {"seen": 1}}
        after["metadata"] |= {"uid": "1", "resourceVersion": "7", "managedFields": []}
        if not dry_run:
            self.stored[path] = after
            self.written.append(path)
        return after


def documents():
    return writer.objects(load("llama-3.1-8b-1xh100"), options=PLACES)


def stranger(document):
    found = copy.deepcopy(document)
    found["metadata"]["labels"] = {"team": "other"}
    return found


def test_a_preview_writes_nothing_and_shows_what_would_be_created():
    server = MemoryServer()
    changes = preview(documents(), server)
    assert {change.action for change in changes} == {"create"}
    assert all("+kind:" in change.diff for change in changes)
    assert not server.written


def test_applying_twice_changes_nothing_the_second_time():
    server = MemoryServer()
    commit(documents(), server)
    assert len(server.written) == len(documents())
    assert {change.action for change in commit(documents(), server)} == {"unchanged"}
    assert len(server.written) == len(documents())


def test_a_changed_field_is_shown_as_a_difference():
    server = MemoryServer()
    commit(documents(), server)
    again = documents()
    hpa = next(document for document in again if document["kind"] == "HorizontalPodAutoscaler")
    hpa["spec"]["maxReplicas"] = 9
    [change] = [change for change in preview(again, server) if change.action == "update"]
    assert change.name == "HorizontalPodAutoscaler/default/vllm-hpa"
    assert "-  maxReplicas: 4" in change.diff
    assert "+  maxReplicas: 9" in change.diff


def test_what_somebody_else_wrote_is_not_touched_without_force():
    theirs = stranger(documents()[-1])
    server = MemoryServer(theirs)
    refused = [change for change in preview(documents(), server) if change.action == "refused"]
    assert [change.name for change in refused] == ["HorizontalPodAutoscaler/default/vllm-hpa"]
    with pytest.raises(NotAchieved, match="nothing was applied"):
        commit(documents(), server)
    assert not server.written
    commit(documents(), server, force=True)
    assert len(server.written) == len(documents())


def test_another_profiles_set_of_the_same_names_is_not_changed():
    server = MemoryServer()
    commit(documents(), server)
    small = writer.objects(load("llama-3.1-8b-1xl4"), options=PLACES)
    written = len(server.written)
    refused = {change.name: change.reason for change in preview(small, server) if change.action == "refused"}
    assert "Deployment/default/vllm" in refused
    assert "belongs to profile llama-3.1-8b-1xh100" in refused["Deployment/default/vllm"]
    with pytest.raises(NotAchieved, match="belongs to profile"):
        commit(small, server)
    assert len(server.written) == written
    commit(small, server, force=True)
    assert {change.action for change in preview(small, server)} == {"unchanged"}


def test_a_namespace_may_be_shared_by_the_sets_of_two_profiles():
    shared = Options(**(vars(PLACES) | {"namespace": "llm", "create_namespace": True}))
    server = MemoryServer()
    commit(writer.objects(load("llama-3.1-8b-1xh100"), options=shared), server)
    changes = preview(writer.objects(load("llama-3.1-8b-1xl4"), options=shared), server)
    assert {change.name: change.action for change in changes}["Namespace/llm"] != "refused"


def test_one_invalid_object_stops_all_of_them():
    server = MemoryServer(invalid=["Service"])
    [change] = [change for change in preview(documents(), server) if change.action == "invalid"]
    assert "unknown field" in change.reason
    with pytest.raises(NotAchieved, match="unknown field"):
        commit(documents(), server)
    assert not server.written


def test_the_replicas_of_a_scaled_workload_are_left_to_the_hpa():
    server = MemoryServer()
    commit(documents(), server)
    path = next(path for path in server.stored if "/deployments/" in path)
    server.stored[path]["spec"]["replicas"] = 3
    assert {change.action for change in commit(documents(), server)} == {"unchanged"}
    assert server.stored[path]["spec"]["replicas"] == 3


def test_placeholders_are_named_before_anything_is_sent():
    server = MemoryServer()
    with pytest.raises(BadInput, match="PROJECT_ID, ZONE, DISK_NAME"):
        commit(writer.objects(load("llama-3.1-405b-2x8h100-hdml")), server)
    assert not server.written


def test_every_kind_of_every_set_has_an_api_path():
    for name in names():
        for document in writer.objects(load(name)):
            assert room.api_path(document).endswith("/" + document["metadata"]["name"])
    assert (
        room.api_path(documents()[-1])
        == "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/vllm-hpa"
    )


def test_a_dry_run_in_lines_names_every_object_and_what_is_left_to_fill_in():
    server = MemoryServer()
    lines = list(apply(writer.objects(load("llama-3.1-70b-v6e8")), server=server))
    assert "create    HorizontalPodAutoscaler/default/vllm-hpa" in lines
    assert "Fill in before applying: BUCKET_NAME" in lines
    assert lines[-1].endswith("objects checked by the server, nothing was changed")
    assert not server.written


def test_a_dry_run_in_lines_ends_with_what_would_stop_it():
    said = []
    lines = map(said.append, apply(documents(), server=MemoryServer(stranger(documents()[-1]))))
    with pytest.raises(NotAchieved, match=f"1 of {len(documents())} objects would not be applied"):
        list(lines)
    assert any(
        line.startswith("refused   HorizontalPodAutoscaler/default/vllm-hpa: it exists") for line in said
    )


def test_applying_in_lines_writes():
    server = MemoryServer()
    lines = list(apply(documents(), dry_run=False, server=server))
    assert lines[-1] == f"{len(documents())} objects applied"
    assert len(server.written) == len(documents())


# --- over HTTP -------------------------------------------------------------------------------------------------------


class Api(BaseHTTPRequestHandler):
    """Enough of an API server for get and server-side apply."""

    stored: dict
    seen: list

    def do_GET(self):
        found = self.stored.get(urlsplit(self.path).path)
        self.answer(200, found) if found else self.answer(404, {"kind": "Status", "message": "not found"})

    def do_PATCH(self):
        parts = urlsplit(self.path)
        body = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((parts.path, parse_qs(parts.query), self.headers["Content-Type"]))
        if body["metadata"]["name"] == "bad":
            self.answer(422, {"kind": "Status", "message": "spec.maxReplicas: Invalid value"})
            return
        if "dryRun" not in parse_qs(parts.query):
            self.stored[parts.path] = body
        self.answer(200, body)

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(tmp_path):
    handler = type("Handler", (Api,), {"stored": {}, "seen": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    kubeconfig = tmp_path / "kubeconfig"
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    cluster = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    user = {"name": "x", "user": {"token": "t"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    config |= {"contexts": [context], "clusters": [cluster], "users": [user]}
    kubeconfig.write_text(yaml.safe_dump(config))
    yield handler, str(kubeconfig)
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_real_client_asks_for_a_strict_server_side_dry_run(api):
    handler, kubeconfig = api
    [change] = preview(documents()[-1:], ApiServer(kubeconfig))
    assert change.action == "create"
    [(path, query, content)] = handler.seen
    assert path.endswith("/horizontalpodautoscalers/vllm-hpa")
    assert query == {
        "fieldManager": ["llm-autoscale"],
        "fieldValidation": ["Strict"],
        "force": ["true"],
        "dryRun": ["All"],
    }
    assert content == "application/apply-patch+yaml"
    assert not handler.stored


def test_the_real_client_applies_and_reads_back(api):
    handler, kubeconfig = api
    commit(documents(), ApiServer(kubeconfig))
    assert len(handler.stored) == len(documents())
    assert {change.action for change in preview(documents(), ApiServer(kubeconfig))} == {"unchanged"}


def test_the_servers_refusal_is_handed_on(api):
    _, kubeconfig = api
    bad = documents()[-1]
    bad["metadata"]["name"] = "bad"
    [change] = preview([bad], ApiServer(kubeconfig))
    assert (change.action, change.reason) == ("invalid", "spec.maxReplicas: Invalid value")


def test_a_kubeconfig_that_is_not_there_is_a_source_that_cannot_be_reached(tmp_path):
    with pytest.raises(SourceUnavailable, match="kubeconfig"):
        ApiServer(str(tmp_path / "none"))
