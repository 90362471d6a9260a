"""The notebooks run as they are, offline, define nothing, and are committed with what they print and draw."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.history.test_learned import needs_prometheus

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
IMAGE = "image/png"
WITH_PROMETHEUS = ("06",)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_six_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_calls_the_packages_and_defines_nothing(path: Path) -> None:
    for cell in code(path):
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, DEFINITIONS)]
        assert "pyplot" not in source, "figures come from analysis.plots"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_with_its_outputs(path: Path) -> None:
    outputs = [output for cell in code(path) for output in cell.outputs]
    assert all(cell.execution_count for cell in code(path))
    assert sum(IMAGE in output.get("data", {}) for output in outputs) >= 2
    assert not [output for output in outputs if output.output_type == "error"]
    assert str(Path.home()) not in json.dumps(outputs)
    assert os.fspath(ROOT) not in json.dumps(outputs)


# The sixth simulates for three minutes of a processor, beside other tests for longer.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    if path.name[:2] in WITH_PROMETHEUS:
        needs_prometheus()
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    drawn = [o for cell in book.cells for o in cell.get("outputs", []) if IMAGE in o.get("data", {})]
    assert len(drawn) >= 2
