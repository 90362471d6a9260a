"""Rules on the pods of a vLLM server: probes, shutdown, the model's id, the image."""

from __future__ import annotations

import re
from collections.abc import Iterator

from autoscale.deploy.sizing import SHUTDOWN_TIMEOUT_SINCE
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.vllm_names import NEWEST
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import VllmServer, whole_number

ANSWERED = (
    "/health",
    "/ping",
    "/v1/models",
    "/version",
    "/metrics",
    "/load",
    "/docs",
    "/openapi.json",
    "/server_info",
)
RAY_PORTS = (6379, 8265, 10001)  # GCS, dashboard, client server: ray start --head
_ALWAYS_PASSES = {
    "readinessProbe": "Ray listens there before the model is loaded: the pod is ready too early, and requests are refused.",
    "startupProbe": "Ray listens there before the model is loaded: the liveness probe begins while vLLM still starts.",
    "livenessProbe": "Ray listens there: a dead engine is never restarted.",
}
SHUTDOWN_UNKNOWN_BEFORE = (0, 18)
DEFAULT_GRACE_S = 30


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every vLLM server."""
    for server in facts.servers:
        yield from _readiness(server, facts)
        yield from _stats(server, facts)
        yield from _shutdown(server)
        yield from _model(server, facts)
        yield from _image(server)
        yield from _shared_memory(server)


# --- probes ----------------------------------------------------------------------------------------------------------


def _readiness(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    container = server.container
    ray = _runs_ray(server, facts)
    for name in ("readinessProbe", "startupProbe", "livenessProbe"):
        probe, path = mapping(container.get(name)), (*server.path, name)
        kind = next((kind for kind in ("httpGet", "tcpSocket") if kind in probe), None)
        if not kind:
            continue
        handler = mapping(probe[kind])
        if server.listens_at(handler.get("port")) is False:
            yield server.owner.finding(
                "error",
                "probe-port",
                (*path, kind, "port"),
                f"{name} asks port {handler.get('port')}; vLLM listens on {server.port}.",
                _ALWAYS_PASSES[name]
                if ray and kind == "tcpSocket" and whole_number(handler.get("port")) in RAY_PORTS
                else "The pod never becomes ready."
                if name == "readinessProbe"
                else "The pod is restarted for ever.",
                f"Write port: {server.port}.",
            )
        where = str(handler.get("path") or "/")
        if (
            kind == "httpGet"
            and where.split("?")[0].rstrip("/") not in ANSWERED
            and "root-path" not in server.flags
        ):
            yield server.owner.finding(
                "error",
                "probe-path",
                (*path, kind, "path"),
                f"{name} asks {where}, which vLLM answers with 404.",
                "The pod never becomes ready."
                if name == "readinessProbe"
                else "The pod is restarted for ever.",
                "Write path: /health.",
            )
    probe = mapping(container.get("readinessProbe"))
    if not probe:
        yield server.owner.finding(
            "warning",
            "readiness-missing",
            server.path,
            "There is no readinessProbe.",
            "Requests are sent to a replica that still loads its weights.",
            "Add httpGet /health.",
        )
    elif "tcpSocket" in probe:
        yield server.owner.finding(
            "warning",
            "readiness-tcp",
            (*server.path, "readinessProbe", "tcpSocket"),
            "tcpSocket passes when the port listens.",
            "Requests are sent to an engine that does not answer, or is dead.",
            "Use httpGet /health, vLLM's own endpoint.",
        )


def _runs_ray(server: VllmServer, facts: Facts) -> bool:
    """Whether Ray's head runs in the server's container: its ports listen long before the model is loaded."""
    words = [word for argv in facts.commands(server.template, server.container) for word in argv]
    if server.flags.get("distributed-executor-backend") == "ray":
        return True
    return any(
        word == "ray" or word.endswith("/ray") or re.search(r"ray_init|multi-node-serving|run_cluster", word)
        for word in words
    )


def _stats(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    """--disable-log-stats also leaves out the logger that feeds /metrics."""
    if server.flags.get("disable-log-stats", "false").lower() == "false":  # "" is the flag by itself
        return
    owner = server.owner
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    read = next((m.name for m in scaler.metrics if m.of_engine), None) if scaler else None
    yield owner.finding(
        "error" if read else "warning",
        "stats-disabled",
        server.path,
        "--disable-log-stats: /metrics has no vllm: series.",
        f"{read} never arrives: nothing scales."
        if read
        else "Queue, KV cache and latencies cannot be measured.",
        "Leave the flag out; --disable-log-requests quiets the log.",
    )


# --- shutdown --------------------------------------------------------------------------------------------------------


def _shutdown(server: VllmServer) -> Iterator[Finding]:
    spec, owner, path = server.template.spec, server.owner, (*server.template.path, "spec")
    grace_s = whole_number(spec.get("terminationGracePeriodSeconds"))
    grace_s = DEFAULT_GRACE_S if grace_s is None else grace_s
    pre_stop = mapping(mapping(server.container.get("lifecycle")).get("preStop"))
    drain_s = server.number("shutdown-timeout")
    known = server.version if server.version != NEWEST else (999,)
    if "shutdown-timeout" in server.flags and known and known < SHUTDOWN_UNKNOWN_BEFORE:
        yield owner.finding(
            "error",
            "flag-unknown",
            server.path,
            f"--shutdown-timeout is unknown to vLLM {'.'.join(map(str, known))}.",
            "vLLM exits at start: no replica ever serves.",
            "Drain in a preStop hook, or use a newer image.",
        )
    if not pre_stop and drain_s in (None, 0):
        yield owner.finding(
            "warning",
            "no-drain",
            server.path,
            "Neither preStop nor --shutdown-timeout: vLLM stops at SIGTERM.",
            "Every scale-in cuts the generations of that replica.",
            "Add a preStop that waits until it is idle, or --shutdown-timeout from 0.19 on.",
        )
    elif known and known >= SHUTDOWN_TIMEOUT_SINCE and not drain_s and not _waits_idle(pre_stop):
        yield owner.finding(
            "warning",
            "no-shutdown-timeout",
            server.path,
            "--shutdown-timeout is not given; its default is 0.",
            "After preStop vLLM cuts what still runs.",
            "Give --shutdown-timeout the longest generation, in s.",
        )
    hook_s = _sleeps_s(pre_stop)
    if grace_s <= DEFAULT_GRACE_S:
        yield owner.finding(
            "warning",
            "grace-too-short",
            (*path, "terminationGracePeriodSeconds"),
            f"The grace period is {grace_s} s"
            + (", the default." if "terminationGracePeriodSeconds" not in spec else "."),
            "On scale-in generations that run longer are cut.",
            "Set it above preStop plus the longest generation.",
        )
    elif hook_s + (drain_s or 0) > grace_s:
        yield owner.finding(
            "warning",
            "grace-too-short",
            (*path, "terminationGracePeriodSeconds"),
            f"preStop {hook_s} s and drain {drain_s or 0} s do not fit the grace period of {grace_s} s.",
            "The kubelet kills the server in the middle of its drain.",
            f"Write at least {hook_s + (drain_s or 0) + 15}.",
        )


def _sleeps_s(pre_stop: Object) -> int:
    """Seconds that a preStop hook sleeps for sure."""
    if seconds := whole_number(mapping(pre_stop.get("sleep")).get("seconds")):
        return seconds
    argv = [str(word) for word in items(mapping(pre_stop.get("exec")).get("command"))]
    found = re.findall(r"\bsleep (\d+)\b", " ".join(argv))
    return sum(map(int, found[:1]))


def _waits_idle(pre_stop: Object) -> bool:
    text = " ".join(map(str, items(mapping(pre_stop.get("exec")).get("command"))))
    return "num_requests_running" in text or "/load" in text


# --- model and image -------------------------------------------------------------------------------------------------


def _model(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    model = server.model
    if not model or not model.startswith("/"):
        return
    if not server.flags.get("served-model-name"):
        yield server.owner.finding(
            "warning",
            "served-model-name",
            server.path,
            f"Weights come from the path {model} without --served-model-name.",
            f"The API's model id is {model}: requests for the hub's id get 404.",
            "Add --served-model-name with the hub's id.",
        )
    owner = server.owner
    for template in facts.templates_by_owner[owner.kind, owner.namespace, owner.name]:
        mounts = [
            str(mapping(mount).get("mountPath") or "")
            for _, container in template.containers(init=False)
            for mount in items(container.get("volumeMounts"))
        ]
        if not any(
            model == mount.rstrip("/") or model.startswith(mount.rstrip("/") + "/")
            for mount in mounts
            if mount
        ):
            yield owner.finding(
                "error",
                "model-path-not-mounted",
                (*template.path, "spec"),
                f"--model is {model}, and no volume is mounted there in the {template.role}.",
                "vLLM takes the path for a hub id and exits: no replica ever serves.",
                f"Mount the weights at {model}.",
            )


def _image(server: VllmServer) -> Iterator[Finding]:
    image = str(server.container.get("image") or "")
    if server.version == NEWEST:
        yield server.owner.finding(
            "warning",
            "image-not-pinned",
            (*server.path, "image"),
            f"Image {image or 'missing'} names no version.",
            "A new node may pull another vLLM: metric names and flags change between versions.",
            "Name a version, such as vllm/vllm-openai:v0.11.0.",
        )


# --- caches and shared memory ----------------------------------------------------------------------------------------


def _shared_memory(server: VllmServer) -> Iterator[Finding]:
    mounts = [mapping(mount) for mount in items(server.container.get("volumeMounts"))]
    several = (server.number("tensor-parallel-size") or 1) > 1 and not server.template.spec.get("hostIPC")
    if several and not any(mount.get("mountPath") == "/dev/shm" for mount in mounts):  # noqa: S108  # a path inside the pod
        yield server.owner.finding(
            "warning",
            "shared-memory",
            (*server.path, "volumeMounts"),
            "Nothing is mounted at /dev/shm.",
            "A container gets 64 MiB: tensor-parallel processes fail or crawl.",
            "Mount an emptyDir with medium: Memory there.",
        )
