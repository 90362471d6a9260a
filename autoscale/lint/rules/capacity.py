"""Rules on size: chips, groups and nodes that must fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

from autoscale.kube.kinds import ACCELERATORS
from autoscale.kube.objects import items, mapping
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import Path, PodTemplate, VllmServer, chips_of, whole_number
from autoscale.lint.scalers import Scaler

MAX_NODES = "autoscale/max-nodes"  # annotation on a workload or its HPA: the node pool's maximum
TPU_TOPOLOGY, ACCELERATOR = "cloud.google.com/gke-tpu-topology", "cloud.google.com/gke-accelerator"
RESTARTS_GROUP = ("RecreateGroupOnPodRestart", "RecreateGroupAfterStart")


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on chips, groups and nodes."""
    for server in facts.servers:
        yield from _parallelism(server)
    for template in facts.templates:
        yield from _chips(template)
    for located in facts.of("LeaderWorkerSet"):
        yield from _group((located.kind, located.namespace, located.name), facts)
    for scaler in facts.scalers:
        if (servers := facts.servers_by_owner.get(scaler.key)) and scaler.high > 0:
            yield from _nodes(scaler, servers[0], facts)


# --- chips -----------------------------------------------------------------------------------------------------------


def size_of(server: VllmServer) -> int:
    """Pods of one replica."""
    inner = mapping(server.owner.spec.get("leaderWorkerTemplate"))
    return (whole_number(inner.get("size")) or 1) if server.owner.kind == "LeaderWorkerSet" else 1


def _parallelism(server: VllmServer) -> Iterator[Finding]:
    tensor, pipeline = (
        server.number("tensor-parallel-size") or 1,
        server.number("pipeline-parallel-size") or 1,
    )
    needed, chips, size = tensor * pipeline * server.engines, chips_of(server.container), size_of(server)
    if not chips:
        return
    arithmetic = f"tensor {tensor} x pipeline {pipeline} x data {server.engines} = {needed}"
    if needed > chips * size:
        absent = server.owner.kind == "LeaderWorkerSet" and "size" not in mapping(
            server.owner.spec.get("leaderWorkerTemplate")
        )
        yield server.owner.finding(
            "error",
            "parallelism-chips",
            ("spec", "leaderWorkerTemplate", "size")
            if server.owner.kind == "LeaderWorkerSet"
            else server.path,
            f"{arithmetic} chips are used, one replica has {size} x {chips}"
            + (" (size is missing)." if absent else "."),
            "vLLM waits for chips that never come: no replica ever serves.",
            "Make size x chips per pod equal to the product.",
        )
    elif needed < chips * size:
        yield server.owner.finding(
            "warning",
            "idle-chips",
            server.path,
            f"{arithmetic} chips are used, one replica holds {size} x {chips}.",
            "The other chips are paid for and idle.",
            "Ask for fewer chips, or raise --tensor-parallel-size.",
        )


def _chips(template: PodTemplate) -> Iterator[Finding]:
    owner = template.owner
    topology = str(mapping(template.spec.get("nodeSelector")).get(TPU_TOPOLOGY) or "")
    for path, container in template.containers(init=False):
        resources = mapping(container.get("resources"))
        limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
        for chip in ACCELERATORS:
            limit, request = whole_number(limits.get(chip)), whole_number(requests.get(chip))
            if chip in requests and limit != request:
                yield owner.finding(
                    "error",
                    "chips-limit-request",
                    (*path, "resources"),
                    f"{chip}: request {request}, limit {limit}; they must be equal.",
                    "An API server refuses the pod.",
                    f"Write {chip} once, under limits.",
                )
        tpu = whole_number(limits.get("google.com/tpu"))
        if tpu and re.fullmatch(r"\d+(x\d+)+", topology):
            chips = prod(int(side) for side in topology.split("x"))
            size = whole_number(mapping(owner.spec.get("leaderWorkerTemplate")).get("size")) or 1
            hosts = (
                size if owner.kind == "LeaderWorkerSet" else whole_number(owner.spec.get("completions")) or 1
            )
            if tpu * hosts != chips:
                yield owner.finding(
                    "error",
                    "tpu-topology",
                    (*path, "resources", "limits", "google.com/tpu"),
                    f"Topology {topology} has {chips} chips; {hosts} x {tpu} are asked for.",
                    "No node fits: the pod stays Pending for ever.",
                    f"Ask for {chips // hosts or 1} chips, or choose another topology.",
                )
        if tpu and not topology and owner.kind != "Pod":
            yield owner.finding(
                "warning",
                "tpu-topology",
                (*template.path, "spec", "nodeSelector"),
                f"google.com/tpu without a nodeSelector {TPU_TOPOLOGY}.",
                "The pod may be refused, or land on another kind of slice.",
                "Select topology and gke-tpu-accelerator.",
            )


