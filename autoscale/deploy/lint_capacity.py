"""Rules on size and time: chips and nodes that must fit, cold starts that must fit windows, probes and timeouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from math import prod

from autoscale.deploy import lint_shell as shell
from autoscale.deploy.lint_facts import CHIPS, Facts, Path, Scaler, Server, Template, chips_of, whole
from autoscale.deploy.lint_report import Finding, items, mapping
from autoscale.deploy.sizing import RAY_DEFAULT_S
from autoscale.hpa.manifest import MAX_WINDOW_S
from autoscale.profiles import Profile, load, names

MAX_NODES = "autoscale/max-nodes"  # annotation on a workload or its HPA: the node pool's maximum
FASTEST_BYTES_S = 2.5e9  # no storage of the supported systems loads one replica faster
FASTEST_ENGINE_S = 20.0
DEFAULT_WINDOW_S = 300  # the controller manager's flag
TPU_TOPOLOGY, ACCELERATOR = "cloud.google.com/gke-tpu-topology", "cloud.google.com/gke-accelerator"
RESTARTS_GROUP = ("RecreateGroupOnPodRestart", "RecreateGroupAfterStart")


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on chips, nodes, groups and the time that a replica takes to start."""
    for server in facts.servers:
        yield from _parallelism(server)
        yield from _startup(server)
        yield from _ray(server, facts)
    for template in facts.templates:
        yield from _chips(template)
    for located in facts.of("LeaderWorkerSet"):
        yield from _group((located.kind, located.namespace, located.name), facts)
    for scaler in facts.scalers:
        if (servers := facts.servers_by_owner.get(scaler.key)) and scaler.high > 0:
            yield from _nodes(scaler, servers[0], facts)
            yield from _window(scaler, servers[0])


# --- chips -----------------------------------------------------------------------------------------------------------


def _size(server: Server) -> int:
    """Pods of one replica."""
    inner = mapping(server.owner.spec.get("leaderWorkerTemplate"))
    return (whole(inner.get("size")) or 1) if server.owner.kind == "LeaderWorkerSet" else 1


def _parallelism(server: Server) -> Iterator[Finding]:
    tensor, pipeline = (
        server.number("tensor-parallel-size") or 1,
        server.number("pipeline-parallel-size") or 1,
    )
    needed, chips, size = tensor * pipeline * server.engines, chips_of(server.container), _size(server)
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


def _chips(template: Template) -> Iterator[Finding]:
    owner = template.owner
    topology = str(mapping(template.spec.get("nodeSelector")).get(TPU_TOPOLOGY) or "")
    for path, container in template.containers(init=False):
        resources = mapping(container.get("resources"))
        limits, requests = mapping(resources.get("limits")), mapping(resources.get("requests"))
        for chip in CHIPS:
            limit, request = whole(limits.get(chip)), whole(requests.get(chip))
            if chip in requests and limit != request:
                yield owner.finding(
                    "error",
                    "chips-limit-request",
                    (*path, "resources"),
                    f"{chip}: request {request}, limit {limit}; they must be equal.",
                    "An API server refuses the pod.",
                    f"Write {chip} once, under limits.",
                )
        tpu = whole(limits.get("google.com/tpu"))
        if tpu and re.fullmatch(r"\d+(x\d+)+", topology):
            chips = prod(int(side) for side in topology.split("x"))
            size = whole(mapping(owner.spec.get("leaderWorkerTemplate")).get("size")) or 1
            hosts = size if owner.kind == "LeaderWorkerSet" else whole(owner.spec.get("completions")) or 1
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
    if servers and (whole(inner.get("size")) or 1) > 1 and policy not in RESTARTS_GROUP:
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
    if images and theirs_images and images[0] not in theirs_images and "vllm" in theirs_images[0]:
        yield owner.finding(
            "error",
            "worker-differs",
            (*path, "containers", 0, "image"),
            f"The leader runs {images[0]}, the worker {theirs_images[0]}.",
            "Different versions of vLLM or Ray do not form one engine.",
            "Use one image.",
        )


# --- nodes and quota -------------------------------------------------------------------------------------------------


def _nodes(scaler: Scaler, server: Server, facts: Facts) -> Iterator[Finding]:
    size, chips = _size(server), chips_of(server.container)
    nodes, most = scaler.high * size, scaler.high * size * chips
    path: Path = ("spec", "maxReplicaCount" if scaler.source.kind == "ScaledObject" else "maxReplicas")
    need = f"{scaler.high} replicas x {size} pods x {chips} chips = {nodes} nodes with {most} chips"
    seen = False
    for what, bound, unit in _node_bounds(scaler, server, facts):
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


