"""Rules on any text of an object: secrets in plain text, places left to fill in, numbers where text is wanted."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from autoscale.deploy.choices import PLACEHOLDERS
from autoscale.deploy.lint_facts import Facts
from autoscale.deploy.lint_parts import Path
from autoscale.deploy.lint_report import Finding, Located, items, mapping

TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}|AIza[A-Za-z0-9_-]{30,})\b"
)
NO_SECRET = re.compile(
    r"[$<{]|^(your|my|changeme|example|replace|xxx|todo|\*+|redacted|none|empty|dummy)", re.I
)
_SECRET_NAME = re.compile(
    r"(?<!per_)(?<!max_)(?<!min_)(?<!num_)TOKEN$|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.I
)
_NAMES_A_PLACE = re.compile(r"_(FILE|PATH|DIR|NAME|REF|URL|URI|ENABLED|HEADER|TTL)$", re.I)
_PLAIN = re.compile(r"[-+]?\d*\.?\d+|true|false|yes|no|on|off|/\S*|https?://[^@\s]*", re.I)

# a word that stands for what the reader must put there: the whole value, or a part of it between /, :, @, = or commas
_WORDS = "|".join(PLACEHOLDERS)
_FILL_IN = re.compile(
    rf"(?:{_WORDS}|PROJECT|PROJECT_NUMBER|(?:KSA|GSA|VPC|SUBNET|NODE_POOL)_NAME|SERVICE_ACCOUNT"
    r"|(?:\w+[-_])?(?:REPLACE|CHANGE)[-_]?(?:ME|THIS)(?:[-_]\w+)*|REPLACE_WITH_\w+|YOUR_\w+|MY_\w+|INSERT_\w+|TODO|FIXME|XXX+"
    r"|<[A-Za-z][\w .:/-]*>|\[(?:YOUR|INSERT|REPLACE)[\w -]*\]"
    r"|(?i:your|replace|change)-(?i:me|this|with|project|bucket|token|hf-token|model|image|registry|namespace|region|zone"
    r"|cluster|domain|host|key|api-key|secret|name|account|org|username|password|repo)(?:-\w+)*)"
)
_PARTS = re.compile(r"[/:@=,\s]+")
_SPECIAL_TOKEN = re.compile(r"<\|?(s|/s|eos|bos|pad|unk|think|/think|tool_call|br|nil|none)\|?>", re.I)
_PROSE = (
    "description",
    "summary",
    "message",
    "runbook_url",
    "kubectl.kubernetes.io/last-applied-configuration",
)


def rules(facts: Facts) -> Iterator[Finding]:
    """Findings on the texts of every object."""
    for located in facts.objects:
        if located.kind in ("Script", "AdapterRules"):
            continue
        yield from _placeholders(located)
        yield from _not_text(located)
        if located.kind == "Secret":
            yield from _secret(located)
    for template in facts.templates:
        for path, container in template.containers():
            for index, name, value in _secrets_in(container):
                if not NO_SECRET.search(value) and not TOKEN.search(value):
                    yield inline(template.owner, (*path, "env", index, "value"), name)


# --- secrets ---------------------------------------------------------------------------------------------------------


def inline(located: Located, path: Path, name: str) -> Finding:
    """The finding about a secret that stands at a path."""
    return located.finding(
        "error",
        "secret-inline",
        path,
        f"{name} holds a secret in plain text.",
        "Everybody who reads the file, the object or the repository has it.",
        "Revoke it; refer to a Secret with valueFrom.secretKeyRef.",
    )


def _secrets_in(container: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """(index, name, value) of variables whose name says that they hold a secret, and whose value may be one."""
    for index, entry in enumerate(items(container.get("env"))):
        name, value = str(mapping(entry).get("name") or ""), mapping(entry).get("value")
        if not value or not _SECRET_NAME.search(name) or _NAMES_A_PLACE.search(name):
            continue
        counts = (
            re.search(r"TOKEN$", name, re.I) is not None
        )  # a password of digits is one, a token of digits a count
        if not _PLAIN.fullmatch(str(value)) or (not counts and re.fullmatch(r"\d{4,}", str(value))):
            yield index, name, str(value)


def _secret(located: Located) -> Iterator[Finding]:
    if located.object.get("type", "Opaque") != "Opaque":
        return
    for part in ("data", "stringData"):
        for key, value in mapping(located.object.get(part)).items():
            text = str(value or "")
            if part == "data":
                try:
                    text = base64.b64decode(text, validate=True).decode()
                except (binascii.Error, UnicodeDecodeError):
                    text = text or ""
            if text and not NO_SECRET.search(text.strip()):
                yield inline(located, (part, str(key)), f"{part}.{key}")


# --- left to fill in -------------------------------------------------------------------------------------------------


def left_open(text: str) -> str | None:
    """The first word of a value that stands for something the reader must put there, None when it has none."""
    if len(text) > 300 or "\n" in text:  # a script or a document: its words are its own
        return None
    if _FILL_IN.fullmatch(text) and not _SPECIAL_TOKEN.fullmatch(text):
        return text
    if found := re.search(r"<(?!\|)[A-Za-z][\w .-]*>", text):
        return None if _SPECIAL_TOKEN.fullmatch(found[0]) or " " in text.strip() else found[0]
    return (
        next((part for part in _PARTS.split(text) if _FILL_IN.fullmatch(part)), None)
        if " " not in text
        else None
    )


def _placeholders(located: Located) -> Iterator[Finding]:
    stack: list[tuple[Path, Any]] = [((), located.object)]
    while stack:
        path, value = stack.pop()
        if path[:1] == ("status",) or (path and path[-1] in _PROSE) or path[-1:] == ("openAPIV3Schema",):
            continue
        if isinstance(value, dict):
            stack += [((*path, str(key)), item) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, str) and (word := left_open(value)):
            yield located.finding(
                "error",
                "placeholder",
                path,
                f"{word} stands for something that was never filled in"
                + (f": {value}." if word != value else "."),
                "The API server refuses the value, or takes it for a name that does not exist.",
                "Write the real value.",
            )


# --- text, not numbers -----------------------------------------------------------------------------------------------

_STRING_MAPS = ("labels", "annotations", "matchLabels", "nodeSelector", "volumeAttributes")
_WHOLE_MAPS = {
    ("ConfigMap", "data"),
    ("Secret", "stringData"),
    ("StorageClass", "parameters"),
}


def _not_text(located: Located) -> Iterator[Finding]:
    """Values for which the API has the type string, written so that YAML reads a number or a boolean."""
    for path, value in _texts(located):
        if isinstance(value, bool | int | float) or (isinstance(value, dict | list) and "triggers" in path):
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            name = str(path[-2] if path[-1] == "value" and len(path) > 1 else path[-1])
            simple = isinstance(value, bool | int | float)
            yield located.finding(
                "error",
                "not-a-string",
                path,
                f"{name} is {'a number or boolean' if simple else 'a mapping or list'}, the API wants text.",
                "An API server refuses the object.",
                f'Write it in quotes: "{shown}".' if simple else "Move it out of metadata, beside type.",
            )


def _texts(located: Located) -> Iterator[tuple[Path, Any]]:
    """(path, value) of everything that must be text."""
    for kind, part in _WHOLE_MAPS:
        if located.kind == kind:
            yield from (((part, str(key)), value) for key, value in mapping(located.object.get(part)).items())
    for key in ("labels", "annotations"):
        yield from ((("metadata", key, str(k)), v) for k, v in mapping(located.metadata.get(key)).items())
    if located.kind == "Service":
        yield from (
            (("spec", "selector", str(k)), v) for k, v in mapping(located.spec.get("selector")).items()
        )
    if located.kind == "ScaledObject":
        for index, trigger in enumerate(items(located.spec.get("triggers"))):
            given = mapping(mapping(trigger).get("metadata"))
            yield from ((("spec", "triggers", index, "metadata", str(k)), v) for k, v in given.items())
    if located.api.split("/")[0] in ("apps", "batch", "v1", "policy") or located.kind == "LeaderWorkerSet":
        yield from _deep_texts(located)


def _deep_texts(located: Located) -> Iterator[tuple[Path, Any]]:
    """The texts inside the spec of a kind whose fields are Kubernetes' own."""
    stack: list[tuple[Path, Any]] = [(("spec",), located.spec)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
            continue
        for key, item in mapping(value).items():
            here = (*path, str(key))
            if key in _STRING_MAPS:
                yield from (((*here, str(k)), v) for k, v in mapping(item).items())
            elif key in ("command", "args"):
                yield from (((*here, index), v) for index, v in enumerate(items(item)))
            elif key == "env":
                yield from (((*here, i, "value"), mapping(e).get("value")) for i, e in enumerate(items(item)))
            elif key == "values" and "operator" in mapping(value):
                yield from (((*here, index), v) for index, v in enumerate(items(item)))
            if isinstance(item, dict | list) and key not in _STRING_MAPS:
                stack.append((here, item))
