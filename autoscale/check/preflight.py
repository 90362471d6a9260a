"""Can this HPA work, and if not, why? Every finding names the cause and what to do. Pure over a snapshot.

error    it does not scale, or not as asked, until this is fixed
warning  it works now and will surprise later
info     normal, and worth knowing because it looks like a fault
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from autoscale.check.snapshot import Snapshot, fold, is_leader, scale_selector, take
from autoscale.kube.cluster import Cluster, Observation, timestamp_s
from autoscale.kube.kinds import ACCELERATORS, LWS_GROUP_INDEX, LWS_NAME, SCALED, plural_of
from autoscale.kube.scaler import DIRECTIONS, Hpa, conditions
from autoscale.kube.selectors import selects

Severity = Literal["error", "warning", "info"]

RENAMED = {"gpu_cache_usage_perc": "kv_cache_usage_perc"}  # deprecated in vLLM 0.9.2, removed in 0.12
SLOW_READY_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    code: str
    severity: Severity
    cause: str
    fix: str
    evidence: dict[str, Any] = field(default_factory=dict)


def preflight(cluster: Cluster, namespace: str, hpa_name: str) -> tuple[Finding, ...]:
    """The findings for one HPA of a live cluster, errors first. Raises ClusterError when it cannot be reached."""
    return diagnose(take(cluster, namespace, hpa_name), hpa_name)


def diagnose_observations(
    observations: Iterable[Observation], hpa_name: str, until_s: float = float("inf")
) -> tuple[Finding, ...]:
    """The findings for one HPA from a recorded stream, as it stood at `until_s`."""
    return diagnose(fold(observations, until_s), hpa_name)


def diagnose(now: Snapshot, hpa_name: str) -> tuple[Finding, ...]:
    """The findings for one HPA, errors first; an empty result means nothing stands in its way."""
    hpa = now.hpa(hpa_name)
    found = [*_permissions(now, hpa)]
    if hpa is None:
        found += _no_hpa(now, hpa_name)
    else:
        for question in (
            _target,
            _rivals,
            _metrics,
            _targets_in_unit,
            _pods,
            _groups,
            _limits,
            _nodes,
            _scraping,
        ):
            found += question(now, hpa)
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(_once(found), key=lambda each: rank[each.severity]))


def _once(found: list[Finding]) -> Iterator[Finding]:
    """Findings once per code and cause."""
    seen: set[tuple[str, str]] = set()
    for each in found:
        if (each.code, each.cause) not in seen:
            seen.add((each.code, each.cause))
            yield each


# --- may we look, is it there --------------------------------------------------------------------------------------------


def _permissions(now: Snapshot, hpa: dict[str, Any] | None) -> Iterator[Finding]:
    target = plural_of(Hpa(hpa).target_kind) if hpa else None
    for resource, error in now.hidden.items():
        if error.status == 403:
            if resource in map(plural_of, SCALED) and resource != target:
                continue
            needed = resource in ("horizontalpodautoscalers", "pods", target)
            blind = {
                "nodes": "node supply and node arrivals cannot be judged",
                "events": "image pulls, node autoscaler and the reasons of the HPA stay unknown",
            }.get(resource, "the check cannot see what it is about")
            yield Finding(
                "rbac_missing",
                "error" if needed else "warning",
                f"not allowed to list {resource}: {blind}",
                f"grant get, list and watch on {resource}: kubectl create clusterrole autoscale-check-{resource} "
                f"--verb=get,list,watch --resource={resource}, and bind it to the user of this kubeconfig",
                {"resource": resource},
            )


def _no_hpa(now: Snapshot, name: str) -> Iterator[Finding]:
    if "horizontalpodautoscalers" in now.hidden:
        return
    names = sorted(now.objects.get("horizontalpodautoscalers", {}))
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.3)
    yield Finding(
        "hpa_not_found",
        "error",
        f"there is no HorizontalPodAutoscaler {name!r} in this namespace; it has {', '.join(names) or 'none'}",
        f"use --hpa {near[0]}" if near else "apply the manifests first, or check --namespace",
        {"names": names},
    )


def _target(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    reference, condition = hpa["spec"]["scaleTargetRef"], conditions(hpa)
    named = f"{reference['kind']}/{reference['name']}"
    able, active = condition.get("AbleToScale", {}), condition.get("ScalingActive", {})
    if not condition:
        yield Finding(
            "hpa_not_synced",
            "info",
            "the HPA has not acted yet: the controller looks at a new one after its sync period of 15 s",
            "wait 20 s; if it stays so, the kube-controller-manager does not run",
        )
    if able.get("reason") == "FailedGetScale":
        message = able.get("message", "")
        if "no matches for kind" in message:
            yield Finding(
                "target_kind_unknown",
                "error",
                f"the HPA scales {named} of {reference.get('apiVersion')}, a kind that this cluster does not know",
                "install its CRD, or correct apiVersion and kind of scaleTargetRef "
                "(leaderworkerset.x-k8s.io/v1 LeaderWorkerSet, apps/v1 Deployment)",
                {"message": message},
            )
        elif "not found" in message:
            yield Finding(
                "target_not_found",
                "error",
                f"the HPA scales {named}, which does not exist",
                "correct scaleTargetRef.name, or apply the workload in the HPA's namespace",
                {"message": message, "have": sorted(now.objects.get(plural_of(reference["kind"]), {}))},
            )
        else:
            yield Finding(
                "scale_unreadable",
                "error",
                f"the HPA cannot read the scale of {named}: {message}",
                "check that the target has a scale subresource and that the API server answers",
                {"message": message},
            )
    if able.get("reason") == "FailedUpdateScale":
        yield Finding(
            "scale_not_writable",
            "error",
            f"the HPA cannot change {named}: {able.get('message')}",
            "check admission webhooks and quotas on the target",
            {},
        )
    if active.get("reason") == "ScalingDisabled":
        yield Finding(
            "target_at_zero",
            "error",
            f"{named} has 0 replicas: an HPA never scales a target up from 0",
            f"kubectl scale {reference['kind'].lower()}/{reference['name']} --replicas=1",
        )
    target = now.target(hpa)
    if active.get("reason") == "InvalidSelector" or (target is not None and not scale_selector(target)):
        controller = (
            "status.hpaPodSelector is empty: the LeaderWorkerSet controller does not run or is too old"
            if reference["kind"] == "LeaderWorkerSet"
            else "its scale subresource shows no selector"
        )
        yield Finding(
            "selector_missing",
            "error",
            f"the HPA does not know which pods belong to {named}: {controller}",
            "install or update the LeaderWorkerSet controller (kubectl -n lws-system get pods)"
            if reference["kind"] == "LeaderWorkerSet"
            else "give the target's scale subresource a labelSelectorPath",
        )
    elif (
        target is not None
        and reference["kind"] == "LeaderWorkerSet"
        and "worker-index=0" not in scale_selector(target)
    ):
        yield Finding(
            "workers_counted",
            "error",
            f"the selector of {named} matches workers too: {scale_selector(target)}",
            "update the LeaderWorkerSet controller: only leaders may count",
            {},
        )
    if reference["kind"] == "StatefulSet" and target and LWS_NAME in (target["metadata"].get("labels") or {}):
        yield Finding(
            "target_is_part_of_group_set",
            "error",
            f"{named} belongs to a LeaderWorkerSet, whose controller writes its size",
            f"point scaleTargetRef at LeaderWorkerSet/{target['metadata']['labels'][LWS_NAME]} (leaderworkerset.x-k8s.io/v1)",
        )
    at_zero = active.get("reason") == "ScalingDisabled"
    if (
        target is not None
        and scale_selector(target)
        and not at_zero
        and not now.counted_pods(hpa)
        and "pods" not in now.hidden
    ):
        yield Finding(
            "no_pods_matched",
            "error",
            f"no pod matches the selector of {named}: {scale_selector(target)}",
            "check that the workload could create pods (kubectl describe), quota and admission",
        )


def _rivals(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    name, reference = hpa["metadata"]["name"], hpa["spec"]["scaleTargetRef"]
    rivals = {
        other["metadata"]["name"]
        for other in now.all("horizontalpodautoscalers")
        if other["metadata"]["name"] != name
        and (other["spec"]["scaleTargetRef"]["kind"], other["spec"]["scaleTargetRef"]["name"])
        == (reference["kind"], reference["name"])
    }
    active = conditions(hpa).get("ScalingActive", {})
    if active.get("reason") == "AmbiguousSelector":
        rivals |= {
            each.split("/")[-1] for each in re.findall(r"[\w.-]+/[\w.-]+", active.get("message", ""))
        } - {name}
    if rivals:
        yield Finding(
            "second_hpa",
            "error",
            f"{', '.join(sorted(rivals))} scales the same pods: two HPAs on one target freeze each other",
            f"keep one: kubectl delete hpa {sorted(rivals)[0]}; several metrics belong into one HPA, which takes the largest",
            {"rivals": sorted(rivals)},
        )


# --- the metric ----------------------------------------------------------------------------------------------------------


def _metrics(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    condition = conditions(hpa)
    active = condition.get("ScalingActive", {})
    names = Hpa(hpa).metric_names("Pods")
    failed: dict[str, Finding] = {}
    if active.get("reason") == "FailedGetPodsMetric":
        message = active.get("message", "")
        metric = next((name for name in names if name in message), names[0] if names else "")
        failed[metric] = _unreadable(metric, message=message)
    selector = scale_selector(now.target(hpa))
    for metric in names:
        answer = now.answers.get((metric, selector))
        if answer and answer.values_milli is None and metric not in failed:
            failed[metric] = _unreadable(metric, answer.status, answer.absent, answer.message)
        elif answer and answer.values_milli == {} and metric not in failed:
            failed[metric] = _unreadable(metric, message="no metrics returned from custom metrics API")
        elif answer and answer.values_milli and metric not in failed:
            yield from _answered_pods(now, hpa, metric, answer.values_milli)
    shown = (hpa.get("status") or {}).get("currentMetrics") or []
    for metric, entry in zip([metric.name for metric in Hpa(hpa).metrics], shown, strict=False):
        if entry.get("type") == "" and metric not in failed:
            failed[metric] = _unreadable(metric, message=_last_warning(now, hpa, metric))
    yield from failed.values()
    own_fault = [name for name, each in failed.items() if not each.code.startswith("metrics_api")]
    if own_fault and len(failed) < len(names):
        yield Finding(
            "metric_partial",
            "error",
            f"{len(failed)} of {len(names)} metrics cannot be read ({', '.join(failed)}): the HPA still scales up on "
            "the others, but it never scales down",
            "repair that metric, or take it out of the HPA",
            {"unreadable": list(failed)},
        )


def _unreadable(metric: str, status: int | None = None, absent: bool = False, message: str = "") -> Finding:
    """Why a metric cannot be read, from the API's status or the words of the HPA."""
    evidence = {"metric": metric, "status": status, "message": message}
    if absent or "no custom metrics API" in message:
        return Finding(
            "metrics_api_absent",
            "error",
            "no custom metrics API (custom.metrics.k8s.io) is registered in this cluster",
            "install the adapter: custom-metrics-stackdriver-adapter on GKE, prometheus-adapter elsewhere",
            evidence,
        )
    if (
        status in (502, 503, 504)
        or "no known available metric versions" in message
        or "unable to handle the request" in message
    ):
        return Finding(
            "metrics_api_down",
            "error",
            "the custom metrics API is registered, but its server does not answer",
            "look at the adapter: kubectl get apiservice | grep custom.metrics, then the pods and logs of its service",
            evidence,
        )
    if status == 403 or "forbidden" in message:
        return Finding(
            "rbac_missing",
            "warning",
            f"not allowed to read {metric} from the custom metrics API",
            "grant get and list on pods/* of custom.metrics.k8s.io; the HPA has its own permission",
            evidence,
        )
    if "no metrics returned" in message:
        return Finding(
            "metric_empty",
            "error",
            f"the custom metrics API knows {metric} but has no value for the target's pods",
            "nothing scrapes these pods, or the pod label was dropped by relabelling: check PodMonitoring (same namespace, "
            "selector, port) and that a pod's /metrics shows the metric",
            evidence,
        )
    if status == 404 or "could not find the metric" in message:
        return Finding(
            "metric_not_found",
            "error",
            f"the custom metrics API does not know the metric {metric}",
            "check the name letter by letter (prometheus.googleapis.com|vllm:num_requests_waiting|gauge), the vLLM version's "
            "metric names, and wait up to 10 minutes for a brand-new metric",
            evidence,
        )
    return Finding(
        "metric_unreadable",
        "error",
        f"the HPA cannot read {metric}: {message or 'it does not say why'}",
        "kubectl describe hpa, then ask the API: kubectl get --raw /apis/custom.metrics.k8s.io/v1beta2",
        evidence,
    )


