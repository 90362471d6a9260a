"""Rules on the pods of a vLLM server: probes, shutdown, the model's id, caches, volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from autoscale.deploy.lint_facts import NEWEST, Facts, Path, Server, Template, whole
from autoscale.deploy.lint_report import Finding, items, mapping
from autoscale.deploy.sizing import SHUTDOWN_TIMEOUT_SINCE

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
SHUTDOWN_UNKNOWN_BEFORE = (0, 18)
DEFAULT_GRACE_S = 30
GCSFUSE, GCSFUSE_CACHE = "gcsfuse.csi.storage.gke.io", "gke-gcsfuse-cache"
SHARED_KINDS = ("persistentVolumeClaim", "csi", "nfs", "hostPath", "cephfs", "glusterfs", "azureFile")


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every vLLM server, and on the volumes of every pod."""
    for server in facts.servers:
        yield from _readiness(server)
        yield from _shutdown(server)
        yield from _model(server, facts)
        yield from _image(server)
        yield from _shared_memory(server)
    for template in facts.templates:
        yield from _gcsfuse(template)
        yield from _volumes(template, facts)
        yield from _xla(template, facts)


# --- probes ----------------------------------------------------------------------------------------------------------


def _readiness(server: Server) -> Iterator[Finding]:
    container = server.container
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
                "The pod never becomes ready."
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


# --- shutdown --------------------------------------------------------------------------------------------------------


def _shutdown(server: Server) -> Iterator[Finding]:
    spec, owner, path = server.template.spec, server.owner, (*server.template.path, "spec")
    grace_s = whole(spec.get("terminationGracePeriodSeconds"))
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


def _sleeps_s(pre_stop: dict[str, Any]) -> int:
    """Seconds that a preStop hook sleeps for sure."""
    if seconds := whole(mapping(pre_stop.get("sleep")).get("seconds")):
        return seconds
    argv = [str(word) for word in items(mapping(pre_stop.get("exec")).get("command"))]
    found = re.findall(r"\bsleep (\d+)\b", " ".join(argv))
    return sum(map(int, found[:1]))


def _waits_idle(pre_stop: dict[str, Any]) -> bool:
    text = " ".join(map(str, items(mapping(pre_stop.get("exec")).get("command"))))
    return "num_requests_running" in text or "/load" in text


# --- model and image -------------------------------------------------------------------------------------------------


def _model(server: Server, facts: Facts) -> Iterator[Finding]:
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


def _image(server: Server) -> Iterator[Finding]:
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


def _shared_memory(server: Server) -> Iterator[Finding]:
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


def _xla(template: Template, facts: Facts) -> Iterator[Finding]:
    """Several replicas must not write one compile cache at the same time."""
    owner = template.owner
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    most = scaler.high if scaler else whole(owner.spec.get("replicas")) or 1
    if most < 2:
        return
    volumes = {str(v.get("name")): v for v in map(mapping, items(template.spec.get("volumes")))}
    for path, container in template.containers(init=False):
        for index, entry in enumerate(items(container.get("env"))):
            name, value = mapping(entry).get("name"), str(mapping(entry).get("value") or "")
            if name not in ("VLLM_XLA_CACHE_PATH", "JAX_COMPILATION_CACHE_DIR", "XLA_CACHE_PATH"):
                continue
            volume = _mounted(container, value, volumes)
            if value.startswith("gs://") or any(key in volume for key in SHARED_KINDS):
                yield owner.finding(
                    "warning",
                    "shared-xla-cache",
                    (*path, "env", index, "value"),
                    f"{name} {value} is shared by up to {most} replicas.",
                    "Replicas that compile at the same time write over each other and fail.",
                    "Use a directory of the pod, or let replica 1 fill the cache before scaling out.",
                )


