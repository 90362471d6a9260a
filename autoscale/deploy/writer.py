"""Manifest sets: the objects of one profile in apply order, and the files that hold them.

`objects` gives plain dicts, `write_set` the commented files with kustomization and README, `reference_files` everything
that is committed under manifests/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.errors import BadInput, did_you_mean
from analysis.files import free_directory, put_all
from autoscale.deploy import (
    access,
    alerts,
    dashboard,
    gateway,
    load_set,
    monitoring,
    readme,
    scaling,
    targets,
    timetable,
    weekly,
    weights,
    workload,
)
from autoscale.deploy.choices import Options
from autoscale.deploy.meta import MANAGED_BY, OWNER
from autoscale.deploy.targets import Plan
from autoscale.deploy.yaml_out import dump, dump_all, plain_yaml
from autoscale.kube.objects import Object
from autoscale.kube.vllm_names import OF_KEDA, PATHS, SIGNAL_NAMES, MetricsPath
from autoscale.profiles import Profile, load, names, overlay
from autoscale.recommendation import Recommendation

File = tuple[str, str]  # path below the set's directory, text

GENERATED = "Written by `autoscale manifests`; change the profile or the options and write it again."


@dataclass(frozen=True)
class Part:
    """One file of a set: its objects and what they are for."""

    path: str
    about: str
    objects: list[Object]

    @property
    def text(self) -> str:
        """The file: one document per object."""
        first, *rest = self.objects
        return dump_all([(first, f"{self.about}\n{GENERATED}"), *((document, "") for document in rest)])


def objects(
    profile: Profile,
    recommendation: Recommendation | None = None,
    metrics: MetricsPath | None = None,
    options: Options | None = None,
) -> list[Object]:
    """The Kubernetes objects of a set as plain dicts, in apply order.

    `options.stage`: "weights" are those that fill the disk first (Hyperdisk ML), "serving" the others, "all" both.
    Raises BadInput for a recommendation or a metrics path that does not fit, NotAchieved for an infeasible answer.
    """
    options = options or Options()
    profile = _placed(profile, options)
    path = _path(profile, metrics)
    plan = _plan(profile, path, recommendation)
    parts = _weight_parts(profile, options) if options.stage in ("all", "weights") else []
    if options.stage in ("all", "serving"):
        parts = parts + _serving_parts(profile, options, path, plan)
    return [plain_yaml(document) for part in parts for document in part.objects]


def write_set(
    profile: Profile,
    recommendation: Recommendation | None = None,
    metrics: MetricsPath | None = None,
    options: Options | None = None,
) -> list[File]:
    """The files of a set as (path, text): YAML with comments, kustomizations and a README. Raises as `objects` does."""
    options = options or Options()
    profile = _placed(profile, options)
    path = _path(profile, metrics)
    plan = _plan(profile, path, recommendation)
    serving, filling = _serving_parts(profile, options, path, plan), _weight_parts(profile, options)
    files = [("README.md", readme.render(profile, options, path, plan))]
    files += _folder("", serving, f"{profile.title}.")
    if path == "prometheus-adapter" and plan.autoscales:
        values = monitoring.adapter_values(profile, options.prometheus_url, plan)
        about = "Helm values of prometheus-adapter: from Prometheus series to the HPA's metrics."
        files.append(("prometheus-adapter-values.yaml", dump(values, f"{about}\n{GENERATED}")))
    if filling:
        files += _folder("weights/", filling, "First stage: the disk and the weights on it.")
    rules = Part(
        "rules.yaml",
        "Recording and alert rules; those on the HPA need kube-state-metrics.",
        [alerts.alert_rules(profile, path, plan)],
    )
    files += _folder("alerts/", [rules], "Optional: recording and alert rules.")
    return files


def reference_files() -> dict[str, str]:
    """Everything under manifests/, path -> text: one set per profile, the load generator's, and the dashboard.

    The targets are those of the tutorials.
    """
    found: dict[str, str] = {"README.md": readme.overview([load(name) for name in names()])}
    for name in names():
        for path, text in write_set(load(name)):
            found[f"{name}/{path}"] = text
    for path, text in load_files():
        found[f"locust/{path}"] = text
    found["observability/dashboard.json"] = dashboard.dashboard()
    found["observability/README.md"] = readme.observability()
    return found


def load_files() -> list[File]:
    """The files of manifests/locust: Locust's master and workers on Kubernetes."""
    job = Part(
        "load.yaml",
        "Locust on Kubernetes: claim for the results, master and workers.",
        load_set.load_objects(),
    )
    reader = Part(
        "results.yaml", "A pod that holds the results for an hour, to copy them out.", [load_set.reader()]
    )
    return [
        ("README.md", readme.locust()),
        *_folder("", [job], "Load from inside the cluster."),
        (reader.path, reader.text),
    ]


