"""The linter: what kubectl accepts and the HPA never forgives, over files, objects or a live cluster.

    paths --lint_read.read--> located objects --Facts--> rules --> findings
    cluster --lint_live-------^

The rules are pure; each module of them looks at one thing, and they are listed in RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoscale.deploy import (
    lint_adapter,
    lint_any,
    lint_behavior,
    lint_capacity,
    lint_hpa,
    lint_keda,
    lint_load,
    lint_memory,
    lint_path,
    lint_pods,
    lint_rollout,
    lint_scrape,
    lint_service,
    lint_targets,
    lint_text,
    lint_time,
    lint_volumes,
)
from autoscale.deploy.lint_facts import Facts
from autoscale.deploy.lint_read import read, sets
from autoscale.deploy.lint_report import Finding, Located, Report, ordered

RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    lint_hpa.rules,
    lint_behavior.rules,
    lint_targets.rules,
    lint_keda.rules,
    lint_path.rules,
    lint_scrape.rules,
    lint_adapter.rules,
    lint_service.rules,
    lint_pods.rules,
    lint_volumes.rules,
    lint_rollout.rules,
    lint_capacity.rules,
    lint_memory.rules,
    lint_time.rules,
    lint_any.rules,
    lint_text.rules,
    lint_load.rules,
)

# kinds that are looked at, and kinds that need no look: anything else is named in a note
KNOWN = frozenset(
    """
    HorizontalPodAutoscaler ScaledObject LeaderWorkerSet Deployment StatefulSet ReplicaSet DaemonSet Job CronJob Pod
    Service PodMonitoring ClusterPodMonitoring PodMonitor ServiceMonitor AutoscalingMetric ConfigMap Secret
    PersistentVolume PersistentVolumeClaim PodDisruptionBudget APIService ContainerNodePool NodePool ResourceQuota
    AdapterRules Script Role RoleBinding ClusterRole ClusterRoleBinding ServiceAccount Namespace StorageClass Rules
    ClusterRules PrometheusRule Kustomization ComputeClass NetworkPolicy Ingress PriorityClass
    """.split()  # noqa: SIM905  # forty names read better as words
)


def lint_files(paths: Sequence[Path], *, max_nodes: int | None = None) -> Report:
    """Findings on files and directories; `max_nodes` is the accelerator node pool's maximum, when known.

    Broken YAML is a finding. Raises BadInput for a path that does not exist or holds nothing to lint.
    """
    loaded = read(paths)
    report = lint_objects(loaded.objects, max_nodes=max_nodes)
    return Report(
        ordered(loaded.findings + report.findings), loaded.notes + report.notes, len(loaded.objects)
    )


def lint_cluster(
    namespace: str | None = None, context: str | None = None, *, max_nodes: int | None = None
) -> Report:
    """Findings on a live cluster, all namespaces when `namespace` is None; only reads.

    What may not be read is named in the notes. Raises SourceUnavailable when the cluster cannot be reached.
    """
    from autoscale.deploy.lint_live import connect, snapshot

    objects, unseen, notes = snapshot(connect(context), namespace)
    report = lint_objects(objects, max_nodes=max_nodes, unseen=unseen)
    return Report(report.findings, notes + report.notes, report.objects)


def lint_objects(
    objects: Iterable[Located | dict[str, Any]],
    *,
    max_nodes: int | None = None,
    unseen: Iterable[str] = (),
) -> Report:
    """Findings on objects, plain or with their place; `unseen` are kinds that could not be read."""
    located = [item if isinstance(item, Located) else Located(item) for item in objects]
    findings: list[Finding] = []
    for one_set in sets(located):
        facts = Facts(one_set, max_nodes, frozenset(unseen))
        for rule in RULES:
            findings += rule(facts)
    return Report(ordered(findings), _unknown_kinds(located), len(located))


def _unknown_kinds(objects: list[Located]) -> list[str]:
    counts: dict[str, int] = {}
    for located in objects:
        if located.kind not in KNOWN:
            name = f"{located.kind} ({located.api})"
            counts[name] = counts.get(name, 0) + 1
    return [f"no rule looks at kind {name}: {count} passed over" for name, count in sorted(counts.items())]
