"""A small Kubernetes API server: lists, watches with versions, bookmarks, 410, 403, 429, dropped connections.

It keeps every change with its version, so that a watch may start at any of them until `compact` forgets. Its clock is
`now_s`, which tests set: a recording is served as if it happened now.
"""

import json
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

GROUPS = {
    "pods": ("v1", "Pod"),
    "nodes": ("v1", "Node"),
    "events": ("v1", "Event"),
    "deployments": ("apps/v1", "Deployment"),
    "replicasets": ("apps/v1", "ReplicaSet"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "horizontalpodautoscalers": ("autoscaling/v2", "HorizontalPodAutoscaler"),
    "scaledobjects": ("keda.sh/v1alpha1", "ScaledObject"),
    "leaderworkersets": ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
}


class ApiServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.changed = threading.Condition()
        self.version = 1000
        self.changes: list[tuple[int, str, str, dict]] = []  # version, resource, type, object
        self.objects: dict[str, dict[str, dict]] = {}
        self.oldest = 0  # versions below are compacted away
        self.now_s = None
        self.forbidden: set[str] = set()
        self.absent: set[str] = set()
        self.throttled = 0
        self.down = False  # connections are cut without an answer
        self.metrics: dict[str, object] = {}  # metric -> {pod: quantity} or an HTTP status
        self.external: dict[str, object] = {}  # metric -> quantities of its series or an HTTP status
        self.metrics_api = "up"  # up, down, absent
        self.logs: dict[str, str] = {}
        self.instead: dict[str, bytes] = {}  # resource -> what is sent in the place of its next event
        self.watching: dict[str, int] = {}
        self.requests: list[str] = []
        self.scaled: list[tuple[str, dict]] = []
        self.sockets: set = set()
        self.closed = False
        self.epoch = 0
        self.serving = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.serving.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def clock(self) -> float:
        return time.time() if self.now_s is None else self.now_s

    def apply(self, resource: str, kind: str, found: dict) -> None:
        with self.changed:
            self.version += 1
            found = json.loads(json.dumps(found))
            found["metadata"]["resourceVersion"] = str(self.version)
            key = found["metadata"].get("uid") or found["metadata"]["name"]
            held = self.objects.setdefault(resource, {})
            if kind == "DELETED":
                held.pop(key, None)
            else:
                held[key] = found
            self.changes.append((self.version, resource, kind, found))
            self.changed.notify_all()

    def compact(self) -> None:
        with self.changed:
            self.oldest = self.version + 1
            self.version += 1

    def drop(self) -> None:
        """Cut every open connection."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()
            for one in list(self.sockets):
                with suppress(OSError):
                    one.shutdown(2)

    def outage(self) -> None:
        """Nobody gets an answer until `down` is False again."""
        self.down = True
        self.drop()

    def wait_watching(self, resources, timeout_s: float = 10.0) -> None:
        until = time.monotonic() + timeout_s
        with self.changed:
            while not all(self.watching.get(r) for r in resources):
                assert time.monotonic() < until, (
                    f"nobody watches {[r for r in resources if not self.watching.get(r)]}"
                )
                self.changed.wait(0.05)

    def stop(self) -> None:
        self.closed = True
        self.drop()
        self.shutdown()
        self.serving.join()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        pass  # a cut connection is what the tests do


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: ApiServer

    def setup(self) -> None:
        super().setup()
        self.server.sockets.add(self.connection)

    def finish(self) -> None:
        self.server.sockets.discard(self.connection)
        super().finish()

    def log_message(self, *args) -> None:
        pass

    def date_time_string(self, timestamp=None) -> str:
        return formatdate(self.server.clock(), usegmt=True)

    def answer(self, status: int, content, headers=()) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, reason: str, message: str, headers=()) -> None:
        content = {
            "kind": "Status",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": status,
        }
        self.answer(status, content, headers)

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.scaled.append((self.path, body))
        self.answer(200, body)

    def do_GET(self) -> None:
        server, url = self.server, urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = unquote(url.path).strip("/").split("/")
        server.requests.append(self.path)
        if server.down:
            self.close_connection = True
            return None
        if server.throttled > 0:
            server.throttled -= 1
            return self.refuse(429, "TooManyRequests", "slow down", [("Retry-After", "0")])
        if parts[1:2] == ["external.metrics.k8s.io"] or parts[-1].endswith(".external.metrics.k8s.io"):
            return self.external_metrics(parts)
        if "custom.metrics.k8s.io" in parts[:2] or parts[-1].endswith(".custom.metrics.k8s.io"):
            return self.custom_metrics(parts)
        if parts[-1] == "log":
            return self.answer(200, server.logs.get(parts[-2], "").encode())
        resource = parts[-1]
        if resource in server.forbidden:
            return self.refuse(
                403, "Forbidden", f'{resource} is forbidden: User "checker" cannot list resource'
            )
        if resource not in GROUPS or resource in server.absent:
            return self.refuse(404, "NotFound", "the server could not find the requested resource")
        if query.get("watch") == "true":
            return self.watch(resource, int(query["resourceVersion"]))
        return self.give_list(resource, query)

    def give_list(self, resource: str, query: dict) -> None:
        server = self.server
        with server.changed:
            items = list(server.objects.get(resource, {}).values())
            start, limit = int(query.get("continue") or 0), int(query.get("limit") or 10**9)
            page = items[start : start + limit]
            version, kind = GROUPS[resource]
            metadata = {"resourceVersion": str(server.version)}
            if start + limit < len(items):
                metadata["continue"] = str(start + limit)
            bare = [{k: v for k, v in o.items() if k not in ("kind", "apiVersion")} for o in page]
        self.answer(200, {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": bare})

    def watch(self, resource: str, since: int) -> None:
        server = self.server
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        epoch = server.epoch
        if since < server.oldest - 1:
            message = f"too old resource version: {since} ({server.oldest})"
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": message}
            self.chunk({"type": "ERROR", "object": status})
            self.wfile.write(b"0\r\n\r\n")
            return
        at = 0
        try:
            with server.changed:
                server.watching[resource] = server.watching.get(resource, 0) + 1
                server.changed.notify_all()
            while True:
                with server.changed:
                    while at >= len(server.changes) and server.epoch == epoch:
                        server.changed.wait(0.5)
                    if server.epoch != epoch:
                        self.close_connection = True
                        return
                    due, at = server.changes[at:], len(server.changes)
                for version, changed, kind, found in due:
                    if changed == resource and version > since:
                        self.chunk({"type": kind, "object": found}, server.instead.pop(resource, b""))
                if due:
                    mark = {"kind": GROUPS[resource][1], "metadata": {"resourceVersion": str(due[-1][0])}}
                    self.chunk({"type": "BOOKMARK", "object": mark})
        except OSError:
            self.close_connection = True
        finally:
            with server.changed:
                server.watching[resource] -= 1

    def chunk(self, event: dict, instead: bytes = b"") -> None:
        line = (instead or json.dumps(event).encode()) + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    def custom_metrics(self, parts: list[str]) -> None:
        state = self.server.metrics_api
        if parts[-1].endswith(".custom.metrics.k8s.io"):
            known = state != "absent" and parts[-1].startswith("v1beta2")
            return (
                self.answer(200, {"kind": "APIService"})
                if known
                else self.refuse(404, "NotFound", "not found")
            )
        if state != "up":
            return self.refuse(404, "NotFound", "the server could not find the requested resource")
        if len(parts) == 2:
            versions = [{"version": v} for v in ("v1beta2", "v1beta1")]
            return self.answer(200, {"kind": "APIGroup", "name": parts[1], "versions": versions})
        found = self.server.metrics.get(parts[-1], 404)
        if isinstance(found, int):
            return self.refuse(
                found, "NotFound", f"the server could not find the metric {parts[-1]} for pods"
            )
        items = [
            {"describedObject": {"kind": "Pod", "name": pod}, "metric": {"name": parts[-1]}, "value": value}
            for pod, value in found.items()
        ]
        return self.answer(
            200, {"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "items": items}
        )

    def external_metrics(self, parts: list[str]) -> None:
        state = self.server.metrics_api
        if parts[-1].endswith(".external.metrics.k8s.io"):
            known = state != "absent" and parts[-1].startswith("v1beta1")
            return self.answer(200, {}) if known else self.refuse(404, "NotFound", "not found")
        if state != "up":
            return self.refuse(404, "NotFound", "the server could not find the requested resource")
        if len(parts) == 2:
            return self.answer(200, {"kind": "APIGroup", "versions": [{"version": "v1beta1"}]})
        found = self.server.external.get(parts[-1], 404)
        if isinstance(found, int):
            return self.refuse(found, "Unknown", f"rpc error: error when getting metric {parts[-1]}")
        items = [{"metricName": parts[-1], "metricLabels": {}, "value": value} for value in found]
        return self.answer(200, {"kind": "ExternalMetricValueList", "items": items})


def client(url: str):
    """An ApiClient of the real client library, pointed at the stand-in."""
    from kubernetes import client as kubernetes_client

    settings = kubernetes_client.Configuration()
    settings.host, settings.verify_ssl = url, False
    return kubernetes_client.ApiClient(settings)
