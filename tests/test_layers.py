"""The rooms import one way, no two files import each other, and the command line starts light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("analysis", "loadgen", "autoscale")

GROUND = {"analysis", "autoscale.kube", "loadgen.plan"}  # every room stands on these

# room -> what it may import besides itself and the ground; the longest matching prefix names a module's room
ABOVE: dict[str, set[str]] = {
    "loadgen.wire": {"loadgen.failing"},
    "loadgen.run": {"loadgen.failing", "loadgen.wire"},
    "loadgen.in_locust": {"loadgen.failing", "loadgen.wire", "loadgen.run"},
    "loadgen.failing": set(),
    "loadgen.completions": {"loadgen.in_locust"},
    "loadgen.chat": {"loadgen.in_locust"},
    "autoscale.load_command": {"loadgen"},
    "autoscale.version": set(),
    "autoscale.local_servers": set(),
    "autoscale.regression": set(),
    "autoscale.typed_json": set(),
    "autoscale.bill": {"autoscale.typed_json"},
    "autoscale.schedule": {"autoscale.signal_target", "autoscale.typed_json"},
    "autoscale.signal_target": {"autoscale.typed_json"},
    "autoscale.recommendation": {
        "autoscale.bill",
        "autoscale.schedule",
        "autoscale.signal_target",
        "autoscale.typed_json",
    },
    "autoscale.profiles": set(),
    "autoscale.hpa": set(),
    "autoscale.keda": {"autoscale.hpa"},
    "autoscale.sim.engine": {"autoscale.profiles"},
    "autoscale.sim.fleet": {"autoscale.hpa", "autoscale.keda", "autoscale.profiles", "autoscale.sim.engine"},
    "autoscale.sim.http": {
        "autoscale.hpa",
        "autoscale.profiles",
        "autoscale.sim.engine",
        "autoscale.sim.fleet",
    },
    "autoscale.sim.past": {"autoscale.local_servers", "autoscale.sim.engine", "autoscale.sim.fleet"},
    "autoscale.sim": set(),
    "autoscale.recommend": {
        "autoscale.bill",
        "autoscale.schedule",
        "autoscale.history",
        "autoscale.profiles",
        "autoscale.recommendation",
        "autoscale.signal_target",
        "autoscale.sim",
        "autoscale.version",
    },
    "autoscale.observe": set(),
    "autoscale.history": {"autoscale.hpa", "autoscale.observe"},
    "autoscale.deploy": {
        "autoscale.schedule",
        "autoscale.hpa",
        "autoscale.profiles",
        "autoscale.recommendation",
        "autoscale.signal_target",
    },
    "autoscale.lint": {
        "autoscale.deploy",  # its rules of size
        "autoscale.hpa",
        "autoscale.keda",
        "autoscale.profiles",
    },
    "autoscale.check": {"autoscale.lint", "autoscale.recommendation"},
    "autoscale.forecast": {
        "autoscale.check",
        "autoscale.profiles",
        "autoscale.recommend",
        "autoscale.recommendation",
        "autoscale.sim",
    },
    "autoscale.show": {"autoscale"},  # shows everything
    "autoscale.cli": {"autoscale"},
}
ALLOWED = {room: GROUND | others for room, others in ABOVE.items()} | {
    "analysis": set(),
    "autoscale.kube": {"analysis"},
    "loadgen.plan": {"analysis"},
    "loadgen": set(),
}
COMMAND_LINE = (  # may import every room
    "autoscale",
    *(f"autoscale.{name}" for name in ("__main__", "check_command", "cli", "demo", "examples")),
)
WITH_LOCUST = {
    "loadgen.in_locust.__main__",
    "loadgen.in_locust.users",
    "loadgen.in_locust.coordinator",
    "loadgen.in_locust.statistics",
    "loadgen.in_locust.web",
    "loadgen.in_locust.worker",
    "loadgen.in_locust.worker_process",
    "loadgen.in_locust.workers",
    "loadgen.in_locust.server_look",
    "loadgen.completions",
    "loadgen.chat",
}
HEAVY = (
    "locust",
    "gevent",
    "kubernetes",
    "matplotlib",
    "pandas",
    "scipy",
    "numba",
    "aiohttp",
    "numpy",
    "pyarrow",
)


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(name: str, *, at_start: bool = False) -> set[str]:
    """Our modules that module `name` imports; `at_start` leaves out imports inside functions and TYPE_CHECKING."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if not at_start else _top_level(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {
                f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return {module for module in found if module.split(".")[0] in PACKAGES}


def _top_level(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if not isinstance(node, ast.If | ast.FunctionDef | ast.ClassDef)]


def room(module: str) -> str:
    return max((r for r in ALLOWED if module == r or module.startswith(r + ".")), key=len, default="")


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(COMMAND_LINE)))
def test_a_module_imports_only_the_rooms_below_it(module: str) -> None:
    own = room(module)
    assert own, f"{module} lies in no room: add it to the table"
    for target in imports(module):
        allowed = {own} | ALLOWED[own]
        assert any(target == a or target.startswith(a + ".") for a in allowed), (
            f"{module} may not import {target}"
        )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_locust_is_imported_by_the_entry_files_and_users_only(module: str) -> None:
    text = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = {
        n.module.split(".")[0]
        if isinstance(n, ast.ImportFrom) and n.module
        else n.names[0].name.split(".")[0]
        for n in ast.walk(text)
        if isinstance(n, ast.Import | ast.ImportFrom)
    }
    if "locust" in names:
        assert module in WITH_LOCUST


def test_no_two_files_import_each_other() -> None:
    graph = {name: imports(name, at_start=True) & set(MODULES) - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"import circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_what_a_load_offers_is_known_without_locust_and_gevent() -> None:
    names = [name for name in MODULES if name.startswith("loadgen.plan.")]
    code = f"import sys, {', '.join(names)}; print([m for m in ('locust', 'gevent') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_the_command_line_starts_without_any_heavy_library() -> None:
    code = f"import sys, autoscale.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
