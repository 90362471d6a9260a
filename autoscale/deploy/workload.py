"""The workload of a profile: a LeaderWorkerSet or a Deployment, its Service, disruption budget and account."""

from __future__ import annotations

import shlex
from typing import Any

from autoscale.deploy import pod, sizing
from autoscale.deploy.choices import Options
from autoscale.deploy.meta import meta
from autoscale.deploy.yaml_out import Note
from autoscale.kube.kinds import LWS_API, LWS_LABEL
from autoscale.kube.objects import Object
from autoscale.profiles import Profile


def workload(profile: Profile, options: Options, replicas: int, max_replicas: int) -> Object:
    """The LeaderWorkerSet or Deployment; `replicas` is what it starts with, the HPA takes over from there."""
    build = _leader_worker_set if profile.deploy.kind == "LeaderWorkerSet" else _deployment
    return build(profile, options, replicas, max_replicas)


def service(profile: Profile) -> Object:
    """The Service in front of the pods that answer HTTP (the leaders, for groups)."""
    deploy = profile.deploy
    kind: Any = deploy.service_type
    if kind == "LoadBalancer":
        kind = Note(
            "A LoadBalancer gets a public address: restrict loadBalancerSourceRanges or make it internal.",
            kind,
        )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(profile, deploy.service),
        "spec": {
            "type": kind,
            "selector": Note("Only pods that serve HTTP carry all of these labels.", dict(deploy.labels)),
            "ports": [{"name": "http", "port": deploy.port, "protocol": "TCP", "targetPort": deploy.port}],
        },
    }


def disruption_budget(profile: Profile) -> Object:
    """One replica at a time may be evicted; with a single replica node upgrades still go on."""
    deploy = profile.deploy
    grouped = deploy.kind == "LeaderWorkerSet"
    labels = {f"{LWS_LABEL}/name": deploy.name} if grouped else dict(deploy.labels)
    why = "maxUnavailable, not minAvailable: minAvailable 1 would block every node upgrade while one replica runs."
    if grouped:
        why += " All pods of a group are counted, because losing any of them restarts the whole group."
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta(profile, deploy.name),
        "spec": {"maxUnavailable": Note(why, 1), "selector": {"matchLabels": labels}},
    }


