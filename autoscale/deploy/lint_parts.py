"""What one object says: its pod templates, the vLLM servers in them, scalers with their metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

from analysis.errors import BadInput
from autoscale.deploy import lint_query
from autoscale.deploy.lint_metrics import image_version
from autoscale.deploy.lint_query import Query
from autoscale.deploy.lint_report import Key, Located, items, mapping
from autoscale.deploy.workload import LWS_LABEL
from autoscale.hpa import parse_quantity
from autoscale.profiles.signals import signal_of

Path = tuple[Key, ...]
Labels = dict[str, str | None]  # None: set by a controller, any value
Route = Literal["stackdriver", "autoscalingmetric", "adapter", "keda", "external", "resource"]

VLLM_PORT = 8000  # --port's default
SCALABLE = ("Deployment", "StatefulSet", "ReplicaSet", "LeaderWorkerSet")
_TEMPLATES: dict[str, Path] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
CHIPS = ("nvidia.com/gpu", "google.com/tpu", "amd.com/gpu")


@dataclass(frozen=True)
class Template:
    """A pod template; `role` is "pod", or "leader" or "worker" of a group."""

    owner: Located
    path: Path
    role: str
    labels: Labels

    @property
    def content(self) -> dict[str, Any]:
        """The template itself."""
        value: Any = self.owner.object
        for key in self.path:
            value = mapping(value).get(str(key))
        return mapping(value)

    @property
    def spec(self) -> dict[str, Any]:
        """The pod's spec."""
        return mapping(self.content.get("spec"))

    @property
    def annotations(self) -> dict[str, Any]:
        """The pod's annotations."""
        return mapping(mapping(self.content.get("metadata")).get("annotations"))

    def containers(self, *, init: bool = True) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Every container with its path in the object."""
        for key in ("initContainers", "containers") if init else ("containers",):
            for index, container in enumerate(items(self.spec.get(key))):
                if isinstance(container, dict):
                    yield (*self.path, "spec", key, index), container

    @cached_property
    def chips(self) -> int:
        """Accelerator chips that one pod asks for."""
        return sum(chips_of(container) for _, container in self.containers(init=False))


@dataclass(frozen=True)
class Server:
    """A container that serves vLLM's HTTP API, and what its command line says."""

    template: Template
    path: Path
    container: dict[str, Any]
    argv: list[str]
    flags: dict[str, str]

    @property
    def owner(self) -> Located:
        """The workload."""
        return self.template.owner

    @cached_property
    def version(self) -> tuple[int, ...] | None:
        """vLLM's version by the image's tag; NEWEST for latest and nightly, None when the tag does not tell."""
        return image_version(str(self.container.get("image") or ""))

    @cached_property
    def port(self) -> int | None:
        """Where it listens; None when that is a variable."""
        given = self.flags.get("port", str(VLLM_PORT))
        return int(given) if given.isdigit() else None

    @cached_property
    def model(self) -> str | None:
        """What --model says, or the word after `vllm serve`."""
        if self.flags.get("model"):
            return self.flags["model"]
        for word, following in pairwise(self.argv):
            if word == "serve" and not following.startswith("-"):
                return following
        return None

    @cached_property
    def served(self) -> list[str]:
        """Model ids that requests may name, empty when unknown."""
        if name := self.flags.get("served-model-name"):
            first = self.argv.index("--served-model-name") if "--served-model-name" in self.argv else None
            names = [name]
            for word in self.argv[first + 2 :] if first is not None else []:
                if word.startswith("-"):
                    break
                names.append(word)
            return names
        return [self.model] if self.model and "$" not in self.model else []

    @cached_property
    def engines(self) -> int:
        """Data-parallel engines of one replica: each has its own series."""
        return self.number("data-parallel-size") or 1

    def number(self, flag: str) -> int | None:
        """A flag as a whole number, None when it is absent or not one."""
        short = {
            "tensor-parallel-size": "-tp",
            "pipeline-parallel-size": "-pp",
            "data-parallel-size": "-dp",
        }.get(flag)
        text = self.flags.get(flag, "")
        if not text and short in self.argv[:-1]:
            text = self.argv[self.argv.index(short) + 1]
        return int(text) if re.fullmatch(r"\d+", text) else None

    def listens_at(self, port: object) -> bool | None:
        """Whether a port, by number or by the name of a container port, is where vLLM listens; None = unknown."""
        if self.port is None:
            return None
        if isinstance(port, str) and not port.isdigit():
            named = {
                str(entry.get("name")): entry.get("containerPort")
                for _, container in self.template.containers()
                for entry in map(mapping, items(container.get("ports")))
            }
            return named.get(port) == self.port
        return isinstance(port, int | str) and int(port) == self.port


