"""Weights on a Hyperdisk ML disk: the job that fills it, and the read-only volume that every replica mounts.

Two stages, because the disk's name is only known once the first has run: StorageClass, claim and job; then the static
volume and its claim.
"""

from __future__ import annotations

from autoscale.deploy import sizing
from autoscale.deploy.choices import Options
from autoscale.deploy.meta import meta
from autoscale.deploy.pod import WEIGHTS_CLAIM
from autoscale.deploy.yaml_out import Note
from autoscale.hpa import parse_quantity
from autoscale.kube.objects import Object
from autoscale.profiles import Profile

CLASS = "hyperdisk-ml"
PRODUCER_CLAIM = "producer-pvc"
PRODUCER_JOB = "producer-job"
DRIVER = "pd.csi.storage.gke.io"


def producer(profile: Profile, options: Options) -> list[Object]:
    """First stage: StorageClass, the claim that creates the disk, and the job that downloads the weights to it."""
    return [_storage_class(profile), _producer_claim(profile), _producer_job(profile, options)]


def static_volume(profile: Profile, options: Options) -> list[Object]:
    """Second stage: the filled disk as a volume that many nodes read, and the claim that the pods name."""
    size = _size(profile)
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": meta(profile, _volume(profile), namespaced=False),
            "spec": {
                "storageClassName": CLASS,
                "capacity": {"storage": size},
                "accessModes": ["ReadOnlyMany"],
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": profile.deploy.namespace, "name": WEIGHTS_CLAIM},
                "csi": {
                    "driver": DRIVER,
                    "volumeHandle": Note(
                        "The disk that the producer job filled: README.md shows how to find its name.",
                        f"projects/{options.project}/zones/{options.zone}/disks/{options.disk}",
                    ),
                    "fsType": "ext4",
                    "readOnly": True,
                },
                "nodeAffinity": Note(
                    "A disk lives in one zone, so every replica does: scale-out is limited to that zone's capacity.",
                    {
                        "required": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {
                                            "key": "topology.gke.io/zone",
                                            "operator": "In",
                                            "values": [options.zone],
                                        }
                                    ]
                                }
                            ]
                        }
                    },
                ),
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": meta(profile, WEIGHTS_CLAIM),
            "spec": {
                "storageClassName": CLASS,
                "volumeName": _volume(profile),
                "accessModes": ["ReadOnlyMany"],
                "resources": {"requests": {"storage": size}},
            },
        },
    ]


def _volume(profile: Profile) -> str:
    """Volumes are cluster-wide: sets in several namespaces must not share a name."""
    namespace = profile.deploy.namespace
    return "hdml-static-pv" if namespace == "default" else f"hdml-static-pv-{namespace}"


def _size(profile: Profile) -> str:
    """800Gi, or the next 100 GiB above the weights and a margin of 5 %."""
    return parse_quantity(f"{max(800, -(-sizing.weights_gib(profile) * 105 // 10_000) * 100)}Gi").stored


def _storage_class(profile: Profile) -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": meta(profile, CLASS, namespaced=False),
        "provisioner": DRIVER,
        "parameters": {
            "type": "hyperdisk-ml",
            "provisioned-throughput-on-create": Note(
                "Shared by all replicas that load at the same time.", "2400Mi"
            ),
        },
        "reclaimPolicy": Note("Deleting the producer's claim must not delete the weights.", "Retain"),
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": False,
    }


def _producer_claim(profile: Profile) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta(profile, PRODUCER_CLAIM),
        "spec": {
            "storageClassName": CLASS,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": _size(profile)}},
        },
    }


def _producer_job(profile: Profile, options: Options) -> Object:
    patterns = ["*.safetensors", "*.json"]
    if "--trust-remote-code" in profile.deploy.extra_args:
        patterns.append("*.py")  # the model brings its own code
    wanted = " ".join(f"'{pattern}'" for pattern in patterns)
    secret = {"secretKeyRef": {"name": "hf-secret", "key": "hf_api_token"}}
    both = [
        {"key": "cloud.google.com/machine-family", "operator": "In", "values": ["c3"]},
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [options.zone]},
    ]
    container = {
        "name": "copy",
        "image": "python:3.11-bookworm",
        "command": [
            "bash",
            "-c",
            "pip install --quiet 'huggingface_hub[hf_xet]==0.34.4' &&\n"
            f'exec hf download "$MODEL_ID" --local-dir /data --include {wanted}',
        ],
        "env": [
            {"name": "MODEL_ID", "value": profile.model.id},
            {"name": "HF_TOKEN", "valueFrom": secret},
        ],
        "resources": {"requests": {"cpu": "32"}, "limits": {"cpu": "32"}},
        "securityContext": {"allowPrivilegeEscalation": False},
        "volumeMounts": [{"name": "weights", "mountPath": "/data"}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta(profile, PRODUCER_JOB),
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": Note("A retry goes on where the download stopped.", 4),
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "affinity": {
                        "nodeAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": {
                                "nodeSelectorTerms": Note(
                                    "Both expressions in one term: terms are ORed, and the job would run on any node "
                                    "of the zone or on a C3 node of any zone.",
                                    [{"matchExpressions": both}],
                                )
                            }
                        }
                    },
                    "containers": [container],
                    "volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": PRODUCER_CLAIM}}],
                }
            },
        },
    }
