"""The packages as a reader of names sees them: what is defined, who uses it, and what every call passes."""

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.test_layers import MODULES, PACKAGES, ROOT

Function = ast.FunctionDef | ast.AsyncFunctionDef
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# Calls that hand the rest of their arguments to the function that they are given
HANDS_ON = {"partial": 0, "submit": 0, "to_thread": 0, "spawn": 0, "spawn_later": 1, "call_soon": 0}
HANDS_ON |= {"call_later": 1, "run_in_executor": 1, "Thread": -1, "Process": -1}


@dataclass
class Use:
    """What one call passes: how many by position, which by name; `all` where a star hides it."""

    positions: int
    names: set[str]
    all: bool

    def passes(self, name: str, position: int | None) -> bool:
        return self.all or name in self.names or (position is not None and position < self.positions)


@dataclass
class Uses:
    """What one body of code does with the packages' names, by full name, or by `.name` where an object is asked."""

    calls: dict[str, list[Use]] = field(default_factory=lambda: defaultdict(list))
    escapes: set[str] = field(default_factory=set)  # read as a value: who calls it is not to be seen
    read: set[tuple[str, str]] = field(default_factory=set)  # name, the definition in which it is read
    replaced: set[str] = field(default_factory=set)  # fields that replace() or an assignment sets


def _use(call: ast.Call, skip: int = 0) -> Use:
    given = call.args[skip:]
    keywords = call.keywords
    starred = any(isinstance(a, ast.Starred) for a in given) or any(k.arg is None for k in keywords)
    return Use(len(given), {k.arg for k in keywords if k.arg}, starred)


def _at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield from node.body if isinstance(node, ast.If) else [node]


def _imported(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """The names that the imports among `nodes` bring, and their full names."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0]
                for a in node.names
            }
    return found


class _Reader(ast.NodeVisitor):
    def __init__(self, module: str, tree: ast.Module, uses: Uses) -> None:
        self.module, self.uses, self.inside = module, uses, [module]
        self.names = {}
        for node in tree.body:
            if isinstance(node, Function | ast.ClassDef):
                self.names[node.name] = f"{module}.{node.name}"
        self.names |= _imported(_at_module_level(tree))
        self.visit(tree)

    def full(self, node: ast.AST) -> str:
        """The full name of what `node` reads; `.name` of an object's member, "" of anything else."""
        if isinstance(node, ast.Name):
            if node.id == "cls" and len(self.inside) > 1:
                return self.inside[1]
            return end_of(self.names.get(node.id, ""))
        if isinstance(node, ast.Attribute):
            before = self.full(node.value)
            return end_of(f"{before}.{node.attr}") if end_of(before) in MODULES else f".{node.attr}"
        return ""

    def _definition(self, node: Function | ast.ClassDef) -> None:
        outside, own = self.names, _imported(ast.walk(node)) if isinstance(node, Function) else {}
        self.names = outside | own
        self.inside.append(f"{self.inside[-1]}.{node.name}")
        self.generic_visit(node)
        self.inside.pop()
        self.names = outside

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _definition

    def visit_Call(self, call: ast.Call) -> None:
        name = self.full(call.func)
        self._read(name)
        self.uses.calls[name].append(_use(call))
        last = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if last == "replace":
            self.uses.replaced |= {k.arg or "**" for k in call.keywords}
        handed = None
        if last in HANDS_ON:
            at = HANDS_ON[last]
            if at >= 0 and len(call.args) > at:
                handed = call.args[at]
                self.uses.calls[self.full(handed)].append(_use(call, at + 1))
                self._read(self.full(handed))
        if not isinstance(call.func, ast.Name):
            self.visit(getattr(call.func, "value", call.func))
        for part in [*call.args, *call.keywords]:
            if part is not handed:
                self.visit(part)

    def _read(self, name: str) -> None:
        if name:
            self.uses.read |= {(name, within) for within in self.inside[1:2] or [self.module]}
            if len(self.inside) > 2:
                self.uses.read.add((name, self.inside[2]))

    def _value(self, node: ast.Name | ast.Attribute) -> None:
        name = self.full(node)
        if isinstance(node.ctx, ast.Load):
            self._read(name)
            self.uses.escapes.add(name)
        elif isinstance(node, ast.Attribute):
            self.uses.replaced.add(node.attr)
        self.generic_visit(node)

    visit_Name = visit_Attribute = _value

    def visit_annotation(self, node: ast.AST | None) -> None:
        for part in ast.walk(node) if node else ():
            if isinstance(part, ast.Name | ast.Attribute):
                self._read(self.full(part))

    def visit_arg(self, node: ast.arg) -> None:
        self.visit_annotation(node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit_annotation(node.annotation)
        if node.value:
            self.visit(node.value)
        if isinstance(node.target, ast.Attribute):
            self.visit(node.target)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.visit_annotation(node.type)
        for part in node.body:
            self.visit(part)


def _passed_on() -> dict[str, str]:
    """Where a name that a module only imports is defined: name there -> name at home."""
    names = (
        (f"{module}.{name}", home)
        for module, tree in TREES.items()
        for name, home in _imported(_at_module_level(tree)).items()
    )
    return {here: home for here, home in names if here != home and home.split(".")[0] in PACKAGES}


PASSED_ON = _passed_on()


def end_of(name: str) -> str:
    while name in PASSED_ON:
        name = PASSED_ON[name]
    return name


def _read(sources: Iterator[tuple[str, ast.Module]]) -> Uses:
    uses = Uses()
    for name, tree in sources:
        _Reader(name, tree, uses)
    return uses


def _beside() -> Iterator[tuple[str, ast.Module]]:
    """Code that uses the packages and is no test: benchmarks, notebooks, the examples of the docs, `make generated`."""
    yield "tests.generated", ast.parse((ROOT / "tests" / "generated.py").read_text(encoding="utf-8"))
    for file in (ROOT / "benchmarks").glob("**/*.py"):
        yield f"benchmarks.{file.stem}", ast.parse(file.read_text(encoding="utf-8"))
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        lines = [line for c in cells if c["cell_type"] == "code" for line in [*c["source"], "\n"]]
        yield (
            f"notebooks.{file.stem}",
            ast.parse("".join(line for line in lines if not line.startswith("%"))),
        )
    for file in (ROOT / "docs").glob("*.md"):
        for block in re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), re.M | re.S):
            yield f"docs.{file.stem}", ast.parse(block)


