"""Files and directories as located objects: multi-document YAML, JSON, Lists, kustomizations, Helm output, scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis.documents import Key, Problem, documents, helm_hint
from analysis.errors import BadInput
from analysis.files import json_value
from autoscale.kube.objects import Object, items, mapping, members
from autoscale.lint.findings import Finding, Located

MANIFESTS, SCRIPTS = (".yaml", ".yml", ".json"), (".sh",)
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
MAX_BYTES = 25_000_000  # under a minute of a processor; an object in a cluster has at most 1.5 MB
_PATCHES = ("patches", "patchesStrategicMerge", "patchesJson6902")

_CONSEQUENCE = {
    "yaml-broken": ("kubectl refuses the file.", "Correct the syntax."),
    "yaml-duplicate-key": (
        "Only one of the two counts; strict validation refuses it.",
        "Delete one of them.",
    ),
    "yaml-bomb": (
        "Reading it would exhaust memory.",
        "Write it with fewer levels, and values out instead of nested aliases.",
    ),
    "yaml-tag-refused": ("Such tags can run code in careless readers.", "Delete the tag."),
}


@dataclass
class Loaded:
    """What was read: objects, findings about the files themselves, and notes on what was passed over."""

    objects: list[Located] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_manifests(paths: Sequence[Path]) -> Loaded:
    """All objects below `paths`. Raises BadInput for a path that does not exist and when there is nothing in them."""
    loaded = Loaded()
    roots: dict[Path, str] = {}  # file -> the kustomization it belongs to
    spaces: dict[Path, str] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise BadInput("no such file or directory", value=str(path))
        found = dict.fromkeys([path], "") if path.is_file() else _below(path, loaded, spaces)
        if not found:
            raise BadInput("nothing to lint", value=str(path), expected="YAML or JSON files")
        for file, root in found.items():
            roots.setdefault(file, root)
    for file, root in roots.items():
        if file.name not in KUSTOMIZATIONS:
            _read_file(file, root, spaces.get(file.resolve(), ""), loaded)
    if all(located.kind == "Script" for located in loaded.objects) and not loaded.findings:
        why = f" ({'; '.join(loaded.notes)})" if loaded.notes else ""
        raise BadInput(
            f"nothing to lint: no Kubernetes object in {', '.join(map(str, paths))}{why}",
            expected="manifests with apiVersion and kind",
        )
    return loaded


def _below(top: Path, loaded: Loaded, spaces: dict[Path, str]) -> dict[Path, str]:
    """Files under a directory with the topmost kustomization directory of each."""
    found: dict[Path, str] = {}
    skipped: set[Path] = set()
    for file in sorted(top.rglob("*")):
        inside = file.relative_to(top)
        if any(part.startswith(".") and part != "." for part in inside.parts) or not file.is_file():
            continue
        if file.name in KUSTOMIZATIONS:
            _kustomization(file, found, skipped, loaded, spaces)
        if file.suffix not in MANIFESTS + SCRIPTS:
            continue
        if chart := _chart_template(file, top):
            note = f"{chart}: a Helm chart's templates are not YAML yet: lint the output of `helm template`"
            loaded.notes += [note] if note not in loaded.notes else []
            continue
        found.setdefault(file, _root(file, top))
    return {file: root for file, root in found.items() if file.resolve() not in skipped}


def _kustomization(
    file: Path, found: dict[Path, str], skipped: set[Path], loaded: Loaded, spaces: dict[Path, str]
) -> None:
    """Follow the resources of a kustomization that lie elsewhere; leave its patches out."""
    try:
        first = next(documents(file.read_text(encoding="utf-8-sig"), {}), None)
    except (OSError, UnicodeDecodeError):
        return
    if first is None or isinstance(first, Problem) or not isinstance(first.value, dict):
        return
    content, here = first.value, file.parent
    namespace = content.get("namespace")
    for entry in map(str, items(content.get("resources")) + items(content.get("bases"))):
        target = here / entry
        if "://" in entry or not target.exists():
            if "://" in entry or entry.startswith("github.com/"):
                loaded.notes.append(f"{file}: remote resource {entry} was not fetched")
            else:
                loaded.notes.append(f"{file}: resource {entry} does not exist")
            continue
        for member in sorted(target.rglob("*")) if target.is_dir() else [target]:
            if member.is_file() and member.suffix in MANIFESTS:
                if not member.resolve().is_relative_to(here.resolve()):
                    found.setdefault(member, str(here))
                if isinstance(namespace, str):
                    spaces[member.resolve()] = namespace
    patches = [patch for key in _PATCHES for patch in items(content.get(key))]
    for patch in patches:
        name = patch.get("path") if isinstance(patch, dict) else patch
        if isinstance(name, str) and "\n" not in name:
            skipped.add((here / name).resolve())
    changed = [key for key in (*_PATCHES, "components", "replacements", "helmCharts") if content.get(key)]
    changed += [
        key for key in ("namePrefix", "nameSuffix", "images", "labels", "commonLabels") if content.get(key)
    ]
    if changed:
        loaded.notes.append(
            f"{file}: {', '.join(changed)} are not applied here: lint the output of `kubectl kustomize`"
        )


def _root(file: Path, top: Path) -> str:
    """The topmost directory between `top` and the file that has a kustomization, "" for none."""
    for directory in reversed([d for d in file.parents if d == top or top in d.parents]):
        if any((directory / name).exists() for name in KUSTOMIZATIONS):
            return str(directory)
    return ""


def _chart_template(file: Path, top: Path) -> Path | None:
    for directory in file.parents:
        if directory.name == "templates" and (directory.parent / "Chart.yaml").exists():
            return directory.parent
        if directory == top:
            break
    return None


def _read_file(file: Path, root: str, namespace: str, loaded: Loaded) -> None:
    shown = str(file)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadInput(
                f"{shown} has {file.stat().st_size / 1e6:.1f} MB, too much for manifests",
                expected=f"at most {MAX_BYTES / 1e6:g} MB",
                next_step="name the files that hold manifests",
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        loaded.findings.append(
            _problem(shown, Problem("yaml-broken", f"not UTF-8 text: {error.reason}", 1, 1), "")
        )
        return
    except OSError as error:
        raise BadInput(f"cannot read {shown}: {error.strerror}") from None
    if file.suffix not in MANIFESTS:
        script = {"kind": "Script", "metadata": {"name": file.name}, "text": text}
        loaded.objects.append(Located(script, shown, 1, root=root))
        return
    before = len(loaded.objects), len(loaded.findings), len(loaded.notes)
    read_manifest(text, shown, loaded, root)
    if file.suffix == ".json" and len(loaded.findings) > before[1]:  # JSON that YAML cannot hold (tabs)
        _read_json(text, shown, root, loaded, before)
    if namespace:
        for index in range(before[0], len(loaded.objects)):
            loaded.objects[index] = _moved(loaded.objects[index], namespace)


def _read_json(text: str, shown: str, root: str, loaded: Loaded, before: tuple[int, int, int]) -> None:
    try:
        value = json_value(text)
    except ValueError:
        return
    del loaded.objects[before[0] :], loaded.findings[before[1] :], loaded.notes[before[2] :]
    _add(value, shown, 1, {}, loaded, root)


def read_manifest(text: str, shown: str, loaded: Loaded, root: str = "") -> None:
    """The objects of one file's text, added to `loaded`."""
    places: dict[int, dict[Key, tuple[int, int]]] = {}
    for document in documents(text, places):
        if isinstance(document, Problem):
            loaded.findings.append(_problem(shown, document, text))
            continue
        loaded.findings += [_problem(shown, problem, text) for problem in document.problems]
        if document.value is not None:
            _add(document.value, shown, document.line, places, loaded, root)


