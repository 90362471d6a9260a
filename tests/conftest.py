"""Fixtures shared by all rooms."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FIXTURES = Path(__file__).parent / "fixtures"


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