def _node_bounds(scaler: Scaler, server: Server, facts: Facts) -> Iterator[tuple[str, int, str]]:
    """(what, bound, nodes or chips) of everything in the set that limits the accelerators."""
    if facts.max_nodes is not None:
        yield "the node pool", facts.max_nodes, "nodes"
    for located in (scaler.source, server.owner):
        bound = whole(mapping(located.metadata.get("annotations")).get(MAX_NODES))
        if bound is not None:
            yield f"annotation {MAX_NODES} of {located.kind} {located.name}", bound, "nodes"
    pools = [pool for pool in facts.of("ContainerNodePool") if _holds(pool.spec, server)]
    bounds = [_pool_bound(pool.spec) for pool in pools]
    if bounds and None not in bounds:
        yield f"node pool {', '.join(pool.name for pool in pools)}", sum(b or 0 for b in bounds), "nodes"
    for pool in facts.of("NodePool"):
        limits = mapping(pool.spec.get("limits"))
        for chip in CHIPS:
            if (bound := whole(limits.get(chip))) is not None and _asks(server, chip):
                yield f"NodePool {pool.name}", bound, "chips"
        if (bound := whole(limits.get("nodes"))) is not None:
            yield f"NodePool {pool.name}", bound, "nodes"
    for quota in facts.of("ResourceQuota"):
        if quota.namespace != server.owner.namespace:
            continue
        for chip in CHIPS:
            bound = whole(mapping(quota.spec.get("hard")).get(f"requests.{chip}"))
            if bound is not None and _asks(server, chip):
                yield f"ResourceQuota {quota.name}", bound, "chips"


def _asks(server: Server, chip: str) -> bool:
    resources = mapping(server.container.get("resources"))
    return chip in mapping(resources.get("limits")) or chip in mapping(resources.get("requests"))


def _holds(spec: dict[str, object], server: Server) -> bool:
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
    if (total := whole(scaling.get("totalMaxNodeCount"))) is not None:
        return total
    if (each := whole(scaling.get("maxNodeCount"))) is not None:
        return each * locations
    count = whole(spec.get("nodeCount"))
    count = whole(spec.get("initialNodeCount")) if count is None else count
    return None if count is None else count * locations


# --- time ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _profiles() -> list[Profile]:
    return [load(name) for name in names()]


def profiles_of(server: Server) -> list[Profile]:
    """The shipped profiles of the same model, chips and kind of storage: their cold starts are known."""
    ids = {server.model, *server.served}
    tpu = _asks(server, "google.com/tpu")
    local = bool(server.model and server.model.startswith("/"))
    return [
        profile
        for profile in _profiles()
        if profile.model.id in ids
        and (profile.deploy.platform == "gke-tpu") == tpu
        and (profile.deploy.storage in ("hyperdisk-ml", "local")) == local
        and profile.replica.chips == chips_of(server.container) * _size(server)
    ]


def load_s(server: Server) -> tuple[float, str] | None:
    """Seconds from container started to serving at the least, and how they came about; None when nothing is known."""
    known = [_profile_load_s(profile) for profile in profiles_of(server)]
    if known:
        return min(known)
    name = " ".join([server.model or "", *server.served])
    found = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)[bB]\b", name)
    if not found:
        return None
    bytes_each = 1.0 if "fp8" in name.lower() else 0.5 if re.search("int4|awq|gptq", name, re.I) else 2.0
    size_bytes = float(found[1]) * 1e9 * bytes_each
    total = size_bytes / FASTEST_BYTES_S + FASTEST_ENGINE_S
    return (
        total,
        f"{size_bytes / 1e9:.0f} GB at {FASTEST_BYTES_S / 1e9:g} GB/s or less, and {FASTEST_ENGINE_S:.0f} s",
    )


def _profile_load_s(profile: Profile) -> tuple[float, str]:
    cold = profile.cold_start
    weights_s = profile.model.weight_bytes / cold.weights_rate_bytes_s
    engine_s = cold.engine_init.median_s + (cold.compile_cached or cold.compile).median_s
    return (
        weights_s + engine_s,
        f"weights {weights_s:.0f} s and engine {engine_s:.0f} s, as in profile {profile.name}",
    )


