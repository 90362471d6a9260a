"""Rules on the time that a replica takes to start: probes, the group's timeout and scale-down windows must allow it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from autoscale.deploy.sizing import RAY_DEFAULT_S
from autoscale.hpa.manifest import MAX_WINDOW_S
from autoscale.kube.objects import mapping
from autoscale.lint import shell
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding
from autoscale.lint.parts import Path, PodTemplate, VllmServer, chips_of, whole_number
from autoscale.lint.rules.capacity import asks, size_of
from autoscale.lint.scalers import Scaler
from autoscale.profiles import Profile, load, names

FASTEST_BYTES_S = 2.5e9  # no storage of the supported systems loads one replica faster
FASTEST_ENGINE_S = 20.0
_FOUR_BIT = re.compile(
    r"int4|4bit|w4a|awq|gptq|fp4|nf4|gguf|\bq4|bnb|bitsandbytes|autoround|gpt-oss|quip|hqq|aqlm"
)
_EIGHT_BIT = re.compile(r"fp8|int8|8bit|w8a|\bq8|modelopt|quantized")
DEFAULT_WINDOW_S = 300  # the controller manager's flag


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on start-up budgets, group timeouts and windows."""
    for server in facts.servers:
        yield from _startup(server)
        yield from _ray(server, facts)
    for scaler in facts.scalers:
        for server in facts.servers_by_owner.get(scaler.key, [])[:1]:
            yield from _window(scaler, server)


@lru_cache(maxsize=1)
def _profiles() -> list[Profile]:
    return [load(name) for name in names()]


def profiles_of(server: VllmServer) -> list[Profile]:
    """The shipped profiles of the same model, chips and kind of storage: their cold starts are known."""
    ids = {server.model, *server.served}
    tpu = asks(server, "google.com/tpu")
    local = bool(server.model and server.model.startswith("/"))
    return [
        profile
        for profile in _profiles()
        if profile.model.id in ids
        and (profile.deploy.platform == "gke-tpu") == tpu
        and (profile.deploy.storage in ("hyperdisk-ml", "local")) == local
        and profile.replica.chips == chips_of(server.container) * size_of(server)
    ]


def load_s(server: VllmServer) -> tuple[float, str] | None:
    """Seconds from container started to serving at the least, and how they came about; None when nothing is known."""
    known = [_profile_load_s(profile) for profile in profiles_of(server)]
    if known:
        return min(known)
    weights = weight_bytes(server)
    if weights is None:
        return None
    total = weights[0] / FASTEST_BYTES_S + FASTEST_ENGINE_S
    return (
        total,
        f"{weights[0] / 1e9:.0f} GB at {FASTEST_BYTES_S / 1e9:g} GB/s or less, and {FASTEST_ENGINE_S:.0f} s",
    )


def weight_bytes(server: VllmServer) -> tuple[float, str] | None:
    """Bytes of a model's weights at the least, and how that is known; None when neither profile nor name tells."""
    ids = {server.model, *server.served}
    for profile in _profiles():
        if profile.model.id in ids and "quantization" not in server.flags:
            return float(profile.model.weight_bytes), f"as in profile {profile.name}"
    name = " ".join([server.model or "", *server.served, server.flags.get("quantization", "")]).lower()
    found = re.search(r"(?<![\d.a-z])(\d+(?:\.\d+)?)b\b", name)
    if not found:
        return None
    if _FOUR_BIT.search(name):
        each = 0.5
    elif _EIGHT_BIT.search(name):
        each = 1.0
    else:  # a directory's name does not tell how its weights are stored
        each = (
            0.5
            if (server.model or "").startswith(("/", "s3:", "gs:")) or server.flags.get("quantization")
            else 2.0
        )
    return float(found[1]) * 1e9 * each, f"{found[1]} billion parameters of {each:g} bytes"


def _profile_load_s(profile: Profile) -> tuple[float, str]:
    cold = profile.cold_start
    weights_s = profile.model.weight_bytes / cold.weights_rate_bytes_s
    engine_s = cold.engine_init.median_s + (cold.compile_cached or cold.compile).median_s
    return (
        weights_s + engine_s,
        f"weights {weights_s:.0f} s and engine {engine_s:.0f} s, as in profile {profile.name}",
    )


def _startup(server: VllmServer) -> Iterator[Finding]:
    known = load_s(server)
    startup, liveness = (mapping(server.container.get(name)) for name in ("startupProbe", "livenessProbe"))
    name, probe = ("startupProbe", startup) if startup else ("livenessProbe", liveness)
    if not probe or known is None:
        return
    least_s, how = known
    budget_s = (whole_number(probe.get("initialDelaySeconds")) or 0) + (
        whole_number(probe.get("periodSeconds")) or 10
    ) * (whole_number(probe.get("failureThreshold")) or 3)
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


def _ray(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    if size_of(server) < 2:
        return
    owner = server.owner
    found: dict[str, tuple[PodTemplate, Path, str | None]] = {}
    for template in facts.templates_by_owner[owner.kind, owner.namespace, owner.name]:
        for path, container in template.containers(init=False):
            for argv in facts.commands(template, container):
                yield from _cluster_size(server, path, argv)
                if any(
                    "multi-node-serving" in word or "ray_init" in word for word in argv
                ) or "ray-init-timeout" in shell.flags(argv):
                    found[template.role] = template, path, shell.flags(argv).get("ray-init-timeout")
    if not found:
        return
    spreads = [p.cold_start.node.p95_s + p.cold_start.image.p95_s for p in profiles_of(server)]
    spread_s = min(spreads, default=RAY_DEFAULT_S)
    times = {role: whole_number(given) or RAY_DEFAULT_S for role, (_, _, given) in found.items()}
    for role, (_, path, given) in found.items():
        if given is not None and whole_number(given) is None:
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


def _cluster_size(server: VllmServer, path: Path, argv: list[str]) -> Iterator[Finding]:
    given = whole_number(shell.flags(argv).get("ray-cluster-size"))
    if given is not None and given != size_of(server):
        yield server.owner.finding(
            "error",
            "ray-cluster-size",
            path,
            f"--ray_cluster_size is {given}, the group has {size_of(server)} pods.",
            "The leader waits for members that never come, or starts without some.",
            "Pass $(LWS_GROUP_SIZE).",
        )


def _window(scaler: Scaler, server: VllmServer) -> Iterator[Finding]:
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
    window_s = whole_number(given) if given is not None else DEFAULT_WINDOW_S
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
