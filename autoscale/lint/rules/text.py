"""Rules on any text of an object: secrets in plain text, places left to fill in, numbers where text is wanted."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from analysis.redact import names_a_secret
from autoscale.deploy.choices import PLACEHOLDERS
from autoscale.kube.objects import Object, items, mapping
from autoscale.lint.facts import Facts
from autoscale.lint.findings import Finding, Located
from autoscale.lint.parts import Path

TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|ghp_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}|AIza[A-Za-z0-9_-]{30,})\b"
)
NO_SECRET = re.compile(
    r"[$<{]|^(your|my|changeme|example|replace|xxx|todo|\*+|redacted|none|empty|dummy)", re.I
)
_PLAIN = re.compile(r"[-+]?\d*\.?\d+|true|false|yes|no|on|off|/\S*|https?://[^@\s]*", re.I)

# words that stand for what the reader must put there, as a whole value or as a part of it between / : @ = and commas
_WORD = re.compile(
    rf"{'|'.join(PLACEHOLDERS)}|PROJECT|PROJECT_NUMBER|SERVICE_ACCOUNT|TODO|FIXME|XXX+"
    r"|(?:\w+[-_])?(?:REPLACE|CHANGE)[-_]?(?:ME|THIS)(?:[-_]\w+)*|REPLACE_WITH_\w+|(?:YOUR|MY|INSERT)_\w+"
    r"|(?i:\[(?:your|insert|replace)[\w -]*\])"
    r"|(?i:(?:your|replace|change)-(?:me|this|with|project|bucket|token|hf|model|image|registry|namespace|region|zone"
    r"|cluster|domain|host|key|api|secret|name|account|org|username|password|repo)(?:-\w+)*)"
)
_ANGLES = re.compile(r"<(?!\|)[A-Za-z][\w .:/-]*>")
# in a command <eos> is a token of the model, <your-token> is not
_ANGLES_IN_COMMAND = re.compile(
    r"<(?:(?i:your|my|insert|replace|enter|put)\b[\w .:/-]*|[A-Z][A-Z0-9 _-]*|[a-z]+(?:-[a-z]+)+)>"
)
# what envsubst, Terraform and kustomize fill in; a command has a shell that does, a kubelet fills in $(NAME) there, in env
# and in subPathExpr, and $1, ${1}, $labels and $__range mean something elsewhere
_VARIABLE = re.compile(r"\$(?:\{[A-Za-z_]\w*(?::[-=?+][^}]*)?\}|[A-Z][A-Z0-9_]*|\([A-Za-z_]\w*\))")
_OWN_VARIABLES = ("subPathExpr", "replacement")
_FILLS_IN = {"${": "Lint what envsubst or Terraform writes.", "$(": "Lint what `kustomize build` writes."}
_UPPER = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_LOWER_CASE = {
    "image",
    "serviceAccountName",
    "serviceAccount",
    "bucketName",
    "claimName",
    "secretName",
    "storageClassName",
}
_PARTS = re.compile(r"[/:@=,\s]+")
_PROSE = {
    "description",
    "summary",
    "message",
    "runbook_url",
    "kubectl.kubernetes.io/last-applied-configuration",
    "openAPIV3Schema",
}
_LONGEST = 300  # a longer text is a script or a document: its words are its own


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
    for server in facts.servers:
        key = server.flags.get("api-key", "")
        if key and not NO_SECRET.search(key) and not TOKEN.search(key):
            yield inline(server.owner, server.path, "--api-key")


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


def _secrets_in(container: Object) -> Iterator[tuple[int, str, str]]:
    """(index, name, value) of variables whose name says that they hold a secret, and whose value may be one."""
    for index, entry in enumerate(items(container.get("env"))):
        name, value = str(mapping(entry).get("name") or ""), mapping(entry).get("value")
        if not value or not names_a_secret(name):
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
            text = _decoded(value) if part == "data" else str(value or "")
            if text and not NO_SECRET.search(text.strip()):
                yield inline(located, (part, str(key)), f"{part}.{key}")


def _decoded(value: object) -> str:
    """A Secret's datum as text; as it is written when it is not base64 of text."""
    text = str(value or "")
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return text


# --- left to fill in -------------------------------------------------------------------------------------------------


def left_open(text: str, path: Path = ()) -> str | None:
    """The first word of the value at a path that stands for something to put there, None when it has none."""
    field = path[-1] if path else ""
    if len(text) > _LONGEST or "\n" in text or field == "key" or (field == "name" and "env" in path):
        return None  # a key or a variable may be called ZONE
    commands = {"command", "args", "env"} & set(path)
    if found := (_ANGLES_IN_COMMAND if commands else _ANGLES).search(text):
        return found[0]
    if not commands and field not in _OWN_VARIABLES and (found := _VARIABLE.search(text)):
        return found[0]
    if _WORD.fullmatch(text):
        return text
    if " " in text.strip():
        return None
    parts = _PARTS.split(text)
    if field in _LOWER_CASE or path in (("metadata", "name"), ("metadata", "namespace")):
        parts_of_name = _PARTS.split(text.split("@")[0].split(":")[0]) if field == "image" else parts
        if word := next((part for part in parts_of_name if _UPPER.fullmatch(part)), None):
            return word  # such names are lower case: the API server or the registry refuses any other
    return next((part for part in parts if _WORD.fullmatch(part)), None)


def _placeholders(located: Located) -> Iterator[Finding]:
    stack: list[tuple[Path, Any]] = [((), located.object)]
    while stack:
        path, value = stack.pop()
        if path[:1] == ("status",) or (path and path[-1] in _PROSE):
            continue
        if isinstance(value, dict):
            stack += [((*path, str(key)), item) for key, item in value.items()]
            continue
        if isinstance(value, list):
            stack += [((*path, index), item) for index, item in enumerate(value)]
            continue
        text = _decoded(value) if located.kind == "Secret" and path[:1] == ("data",) else value
        of_its_own = located.kind in ("ConfigMap", "Secret") and path[:1] in (("data",), ("stringData",))
        if of_its_own and _VARIABLE.search(str(text)):
            continue  # a script, a dashboard, a password
        if isinstance(text, str) and (word := left_open(text, path)):
            yield located.finding(
                "error",
                "placeholder",
                path,
                f"{word} stands for something that was never filled in"
                + (f": {text}." if word != text and not _is_secret(located, path) else "."),
                "The API server refuses the value, or takes it for a name that does not exist.",
                _FILLS_IN.get(word[:2], "Lint what envsubst writes.")
                if word.startswith("$")
                else "Write the real value.",
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
                _in_quotes(located, path, shown) if simple else "Move it out of metadata, beside type.",
            )


def _in_quotes(located: Located, path: Path, shown: str) -> str:
    return "Write it in quotes." if _is_secret(located, path) else f'Write it in quotes: "{shown}".'


def _is_secret(located: Located, path: Path) -> bool:
    """Whether what stands at the path is a secret, by its kind or its name."""
    if located.kind == "Secret":
        return True
    holder: Any = located.object
    for key in path[:-1]:
        holder = holder[int(key)] if isinstance(holder, list) else mapping(holder).get(str(key))
    name = mapping(holder).get("name") if path[-1] == "value" else path[-1]
    return names_a_secret(str(name))


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
