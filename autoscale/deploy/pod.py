"""One serving pod: its container with arguments, resources and probes, how it drains, and its volumes."""

from __future__ import annotations

from typing import Any

from analysis.errors import BadInput
from autoscale.deploy import sizing
from autoscale.deploy.choices import Options
from autoscale.deploy.yaml_out import Note
from autoscale.hpa import parse_quantity
from autoscale.kube.objects import Object
from autoscale.profiles import Profile

WEIGHTS_CLAIM = "hdml-static-pvc"
GCSFUSE_ACCOUNT = "vllm-gcsfuse"
XLA_DIR = "/xla-cache"

# Runs before SIGTERM reaches vLLM: waits until load balancers have forgotten the pod, then until it is idle.
DRAIN_SCRIPT = """\
import sys, time, urllib.request
port, endpoint_s, drain_s = (int(word) for word in sys.argv[1:])
time.sleep(endpoint_s)
end = time.monotonic() + drain_s
gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting{", "vllm:num_requests_waiting ")
while time.monotonic() < end:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    if not sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(gauges)):
        break
    time.sleep(1)
"""


def engine_arguments(profile: Profile, options: Options) -> list[tuple[str, str]]:
    """vLLM's arguments in order, as (flag, value); an empty value means a flag alone."""
    deploy, replica, engine = profile.deploy, profile.replica, profile.engine
    local_path = deploy.model_path if deploy.storage in ("hyperdisk-ml", "local") else None
    given: list[tuple[str, str]] = [("--port", str(deploy.port)), ("--model", local_path or profile.model.id)]
    if local_path and options.served_model_name:
        given.append(("--served-model-name", profile.model.id))
    given.append(("--tensor-parallel-size", str(replica.tensor_parallel)))
    if replica.pipeline_parallel > 1:
        given.append(("--pipeline-parallel-size", str(replica.pipeline_parallel)))
    if replica.data_parallel > 1:
        given.append(("--data-parallel-size", str(replica.data_parallel)))
    if replica.nodes > 1:
        given.append(("--distributed-executor-backend", "ray"))
    if deploy.storage == "gcsfuse":
        given.append(("--download-dir", "/data"))
    flags = {limit: "--" + limit.replace("_", "-") for limit in deploy.pass_limits}
    given += [(flag, str(getattr(engine, limit))) for limit, flag in flags.items()]
    if profile.model.kv_dtype != "bf16":
        given.append(("--kv-cache-dtype", profile.model.kv_dtype))
    if options.drain and sizing.version_of(profile) >= sizing.SHUTDOWN_TIMEOUT_SINCE:
        given.append(("--shutdown-timeout", str(sizing.drain(profile, options.longest_output_s).value)))
    return given + [(argument, "") for argument in deploy.extra_args]


def container(profile: Profile, options: Options, name: str, command: Object) -> Object:
    """A vLLM container with its command, environment, resources and mounts."""
    gpu = profile.deploy.platform != "gke-tpu"
    chip = "nvidia.com/gpu" if gpu else "google.com/tpu"
    resources: Object = {"limits": {chip: str(profile.replica.chips_per_node)}}
    if options.requests and (requests := _requests(profile)):
        resources["requests"] = Note(
            "Without requests the pod is the first to be evicted from its node.", requests
        )
    return {
        "name": name,
        "image": profile.deploy.image,
        **command,
        "env": _environment(profile, options),
        "resources": resources,
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": _mounts(profile, options),
    }


def serving_container(profile: Profile, options: Options, max_replicas: int) -> Object:
    """What a container that answers HTTP has on top: its port, probes and the hook that drains it."""
    port = {"name": "http", "containerPort": profile.deploy.port, "protocol": "TCP"}
    return {"ports": [port]} | _probes(profile, options, max_replicas) | _lifecycle(profile, options)


