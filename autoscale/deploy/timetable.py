"""A schedule of minimum replicas as objects: KEDA's cron triggers, or CronJobs that patch an HPA's minReplicas."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from autoscale.deploy.meta import meta
from autoscale.deploy.targets import Plan
from autoscale.deploy.yaml_out import Note
from autoscale.kube.objects import Object
from autoscale.profiles import Profile
from autoscale.schedule import DAY_MINUTES, Window, minimum_at

ACCOUNT = "autoscale-schedule"
RBAC = "rbac.authorization.k8s.io"
ZONE = "Etc/UTC"
WEEK_MINUTES = 7 * DAY_MINUTES
KUBECTL = "registry.k8s.io/kubectl:v1.34.1"


def cron_triggers(windows: Sequence[Window]) -> list[Object]:
    """One cron trigger per window: at least its replicas while it lasts."""
    return [
        {
            "type": "cron",
            "metadata": {
                "timezone": ZONE,
                "start": _cron(window.from_minute, window.days),
                "end": _cron(window.to_minute, window.days),
                "desiredReplicas": Note(f"At least {window}.", str(window.replicas)),
            },
        }
        for window in windows
    ]


def minimum_jobs(profile: Profile, plan: Plan) -> list[Object]:
    """A CronJob per change of the minimum, and an account that may patch this HPA and nothing else."""
    account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": profile.deploy.namespace}
    rule = {
        "apiGroups": ["autoscaling"],
        "resources": ["horizontalpodautoscalers"],
        "resourceNames": [profile.deploy.hpa_name],
        "verbs": ["get", "patch"],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta(profile, ACCOUNT),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": meta(profile, ACCOUNT),
            "rules": [Note("The only write: the minimum of this HPA.", rule)],
        },
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": meta(profile, ACCOUNT),
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": ACCOUNT},
            "subjects": [account],
        },
        *(_job(profile, *change) for change in _changes(plan)),
    ]


def _changes(plan: Plan) -> list[tuple[int, int, tuple[int, ...]]]:
    """(minute of the day, minimum from then on, days) of every change in a week."""
    edges = {
        day * DAY_MINUTES + at
        for window in plan.windows
        for day in window.days
        for at in (window.from_minute, window.to_minute)
    }
    days = defaultdict(list)
    for at in sorted(edge % WEEK_MINUTES for edge in edges):
        now, before = (
            minimum_at(plan.windows, plan.min_replicas, minute % WEEK_MINUTES) for minute in (at, at - 1)
        )
        if now != before:
            days[at % DAY_MINUTES, now].append(at // DAY_MINUTES)
    return [(minute, least, tuple(on)) for (minute, least), on in sorted(days.items())]


def _job(profile: Profile, minute: int, least: int, days: tuple[int, ...]) -> Object:
    patch = json.dumps({"spec": {"minReplicas": least}})
    container = {
        "name": "patch",
        "image": KUBECTL,
        "args": ["patch", "hpa", profile.deploy.hpa_name, "--type=merge", f"--patch={patch}"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": True,
        "restartPolicy": "OnFailure",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    name = f"{ACCOUNT}-{minute // 60:02}{minute % 60:02}-min-{least}"
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta(profile, name),
        "spec": {
            "schedule": _cron(minute, days),
            "timeZone": ZONE,
            "concurrencyPolicy": "Replace",
            "startingDeadlineSeconds": Note(
                "A change that was missed for so long is left to the next one.", 3600
            ),
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {"backoffLimit": 4, "activeDeadlineSeconds": 600, "template": {"spec": pod}}
            },
        },
    }


def _cron(minute: int, days: Sequence[int]) -> str:
    """Five fields; a Monday is day 0 here and 1 there, and minute 1440 belongs to the next day."""
    later, at = divmod(minute, DAY_MINUTES)
    numbers = sorted((day + later + 1) % 7 for day in days)
    run = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    on = "*" if len(numbers) == 7 else f"{numbers[0]}-{numbers[-1]}" if run else ",".join(map(str, numbers))
    return f"{at % 60} {at // 60} * * {on}"
