"""What one object says of pods: its templates, and the vLLM servers in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from analysis.errors import BadInput
from autoscale.hpa import parse_quantity
from autoscale.kube.kinds import ACCELERATORS, LWS_LABEL
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.vllm_names import image_version
from autoscale.lint.findings import Key, Located

Path = tuple[Key, ...]
Labels = dict[str, str | None]  # None: set by a controller, any value

VLLM_PORT = 8000  # --port's default
_TEMPLATES: dict[str, Path] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


@dataclass(frozen=True)
class PodTemplate:
    """A pod template; `role` is "pod", or "leader" or "worker" of a group."""

    owner: Located
    path: Path
    role: str
    labels: Labels

    @property
    def content(self) -> Object:
        """The template itself."""
        value: Any = self.owner.object
        for key in self.path:
            value = mapping(value).get(str(key))
        return mapping(value)

    @property
    def spec(self) -> Object:
        """The pod's spec."""
        return mapping(self.content.get("spec"))

    @property
    def annotations(self) -> Object:
        """The pod's annotations."""
        return mapping(mapping(self.content.get("metadata")).get("annotations"))

    def containers(self, *, init: bool = True) -> Iterator[tuple[Path, Object]]:
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
class VllmServer:
    """A container that serves vLLM's HTTP API, and what its command line says."""

    template: PodTemplate
    path: Path
    container: Object
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
        return int(given) if given.isascii() and given.isdigit() else None

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
        return int(text) if re.fullmatch(r"[0-9]+", text) else None

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


def chips_of(container: Mapping[str, object]) -> int:
    """Accelerator chips that a container asks for."""
    resources = mapping(container.get("resources"))
    return max(
        (
            whole_number(mapping(resources.get(key)).get(chip)) or 0
            for key in ("limits", "requests")
            for chip in ACCELERATORS
        ),
        default=0,
    )


def whole_number(value: object) -> int | None:
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


def serves(argv: list[str]) -> bool:
    if any(
        re.search(r"vllm\.entrypoints\.[\w.]*api_server|vllm/entrypoints/[\w/]*api_server", word)
        for word in argv
    ):
        return True
    pairs = pairwise(argv)
    return any(first.rsplit("/", 1)[-1] == "vllm" and second == "serve" for first, second in pairs)


def templates_of(located: Located) -> Iterator[PodTemplate]:
    if located.kind == "LeaderWorkerSet":
        yield from _group_templates(located)
    elif located.kind in _TEMPLATES:
        path = _TEMPLATES[located.kind]
        template = PodTemplate(located, path, "pod", {})
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
        yield PodTemplate(located, path, "pod", labels)


def _group_templates(located: Located) -> Iterator[PodTemplate]:
    inner = mapping(located.spec.get("leaderWorkerTemplate"))
    size = whole_number(inner.get("size")) or 1
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
        yield PodTemplate(located, ("spec", "leaderWorkerTemplate", key), role, labels)