def set_directory(profile: Profile, out: Path) -> Path:
    """The directory that a set of this profile is to be written to, made now.

    Raises BadInput when it holds anything but an earlier set of this profile.
    """

    def earlier(path: Path) -> bool:
        file = path / "README.md"
        return file.is_file() and f"{readme.written_for(profile)} " in file.read_text(
            "utf-8", errors="replace"
        )

    return free_directory(out, earlier)


def write_files(files: list[File], directory: Path) -> list[Path]:
    """Write (path, text) pairs below a directory; returns the paths that were new or changed."""
    texts = {directory / name: text for name, text in files}
    changed = {
        target: text
        for target, text in texts.items()
        if not target.exists() or target.read_text(encoding="utf-8") != text
    }
    put_all(changed)
    return list(changed)


# --- parts of a set --------------------------------------------------------------------------------------------------


def _path(profile: Profile, metrics: MetricsPath | None) -> MetricsPath:
    path = metrics or profile.deploy.metrics
    if path not in PATHS:
        raise BadInput(
            "unknown metrics path",
            value=path,
            expected=f"one of {', '.join(PATHS)}",
            next_step=did_you_mean(path, PATHS),
        )
    if profile.deploy.platform == "bare-metal" and monitoring.managed(path):
        raise BadInput(
            f"metrics path for profile {profile.name}, which does not run on GKE",
            value=path,
            expected="prometheus-adapter or keda",
        )
    if path == "llm-d":
        gateway.refuse_elsewhere(profile)
    return path


def _plan(profile: Profile, path: MetricsPath, recommendation: Recommendation | None) -> Plan:
    """What scales. Raises BadInput for signals that the metrics path does not carry."""
    plan = targets.plan(profile, recommendation)
    if path == "llm-d":
        return gateway.plan_behind(plan, recommendation)
    if path not in OF_KEDA:
        for target in plan.targets:
            if target.signal not in SIGNAL_NAMES:
                raise BadInput(
                    "the recommendation is a ScaledObject on a signal that no HPA reads from the pods",
                    value=target.signal,
                    expected="metrics path keda",
                    next_step="say --metrics keda, or run `autoscale recommend` with --scaler hpa",
                )
    return plan


def _placed(profile: Profile, options: Options) -> Profile:
    """The profile with the user's namespace and image."""
    given = {"namespace": options.namespace, "image": options.image}
    return overlay(profile, {"deploy": {name: value for name, value in given.items() if value}})


def _namespace_parts(profile: Profile, options: Options) -> list[Part]:
    """The namespace, when asked for: in the first stage of the set, whichever that is."""
    namespace = profile.deploy.namespace
    if not options.create_namespace or namespace == "default":
        return []
    metadata = {"name": namespace, "labels": {MANAGED_BY: OWNER}}
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    return [Part("namespace.yaml", "The namespace of this set.", [document])]