def _answered_pods(
    now: Snapshot, hpa: dict[str, Any], metric: str, values: dict[str, int]
) -> Iterator[Finding]:
    pods = {p["metadata"]["name"]: p for p in now.counted_pods(hpa)}
    if not pods:
        return
    running = {
        n
        for n, p in pods.items()
        if p["status"].get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")
    }
    silent, strangers = sorted(running - set(values)), sorted(set(values) - set(pods))
    if silent and len(silent) == len(running):
        yield Finding(
            "metric_for_other_pods",
            "error",
            f"{metric} has values, but for none of the target's pods",
            "the pod label of the series must be the pod's name: check relabelling and the adapter's rule",
            {"pods": sorted(running), "answered": sorted(values)},
        )
    elif silent:
        yield Finding(
            "metric_pods_missing",
            "warning",
            f"{len(silent)} of {len(running)} running pods have no {metric} ({silent[0]}): "
            "the HPA counts them as 0 when it scales up",
            "normal while a replica loads; otherwise check its scraping",
            {"silent": silent},
        )
    if strangers:
        yield Finding(
            "metric_of_strangers",
            "warning",
            f"{metric} also answers for pods that the HPA does not count ({strangers[0]}): "
            "they change the average",
            "wait 5 minutes after a pod went away; otherwise narrow the selector",
            {"strangers": strangers},
        )


