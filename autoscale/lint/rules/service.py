"""Rules on Services and InferencePools in front of vLLM: what they select, and where they send requests."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.kube.objects import items, mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import VllmServer

POOL_API = "inference.networking.k8s.io/v1"
# What v1 of an InferencePool requires: how v1alpha2 called it, and an example
POOL_FIELDS = {
    "targetPorts": ("targetPortNumber", "targetPorts: [{number: 8000}]"),
    "endpointPickerRef": ("extensionRef", "endpointPickerRef: {name: picker, port: {number: 9002}}"),
}
AFFINITY_S = 10_800  # clientIP.timeoutSeconds' default, three hours


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every Service with a selector that has to do with a vLLM server, and on every InferencePool."""
    for pool in facts.of("InferencePool"):
        if pool.api == POOL_API:
            yield from _pool(pool)
    pods: dict[tuple[str, str, str], list[int]] = {}  # (namespace, key, value) -> templates
    for number, template in enumerate(facts.templates):
        for key, value in template.labels.items():
            pods.setdefault((template.owner.namespace, key, str(value)), []).append(number)
    for service in facts.of("Service"):
        selector = mapping(service.spec.get("selector"))
        if not selector:
            continue
        first = next(iter(selector.items()))
        candidates = set(pods.get((service.namespace, str(first[0]), str(first[1])), []))
        candidates |= set(pods.get((service.namespace, str(first[0]), "None"), []))
        chosen = [
            facts.templates[n]
            for n in candidates
            if object_selects({"matchLabels": selector}, facts.templates[n].labels)
        ]
        servers = [
            server
            for template in chosen
            for server in facts.servers_by_owner.get(
                (template.owner.kind, template.owner.namespace, template.owner.name), []
            )
            if server.template.path == template.path
        ]
        if servers:
            yield from _ports(service, servers[0])
            yield from _affinity(service, servers, facts)
            yield from _mixed(service, servers)
            workers = [t for t in chosen if t.role == "worker"]
            if workers and service.spec.get("clusterIP") != "None":
                yield service.finding(
                    "error",
                    "service-selects-workers",
                    ("spec", "selector"),
                    f"The selector also chooses the workers of {workers[0].owner.name}, which serve no HTTP.",
                    "A share of all requests is refused.",
                    "Select the leaders: add role: leader, or leaderworkerset.sigs.k8s.io/worker-index: '0'.",
                )
        elif not chosen:
            yield from _selects_nothing(service, selector, facts)


def _pool(pool: Located) -> Iterator[Finding]:
    for field, (older, example) in POOL_FIELDS.items():
        if pool.spec.get(field):
            continue
        yield pool.finding(
            "error",
            "api-refused",
            ("spec", older if older in pool.spec else field),
            f"{older} is v1alpha2's name of {field}, which v1 requires."
            if older in pool.spec
            else f"{field} is missing, which v1 requires.",
            "The API server refuses the pool: the gateway has nowhere to send requests.",
            f"Write {example}.",
        )


def serving(facts: Facts, name: str, namespace: str) -> tuple[Located | None, list[VllmServer]]:
    """The Service of this name and the vLLM servers behind it."""
    for service in facts.by_name("Service", name):
        if service.namespace == namespace:
            selector = mapping(service.spec.get("selector"))
            return service, facts.selected({"matchLabels": selector}, namespace) if selector else []
    return None, []


def _ports(service: Located, server: VllmServer) -> Iterator[Finding]:
    entries = [mapping(entry) for entry in items(service.spec.get("ports"))]
    answers = [server.listens_at(entry.get("targetPort", entry.get("port"))) for entry in entries]
    for index, (entry, answer) in enumerate(zip(entries, answers, strict=True)):
        if answer is False and not any(answers):
            target = entry.get("targetPort", entry.get("port"))
            yield service.finding(
                "error",
                "service-port",
                ("spec", "ports", index, "targetPort" if "targetPort" in entry else "port"),
                f"targetPort {target} is not where vLLM listens ({server.port}).",
                "Every request is refused.",
                f"Write targetPort: {server.port}.",
            )


def _affinity(service: Located, servers: list[VllmServer], facts: Facts) -> Iterator[Finding]:
    """Clients that stay with their replica: a new one gets none of those that made it necessary."""
    scaled = any((s.owner.kind, s.owner.namespace, s.owner.name) in facts.scaler_of for s in servers)
    if service.spec.get("sessionAffinity") != "ClientIP" or not scaled:
        return
    config = mapping(mapping(service.spec.get("sessionAffinityConfig")).get("clientIP"))
    yield service.finding(
        "warning",
        "session-affinity",
        ("spec", "sessionAffinity"),
        f"Each client address stays with one replica for {config.get('timeoutSeconds', AFFINITY_S)} s.",
        "A new replica gets none of the clients whose queue made it necessary: it idles, the others stay full.",
        "Write sessionAffinity: None; a router with prefix-aware routing keeps caches warm.",
    )


def _mixed(service: Located, servers: list[VllmServer]) -> Iterator[Finding]:
    """Servers of different models behind one name."""
    first = servers[0]
    for other in servers[1:]:
        known = first.served and other.served
        apart = (first.owner.kind, first.owner.name) != (other.owner.kind, other.owner.name)
        if known and apart and not set(first.served) & set(other.served):
            yield service.finding(
                "error",
                "service-mixes-models",
                ("spec", "selector"),
                f"The selector chooses {first.owner.name} with {first.served[0]} and {other.owner.name} with "
                f"{other.served[0]}.",
                "Requests go to either: a share of them gets 404 for a model that is not there.",
                "Give each model a Service, or a router that knows models.",
            )
            return


def _selects_nothing(service: Located, selector: dict[str, object], facts: Facts) -> Iterator[Finding]:
    wanted = {"matchLabels": selector}
    near = facts.servers_by_space.get(service.namespace, [])
    elsewhere = [
        s
        for s in facts.servers[:200]
        if s.owner.namespace != service.namespace and object_selects(wanted, s.template.labels)
    ]
    if elsewhere:
        yield service.finding(
            "error",
            "service-namespace",
            ("metadata", "namespace"),
            f"The pods are in namespace {elsewhere[0].owner.namespace}, the Service in {service.namespace}.",
            "The Service has no endpoints: every request is refused.",
            f"Write namespace: {elsewhere[0].owner.namespace}.",
        )
        return
    values = set(map(str, selector.values()))
    for server in near[:200]:
        labels = server.template.labels
        if set(selector) & set(labels) or values & set(map(str, labels.values())) or "vllm" in service.name:
            shown = ", ".join(f"{key}: {value}" for key, value in labels.items() if value is not None)
            yield service.finding(
                "error",
                "service-selector",
                ("spec", "selector"),
                f"The selector chooses no pod; {server.owner.kind} {server.owner.name} has {shown}.",
                "The Service has no endpoints: every request is refused.",
                "Select labels that the pods carry.",
            )
            return