USED = _read(iter([*TREES.items(), *_beside()]))
IN_TESTS = _read(
    (f"tests.{file.stem}", ast.parse(file.read_text(encoding="utf-8")))
    for file in sorted((ROOT / "tests").rglob("*.py"))
)
IN_TEMPLATES = {
    word
    for package in PACKAGES
    for file in (ROOT / package).rglob("*")
    if file.suffix in (".j2", ".html", ".md")
    for word in re.findall(r"\w+", file.read_text(encoding="utf-8"))
}


def functions() -> Iterator[tuple[str, ast.ClassDef | None, Function]]:
    """Module, class or None, function: of every function and method that is not defined inside another."""
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, Function):
                yield module, None, node
            elif isinstance(node, ast.ClassDef):
                yield from ((module, node, child) for child in node.body if isinstance(child, Function))


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for module, tree in TREES.items():
        yield from ((module, node) for node in tree.body if isinstance(node, ast.ClassDef))


OWN_CLASSES = {node.name: node for _, node in classes()}


def decorators(node: Function | ast.ClassDef) -> set[str]:
    return {word for d in node.decorator_list for word in re.findall(r"\w+", ast.unparse(d))}


def hangs_on_a_framework(node: ast.ClassDef | None) -> bool:
    """Whether a class that it stands on is another library's, which calls its methods."""
    plain = {
        "Protocol",
        "Exception",
        "NamedTuple",
        "Enum",
        "StrEnum",
        "Generic",
        "TypedDict",
        "str",
        "ValueError",
    }
    for base in node.bases if node else ():
        if isinstance(base, ast.Subscript):
            continue
        name = ast.unparse(base)
        if hangs_on_a_framework(OWN_CLASSES[name]) if name in OWN_CLASSES else name not in plain:
            return True
    return False


def is_seam(parameter: ast.arg | ast.AnnAssign) -> bool:
    """Whether it is a door to the outside, which only a test needs to put in another way: a callable or a Protocol."""
    said = ast.unparse(parameter.annotation) if parameter.annotation else ""
    protocols = {
        node.name
        for _, node in classes()
        if any(ast.unparse(base).endswith("Protocol") for base in node.bases)
    }
    return "Callable" in said or bool(protocols & set(re.findall(r"\w+", said)))
