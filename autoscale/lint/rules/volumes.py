"""Rules on volumes: compile caches that replicas share, buckets, mounts, disks and their claims."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.kube.objects import Object, items, mapping
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path, PodTemplate, whole_number

GCSFUSE, GCSFUSE_CACHE = "gcsfuse.csi.storage.gke.io", "gke-gcsfuse-cache"
SHARED_KINDS = ("persistentVolumeClaim", "csi", "nfs", "hostPath", "cephfs", "glusterfs", "azureFile")


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on the volumes of every pod."""
    for template in facts.templates:
        yield from _gcsfuse(template)
        yield from _volumes(template, facts)
        yield from _xla(template, facts)


def _xla(template: PodTemplate, facts: Facts) -> Iterator[Finding]:
    """Several replicas must not write one compile cache at the same time."""
    owner = template.owner
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    most = scaler.high if scaler else whole_number(owner.spec.get("replicas")) or 1
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


def _mounted(container: Object, where: str, volumes: dict[str, Object]) -> Object:
    """The volume that holds a path, the deepest mount of all."""
    best, found = "", {}
    for mount in map(mapping, items(container.get("volumeMounts"))):
        point = str(mount.get("mountPath") or "").rstrip("/")
        if point and (where == point or where.startswith(point + "/")) and len(point) > len(best):
            best, found = point, volumes.get(str(mount.get("name")), {})
    return found


def _gcsfuse(template: PodTemplate) -> Iterator[Finding]:
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
    if str(annotation).lower() != "true":  # a boolean is refused as such: lint_text
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


def _volumes(template: PodTemplate, facts: Facts) -> Iterator[Finding]:
    owner = template.owner
    volumes = {str(v.get("name")): v for v in map(mapping, items(template.spec.get("volumes")))}
    claimed = {
        str(mapping(t.get("metadata")).get("name"))
        for spec in (
            owner.spec,
            mapping(owner.spec.get("leaderWorkerTemplate")),
        )  # StatefulSet, LeaderWorkerSet
        for t in map(mapping, items(spec.get("volumeClaimTemplates")))
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
    pods = (scaler.high if scaler else whole_number(owner.spec.get("replicas")) or 1) * (
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


def _bound(claim: Located, facts: Facts) -> Iterator[Finding]:
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
