"""What one rule of prometheus-adapter says: the series it serves, under which name, for which kinds of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from analysis.documents import Problem, documents
from autoscale.kube.objects import Object, items, mapping
from autoscale.lint import query as lint_query
from autoscale.lint.findings import Located
from autoscale.lint.parts import Path
from autoscale.lint.query import Query


@dataclass(frozen=True)
class AdapterRule:
    """A rule with its place: in Helm values, in a configuration file, or in a ConfigMap."""

    source: Located
    path: Path
    content: Object
    external: bool

    @cached_property
    def series(self) -> str:
        """The series that it serves, "" when a pattern chooses them."""
        found = lint_query.read_query(str(self.content.get("seriesQuery") or "")).selectors
        name = found[0].name if found else ""
        return name if re.fullmatch(r"[\w:]*", name) else ""

    @cached_property
    def makes(self) -> str:
        """The metric's name for an HPA."""
        name = mapping(self.content.get("name"))
        pattern, replacement = str(name.get("matches") or ""), name.get("as")
        try:
            found = re.search(pattern, self.series) if pattern else None
            if replacement is None:
                return found[1] if found and found.groups() else self.series
            if found:
                return re.sub(pattern, re.sub(r"\$\{?(\d+)\}?", r"\\\1", str(replacement)), self.series)
        except re.error:
            return self.series
        return str(replacement) if not pattern else self.series

    @cached_property
    def labels(self) -> dict[str, str]:
        """The series' label of each resource: pod, namespace, ...; singular names."""
        resources = mapping(self.content.get("resources"))
        found = {
            str(mapping(entry).get("resource")).removesuffix("s"): str(label)
            for label, entry in mapping(resources.get("overrides")).items()
        }
        template = resources.get("template")
        if isinstance(template, str):
            for resource in ("pod", "namespace"):
                found.setdefault(resource, re.sub(r"<<\s*\.Resource\s*>>", resource, template))
        return found

    @property
    def has_template(self) -> bool:
        """Whether any resource is mapped, by a pattern."""
        return isinstance(mapping(self.content.get("resources")).get("template"), str)

    @cached_property
    def template(self) -> str:
        """The query as it is written."""
        return str(self.content.get("metricsQuery") or "")

    @cached_property
    def query(self) -> Query:
        """The query with its template words put in."""
        text = self.template or "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)"
        text = re.sub(r"<<\s*\.Series\s*>>", self.series or "series", text)
        text = re.sub(r"<<\s*\.LabelMatchers\s*>>", "", text)
        return lint_query.read_query(re.sub(r"<<\s*\.GroupBy\s*>>", "", text))


def adapter_rules(values: Iterator[Located], configs: Iterator[Located]) -> Iterator[AdapterRule]:
    """Every rule of Helm values, configuration files and ConfigMaps."""
    for located in values:
        given = located.object["rules"]
        for index, rule in enumerate(items(given)):
            yield AdapterRule(located, ("rules", index), mapping(rule), False)
        for key in ("custom", "external"):
            for index, rule in enumerate(items(mapping(given).get(key))):
                yield AdapterRule(located, ("rules", key, index), mapping(rule), key == "external")
    for located, path, text in adapter_configs(configs):
        first = next(documents(text, {}), None)
        if first is not None and not isinstance(first, Problem):
            for name in ("rules", "externalRules"):
                for rule in items(mapping(first.value).get(name)):
                    yield AdapterRule(located, path, mapping(rule), name == "externalRules")


def adapter_configs(configs: Iterator[Located]) -> Iterator[tuple[Located, Path, str]]:
    """Texts in ConfigMaps that are the adapter's configuration."""
    for located in configs:
        for key, text in mapping(located.object.get("data")).items():
            if isinstance(text, str) and "seriesQuery" in text:
                yield located, ("data", str(key)), text