def _requests(profile: Profile) -> Object:
    deploy = profile.deploy
    requests: Object = {name: parse_quantity(amount).stored for name, amount in deploy.requests.items()}
    if deploy.storage == "hub":
        size = sizing.weights_gib(profile)
        requests["ephemeral-storage"] = Note(
            f"Weights from the hub are written to the node's disk: {size} GiB and a margin. A node that is too small "
            "refuses the pod at once instead of evicting it in the middle of the download.",
            parse_quantity(f"{size + size // 20 + 5}Gi").stored,
        )
    return requests


def _environment(profile: Profile, options: Options) -> list[Any]:
    secret = {"secretKeyRef": {"name": "hf-secret", "key": "hf_api_token"}}
    env: list[Any] = [
        {"name": "HUGGING_FACE_HUB_TOKEN", "valueFrom": secret},
        Note("The name that newer versions read.", {"name": "HF_TOKEN", "valueFrom": secret}),
    ]
    if profile.deploy.platform == "gke-tpu":
        if options.xla_cache == "seeded":
            why = (
                "A directory of this pod alone. Several replicas that write one shared cache at the same time fail, so "
                "a published cache is copied in before the start (see initContainers)."
            )
            env.append(Note(why, {"name": "VLLM_XLA_CACHE_PATH", "value": XLA_DIR}))
        elif options.xla_cache == "shared":
            why = (
                "Shared by all replicas: let the first one become ready before a second starts, or they fail."
            )
            env.append(Note(why, {"name": "VLLM_XLA_CACHE_PATH", "value": "/data"}))
        env.append({"name": "VLLM_USE_V1", "value": "1"})
    return env


def _mounts(profile: Profile, options: Options) -> list[Any]:
    mounts: list[Any] = [{"name": "dshm", "mountPath": "/dev/shm"}]  # noqa: S108  # the pod's shared memory, not a temporary file
    match profile.deploy.storage:
        case "hyperdisk-ml":
            mounts.append(
                {"name": "weights", "mountPath": profile.deploy.model_path or "/models", "readOnly": True}
            )
        case "gcsfuse":
            mounts.append({"name": "gcsfuse-weights", "mountPath": "/data"})
            if options.xla_cache == "seeded":
                mounts.append({"name": "xla-cache", "mountPath": XLA_DIR})
    return mounts


def _volumes(profile: Profile, options: Options) -> list[Any]:
    memory = {"medium": "Memory", "sizeLimit": parse_quantity(profile.deploy.shared_memory).stored}
    volumes: list[Any] = [
        Note("Tensor-parallel processes exchange data here.", {"name": "dshm", "emptyDir": memory})
    ]
    match profile.deploy.storage:
        case "hyperdisk-ml":
            claim = {"claimName": WEIGHTS_CLAIM, "readOnly": True}
            volumes.append({"name": "weights", "persistentVolumeClaim": claim})
        case "gcsfuse":
            volumes.append(
                Note(
                    "This name is fixed: gcsfuse caches files here.",
                    {"name": "gke-gcsfuse-cache", "emptyDir": {"medium": "Memory"}},
                )
            )
            volumes.append({"name": "gcsfuse-weights", "csi": _gcsfuse(options)})
            if options.xla_cache == "seeded":
                volumes.append({"name": "xla-cache", "emptyDir": {}})
    return volumes


def _gcsfuse(options: Options) -> Object:
    mount_options = (
        "implicit-dirs",
        "file-cache:enable-parallel-downloads:true",
        "file-cache:parallel-downloads-per-file:100",
        "file-cache:max-parallel-downloads:-1",
        "file-cache:download-chunk-size-mb:10",
        "file-cache:max-size-mb:-1",
    )
    return {
        "driver": "gcsfuse.csi.storage.gke.io",
        "volumeAttributes": {
            "bucketName": options.bucket,
            "mountOptions": Note(
                "About 3 min for 141 GB with these, 20 min without.", ",".join(mount_options)
            ),
        },
    }


def _seed_cache(profile: Profile) -> Object:
    script = (
        "if [ -f /data/xla-cache/COMPLETE ]; then\n"
        f"  cp -r /data/xla-cache/. {XLA_DIR}/\n"
        "else\n"
        '  echo "no published compile cache: this replica compiles for itself"\n'
        "fi"
    )
    return {
        "name": "seed-xla-cache",
        "image": profile.deploy.image,
        "command": ["bash", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "gcsfuse-weights", "mountPath": "/data"},
            {"name": "xla-cache", "mountPath": XLA_DIR},
        ],
    }


