"""A CronJob that asks every week whether the target still holds: the last seven days of Prometheus against the recommendation."""

from __future__ import annotations

from typing import Any

from autoscale.deploy.choices import Options
from autoscale.deploy.meta import meta
from autoscale.deploy.yaml_out import Note
from autoscale.kube.objects import Object
from autoscale.profiles import Profile

NAME = "autoscale-watch"
RECOMMENDATION = "autoscale-recommendation"  # ConfigMap


def watch_job(profile: Profile, options: Options) -> list[Object]:
    """The CronJob and an account without any right. Its Job fails when the target does not hold any more."""
    spec = {
        "schedule": "0 6 * * 1",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "failedJobsHistoryLimit": 1,
        "successfulJobsHistoryLimit": 1,
        "jobTemplate": {
            "spec": {
                "backoffLimit": Note(
                    "A target that does not hold fails the Job: alert on kube_job_status_failed.", 0
                ),
                "activeDeadlineSeconds": 7200,
                "template": {"spec": _pod(profile, options)},
            }
        },
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": meta(profile, NAME),
            "automountServiceAccountToken": Note("It asks Prometheus, never the API server.", False),
        },
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta(profile, NAME), "spec": spec},
    ]


def _pod(profile: Profile, options: Options) -> Object:
    learn = _container(
        "traffic",
        options,
        [
            "traffic",
            "--prometheus",
            options.prometheus_url,
            "--namespace",
            profile.deploy.namespace,
            "--model",
            profile.model.id,
            "--last",
            "7d",
            "--out",
            "/week/traffic.yaml",
        ],
    )
    watch = _container(
        "watch",
        options,
        [
            "watch",
            "--recommendation",
            "/recommendation/recommendation.json",
            "--traffic",
            "/week/traffic.yaml",
        ],
    )
    return {
        "serviceAccountName": NAME,
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [learn],
        "containers": [watch],
        "volumes": [
            {"name": "week", "emptyDir": {}},
            {
                "name": "recommendation",
                "configMap": Note(
                    f"kubectl create configmap {RECOMMENDATION} --from-file=recommendation.json",
                    {"name": RECOMMENDATION},
                ),
            },
        ],
    }


def _container(name: str, options: Options, arguments: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "image": options.watch_image,
        "command": ["autoscale"],
        "args": arguments,
        "env": [{"name": key, "value": "/week"} for key in ("HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "week", "mountPath": "/week"},
            {"name": "recommendation", "mountPath": "/recommendation", "readOnly": True},
        ],
    }
