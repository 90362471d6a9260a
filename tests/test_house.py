"""What keeps the house in order: no parameter that nobody passes, nothing public that only tests use, one name one meaning."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

import autoscale
from autoscale.cli import VERBS
from autoscale.cli import autoscale as autoscale_options
from tests.house import (
    IN_TEMPLATES,
    IN_TESTS,
    TREES,
    USED,
    Function,
    Use,
    classes,
    decorators,
    functions,
    hangs_on_a_framework,
    is_seam,
)
from tests.test_layers import MODULES, ROOT

MOST_IN_FOLDER, LONG_FUNCTION, LONG_MODULE, MOST_LONG_MODULES = 20, 60, 300, 15
# Two public things of one name, and why that is one meaning
ONE_MEANING = {
    "collect": "the verb, and what it does",
    "predict": "the verb, and what it does",
    "recommend": "the verb, and what it does",
    "simulate": "the verb, and what it does",
    "rules": "what a subject is judged by, one module per subject",
}
# What a test puts in the place of the outside, beside callables and Protocols
SEAMS = {
    "environ": "the environment",
    "kubeconfig": "which cluster",
    "sample_s": "a cluster in memory has its HPA sync in no time",
    "stop": "the end of a watch that ends by itself in an hour",
    "tls": "a server whose certificate nobody signed",
}
# Verbs and the names of `import autoscale`: people pass their arguments
TYPED_BY_PEOPLE = {".".join(place) for place in autoscale._PLACES.values()}
TYPED_BY_PEOPLE |= {f"{verb.__module__}.{verb.__name__}" for verb in [*VERBS, autoscale_options]}


def _optional(function: Function, *, method: bool) -> Iterator[tuple[ast.arg, int | None]]:
    """Every parameter with a default, and its position in a call."""
    args = function.args
    plain = [*args.posonlyargs, *args.args]
    shift = method and bool(plain) and plain[0].arg in ("self", "cls")
    first = len(plain) - len(args.defaults)
    yield from ((a, at - shift) for at, a in enumerate(plain) if at >= first)
    yield from (
        (a, None) for a, given in zip(args.kwonlyargs, args.kw_defaults, strict=True) if given is not None
    )


def _calls(name: str, parameter: ast.arg | ast.AnnAssign) -> list[Use]:
    name_of = parameter.arg if isinstance(parameter, ast.arg) else ast.unparse(parameter.target)
    seam = name_of in SEAMS or is_seam(parameter)
    return USED.calls[name] + (IN_TESTS.calls[name] if seam else [])


def _unpassed_parameters() -> Iterator[str]:
    for module, owner, function in functions():
        if hangs_on_a_framework(owner):
            continue
        if owner is None:
            name = f"{module}.{function.name}"
        else:
            name = f"{module}.{owner.name}" if function.name == "__init__" else f".{function.name}"
        if name in USED.escapes or name in TYPED_BY_PEOPLE or not USED.calls[name]:
            continue
        for parameter, position in _optional(function, method=owner is not None):
            if not any(use.passes(parameter.arg, position) for use in _calls(name, parameter)):
                yield f"{module}.{function.name}({parameter.arg})"


def _unpassed_fields() -> Iterator[str]:
    for module, node in classes():
        name = f"{module}.{node.name}"
        if "dataclass" not in decorators(node) or name in USED.escapes:
            continue
        if not any(use.positions or use.names or use.all for use in USED.calls[name]):
            continue  # made only as it stands: a table of constants
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and "init=False" not in ast.unparse(n)]
        for position, one in enumerate(fields):
            field = ast.unparse(one.target)
            if one.value is None or "ClassVar" in ast.unparse(one.annotation) or field in USED.replaced:
                continue
            if not any(use.passes(field, position) for use in _calls(name, one)):
                yield f"{name}({field})"


def test_every_optional_parameter_is_passed_by_somebody() -> None:
    unpassed = [*_unpassed_parameters(), *_unpassed_fields()]
    assert not unpassed, "\n".join(unpassed)


def _used(name: str, own: str) -> bool:
    return any(within != own and not within.startswith(own + ".") for within in READ[name])


READ: dict[str, set[str]] = defaultdict(set)
for _name, _within in USED.read:
    READ[_name].add(_within)


def test_nothing_public_is_used_by_tests_alone() -> None:
    unused = []
    for module, owner, function in functions():
        if function.name.startswith("_") or hangs_on_a_framework(owner):
            continue
        own = f"{module}.{owner.name + '.' if owner else ''}{function.name}"
        used = function.name in IN_TEMPLATES if owner else False
        if not used and own not in TYPED_BY_PEOPLE and not _used(f".{function.name}" if owner else own, own):
            unused.append(own)
    unused += [
        f"{module}.{node.name}"
        for module, node in classes()
        if not node.name.startswith("_")
        and not hangs_on_a_framework(node)
        and not _used(f"{module}.{node.name}", f"{module}.{node.name}")
    ]
    assert not unused, "\n".join(unused)


def test_one_public_name_has_one_meaning() -> None:
    where = defaultdict(list)
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(module)
    twice = {name: modules for name, modules in where.items() if len(modules) > 1}
    for name in ONE_MEANING:
        modules = twice.pop(name)
        verbs = [module for module in modules if module.startswith("autoscale.cli")]
        assert name == "rules" or (len(verbs), len(modules)) == (1, 2), f"{name}: {modules}"
        assert name != "rules" or all(".rules." in module for module in modules), modules
    assert not twice, twice


def test_no_folder_is_crowded() -> None:
    folders: dict[str, int] = defaultdict(int)
    for path in MODULES.values():
        folders[str(path.parent)] += path.name != "__init__.py"
    assert not {folder: count for folder, count in folders.items() if count > MOST_IN_FOLDER}


def test_no_function_is_long() -> None:
    every = ((m, n) for m, tree in TREES.items() for n in ast.walk(tree) if isinstance(n, Function))
    long = {
        f"{m}.{n.name}": lines for m, n in every if (lines := n.end_lineno - n.lineno + 1) > LONG_FUNCTION
    }
    assert not long, long


def test_few_modules_are_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    long = {name: count for name, count in lines.items() if count > LONG_MODULE}
    assert len(long) <= MOST_LONG_MODULES, long


def test_where_the_design_page_sends_a_stranger_there_is_what_it_names() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    table = page.split("## Where do I change")[1].split("\n## ")[0]
    places = re.findall(r"`([\w/]+(?:\.py|/))`((?:(?:: |, )`\w+`)*)", table)
    assert len(places) > 30
    for file, names in places:
        assert (ROOT / file).exists(), file
        for name in re.findall(r"`(\w+)`", names):
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^(?:def |class )?{name}\b", text, re.MULTILINE), f"{file} has no {name}"
