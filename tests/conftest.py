"""Fixtures shared by all rooms."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analysis import redact

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def own_secrets() -> Iterator[None]:
    """What one test reads as a secret is none in the next."""
    before = dict(redact._known)
    yield
    redact._known.clear()
    redact._known.update(before)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Small recordings that are committed with the tests."""
    return FIXTURES


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Public traces and calibration data, which are not part of the project: tests skip when they are absent."""
    path = Path(os.environ.get("AUTOSCALE_SHARED", ROOT.parent / "shared"))
    if not (path / "calibration").is_dir():
        pytest.skip(f"public data not found at {path}; set AUTOSCALE_SHARED")
    return path


@pytest.fixture(scope="session")
def sweep_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Factory: the recorded sweep "sweep_A" or "sweep_D" (tests/recorded_sweeps.py) as a fresh run directory."""
    spec = importlib.util.spec_from_file_location(
        "recorded_sweeps", Path(__file__).parent / "recorded_sweeps.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def write(name: str) -> Path:
        return module.sweep_to_run(name, tmp_path_factory.mktemp("runs") / name)

    return write


# A long file started last is waited for.
SLOWEST_FIRST = ("test_docs.py", "recommend", "test_notebooks.py", "loadgen")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: much of the time of some tests is waiting for servers, load tests and cold starts."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take longest first, so that all cores are busy to the end."""

    def rank(item: pytest.Item) -> int:
        parts = item.path.relative_to(ROOT).parts
        return next((k for k, name in enumerate(SLOWEST_FIRST) if name in parts), len(SLOWEST_FIRST))

    items.sort(key=rank)
