"""A set of objects with the indexes that rules ask for: templates, servers, scalers, names and labels."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from autoscale.kube.kinds import SCALABLE
from autoscale.kube.objects import Object, items, mapping
from autoscale.kube.scaler import Hpa
from autoscale.kube.selectors import object_selects
from autoscale.kube.vllm_names import COUNTERS, GAUGES, HISTOGRAMS
from autoscale.lint import query as lint_query
from autoscale.lint import shell
from autoscale.lint.findings import Located
from autoscale.lint.parts import PodTemplate, VllmServer, serves, templates_of
from autoscale.lint.query import Shape
from autoscale.lint.scalers import Metric, Scaler, scaler_of
from autoscale.lint.sources import AdapterRule, adapter_rules

# scrape objects: where their endpoints stand, and what relabels what was scraped
SCRAPES = {
    "PodMonitoring": ("endpoints", "metricRelabeling"),
    "ClusterPodMonitoring": ("endpoints", "metricRelabeling"),
    "PodMonitor": ("podMetricsEndpoints", "metricRelabelings"),
    "ServiceMonitor": ("endpoints", "metricRelabelings"),
}
VLLM_FLAGS = {"max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization"}  # no other server has these


@dataclass
class Facts:
    """One set of objects with indexes; `unseen` are kinds that could not be read, `max_nodes` the node pool's bound,
    `measured` the engine of the recommendation that the set shall carry."""

    objects: Sequence[Located]
    max_nodes: int | None = None
    unseen: frozenset[str] = frozenset()
    measured: Mapping[str, object] = field(default_factory=dict)
    by_kind: dict[str, list[Located]] = field(default_factory=dict)
    _first_labels: dict[tuple[str, str | None], list[Located]] | None = None
    _commands: dict[int, list[list[str]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Index the objects by kind."""
        index = defaultdict(list)
        for located in self.objects:
            index[located.kind].append(located)
        self.by_kind = dict(index)

    def of(self, *kinds: str) -> Iterator[Located]:
        """Objects of these kinds."""
        for kind in kinds:
            yield from self.by_kind.get(kind, ())

    def count(self, *kinds: str) -> int:
        """How many objects there are of these kinds."""
        return sum(len(self.by_kind.get(kind, ())) for kind in kinds)

    @cached_property
    def adapter_rules(self) -> list[AdapterRule]:
        """Every rule of prometheus-adapter in the set."""
        return list(adapter_rules(self.of("AdapterRules"), self.of("ConfigMap")))

    def rule_of(self, metric: Metric) -> AdapterRule | None:
        """The adapter's rule that makes an HPA's metric, None when the set has none."""
        external = metric.kind == "External"
        return next(
            (r for r in self.adapter_rules if r.external == external and r.makes == metric.name), None
        )

    def shape_of(self, metric: Metric) -> Shape:
        """Whether a metric's value is a total over the pods or a level, as far as the set tells."""
        if metric.query is not None:
            return metric.query.shape
        rule = self.rule_of(metric)
        if rule is None or rule.query.selectors == ():
            return "unknown"
        inner = re.sub(r"\b(by|without)\s*\([^)]*\)", "", rule.query.text)  # one group is the object itself
        return lint_query.read_query(inner).shape

    @cached_property
    def renamed(self) -> set[str]:
        """Series of engines that recording rules or relabelling of this set serve under another name."""
        found: set[str] = set()
        for located in self.of("PrometheusRule", "Rules", "ClusterRules"):
            for group in map(mapping, items(located.spec.get("groups"))):
                found |= {str(mapping(rule).get("record")) for rule in items(group.get("rules"))}
        names = [f"vllm:{name}" for name in GAUGES | COUNTERS | {f"{c}_total" for c in COUNTERS} | HISTOGRAMS]
        for located in self.of(*SCRAPES):
            key, relabel = SCRAPES[located.kind]
            for endpoint in map(mapping, items(located.spec.get(key))):
                for rule in map(mapping, items(endpoint.get(relabel))):
                    found |= set(_renaming(rule, names))
        return found

    @cached_property
    def added_labels(self) -> set[str]:
        """Labels that the scraping of this set adds to every series of a target."""
        found: set[str] = set()
        for located in self.of(*SCRAPES):
            given = located.spec.get("targetLabels")
            of_pod = items(mapping(given).get("fromPod"))
            found |= {str(mapping(one).get("to") or mapping(one).get("from")) for one in of_pod}
            found |= set(map(str, (*items(given), *items(located.spec.get("podTargetLabels")))))
            for endpoint in map(mapping, items(located.spec.get(SCRAPES[located.kind][0]))):
                rules = [*items(endpoint.get("relabelings")), *items(endpoint.get(SCRAPES[located.kind][1]))]
                found |= {str(mapping(rule).get("targetLabel")) for rule in rules}
        return found

    def by_first_label(self, kinds: Iterable[str]) -> dict[tuple[str, str | None], list[Located]]:
        """Objects of these kinds by the first label that they select; ("", None) for those without one."""
        if self._first_labels is None:
            self._first_labels = defaultdict(list)
            for located in self.of(*kinds):
                pairs = mapping(mapping(located.spec.get("selector")).get("matchLabels"))
                key, value = next(iter(pairs.items()), ("", None))
                self._first_labels[str(key), None if value is None else str(value)].append(located)
        return self._first_labels

    @cached_property
    def templates(self) -> list[PodTemplate]:
        """Every pod template of the set."""
        return [template for located in self.objects for template in templates_of(located)]

    @cached_property
    def templates_by_owner(self) -> dict[tuple[str, str, str], list[PodTemplate]]:
        """Templates by kind, namespace and name of their workload."""
        index = defaultdict(list)
        for template in self.templates:
            index[template.owner.kind, template.owner.namespace, template.owner.name].append(template)
        return dict(index)

    @cached_property
    def servers(self) -> list[VllmServer]:
        """Every vLLM API server of the set."""
        return [server for template in self.templates for server in self._servers(template)]

    @cached_property
    def servers_by_owner(self) -> dict[tuple[str, str, str], list[VllmServer]]:
        """Servers by kind, namespace and name of their workload."""
        index = defaultdict(list)
        for server in self.servers:
            index[server.owner.kind, server.owner.namespace, server.owner.name].append(server)
        return dict(index)

    @cached_property
    def servers_by_space(self) -> dict[str, list[VllmServer]]:
        """Servers by namespace."""
        index = defaultdict(list)
        for server in self.servers:
            index[server.owner.namespace].append(server)
        return dict(index)

    @cached_property
    def scalers(self) -> list[Scaler]:
        """Every HPA and ScaledObject of the set; one that KEDA made is judged as its ScaledObject, where that is here."""
        here = {(located.namespace, located.name) for located in self.of("ScaledObject")}
        found = self.of("HorizontalPodAutoscaler", "ScaledObject")
        made = ((located, Hpa(located.object).made_by) for located in found)
        return [scaler_of(one) for one, by in made if not by or (one.namespace, by) not in here]

    @cached_property
    def scaler_of(self) -> dict[tuple[str, str, str], Scaler]:
        """The scaler of each workload, by the workload's kind, namespace and name."""
        return {scaler.key: scaler for scaler in self.scalers}

    @cached_property
    def unscaled(self) -> list[Located]:
        """Workloads that serve vLLM and that no scaler targets."""
        owners = {key: servers[0].owner for key, servers in self.servers_by_owner.items()}
        return [o for key, o in owners.items() if key not in self.scaler_of and o.kind in SCALABLE]

    @cached_property
    def names(self) -> dict[tuple[str, str], list[Located]]:
        """Objects by kind and name."""
        index = defaultdict(list)
        for located in self.objects:
            index[located.kind, located.name].append(located)
        return dict(index)

    def by_name(self, kind: str, name: str) -> list[Located]:
        """Objects of a kind with this name, in any namespace."""
        return self.names.get((kind, name), [])

    def headless(self, name: str) -> bool:
        """Whether a controller makes a Service of this name (a LeaderWorkerSet does)."""
        return bool(self.by_name("LeaderWorkerSet", name))

    def selected(self, selector: object, namespace: str | None = None) -> list[VllmServer]:
        """Servers whose pods a selector chooses, in one namespace or in all."""
        pairs = mapping(mapping(selector).get("matchLabels"))
        near: list[VllmServer] = self.servers
        if pairs:
            key, value = next(iter(pairs.items()))
            near = self._servers_by_label.get((str(key), str(value)), []) + self._servers_by_label.get(
                (str(key), None), []
            )
        elif namespace is not None:
            near = self.servers_by_space.get(namespace, [])
        return [
            server
            for server in near
            if namespace in (None, server.owner.namespace)
            and object_selects(selector, server.template.labels)
        ]

    @cached_property
    def _servers_by_label(self) -> dict[tuple[str, str | None], list[VllmServer]]:
        index = defaultdict(list)
        for server in self.servers:
            for pair in server.template.labels.items():
                index[pair].append(server)
        return dict(index)

    def commands(self, template: PodTemplate, container: Object) -> list[list[str]]:
        """The simple commands of a container, scripts from mounted ConfigMaps included."""
        if id(container) not in self._commands:
            self._commands[id(container)] = list(self._read_commands(template, container))
        return self._commands[id(container)]

    def _read_commands(self, template: PodTemplate, container: Object) -> Iterator[list[str]]:
        argv = shell.words(container)
        yield from shell.commands(argv)
        text = " ".join(argv)
        volumes = {str(v.get("name")): v for v in map(mapping, items(template.spec.get("volumes")))}
        for mount in map(mapping, items(container.get("volumeMounts"))):
            source = mapping(volumes.get(str(mount.get("name")), {}).get("configMap"))
            where = str(mount.get("mountPath") or "")
            if not source or not where or where not in text:
                continue
            for config in self.by_name("ConfigMap", str(source.get("name") or "")):
                if config.namespace == template.owner.namespace:
                    for key, script in mapping(config.object.get("data")).items():
                        if isinstance(script, str) and (
                            f"{where.rstrip('/')}/{key}" in text or where.endswith(key)
                        ):
                            yield from shell.script_commands(
                                shell.expand(script, shell.environment(container))
                            )

    def _servers(self, template: PodTemplate) -> Iterator[VllmServer]:
        for path, container in template.containers(init=False):
            found = next(filter(serves, reversed(self.commands(template, container))), None)
            if found is None and template.role != "worker":
                found = self._presumed(template, container)
            if found is not None:
                yield VllmServer(template, path, container, found, shell.flags(found))

    def _presumed(self, template: PodTemplate, container: Object) -> list[str] | None:
        """The arguments of a server whose command line does not say so: vLLM's image, or another with vLLM's flags."""
        image = str(container.get("image") or "")
        if "vllm" in image and not container.get("command"):
            argv = shell.words(container)  # the image's own entry point is the API server
            if "model" in shell.flags(argv) or "vllm-openai" in image:
                return argv
        if template.owner.kind not in SCALABLE:
            return None
        commands = self.commands(template, container)
        return next((argv for argv in commands if VLLM_FLAGS & set(shell.flags(argv))), None)


def _renaming(rule: Object, names: Iterable[str]) -> Iterator[str]:
    """The new names that a relabelling rule gives to series."""
    if rule.get("targetLabel") != "__name__" or str(rule.get("action", "replace")).lower() != "replace":
        return
    replacement = re.sub(r"\$\{?(\d+)\}?", r"\\\1", str(rule.get("replacement", "$1")))
    for name in names:
        try:
            found = re.fullmatch(str(rule.get("regex", "(.*)")), name)
            if found:
                yield found.expand(replacement)
        except (re.error, IndexError):
            return