@dataclass(frozen=True)
class Metric:
    """One metric of a scaler: where it is written, its name, target and the way that it comes."""

    path: Path
    kind: str
    name: str
    milli: int | None
    target_path: Path
    route: Route
    series: str = ""  # the Prometheus name, "" when the name does not tell
    target_type: str = "AverageValue"  # or Value, Utilization
    described: str = ""  # an Object metric's kind
    query: Query | None = None  # of a KEDA trigger on Prometheus

    @property
    def signal(self) -> str | None:
        """waiting, running or kv_usage."""
        return signal_of(self.series or self.name)

    @property
    def of_engine(self) -> bool:
        """Whether its values come from vLLM's pods: a gateway's, a router's or a queue's do not."""
        if self.query is not None:
            return any(selector.of_engine for selector in self.query.selectors)
        return self.route in ("stackdriver", "adapter", "autoscalingmetric") and self.kind != "External"


@dataclass(frozen=True)
class Scaler:
    """An HPA or a ScaledObject."""

    source: Located
    target_path: Path
    api: str
    kind: str
    name: str
    low: int
    high: int
    metrics: list[Metric]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it scales: kind, namespace, name."""
        return self.kind, self.source.namespace, self.name


def chips_of(container: Mapping[str, Any]) -> int:
    """Accelerator chips that a container asks for."""
    resources = mapping(container.get("resources"))
    return max(
        (
            whole(mapping(resources.get(key)).get(chip)) or 0
            for key in ("limits", "requests")
            for chip in CHIPS
        ),
        default=0,
    )


def whole(value: object) -> int | None:
    """A count written as number or text, None when it is not one."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    try:
        found = parse_quantity(value).value
    except BadInput:
        return None
    return int(found) if found.denominator == 1 else None


def milli(value: object) -> int | None:
    """A quantity in milli-units, None when it is not one."""
    try:
        return parse_quantity(value).milli
    except BadInput:
        return None