def _group(key: tuple[str, str, str], facts: Facts) -> Iterator[Finding]:
    """Leader and workers must be alike in what makes them one engine."""
    pair = {template.role: template for template in facts.templates_by_owner.get(key, ())}
    if "leader" not in pair:
        return
    leader, owner = pair["leader"], pair["leader"].owner
    inner = mapping(owner.spec.get("leaderWorkerTemplate"))
    policy = inner.get("restartPolicy", "RecreateGroupOnPodRestart")
    servers = facts.servers_by_owner.get(key, [])
    if servers and (whole_number(inner.get("size")) or 1) > 1 and policy not in RESTARTS_GROUP:
        yield owner.finding(
            "warning",
            "group-restart-policy",
            ("spec", "leaderWorkerTemplate", "restartPolicy"),
            f"restartPolicy {policy}: one pod is restarted alone.",
            "Ray and NCCL cannot take a member back: the group hangs with its chips.",
            "Write RecreateGroupOnPodRestart.",
        )
    worker = pair.get("worker")
    if worker is None or worker.path == leader.path:
        return
    path: Path = (*worker.path, "spec")
    if leader.chips and worker.chips != leader.chips:
        yield owner.finding(
            "error",
            "worker-differs",
            path,
            f"The leader asks for {leader.chips} chips, the worker for {worker.chips}.",
            "Ray finds too few chips: the group never serves.",
            "Ask for the same chips in both.",
        )
    ours, theirs = (mapping(t.spec.get("nodeSelector")) for t in (leader, worker))
    for label in (ACCELERATOR, "cloud.google.com/gke-tpu-accelerator", TPU_TOPOLOGY):
        if label in ours and ours.get(label) != theirs.get(label):
            yield owner.finding(
                "warning",
                "worker-differs",
                (*path, "nodeSelector"),
                f"The leader selects {label}: {ours[label]}, the worker {theirs.get(label, 'nothing')}.",
                "The worker may land on another accelerator: the group fails or is slow.",
                "Select the same accelerator in both.",
            )
    images = [str(server.container.get("image")) for server in servers[:1]]
    theirs_images = [str(c.get("image")) for _, c in worker.containers(init=False)]
    tags = {image.split("@")[0] for image in theirs_images}
    if images and tags and images[0].split("@")[0] not in tags and "vllm" in theirs_images[0]:
        yield owner.finding(
            "error",
            "worker-differs",
            (*path, "containers", 0, "image"),
            f"The leader runs {images[0]}, the worker {theirs_images[0]}.",
            "Different versions of vLLM or Ray do not form one engine.",
            "Use one image.",
        )


# --- nodes and quota -------------------------------------------------------------------------------------------------