def service_account(profile: Profile) -> Object:
    """The account whose IAM role reads and writes the bucket (gcsfuse)."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(profile, pod.GCSFUSE_ACCOUNT),
        "automountServiceAccountToken": Note(
            "The bucket is reached through IAM, not through the Kubernetes API.", False
        ),
    }


# --- the two kinds ---------------------------------------------------------------------------------------------------


def _leader_worker_set(profile: Profile, options: Options, replicas: int, max_replicas: int) -> Object:
    deploy = profile.deploy
    app = {"app": deploy.name}
    extra_labels = {key: value for key, value in deploy.labels.items() if not key.startswith(LWS_LABEL)}
    leader = pod.container(
        profile, options, "vllm-leader", {"command": ["bash", "-c", _leader_script(profile, options)]}
    )
    leader |= pod.serving_container(profile, options, max_replicas)
    worker = pod.container(
        profile, options, "vllm-worker", {"command": ["bash", "-c", _worker_script(profile, options)]}
    )
    worker_grace = Note(
        "Workers hold no client connection: on scale-in they are removed after their leader has drained.", 30
    )
    return {
        "apiVersion": LWS_API,
        "kind": "LeaderWorkerSet",
        "metadata": meta(profile, deploy.name),
        "spec": {
            "replicas": Note(
                "Groups, not pods. The HPA owns this number from its first decision on; applying this file again sets "
                "it back until the HPA's next sync.",
                replicas,
            ),
            "leaderWorkerTemplate": {
                "size": Note("Pods of one group: the leader and its workers.", profile.replica.nodes),
                "restartPolicy": Note(
                    "Ray and NCCL cannot take a restarted member back: the whole group starts anew.",
                    "RecreateGroupOnPodRestart",
                ),
                "leaderTemplate": {
                    "metadata": {"labels": app | extra_labels},
                    "spec": pod.spec(profile, options, leader, pod.grace_fields(profile, options)),
                },
                "workerTemplate": {
                    "metadata": {"labels": app | {"role": "worker"}},
                    "spec": pod.spec(
                        profile, options, worker, {"terminationGracePeriodSeconds": worker_grace}
                    ),
                },
            },
        },
    }


def _deployment(profile: Profile, options: Options, replicas: int, max_replicas: int) -> Object:
    deploy = profile.deploy
    command = {
        "command": ["python3", "-m", "vllm.entrypoints.openai.api_server"],
        "args": [
            f"{name}={value}" if value else name for name, value in pod.engine_arguments(profile, options)
        ],
    }
    container = pod.container(profile, options, "vllm", command)
    container |= pod.serving_container(profile, options, max_replicas)
    template_meta: Object = {"labels": dict(deploy.labels)}
    if deploy.storage == "gcsfuse":
        template_meta["annotations"] = {
            "gke-gcsfuse/volumes": "true",
            "gke-gcsfuse/cpu-limit": Note(
                '"0" = no limit for the gcsfuse sidecar: it loads the weights.', "0"
            ),
            "gke-gcsfuse/memory-limit": "0",
            "gke-gcsfuse/ephemeral-storage-limit": "0",
        }
    spec: Object = {
        "replicas": Note(
            "The HPA owns this number from its first decision on; applying this file again sets it back until the "
            "HPA's next sync.",
            replicas,
        ),
        "selector": {"matchLabels": dict(deploy.labels)},
    }
    if options.rollout:
        deadline = sizing.first_ready(profile, max_replicas)
        spec["progressDeadlineSeconds"] = Note(
            f"The default of 600 s would call every rollout failed. {deadline.how}.", deadline.value
        )
        spec["strategy"] = Note(
            "The default wants a spare accelerator node for the surge pod and waits for ever when the pool is at its "
            "maximum. One replica is replaced at a time instead; a single replica is down while it is replaced.",
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        )
    spec["template"] = {
        "metadata": template_meta,
        "spec": pod.spec(profile, options, container, pod.grace_fields(profile, options)),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(profile, deploy.name),
        "spec": spec,
    }


def _leader_script(profile: Profile, options: Options) -> Any:
    timeout = f" --ray_init_timeout={sizing.ray_init(profile).value}" if options.ray_timeout else ""
    words = [
        f"{flag} {shlex.quote(value)}" if value else flag
        for flag, value in pod.engine_arguments(profile, options)
    ]
    script = (
        f"bash {shlex.quote(profile.deploy.serving_script)} leader"
        f" --ray_cluster_size=$(LWS_GROUP_SIZE){timeout} &&\n"
        "exec python3 -m vllm.entrypoints.openai.api_server \\\n  " + " \\\n  ".join(words)
    )
    why = (
        "`&&`: when the group does not assemble in time the leader ends and the group is recreated, instead of vLLM "
        "starting without its workers. `exec`: vLLM becomes process 1 and receives SIGTERM; bash would keep it."
    )
    if options.ray_timeout:
        why += f"\nray_init_timeout = {sizing.ray_init(profile).how}. With the script's 300 s, nodes that arrive further "
        why += "apart recreate the group for ever."
    if profile.deploy.model_path and options.served_model_name:
        why += "\nserved-model-name: the API keeps the hub's model id; without it requests for that id answer 404."
    return Note(why, script)


def _worker_script(profile: Profile, options: Options) -> Any:
    timeout = f" --ray_init_timeout={sizing.ray_init(profile).value}" if options.ray_timeout else ""
    script = f"bash {shlex.quote(profile.deploy.serving_script)} worker --ray_address=$(LWS_LEADER_ADDRESS){timeout}"
    return Note("The same timeout as the leader's.", script) if timeout else script