def spec(profile: Profile, options: Options, container: Object, grace: Object) -> Object:
    """The spec of a pod with this container; `grace` is its termination grace period, empty for the default."""
    deploy = profile.deploy
    content: Object = {}
    if deploy.storage == "gcsfuse":
        content["serviceAccountName"] = GCSFUSE_ACCOUNT
    else:
        content["automountServiceAccountToken"] = Note("vLLM never talks to the Kubernetes API.", False)
    if deploy.platform != "bare-metal" and not (deploy.node_selector and deploy.machine_type):
        raise BadInput(
            f"profile {profile.name} does not say on which nodes {profile.accelerator.name} stands",
            expected="deploy.machine_type and deploy.node_selector, such as "
            "machine_type: a2-ultragpu-1g and node_selector: {cloud.google.com/gke-accelerator: nvidia-a100-80gb}",
        )
    if deploy.node_selector:
        content["nodeSelector"] = dict(deploy.node_selector)
    content |= grace
    if deploy.storage == "gcsfuse" and options.xla_cache == "seeded":
        content["initContainers"] = [
            Note(
                "Compiling takes 10 to 30 min, a copied cache 1 to 3 min: see README.md, publishing it.",
                _seed_cache(profile),
            )
        ]
    content["containers"] = [container]
    content["volumes"] = _volumes(profile, options)
    return content


def _probes(profile: Profile, options: Options, max_replicas: int) -> Object:
    port = profile.deploy.port
    if not options.health_probes:
        return {
            "readinessProbe": {"tcpSocket": {"port": port}, "initialDelaySeconds": 15, "periodSeconds": 10}
        }
    budget = sizing.startup(profile, max_replicas, group_wait=options.ray_timeout)
    get = {"path": "/health", "port": port}
    return {
        "startupProbe": Note(
            f"Start-up budget {budget.value} s = {budget.how}. A shorter one restarts the replica while it loads, for ever.",
            {
                "httpGet": dict(get),
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": budget.value // 10,
            },
        ),
        "readinessProbe": Note(
            "An open port is not an engine that answers: /health is vLLM's own endpoint.",
            {"httpGet": dict(get), "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3},
        ),
        "livenessProbe": Note(
            "Two minutes: a busy API server answers late, a dead engine never.",
            {"httpGet": dict(get), "periodSeconds": 15, "timeoutSeconds": 10, "failureThreshold": 8},
        ),
    }


def _lifecycle(profile: Profile, options: Options) -> Object:
    if not options.drain:
        return {}
    drain = sizing.drain(profile, options.longest_output_s)
    if sizing.version_of(profile) >= sizing.SHUTDOWN_TIMEOUT_SINCE:
        command: list[Any] = ["sleep", str(sizing.ENDPOINT_S)]
        why = "Load balancers forget the pod first; then vLLM finishes what runs, up to --shutdown-timeout."
    else:
        command = [
            "python3",
            "-c",
            DRAIN_SCRIPT,
            str(profile.deploy.port),
            str(sizing.ENDPOINT_S),
            str(drain.value),
        ]
        why = (
            f"vLLM {profile.engine.vllm_version} cuts every stream at SIGTERM (--shutdown-timeout came later), so the "
            f"wait is here: {sizing.ENDPOINT_S} s until load balancers forget the pod, then until it is idle, at most "
            f"{drain.value} s = {drain.how}."
        )
    return {"lifecycle": {"preStop": {"exec": {"command": Note(why, command)}}}}


def grace_fields(profile: Profile, options: Options) -> Object:
    """terminationGracePeriodSeconds with its reason; empty when draining is switched off."""
    if not options.drain:
        return {}
    grace = sizing.grace(profile, options.longest_output_s)
    why = f"The default of 30 s cuts long generations on scale-in. {grace.how}."
    return {"terminationGracePeriodSeconds": Note(why, grace.value)}