def matches(selector: object, labels: Mapping[str, str | None]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) selects these labels; an empty one selects all."""
    selector = mapping(selector)
    for key, value in mapping(selector.get("matchLabels")).items():
        if key not in labels or labels[key] not in (None, str(value)):
            return False
    for expression in map(mapping, items(selector.get("matchExpressions"))):
        name, values = str(expression.get("key")), [str(v) for v in items(expression.get("values"))]
        have, there = labels.get(name), name in labels
        match expression.get("operator"):
            case "In" if not (there and (have is None or have in values)):
                return False
            case "NotIn" if there and have is not None and have in values:
                return False
            case "Exists" if not there:
                return False
            case "DoesNotExist" if there:
                return False
    return True


def serves(argv: list[str]) -> bool:
    if any(
        re.search(r"vllm\.entrypoints\.[\w.]*api_server|vllm/entrypoints/[\w/]*api_server", word)
        for word in argv
    ):
        return True
    pairs = pairwise(argv)
    return any(first.rsplit("/", 1)[-1] == "vllm" and second == "serve" for first, second in pairs)


def templates_of(located: Located) -> Iterator[Template]:
    if located.kind == "LeaderWorkerSet":
        yield from _group_templates(located)
    elif located.kind in _TEMPLATES:
        path = _TEMPLATES[located.kind]
        template = Template(located, path, "pod", {})
        labels: Labels = {
            str(k): str(v)
            for k, v in mapping(mapping(template.content.get("metadata")).get("labels")).items()
        }
        if located.kind == "StatefulSet":
            labels |= {"statefulset.kubernetes.io/pod-name": None, "apps.kubernetes.io/pod-index": None}
        if located.kind == "Deployment":
            labels |= {"pod-template-hash": None}
        if located.kind == "Job":
            labels |= dict.fromkeys(("job-name", "batch.kubernetes.io/job-name"), located.name)
        yield Template(located, path, "pod", labels)


def _group_templates(located: Located) -> Iterator[Template]:
    inner = mapping(located.spec.get("leaderWorkerTemplate"))
    size = whole(inner.get("size")) or 1
    for role, index in (("leader", "0"), ("worker", None)):
        key = (
            "leaderTemplate"
            if role == "leader" and isinstance(inner.get("leaderTemplate"), dict)
            else "workerTemplate"
        )
        if not isinstance(inner.get(key), dict) or (
            role == "worker" and size < 2 and "leaderTemplate" in inner
        ):
            continue
        given = mapping(mapping(inner[key].get("metadata")).get("labels"))
        labels: Labels = {str(k): str(v) for k, v in given.items()}
        labels |= {f"{LWS_LABEL}/name": located.name, f"{LWS_LABEL}/worker-index": index or "1"}
        labels |= {
            f"{LWS_LABEL}/{key}": None for key in ("group-index", "group-key", "template-revision-hash")
        }
        yield Template(located, ("spec", "leaderWorkerTemplate", key), role, labels)


def scaler_of(located: Located) -> Scaler:
    spec = located.spec
    target = mapping(spec.get("scaleTargetRef"))
    keda = located.kind == "ScaledObject"
    low = whole(spec.get("minReplicaCount" if keda else "minReplicas"))
    high = whole(spec.get("maxReplicaCount" if keda else "maxReplicas"))
    default_low, default_high = (0, 100) if keda else (1, 0)
    metrics = list(_triggers(spec) if keda else _hpa_metrics(spec))
    return Scaler(
        located,
        ("spec", "scaleTargetRef"),
        str(target.get("apiVersion") or ("apps/v1" if keda else "")),
        str(target.get("kind") or ("Deployment" if keda else "")),
        str(target.get("name") or ""),
        default_low if low is None else low,
        default_high if high is None else high,
        metrics,
    )


def _hpa_metrics(spec: dict[str, Any]) -> Iterator[Metric]:
    for index, metric in enumerate(items(spec.get("metrics"))):
        metric = mapping(metric)
        kind = str(metric.get("type") or "")
        key = kind[:1].lower() + kind[1:]
        source = mapping(metric.get(key))
        path: Path = ("spec", "metrics", index, key)
        target = mapping(source.get("target"))
        field_name = next((name for name in ("averageValue", "value") if name in target), "averageValue")
        value = milli(target.get(field_name))
        if kind in ("Resource", "ContainerResource"):
            yield Metric(
                (*path, "name"), kind, str(source.get("name") or ""), value, (*path, "target"), "resource"
            )
            continue
        name = str(mapping(source.get("metric")).get("name") or "")
        route, series = _route(kind, name)
        yield Metric(
            (*path, "metric", "name"),
            kind,
            name,
            value,
            (*path, "target", field_name),
            route,
            series,
            str(target.get("type") or ""),
            str(mapping(source.get("describedObject")).get("kind") or ""),
        )


def _route(kind: str, name: str) -> tuple[Route, str]:
    parts = name.split("|")
    if parts[0] == "prometheus.googleapis.com":
        return "stackdriver", parts[1] if len(parts) > 1 else ""
    if parts[0] == "autoscaling.gke.io":
        return "autoscalingmetric", ""
    return ("external" if kind == "External" else "adapter"), name if name.startswith("vllm:") else ""


def _triggers(spec: dict[str, Any]) -> Iterator[Metric]:
    """The triggers of a ScaledObject; with a formula their own thresholds and metric types count for nothing."""
    composite = formula_of(spec) is not None
    for index, trigger in enumerate(items(spec.get("triggers"))):
        trigger = mapping(trigger)
        path: Path = ("spec", "triggers", index, "metadata")
        metadata = mapping(trigger.get("metadata"))
        kind = str(trigger.get("type") or "")
        text = str(metadata.get("query") or "") if kind == "prometheus" else ""
        query = lint_query.read(text) if kind == "prometheus" else None
        engine = (
            [s.name for s in query.selectors if s.of_engine and s.name.startswith("vllm:")] if query else []
        )
        yield Metric(
            (*path, "query"),
            kind,
            text,
            None if composite or query is None else milli(metadata.get("threshold")),
            (*path, "threshold"),
            "resource" if kind in ("cpu", "memory") else "keda",
            next(iter(engine), ""),
            "" if composite else str(trigger.get("metricType") or "AverageValue"),
            query=query,
        )


def formula_of(spec: Mapping[str, Any]) -> str | None:
    """A ScaledObject's scalingModifiers formula, None without one."""
    modifiers = mapping(mapping(spec.get("advanced")).get("scalingModifiers"))
    return str(modifiers["formula"]) if modifiers.get("formula") else None


def behavior_of(scaler: Located) -> tuple[Path, dict[str, Any]]:
    """The behavior block of an HPA, or the one that a ScaledObject hands to its HPA, with its place."""
    path: Path = ("spec", "behavior")
    if scaler.kind == "ScaledObject":
        path = ("spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")
    value: Any = scaler.object
    for key in path:
        value = mapping(value).get(str(key))
    return path, mapping(value)
