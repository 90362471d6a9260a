"""Locust on Kubernetes: one master and workers of one core each, running loadgen/ as it is.

Both are Jobs, so that a run ends and says whether it succeeded. The plan is given to the master alone: Locust hands it
to the workers.
"""

from __future__ import annotations

from typing import Any

from autoscale.deploy.meta import MANAGED_BY, OWNER
from autoscale.deploy.yaml_out import Note
from autoscale.kube.objects import Object

IMAGE = "registry.example.com/llm-autoscale:latest"
NAMESPACE = "default"
MASTER, WORKER, RESULTS = "load-master", "load-worker", "load-results"
WORKERS = 4
USER = 10001
PORT = 5557

TARGET = [
    ("--host", "http://vllm-leader:8080"),
    ("--model", "meta-llama/Llama-3.1-405B-Instruct"),
    ("--stages", "0.5:300,1:300,2:300,4:300"),
    ("--arrivals", "poisson"),
    ("--prompt-tokens", "lognormal:1020,1.0"),
    ("--output-tokens", "lognormal:129,0.9"),
    ("--run-dir", "/runs/run-1"),
]


def load_objects() -> list[Object]:
    """Claim for the run directory, Service, master and workers, in apply order."""
    return [_claim(), _service(), _master(), _workers()]


def reader() -> Object:
    """A pod that holds the finished run's volume for an hour, so that it can be copied out."""
    container = _container("results", ["sleep", "3600"], cpu="100m", memory="64Mi")
    spec = _pod(container) | {"activeDeadlineSeconds": 3600}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _meta(RESULTS), "spec": spec}


def _meta(name: str) -> Object:
    return {"name": name, "namespace": NAMESPACE, "labels": {MANAGED_BY: OWNER, "app": name}}


def _claim() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _meta(RESULTS),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }


def _service() -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(MASTER),
        "spec": {
            "type": "ClusterIP",
            "selector": {"app": MASTER},
            "ports": [{"name": "locust", "port": PORT, "protocol": "TCP", "targetPort": PORT}],
        },
    }


def _master() -> Object:
    command: list[Any] = ["locust", "-f", "loadgen/completions.py", "--master", "--headless"]
    command += ["--expect-workers", str(WORKERS), "--expect-workers-max-wait", "600"]
    for flag, value in TARGET:
        command += [flag, value]
    noted = Note(
        "Service, model id and lengths of your set: a wrong host or model id gives a run of errors, and one fixed "
        "prompt would measure the prefix cache. Each run needs a new --run-dir.",
        command,
    )
    container = _container(MASTER, noted, cpu="1", memory="2Gi")
    container["ports"] = [{"name": "locust", "containerPort": PORT, "protocol": "TCP"}]
    return _job(MASTER, container, 1)


def _workers() -> Object:
    command = ["locust", "-f", "loadgen/completions.py", "--worker", "--master-host", MASTER]
    container = _container(WORKER, command, cpu="1", memory="1Gi")
    return _job(WORKER, container, WORKERS)


def _job(name: str, container: Object, count: int) -> Object:
    spec: Object = {"backoffLimit": Note("A run is not repeated half-way.", 0)}
    if count > 1:
        spec["completions"] = Note(
            "As many as --expect-workers says; README.md says how many a rate needs.", count
        )
        spec["parallelism"] = count
    spec["template"] = {"metadata": {"labels": {"app": name}}, "spec": _pod(container)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _meta(name), "spec": spec}


def _pod(container: Object) -> Object:
    on_disk = container["name"] != WORKER
    volume = {"persistentVolumeClaim": {"claimName": RESULTS}} if on_disk else {"emptyDir": {}}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "runs", **volume}],
    }


def _container(name: str, command: Any, cpu: str, memory: str) -> Object:
    limits: Object = {"cpu": cpu, "memory": memory}
    if name == WORKER:
        limits = Note(
            "Locust uses one core per process: a whole core each, none shared, or latencies read too long.",
            limits,
        )  # type: ignore[assignment]  # a note stands in for what it holds
    return {
        "name": name,
        "image": IMAGE,
        "command": command,
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "runs", "mountPath": "/runs"}],
    }