def _targets_in_unit(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    seats = _argument(now.target(hpa), "--max-num-seqs")
    engines = _argument(now.target(hpa), "--data-parallel-size") or 1
    for metric, target in Hpa(hpa).targets_milli().items():
        if "cache_usage" in metric and target >= 1000 * engines:
            percent = target >= 2000 * engines
            yield Finding(
                "target_never_reached",
                "error",
                f"{metric} is a fraction up to {engines:g}, and its averageValue is {target / 1000:g}"
                + (": written as a percentage?" if percent else ": it can never be exceeded"),
                f"write {target // 100}m for {target / 1000:g} %"
                if percent
                else "use a value below 1, such as 700m",
                {"metric": metric, "target_milli": target},
            )
        if "requests_running" in metric and seats and target >= seats * 1000:
            yield Finding(
                "target_never_reached",
                "error",
                f"{metric} cannot exceed --max-num-seqs {seats:g}, and its averageValue is {target / 1000:g}",
                f"use a value below {seats:g}",
                {"metric": metric, "target_milli": target},
            )
        for old, new in RENAMED.items():
            if old in metric:
                yield Finding(
                    "metric_renamed",
                    "warning",
                    f"vLLM renamed {old} to {new} in 0.9.2 and removed the old name in 0.12",
                    f"use {metric.replace(old, new)} before the image is upgraded",
                    {"metric": metric},
                )
    for metric, usage in Hpa(hpa).usage_milli().items():
        target = Hpa(hpa).targets_milli().get(metric, 0)
        up = Hpa(hpa).tolerance("scaleUp")
        if target and target < usage <= target * (1 + up) + 1e-9:
            yield Finding(
                "inside_tolerance",
                "info",
                f"{metric} is {usage / 1000:g} against {target / 1000:g}, a ratio of {usage / target:.3g}: "
                f"inside the tolerance of {up:.0%} the HPA does nothing",
                "normal; lower the averageValue or set behavior.scaleUp.tolerance (Kubernetes 1.35+) to react sooner",
                {"ratio": usage / target},
            )
    for direction in DIRECTIONS:
        if "tolerance" in Hpa(hpa).rules(direction):
            yield Finding(
                "tolerance_set",
                "info",
                f"behavior.{direction}.tolerance is {Hpa(hpa).tolerance(direction):.1%} instead of 10 %",
                "works by default from Kubernetes 1.35; older clusters ignore it",
                {},
            )


# --- pods and nodes --------------------------------------------------------------------------------------------------------


def _pods(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    pods = [p for p in now.pods_of(hpa) if not p["metadata"].get("deletionTimestamp")]
    waiting = {p["metadata"]["name"]: reason for p in pods if (reason := _unschedulable(p))}
    if waiting:
        name, reason = next(iter(waiting.items()))
        refused = _event(now, name, "NotTriggerScaleUp")
        yield Finding(
            "pods_unschedulable",
            "error",
            f"{len(waiting)} of {len(pods)} pods find no node: {name}: {reason}"
            + (f"; the node autoscaler refuses: {refused}" if refused else ""),
            "add nodes or raise the node pool's maximum, check quota, or lower maxReplicas to what the nodes can hold",
            {"pods": waiting},
        )
    for name, reason, message in _stuck(pods):
        code = "image_not_pulled" if "Image" in reason or reason == "ErrImagePull" else "pod_crashing"
        yield Finding(
            code,
            "error",
            f"{name} does not start: {reason} {message}".rstrip(),
            "check image name and pull secret"
            if code == "image_not_pulled"
            else "kubectl logs --previous, then the memory and the arguments",
            {"pod": name},
        )
    loading = [p for p in pods if p["status"].get("phase") == "Running" and not _condition_true(p, "Ready")]
    valued = {pod for a in now.answers.values() for pod in a.values_milli or {}}
    for counted, how in (
        (True, "report the metric, and the HPA counts them fully: readiness is not looked at"),
        (False, "have no value yet and count as 0 when the HPA scales up"),
    ):
        ages = {
            pod["metadata"]["name"]: _running_s(now, pod)
            for pod in loading
            if is_leader(pod) and (pod["metadata"]["name"] in valued) == counted
        }
        if ages and (counted or max(ages.values()) > SLOW_READY_S):
            oldest = max(ages, key=lambda name: ages[name])
            yield Finding(
                "pods_not_ready",
                "warning",
                f"{len(ages)} pods run and are not ready ({oldest} for {ages[oldest]:.0f} s); they {how}",
                "normal while weights load (20-90 minutes for large models); otherwise check the readiness probe's "
                "port and path",
                {"running_s": ages},
            )


def _running_s(now: Snapshot, pod: dict[str, Any]) -> float:
    began = timestamp_s(_condition(pod, "Initialized").get("lastTransitionTime"))
    return now.at_s - began if began else 0.0


def _groups(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    target = now.target(hpa)
    if target is None or target.get("kind") != "LeaderWorkerSet":
        return
    size = int(((target.get("spec") or {}).get("leaderWorkerTemplate") or {}).get("size") or 1)
    groups: dict[str, list[dict[str, Any]]] = {}
    for pod in now.pods_of(hpa):
        groups.setdefault((pod["metadata"].get("labels") or {}).get(LWS_GROUP_INDEX, ""), []).append(pod)
    broken = {}
    for index, pods in groups.items():
        leader = next((p for p in pods if is_leader(p)), None)
        running = [p for p in pods if p["status"].get("phase") == "Running"]
        if leader in running and len(running) < size:
            missing = [p["metadata"]["name"] for p in pods if p not in running]
            broken[index] = missing or [f"{size - len(pods)} pods not created"]
    if broken:
        index, missing = next(iter(broken.items()))
        yield Finding(
            "group_incomplete",
            "error",
            f"group {index} has a running leader without its workers ({', '.join(missing)}): the HPA counts the leader "
            "as a whole replica, but it serves nothing",
            f"each group needs {size} nodes at once: add nodes, or lower maxReplicas; all-or-nothing placement "
            "(a gang scheduler or a queue) keeps half groups from holding accelerators",
            {"groups": broken},
        )


def _limits(_now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    condition = conditions(hpa)
    limited, active = condition.get("ScalingLimited", {}), condition.get("ScalingActive", {})
    most = hpa["spec"].get("maxReplicas")
    if limited.get("reason") == "TooManyReplicas" and active.get("status") == "True":
        yield Finding(
            "at_max_replicas",
            "warning",
            f"the metric asks for more than maxReplicas {most}: the queue grows from here on",
            "raise maxReplicas together with the node pool, or accept the limit and shed load",
            {"maxReplicas": most},
        )
    if hpa["spec"].get("minReplicas", 1) == most:
        yield Finding(
            "nothing_to_scale", "warning", f"minReplicas equals maxReplicas ({most})", "raise maxReplicas", {}
        )


def _nodes(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    target = now.target(hpa)
    if target is None or "nodes" in now.hidden or not now.all("nodes"):
        return
    needs = _pod_needs(target)
    most = int(hpa["spec"].get("maxReplicas") or 0)
    for kind, selector, per_pod, pods_per_replica in needs:
        fitting = [n for n in now.all("nodes") if _node_fits(n, selector)]
        slots = sum(int((n["status"].get("allocatable") or {}).get(kind) or 0) // per_pod for n in fitting)
        if slots < most * pods_per_replica:
            yield Finding(
                "node_supply",
                "warning",
                f"maxReplicas {most} needs room for {most * pods_per_replica} pods of {per_pod} {kind}; the {len(fitting)} "
                f"matching nodes hold {slots}",
                "make sure that the node pool can grow to it (autoscaling maximum, quota, zone), or lower maxReplicas to "
                f"{slots // pods_per_replica}",
                {"needed": most * pods_per_replica, "have": slots},
            )


def _scraping(now: Snapshot, hpa: dict[str, Any]) -> Iterator[Finding]:
    """Whether some PodMonitoring or PodMonitor selects the pods, where the cluster has these kinds."""
    monitors = [*now.all("podmonitorings"), *now.all("podmonitors")]
    kinds = [kind for kind in ("podmonitorings", "podmonitors") if kind in now.objects]
    pods = [p for p in now.counted_pods(hpa) if p["status"].get("phase") == "Running"]
    if not kinds or not pods:
        return
    chosen = [m for m in monitors if selects(m["spec"].get("selector"), pods[0]["metadata"].get("labels"))]
    if not chosen:
        yield Finding(
            "pods_not_scraped",
            "warning",
            f"no {' or '.join(kinds)} in this namespace selects {pods[0]['metadata']['name']}",
            "apply one in the pods' namespace whose selector matches their labels (leaders only, for groups)",
            {},
        )
        return
    ports = {
        str(port.get(key))
        for c in pods[0]["spec"]["containers"]
        for port in c.get("ports") or []
        for key in ("containerPort", "name")
    }
    ends = [
        str(e.get("port") or e.get("targetPort"))
        for m in chosen
        for e in m["spec"].get("endpoints") or m["spec"].get("podMetricsEndpoints") or []
    ]
    if ports and ends and not ports & set(ends):
        yield Finding(
            "scrape_port_wrong",
            "warning",
            f"{chosen[0]['metadata']['name']} scrapes port {ends[0]}; the pods declare {', '.join(sorted(ports - {'None'}))}",
            "use the port on which vLLM serves /metrics",
            {},
        )


# --- small readings --------------------------------------------------------------------------------------------------------


def _condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    return conditions(pod).get(kind, {})


def _condition_true(pod: dict[str, Any], kind: str) -> bool:
    return _condition(pod, kind).get("status") == "True"


def _unschedulable(pod: dict[str, Any]) -> str:
    scheduled = _condition(pod, "PodScheduled")
    return (
        str(scheduled.get("message") or scheduled.get("reason") or "")
        if scheduled.get("status") == "False"
        else ""
    )


def _stuck(pods: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for pod in pods:
        for container in pod["status"].get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in (
                "ImagePullBackOff",
                "ErrImagePull",
                "InvalidImageName",
                "CrashLoopBackOff",
            ):
                yield pod["metadata"]["name"], waiting["reason"], str(waiting.get("message") or "")


def _event(now: Snapshot, name: str, reason: str) -> str:
    found = [
        e for e in now.all("events") if e.get("reason") == reason and e["involvedObject"].get("name") == name
    ]
    return str(found[-1].get("message", "")) if found else ""


def _last_warning(now: Snapshot, hpa: dict[str, Any], metric: str) -> str:
    told = [
        e
        for e in now.all("events")
        if e.get("reason") == "FailedGetPodsMetric"
        and e["involvedObject"].get("name") == hpa["metadata"]["name"]
        and metric in e.get("message", "")
    ]
    told.sort(key=lambda e: str(e.get("lastTimestamp") or ""))
    return str(told[-1]["message"]) if told else ""


def _templates(target: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """(pod spec, pods per replica) of the target's templates."""
    spec = target.get("spec") or {}
    group = spec.get("leaderWorkerTemplate")
    if not group:
        return [((spec.get("template") or {}).get("spec") or {}, 1)]
    worker = (group.get("workerTemplate") or {}).get("spec") or {}
    leader = (group.get("leaderTemplate") or {}).get("spec")
    size = int(group.get("size") or 1)
    return [(leader, 1), (worker, size - 1)] if leader else [(worker, size)]


def _pod_needs(target: dict[str, Any]) -> list[tuple[str, tuple[tuple[str, str], ...], int, int]]:
    """(accelerator, node selector, accelerators per pod, pods per replica), templates alike added together."""
    needs: dict[tuple[str, tuple[tuple[str, str], ...], int], int] = {}
    for spec, pods in _templates(target):
        limits = [(c.get("resources") or {}).get("limits") or {} for c in spec.get("containers") or []]
        for kind in ACCELERATORS:
            if (per_pod := sum(int(limit.get(kind) or 0) for limit in limits)) and pods:
                key = (kind, tuple(sorted((spec.get("nodeSelector") or {}).items())), per_pod)
                needs[key] = needs.get(key, 0) + pods
    return [(kind, selector, per_pod, pods) for (kind, selector, per_pod), pods in needs.items()]


def _node_fits(node: dict[str, Any], selector: tuple[tuple[str, str], ...]) -> bool:
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in selector) and not (node.get("spec") or {}).get(
        "unschedulable"
    )


def _argument(target: dict[str, Any] | None, flag: str) -> float | None:
    """The number that a container argument gives (`--flag=8`, `--flag 8`, inside a shell line too)."""
    words = [
        str(word)
        for spec, _ in _templates(target or {})
        for c in (spec or {}).get("containers") or []
        for word in [*(c.get("command") or []), *(c.get("args") or [])]
    ]
    match = re.search(rf"{flag}[= ]+(\d+)", " ".join(words))
    return float(match.group(1)) if match else None