def _mounted(container: dict[str, Any], where: str, volumes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The volume that holds a path, the deepest mount of all."""
    best, found = "", {}
    for mount in map(mapping, items(container.get("volumeMounts"))):
        point = str(mount.get("mountPath") or "").rstrip("/")
        if point and (where == point or where.startswith(point + "/")) and len(point) > len(best):
            best, found = point, volumes.get(str(mount.get("name")), {})
    return found


# --- volumes ---------------------------------------------------------------------------------------------------------


def _gcsfuse(template: Template) -> Iterator[Finding]:
    owner, base = template.owner, (*template.path, "spec", "volumes")
    volumes = [mapping(volume) for volume in items(template.spec.get("volumes"))]
    buckets = [
        (index, mapping(volume.get("csi")))
        for index, volume in enumerate(volumes)
        if "gcsfuse" in str(mapping(volume.get("csi")).get("driver") or "")
    ]
    if not buckets:
        return
    annotation = template.annotations.get("gke-gcsfuse/volumes")
    if str(annotation).lower() != "true" or not isinstance(annotation, str):
        written = f"is {annotation!r}" if annotation is not None else "is missing"
        yield owner.finding(
            "error",
            "gcsfuse-annotation",
            (*template.path, "metadata", "annotations", "gke-gcsfuse/volumes"),
            f'The pod annotation gke-gcsfuse/volumes {written}; it must be the text "true".',
            "No sidecar is injected and the bucket is never mounted: the pod does not start.",
            'Write gke-gcsfuse/volumes: "true" in the pod template.',
        )
    if not template.spec.get("serviceAccountName"):
        yield owner.finding(
            "warning",
            "gcsfuse-service-account",
            (*template.path, "spec"),
            "The pod runs as the default service account.",
            "Without roles/storage.objectUser on the bucket the mount fails.",
            "Name a service account that has the role.",
        )
    for index, csi in buckets:
        if csi.get("driver") != GCSFUSE:
            yield owner.finding(
                "error", "gcsfuse-driver", (*base, index, "csi", "driver"), f"Driver {csi.get('driver')} does not exist.",
                "The volume is never mounted: the pod does not start.", f"Write driver: {GCSFUSE}.",
            )  # fmt: skip
        if not mapping(csi.get("volumeAttributes")).get("bucketName"):
            yield owner.finding(
                "error", "gcsfuse-bucket", (*base, index, "csi", "volumeAttributes"), "bucketName is missing.",
                "The volume is never mounted: the pod does not start.", "Give the bucket's name.",
            )  # fmt: skip
    for index, volume in enumerate(volumes):
        name = str(volume.get("name") or "")
        if "emptyDir" in volume and "gcsfuse" in name and "cache" in name and name != GCSFUSE_CACHE:
            yield owner.finding(
                "warning",
                "gcsfuse-cache-name",
                (*base, index, "name"),
                f"The cache volume is called {name}; the driver knows {GCSFUSE_CACHE} only.",
                "Files are cached in the sidecar's own small space: loading fails or is slow.",
                f"Write name: {GCSFUSE_CACHE}.",
            )


def _volumes(template: Template, facts: Facts) -> Iterator[Finding]:
    owner = template.owner
    volumes = {str(v.get("name")): v for v in map(mapping, items(template.spec.get("volumes")))}
    claimed = {
        str(mapping(t.get("metadata")).get("name"))
        for t in map(mapping, items(owner.spec.get("volumeClaimTemplates")))
    }
    for path, container in template.containers():
        for index, mount in enumerate(items(container.get("volumeMounts"))):
            name = str(mapping(mount).get("name"))
            if name not in volumes and name not in claimed:
                yield owner.finding(
                    "error",
                    "volume-missing",
                    (*path, "volumeMounts", index, "name"),
                    f"There is no volume {name} in this pod.",
                    "An API server refuses the pod.",
                    f"Add the volume, or mount one of {', '.join(volumes) or 'its volumes'}.",
                )
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    pods = (scaler.high if scaler else whole(owner.spec.get("replicas")) or 1) * (
        2 if template.role == "worker" else 1
    )
    for index, volume in enumerate(map(mapping, items(template.spec.get("volumes")))):
        claim = str(mapping(volume.get("persistentVolumeClaim")).get("claimName") or "")
        where: Path = (*template.path, "spec", "volumes", index, "persistentVolumeClaim", "claimName")
        for other in facts.by_name("PersistentVolumeClaim", claim):
            modes = set(map(str, items(other.spec.get("accessModes"))))
            if other.namespace != owner.namespace:
                continue
            if (
                modes
                and modes <= {"ReadWriteOnce", "ReadWriteOncePod"}
                and pods > 1
                and owner.kind not in ("Job", "Pod")
            ):
                yield owner.finding(
                    "error",
                    "volume-one-node",
                    where,
                    f"Claim {claim} is {', '.join(sorted(modes))}, and up to {pods} pods need it.",
                    "A disk attaches to one node: every further replica stays Pending.",
                    "Use a ReadOnlyMany volume, such as a static Hyperdisk ML one.",
                )
            yield from _bound(other, facts)


def _bound(claim: Any, facts: Facts) -> Iterator[Finding]:
    """A claim and the volume that it names must point at each other."""
    for volume in facts.by_name("PersistentVolume", str(claim.spec.get("volumeName") or "")):
        reference = mapping(volume.spec.get("claimRef"))
        back = (reference.get("name"), reference.get("namespace", "default"))
        if reference and back != (claim.name, claim.namespace):
            yield volume.finding(
                "error",
                "volume-claim-mismatch",
                ("spec", "claimRef"),
                f"It is reserved for {back[1]}/{back[0]}, but {claim.namespace}/{claim.name} names it.",
                "The claim stays Pending, and so does every pod that mounts it.",
                f"Write claimRef: {claim.namespace}/{claim.name}.",
            )


def secrets_in(container: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(index, name, value) of environment variables whose name says that they hold a secret."""
    for index, entry in enumerate(items(container.get("env"))):
        name, value = str(mapping(entry).get("name") or ""), mapping(entry).get("value")
        if value and re.search(r"TOKEN$|SECRET|PASSWORD|API_?KEY|CREDENTIAL", name, re.I):
            yield index, name, str(value)