def _nodes(scaler: Scaler, server: VllmServer, facts: Facts) -> Iterator[Finding]:
    size, chips = size_of(server), chips_of(server.container)
    nodes, most = scaler.high * size, scaler.high * size * chips
    path: Path = ("spec", "maxReplicaCount" if scaler.source.kind == "ScaledObject" else "maxReplicas")
    need = f"{scaler.high} replicas x {size} pods x {chips} chips = {nodes} nodes with {most} chips"
    seen = False
    for what, bound, unit in node_bounds(scaler, server, facts):
        seen = True
        if (nodes if unit == "nodes" else most) > bound:
            yield scaler.source.finding(
                "error",
                "nodes-too-few",
                path,
                f"{need}, but {what} allows {bound} {unit}.",
                "The last replicas stay Pending for ever; the HPA believes in them.",
                "Raise the node pool's maximum, or lower maxReplicas.",
            )
    if not seen and chips:
        yield scaler.source.finding(
            "note",
            "nodes-not-known",
            path,
            f"{need}; no bound of the node pool is known here.",
            "If pool or quota hold less, the last replicas stay Pending for ever.",
            f"Compare with the pool's maximum, or write it as annotation {MAX_NODES}.",
        )


def node_bounds(scaler: Scaler, server: VllmServer, facts: Facts) -> Iterator[tuple[str, int, str]]:
    """(what, bound, nodes or chips) of everything in the set that limits the accelerators."""
    if facts.max_nodes is not None:
        yield "the node pool", facts.max_nodes, "nodes"
    for located in (scaler.source, server.owner):
        bound = whole_number(mapping(located.metadata.get("annotations")).get(MAX_NODES))
        if bound is not None:
            yield f"annotation {MAX_NODES} of {located.kind} {located.name}", bound, "nodes"
    pools = [pool for pool in facts.of("ContainerNodePool") if _holds(pool.spec, server)]
    bounds = [_pool_bound(pool.spec) for pool in pools]
    if bounds and None not in bounds:
        yield f"node pool {', '.join(pool.name for pool in pools)}", sum(b or 0 for b in bounds), "nodes"
    for pool in facts.of("NodePool"):
        limits = mapping(pool.spec.get("limits"))
        for chip in ACCELERATORS:
            if (bound := whole_number(limits.get(chip))) is not None and asks(server, chip):
                yield f"NodePool {pool.name}", bound, "chips"
        if (bound := whole_number(limits.get("nodes"))) is not None:
            yield f"NodePool {pool.name}", bound, "nodes"
    for quota in facts.of("ResourceQuota"):
        if quota.namespace != server.owner.namespace:
            continue
        for chip in ACCELERATORS:
            bound = whole_number(mapping(quota.spec.get("hard")).get(f"requests.{chip}"))
            if bound is not None and asks(server, chip):
                yield f"ResourceQuota {quota.name}", bound, "chips"


def asks(server: VllmServer, chip: str) -> bool:
    resources = mapping(server.container.get("resources"))
    return chip in mapping(resources.get("limits")) or chip in mapping(resources.get("requests"))


def _holds(spec: dict[str, object], server: VllmServer) -> bool:
    """Whether a node pool has the accelerator that a server selects; one that says nothing may have it."""
    config = mapping(spec.get("nodeConfig"))
    kinds = [str(mapping(entry).get("type")) for entry in items(config.get("guestAccelerator"))]
    selector = mapping(server.template.spec.get("nodeSelector"))
    pool = selector.get("cloud.google.com/gke-nodepool")
    named = spec.get("resourceID")
    if pool and named and pool != named:
        return False
    wanted = selector.get(ACCELERATOR)
    machine = str(config.get("machineType") or "")
    if wanted and kinds:
        return str(wanted) in kinds
    return bool(kinds) or machine.startswith(("a2-", "a3-", "a4", "g2-", "g4-", "ct"))


def _pool_bound(spec: dict[str, object]) -> int | None:
    """The most nodes that a ContainerNodePool may have; without autoscaling its present count."""
    scaling = mapping(spec.get("autoscaling"))
    locations = max(1, len(items(spec.get("nodeLocations"))))
    if (total := whole_number(scaling.get("totalMaxNodeCount"))) is not None:
        return total
    if (each := whole_number(scaling.get("maxNodeCount"))) is not None:
        return each * locations
    count = whole_number(spec.get("nodeCount"))
    count = whole_number(spec.get("initialNodeCount")) if count is None else count
    return None if count is None else count * locations
