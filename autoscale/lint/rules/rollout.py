"""Rules on what takes replicas away for a while: disruption budgets and rolling updates."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from autoscale.kube.objects import mapping
from autoscale.kube.selectors import object_selects
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import VllmServer, chips_of, whole_number
from autoscale.lint.rules.capacity import node_bounds

DEFAULT_ROLL = "25%"  # maxSurge, rounded up, and maxUnavailable, rounded down
WHOLE_NODE_GPUS = 8  # no common machine has more accelerators of one pod than this left beside it
MANY = 50


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on every budget, and on the rolling update of every Deployment that serves."""
    for budget in facts.of("PodDisruptionBudget"):
        yield from _budget(budget, facts)
    for server in facts.servers:
        if server.owner.kind == "Deployment":
            yield from _surge(server, facts)


# --- budgets ---------------------------------------------------------------------------------------------------------


def _budget(budget: Located, facts: Facts) -> Iterator[Finding]:
    if budget.spec.get("selector") is None:  # policy/v1: none selects no pod, {} every pod
        if facts.servers_by_space.get(budget.namespace):
            yield _protects_nothing(budget, "There is no selector.")
        return
    unavailable, available = budget.spec.get("maxUnavailable"), budget.spec.get("minAvailable")
    if whole_number(unavailable) == 0 or unavailable == "0%" or available == "100%":
        yield _blocks(budget, "The budget allows no eviction at all.")
    elif available is not None:
        yield from _minimum(budget, available, facts)
    near = facts.servers_by_space.get(budget.namespace, [])
    pairs = mapping(mapping(budget.spec.get("selector")).get("matchLabels"))
    meant = any(set(pairs) & set(server.template.labels) for server in near[:MANY])
    if meant and facts.count(budget.kind) <= MANY and not _covers(budget, facts):
        yield _protects_nothing(budget, "The selector chooses no pod of this namespace.")


def _protects_nothing(budget: Located, problem: str) -> Finding:
    return budget.finding(
        "warning",
        "budget-selects-nothing",
        ("spec", "selector"),
        problem,
        "The budget protects nothing: maintenance may take every replica at once.",
        "Select labels that the pods carry.",
    )


def _blocks(budget: Located, problem: str) -> Finding:
    return budget.finding(
        "warning",
        "budget-blocks",
        ("spec",),
        problem,
        "Node upgrades wait for ever, or are forced.",
        "Write maxUnavailable: 1.",
    )


def _minimum(budget: Located, available: object, facts: Facts) -> Iterator[Finding]:
    """minAvailable as high as all selected pods at the minimum of replicas: none of them may be evicted."""
    if facts.count(budget.kind) > MANY or not facts.selected(budget.spec.get("selector"), budget.namespace):
        return
    pods, shown = 0, []
    for (kind, namespace, name), templates in facts.templates_by_owner.items():
        chosen = [t for t in templates if object_selects(budget.spec.get("selector"), t.labels)]
        if namespace != budget.namespace or not chosen:
            continue
        scaler, owner = facts.scaler_of.get((kind, namespace, name)), chosen[0].owner
        low = whole_number(owner.spec.get("replicas", 1)) or 0
        low = scaler.low if scaler else low
        size = whole_number(mapping(owner.spec.get("leaderWorkerTemplate")).get("size")) or 1
        pods += low * sum(size - 1 if template.role == "worker" else 1 for template in chosen)
        shown.append(f"{low} of {kind} {name}")
    needed = whole_number(available)
    if needed is None and isinstance(available, str) and available.removesuffix("%").isdigit():
        needed = ceil(int(available.removesuffix("%")) * pods / 100)
    if needed is not None and 0 < pods <= needed:
        yield _blocks(
            budget,
            f"minAvailable {available} needs {needed} of {pods} pods, with replicas at their minimum "
            f"({', '.join(shown[:3])}): none may be evicted.",
        )


def _covers(budget: Located, facts: Facts) -> bool:
    return any(
        template.owner.namespace == budget.namespace
        and object_selects(budget.spec.get("selector"), template.labels)
        for template in facts.templates
    )


# --- rolling updates -------------------------------------------------------------------------------------------------


def _surge(server: VllmServer, facts: Facts) -> Iterator[Finding]:
    """A rolling update that starts a further pod first, as the default does, for which there may be no node."""
    owner, chips = server.owner, chips_of(server.container)
    strategy = mapping(owner.spec.get("strategy"))
    rolling = mapping(strategy.get("rollingUpdate"))
    surge = rolling.get("maxSurge", DEFAULT_ROLL)
    if not chips or strategy.get("type", "RollingUpdate") != "RollingUpdate" or not _of(surge, 100):
        return
    scaler = facts.scaler_of.get((owner.kind, owner.namespace, owner.name))
    most = scaler.high if scaler else whole_number(owner.spec.get("replicas", 1)) or 1
    tpu = "google.com/tpu" in mapping(mapping(server.container.get("resources")).get("limits"))
    full = scaler is not None and any(
        bound < most + 1 for _, bound, unit in node_bounds(scaler, server, facts) if unit == "nodes"
    )
    if not (tpu or chips >= WHOLE_NODE_GPUS or full):
        return
    low = scaler.low if scaler else most
    goes_first = _of(rolling.get("maxUnavailable", DEFAULT_ROLL), low)
    if "maxSurge" in rolling and goes_first:
        return  # the node of an old pod becomes free
    kept = "" if goes_first else f", and no old pod goes first: maxUnavailable is 0 of {low}"
    yield owner.finding(
        "warning",
        "rollout-needs-node",
        ("spec", "strategy"),
        f"maxSurge is {surge if 'maxSurge' in rolling else '25 % by default'}, rounded up{kept}.",
        f"Every rollout needs a free node with {chips} chips: without one the new pod stays Pending "
        f"{'until an old one has gone' if goes_first else 'and nothing changes'}.",
        "Write strategy.rollingUpdate: {maxSurge: 0, maxUnavailable: 1}.",
    )


def _of(share: object, replicas: int) -> int:
    """What maxSurge or maxUnavailable (a number, or a text such as 25%) is of so many pods, rounded down; 0 for what is neither."""
    text = str(share)
    percent = text.endswith("%")
    number = whole_number(text.removesuffix("%") if percent else share) or 0
    return number * replicas // 100 if percent else number