def _add(value: Any, shown: str, line: int, places: Any, loaded: Loaded, root: str) -> None:
    """One document: an object, a List of objects, adapter rules, or something else."""
    if not isinstance(value, dict):
        for item in value if isinstance(value, list) else []:
            if isinstance(item, dict) and item.get("kind"):
                _add(item, shown, places.get(id(value), {}).get(0, (line, 1))[0], places, loaded, root)
        if not isinstance(value, list):
            loaded.notes.append(f"{shown}:{line}: {type(value).__name__} instead of an object: passed over")
        return
    kind, listed = value.get("kind"), members(value)
    if listed is not None:
        lines = places.get(id(listed), {})
        for index, item in enumerate(listed):
            if isinstance(item, dict):
                _add(item, shown, lines.get(index, (line, 1))[0], places, loaded, root)
        return
    if not isinstance(kind, str) or not isinstance(value.get("apiVersion"), str):
        if is_adapter_values(value):
            wrapped = {
                "kind": "AdapterRules",
                "metadata": {"name": Path(shown).name},
                "rules": value["rules"],
            }
            loaded.objects.append(Located(wrapped, shown, line, places, root))
        elif kind or value.get("apiVersion"):
            loaded.findings.append(
                Finding(
                    "error", "not-an-object", str(kind or ""), "", "", "", "A document lacks apiVersion or kind.",
                    "kubectl refuses it.", "Give both.", shown, line, 1,
                )
            )  # fmt: skip
        else:
            loaded.notes.append(f"{shown}:{line}: not a Kubernetes object: passed over")
        return
    loaded.objects.append(Located(value, shown, line, places, root))


def is_adapter_values(value: Object) -> bool:
    """Whether a mapping is prometheus-adapter's Helm values or its configuration file."""
    rules = value.get("rules")
    if isinstance(rules, dict):
        return bool({"custom", "external", "default"} & set(rules))
    return any("seriesQuery" in mapping(rule) for rule in items(rules))


def _moved(located: Located, namespace: str) -> Located:
    """The object in the namespace of its kustomization."""
    metadata = {**located.metadata, "namespace": namespace}
    return replace(located, object={**located.object, "metadata": metadata})


def _problem(shown: str, problem: Problem, text: str) -> Finding:
    consequence, fix = _CONSEQUENCE[problem.code]
    if hint := helm_hint(problem, text):
        fix = f"{hint[:1].upper()}{hint[1:]}."
    sentence = f"{problem.text} (line {problem.line}, column {problem.column})."
    return Finding(
        "error", problem.code, "", "", "", "", sentence, consequence, fix, shown, problem.line, problem.column
    )


def sets(objects: list[Located]) -> Iterator[list[Located]]:
    """The objects as sets that are applied together.

    All of them, unless two kustomizations hold the same object: then each of them is a set of its own, and so are
    the objects that belong to none.
    """
    owner: dict[tuple[str, str, str], str] = {}
    apart = False
    for located in objects:
        key = (located.kind, located.namespace, located.name)
        apart = apart or owner.setdefault(key, located.root) != located.root
    if not apart:
        yield objects
        return
    groups: dict[str, list[Located]] = {}
    for located in objects:
        groups.setdefault(located.root, []).append(located)
    yield from groups.values()
