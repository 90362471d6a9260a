"""The README of each set: what YAML cannot do, as commands in order, with the node-pool and quota arithmetic."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jinja2

from autoscale.deploy import load_set, pod, sizing, weights
from autoscale.deploy.access import ACCOUNT
from autoscale.deploy.choices import Options
from autoscale.deploy.scaling import external_name, metric_name, vllm_metric
from autoscale.deploy.targets import Plan
from autoscale.kube.vllm_names import OF_KEDA, SIGNAL_NAMES, MetricsPath
from autoscale.profiles import Profile

LWS_VERSION = "v0.7.0"

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=False,  # noqa: S701  # Markdown for people, not HTML
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["word"] = shlex.quote  # a profile's text as one word of a shell command


def written_for(profile: Profile) -> str:
    """What only the README of a set of this profile says."""
    return f"Generated: `autoscale manifests {profile.name}"


def render(profile: Profile, options: Options, path: MetricsPath, plan: Plan) -> str:
    """README.md of one set."""
    bare_metal = profile.deploy.platform == "bare-metal"
    nodes = {
        "min": sizing.nodes(profile, plan.min_replicas),
        "max": sizing.nodes(profile, plan.max_replicas),
        "chips": sizing.chips(profile, plan.max_replicas),
    }
    return _render(
        "set.md.j2",
        profile=profile,
        written_for=written_for(profile),
        deploy=profile.deploy,
        options=options,
        path=path,
        plan=plan,
        pool=nodes,
        kubectl="kubectl --kubeconfig CLUSTER_KUBECONFIG" if bare_metal else "kubectl",
        helm="helm --kubeconfig CLUSTER_KUBECONFIG" if bare_metal else "helm",
        bare_metal=bare_metal,
        tpu=profile.deploy.platform == "gke-tpu",
        grouped=profile.deploy.kind == "LeaderWorkerSet",
        gpu_type=profile.deploy.node_selector.get("cloud.google.com/gke-accelerator", ""),
        chip="TPU" if profile.deploy.platform == "gke-tpu" else "GPU",
        disk_gib=max(200, 2 * sizing.weights_gib(profile) + 100),
        startup=sizing.startup(profile, plan.max_replicas),
        first_ready=sizing.first_ready(profile, plan.max_replicas),
        loading=sizing.loading(profile),
        weights_gib=sizing.weights_gib(profile),
        raw_metrics=_raw_metrics(profile, path, plan),
        exported=[
            vllm_metric(profile, target.signal) for target in plan.targets if target.signal in SIGNAL_NAMES
        ],
        lws_version=LWS_VERSION,
        resource="leaderworkerset" if profile.deploy.kind == "LeaderWorkerSet" else "deployment",
        producer_claim=weights.PRODUCER_CLAIM,
        producer_job=weights.PRODUCER_JOB,
        gcsfuse_account=pod.GCSFUSE_ACCOUNT,
        xla_dir=pod.XLA_DIR,
        checker_account=ACCOUNT,
        question=_question(profile),
        upstream=f"vllm/vllm-openai:v{profile.engine.vllm_version}",
    )


def overview(profiles: list[Profile]) -> str:
    """README.md of manifests/: one line per set."""
    return _render("overview.md.j2", profiles=profiles)


def observability() -> str:
    """README.md of manifests/observability."""
    return _render("observability.md.j2")


def locust() -> str:
    """README.md of manifests/locust."""
    return _render("locust.md.j2", load=load_set)


def _question(profile: Profile) -> str:
    """A completion request as one shell word."""
    body = {"model": profile.model.id, "prompt": "The capital of France is", "max_tokens": 8}
    return shlex.quote(json.dumps(body))


def _raw_metrics(profile: Profile, path: MetricsPath, plan: Plan) -> list[str]:
    """Paths under which the metrics API serves what the HPA reads."""
    namespace, deploy = profile.deploy.namespace, profile.deploy
    if path in OF_KEDA:
        selector = f"labelSelector=scaledobject.keda.sh%2Fname%3D{deploy.hpa_name}"
        root = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}"
        return [f"{root}/{external_name(index)}?{selector}" for index in range(len(plan.targets))]
    root = f"/apis/custom.metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/*"
    if path == "autoscalingmetric":
        return []  # read by the HPA's own agent, not served by the custom metrics API
    quoted = [metric_name(profile, path, target.signal).replace("|", "%7C") for target in plan.targets]
    return [f"{root}/{name}" for name in quoted]


def _render(template: str, **values: Any) -> str:
    text = _ENVIRONMENT.get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)