def _startup(server: Server) -> Iterator[Finding]:
    known = load_s(server)
    startup, liveness = (mapping(server.container.get(name)) for name in ("startupProbe", "livenessProbe"))
    name, probe = ("startupProbe", startup) if startup else ("livenessProbe", liveness)
    if not probe or known is None:
        return
    least_s, how = known
    budget_s = (whole(probe.get("initialDelaySeconds")) or 0) + (whole(probe.get("periodSeconds")) or 10) * (
        whole(probe.get("failureThreshold")) or 3
    )
    if budget_s < least_s:
        yield server.owner.finding(
            "error",
            "startup-budget",
            (*server.path, name, "failureThreshold"),
            f"{name} gives {budget_s} s; loading takes at least {least_s:.0f} s ({how}).",
            "The kubelet restarts the replica while it loads, for ever.",
            f"Raise startupProbe periodSeconds x failureThreshold above {1.5 * least_s:.0f} s."
            if startup
            else f"Add a startupProbe with a budget above {1.5 * least_s:.0f} s.",
        )


def _ray(server: Server, facts: Facts) -> Iterator[Finding]:
    if _size(server) < 2:
        return
    owner = server.owner
    found: dict[str, tuple[Template, Path, str | None]] = {}
    for template in facts.templates_by_owner[owner.kind, owner.namespace, owner.name]:
        for path, container in template.containers(init=False):
            for argv in facts.commands(template, container):
                if any("multi-node-serving" in word for word in argv) or "ray-init-timeout" in shell.flags(
                    argv
                ):
                    found[template.role] = template, path, shell.flags(argv).get("ray-init-timeout")
    if not found:
        return
    spreads = [p.cold_start.node.p95_s + p.cold_start.image.p95_s for p in profiles_of(server)]
    spread_s = min(spreads, default=RAY_DEFAULT_S)
    times = {role: whole(given) or RAY_DEFAULT_S for role, (_, _, given) in found.items()}
    for role, (_, path, given) in found.items():
        if given is not None and whole(given) is None:
            continue
        value = times[role]
        if value < spread_s or given is None:
            severity = "error" if given is not None and value < RAY_DEFAULT_S else "warning"
            yield owner.finding(
                severity,  # type: ignore[arg-type]  # one of the severities
                "ray-init-timeout",
                path,
                f"The {role} waits {value} s for its group" + ("." if given else ", the script's default."),
                f"Nodes that arrive further apart (up to {spread_s:.0f} s) recreate the group for ever.",
                f"Pass --ray_init_timeout of at least {max(spread_s, RAY_DEFAULT_S):.0f} to leader and worker.",
            )
    if len(set(times.values())) > 1 and all(value >= spread_s for value in times.values()):
        yield owner.finding(
            "warning",
            "ray-init-timeout",
            found["leader"][1] if "leader" in found else server.path,
            "Leader and worker wait for different times: "
            + ", ".join(f"{r} {t} s" for r, t in times.items())
            + ".",
            "The shorter one gives up first and the group is recreated.",
            "Pass the same --ray_init_timeout on both sides.",
        )


def _window(scaler: Scaler, server: Server) -> Iterator[Finding]:
    known = load_s(server)
    if known is None:
        return
    arrivals = [p.cold_start.node.median_s + p.cold_start.image.median_s for p in profiles_of(server)]
    node_s = min(arrivals, default=0.0)
    cold_s = known[0] + node_s
    spec = scaler.source.spec
    path: Path = ("spec", "behavior", "scaleDown", "stabilizationWindowSeconds")
    behavior = mapping(spec.get("behavior"))
    if scaler.source.kind == "ScaledObject":
        path = ("spec", "advanced", "horizontalPodAutoscalerConfig", *path[1:])
        behavior = mapping(
            mapping(mapping(spec.get("advanced")).get("horizontalPodAutoscalerConfig")).get("behavior")
        )
    down = mapping(behavior.get("scaleDown"))
    if down.get("selectPolicy") == "Disabled":
        return
    given = down.get("stabilizationWindowSeconds")
    window_s = whole(given) if given is not None else DEFAULT_WINDOW_S
    if window_s is not None and window_s < cold_s / 2 and window_s < MAX_WINDOW_S:
        fits = cold_s <= MAX_WINDOW_S
        yield scaler.source.finding(
            "warning",
            "window-below-cold-start",
            path,
            f"The scale-down window is {window_s} s, a cold start about {cold_s:.0f} s.",
            "After a burst its replica is cancelled before it is ready: cost without help.",
            f"Write about {cold_s:.0f}, or raise minReplicas."
            if fits
            else f"No window ({MAX_WINDOW_S} s at most) is as long: raise minReplicas.",
        )