def _weight_parts(profile: Profile, options: Options) -> list[Part]:
    if profile.deploy.storage != "hyperdisk-ml":
        return []
    storage_class, claim, job = weights.producer(profile, options)
    return [
        *_namespace_parts(profile, options),
        Part(
            "disk.yaml",
            "A Hyperdisk ML disk, created for its first user: the producer job.",
            [storage_class, claim],
        ),
        Part("producer.yaml", "Downloads the weights to the disk, once.", [job]),
    ]


def _serving_parts(profile: Profile, options: Options, path: MetricsPath, plan: Plan) -> list[Part]:
    deploy = profile.deploy
    parts = [] if deploy.storage == "hyperdisk-ml" else _namespace_parts(profile, options)
    if options.checker:
        about = "Least privilege for `autoscale check`: what it reads, nothing more."
        parts.append(Part("checker-rbac.yaml", about, access.checker(profile, options, path, plan.targets)))
    if deploy.storage == "gcsfuse":
        about = "The account that reads and writes the bucket; README.md binds it to an IAM role."
        parts.append(Part("service-account.yaml", about, [workload.service_account(profile)]))
    if deploy.storage == "hyperdisk-ml":
        about = "The filled disk as a read-only volume for every replica."
        parts.append(Part("volume.yaml", about, weights.static_volume(profile, options)))
    parts.append(Part("service.yaml", "Where requests go.", [workload.service(profile)]))
    if options.disruption_budget:
        about = "Bounds what maintenance may take away at once."
        parts.append(Part("disruption-budget.yaml", about, [workload.disruption_budget(profile)]))
    if path == "llm-d":
        about = "What picks a replica for each request, and holds requests while the pool is saturated."
        parts.append(Part("endpoint-picker.yaml", about, gateway.picker(profile, plan.gateway)))
        about = "The pool, and the way to it from inside the VPC."
        parts.append(Part("inference-pool.yaml", about, gateway.pool(profile)))
    server = workload.workload(profile, options, plan.min_replicas, plan.max_replicas)
    parts.append(Part("workload.yaml", f"{profile.title}.", [server]))
    scraped = [monitoring.scrape(profile, path)]
    if path == "llm-d":
        scraped.append(gateway.picker_scrape(profile))
    parts.append(Part("monitoring.yaml", "Scrapes the pods that serve HTTP.", scraped))
    if options.watch_image:
        about = "Asks weekly whether the target still holds; no right in the cluster."
        parts.append(Part("watch.yaml", about, weekly.watch_job(profile, options)))
    return parts + (_scaling_parts(profile, options, path, plan) if plan.autoscales else [])


def _scaling_parts(profile: Profile, options: Options, path: MetricsPath, plan: Plan) -> list[Part]:
    if path in OF_KEDA:
        scaled = scaling.scaled_object(profile, options, plan)
        return [Part("scaledobject.yaml", "Scales the workload; KEDA creates the HPA.", [scaled])]
    parts = []
    if path == "autoscalingmetric":
        about = "Gauges that GKE's metrics agent reads from the pods (GKE 1.35.1 or later, 20 per cluster)."
        parts.append(Part("autoscaling-metric.yaml", about, [scaling.autoscaling_metric(profile, plan)]))
    parts.append(Part("hpa.yaml", "Scales the workload.", [scaling.hpa(profile, options, path, plan)]))
    if plan.windows:
        about = "Patches the HPA's minReplicas by the hour; the account may patch this one object."
        parts.append(Part("schedule.yaml", about, timetable.minimum_jobs(profile, plan)))
    return parts


def _folder(prefix: str, parts: list[Part], about: str) -> list[File]:
    """The parts as files, and the kustomization that lists them in apply order."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [part.path for part in parts],
    }
    head = dump(kustomization, f"{about}\nkubectl apply --server-side -k .\n{GENERATED}")
    return [(f"{prefix}kustomization.yaml", head)] + [(prefix + part.path, part.text) for part in parts]
