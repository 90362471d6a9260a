"""Every benchmark starts both ways: as a file and as a module."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
# What Python does before the first line of each: as a file its folder comes first on the path, as a module the clone's.
AS_FILES = """
import runpy, sys
for name in sys.argv[1:]:
    sys.path[0] = "benchmarks"
    runpy.run_path(f"benchmarks/{name}.py", run_name="imported")
"""
AS_MODULES = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"benchmarks.{name}")
"""


@pytest.mark.parametrize(
    "start", [pytest.param(AS_FILES, id="as files"), pytest.param(AS_MODULES, id="as modules")]
)
def test_every_benchmark_starts(start: str):
    started = subprocess.run([sys.executable, "-c", start, *FILES], cwd=ROOT, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr


def test_no_benchmark_hides_a_package():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert not packages & set(FILES)
