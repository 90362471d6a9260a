"""What a linter says: findings with their place, what happens if they are left, and the fix; as JSON and SARIF."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from analysis.documents import Key
from analysis.redact import redact
from autoscale.kube.kinds import CLUSTER_WIDE
from autoscale.kube.objects import Object, mapping

Severity = Literal["error", "warning", "note"]
Places = Mapping[int, Mapping[Key, tuple[int, int]]]  # id of a mapping or list -> its key -> (line, column)

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
RANK = {severity: number for number, severity in enumerate(SEVERITIES)}
_SARIF_LEVEL = {"error": "error", "warning": "warning", "note": "note"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. error: the HPA will not work or an outage follows; warning: works, but costs or
    breaks under load; note: advice, or normal and worth knowing because it looks like a fault. `line` and `column` count
    from 1, 0 = unknown."""

    severity: Severity
    code: str
    kind: str
    namespace: str
    name: str
    field: str
    problem: str
    consequence: str
    fix: str
    file: str = ""
    line: int = 0
    column: int = 0
    evidence: Mapping[str, object] = dataclasses.field(
        default_factory=dict, compare=False
    )  # a live cluster's figures

    def __post_init__(self) -> None:
        for part in ("problem", "consequence", "fix"):
            object.__setattr__(self, part, redact(getattr(self, part)))

    @property
    def cause(self) -> str:
        """What is wrong and what follows, in one text."""
        return f"{self.problem} {self.consequence}".strip()

    @property
    def object(self) -> str:
        """kind namespace/name, as far as known."""
        name = "/".join(part for part in (self.namespace, self.name) if part)
        return " ".join(part for part in (self.kind, name) if part)

    @property
    def place(self) -> str:
        """file:line, as far as known."""
        return f"{self.file}:{self.line}" if self.file and self.line else self.file


@dataclass(frozen=True)
class Located:
    """A Kubernetes object (or the text of a script, kind Script) and where it was read."""

    object: Object
    file: str = ""
    line: int = 0
    places: Places = field(default_factory=dict, compare=False, repr=False)
    root: str = ""  # the kustomization that it belongs to

    @property
    def kind(self) -> str:
        """The object's kind, "" when it has none."""
        return str(self.object.get("kind") or "")

    @property
    def api(self) -> str:
        """The object's apiVersion, "" when it has none."""
        return str(self.object.get("apiVersion") or "")

    @property
    def name(self) -> str:
        """metadata.name, or the generateName."""
        return str(self.metadata.get("name") or self.metadata.get("generateName") or "")

    @property
    def namespace(self) -> str:
        """metadata.namespace; kubectl puts objects without one into "default"."""
        return str(self.metadata.get("namespace") or "default")

    @property
    def metadata(self) -> Object:
        """The metadata as a mapping, empty when it is anything else."""
        return mapping(self.object.get("metadata"))

    @property
    def spec(self) -> Object:
        """The spec as a mapping, empty when it is anything else."""
        return mapping(self.object.get("spec"))

    def at(self, *path: Key) -> tuple[int, int]:
        """Line and column of the value at a path, or of the deepest part of it that exists."""
        value: Any = self.object
        place = (self.line, 1 if self.line else 0)
        for key in path:
            place = self.places.get(id(value), {}).get(key, place)
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                break
        return place

    def finding(
        self,
        severity: Severity,
        code: str,
        path: tuple[Key, ...],
        problem: str,
        consequence: str,
        fix: str,
        evidence: Mapping[str, Any] | None = None,
    ) -> Finding:
        """A finding about the value at `path` of this object."""
        line, column = self.at(*path)
        return Finding(
            severity,
            code,
            self.kind,
            self.namespace if self.kind not in CLUSTER_WIDE else "",
            self.name,
            dotted(path),
            problem,
            consequence,
            fix,
            self.file,
            line,
            column,
            evidence or {},
        )


@dataclass(frozen=True)
class Report:
    """All findings, the worst first within a file order, and notes on what was not looked at."""

    findings: list[Finding]
    notes: list[str] = field(default_factory=list)
    objects: int = 0  # how many were looked at

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return self.count("error")

    @property
    def warnings(self) -> int:
        """How many findings are warnings."""
        return self.count("warning")

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, object]:
        """The report as plain data for machines."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "objects": self.objects,
            "findings": [_as_json(finding) for finding in self.findings],
            "notes": self.notes,
        }

    def sarif(self) -> dict[str, object]:
        """The report as SARIF 2.1.0, the format in which code hosts show findings beside the lines."""
        first = {finding.code: finding for finding in reversed(self.findings)}
        rules = [
            {
                "id": code,
                "shortDescription": {"text": code.replace("-", " ")},
                "help": {"text": f"{first[code].consequence} {first[code].fix}".strip()},
                "defaultConfiguration": {"level": _SARIF_LEVEL[first[code].severity]},
            }
            for code in sorted(first)
        ]
        index = {code: number for number, code in enumerate(sorted(first))}
        driver = {"name": "autoscale lint", "rules": rules}
        notes = [{"level": "note", "message": {"text": note}} for note in self.notes]
        return {
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [
                {
                    "tool": {"driver": driver},
                    "results": [_sarif_result(finding, index) for finding in self.findings],
                    "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
                }
            ],
        }


def _as_json(finding: Finding) -> dict[str, object]:
    """Every field; evidence, which only a live cluster gives, where there is some."""
    found = asdict(finding)
    return found if finding.evidence else {key: value for key, value in found.items() if key != "evidence"}


def _sarif_result(finding: Finding, index: Mapping[str, int]) -> dict[str, object]:
    text = f"{finding.problem} {finding.consequence} Fix: {finding.fix}"
    named = "/".join(part for part in (finding.kind, finding.namespace, finding.name, finding.field) if part)
    location: dict[str, object] = {}
    if named:
        location["logicalLocations"] = [{"fullyQualifiedName": named, "kind": "object"}]
    if finding.file:
        place: dict[str, object] = {"artifactLocation": {"uri": finding.file.replace("\\", "/")}}
        if finding.line:
            place["region"] = {"startLine": finding.line, "startColumn": max(1, finding.column)}
        location["physicalLocation"] = place
    return {
        "ruleId": finding.code,
        "ruleIndex": index[finding.code],
        "level": _SARIF_LEVEL[finding.severity],
        "message": {"text": text},
        **({"locations": [location]} if location else {}),
    }


def ordered(findings: list[Finding]) -> list[Finding]:
    """Without repetition: errors first, then by file, line, object and code."""
    return sorted(
        set(findings),
        key=lambda f: (
            RANK[f.severity],
            f.file,
            f.line,
            f.kind,
            f.namespace,
            f.name,
            f.code,
            f.field,
            f.problem,
        ),
    )


def dotted(path: tuple[Key, ...]) -> str:
    """A path as kubectl writes it: spec.metrics[0].pods; keys with dots or slashes in brackets."""
    text = ""
    for key in path:
        if isinstance(key, int) or "." in key or "/" in key:
            text += f"[{key}]"
        else:
            text += f".{key}" if text else key
    return text
