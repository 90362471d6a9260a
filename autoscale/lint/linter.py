"""The linter: what kubectl accepts and the HPA never forgives, over files, objects or a live cluster.

    paths --read--> located objects --Facts--> rules --> findings
    cluster --live.snapshot---^

The rules are pure; each module of them looks at one thing, and they are listed in RULES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from autoscale.kube.objects import Object
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located, Report, ordered
from autoscale.lint.read import read_manifests, sets
from autoscale.lint.rules import adapter as lint_adapter
from autoscale.lint.rules import any as lint_any
from autoscale.lint.rules import autoscaling_metric as lint_autoscaling_metric
from autoscale.lint.rules import behavior as lint_behavior
from autoscale.lint.rules import capacity as lint_capacity
from autoscale.lint.rules import hpa as lint_hpa
from autoscale.lint.rules import keda as lint_keda
from autoscale.lint.rules import keda_object as lint_keda_object
from autoscale.lint.rules import load as lint_load
from autoscale.lint.rules import memory as lint_memory
from autoscale.lint.rules import metric_name as lint_metric_name
from autoscale.lint.rules import path as lint_path
from autoscale.lint.rules import pods as lint_pods
from autoscale.lint.rules import rollout as lint_rollout
from autoscale.lint.rules import scrape as lint_scrape
from autoscale.lint.rules import service as lint_service
from autoscale.lint.rules import targets as lint_targets
from autoscale.lint.rules import text as lint_text
from autoscale.lint.rules import time as lint_time
from autoscale.lint.rules import volumes as lint_volumes

RULES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    lint_hpa.rules,
    lint_behavior.rules,
    lint_targets.rules,
    lint_keda.rules,
    lint_keda_object.rules,
    lint_metric_name.rules,
    lint_path.rules,
    lint_scrape.rules,
    lint_adapter.rules,
    lint_autoscaling_metric.rules,
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
    ClusterRules PrometheusRule Kustomization ComputeClass NetworkPolicy Ingress PriorityClass InferencePool
    InferenceObjective Gateway HTTPRoute TriggerAuthentication ClusterTriggerAuthentication
    """.split()  # noqa: SIM905  # as many names read better as words
)


def lint_files(
    paths: Sequence[Path], *, max_nodes: int | None = None, measured: Mapping[str, object] | None = None
) -> Report:
    """Findings on files and directories; `max_nodes` is the accelerator node pool's maximum, when known, `measured` the
    engine of the recommendation that they shall carry.

    Broken YAML is a finding. Raises BadInput for a path that does not exist or holds nothing to lint.
    """
    loaded = read_manifests(paths)
    report = lint_objects(loaded.objects, max_nodes=max_nodes, measured=measured)
    return Report(
        ordered(loaded.findings + report.findings), loaded.notes + report.notes, len(loaded.objects)
    )


def lint_cluster(
    namespace: str | None = None,
    context: str | None = None,
    *,
    max_nodes: int | None = None,
    measured: Mapping[str, object] | None = None,
) -> Report:
    """Findings on a live cluster, all namespaces when `namespace` is None; only reads.

    What may not be read is named in the notes. Raises SourceUnavailable when the cluster cannot be reached.
    """
    from autoscale.kube.api import Api, connect
    from autoscale.lint.live import snapshot

    objects, unseen, notes = snapshot(Api(connect(context)), namespace)
    report = lint_objects(objects, max_nodes=max_nodes, unseen=unseen, measured=measured)
    return Report(report.findings, notes + report.notes, report.objects)


def lint_objects(
    objects: Iterable[Located | Object],
    *,
    max_nodes: int | None = None,
    unseen: Iterable[str] = (),
    measured: Mapping[str, object] | None = None,
) -> Report:
    """Findings on objects, plain or with their place; `unseen` are kinds that could not be read."""
    located = [item if isinstance(item, Located) else Located(item) for item in objects]
    findings: list[Finding] = []
    for one_set in sets(located):
        facts = Facts(one_set, max_nodes, frozenset(unseen), measured or {})
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
