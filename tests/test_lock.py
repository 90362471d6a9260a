"""The lock against pyproject.toml and against what installs it: nothing unlocked, nothing stale, nothing for a GPU."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)(?: ; [^\\]+)? \\$")
LOCKS = ("build", "run", "test")


def blocks(name):
    """The requirements of a lock with their lines."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = {}
    for line in lines:
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            matched = PIN.match(line)
            assert matched, f"{name}: {line} is no exact version with hashes"
            pin = found.setdefault((matched[1], matched[2]), [])
        else:
            pin.append(line.strip(" \\"))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_is_one_version_with_a_hash(name):
    pins = blocks(name)
    assert pins
    for pin, hashes in pins.items():
        assert hashes, pin
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), pin
    assert len({package for package, _ in pins}) == len(pins)  # one version for all platforms: the tested one


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        pytest.param("build", PROJECT["build-system"]["requires"], id="the build backend"),
        pytest.param("run", PROJECT["project"]["dependencies"], id="what the project needs"),
        pytest.param("test", PROJECT["project"]["dependencies"], id="what the project needs, under test"),
        pytest.param("test", PROJECT["project"]["optional-dependencies"]["test"], id="the test tools"),
    ],
)
def test_what_is_locked_fits_what_is_asked_for(name, asked):
    versions = dict(blocks(name).keys())
    for requirement in map(Requirement, asked):
        version = versions.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not in requirements/{name}.txt: run make lock UPGRADE="
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement}: {version} is locked"
        )


def test_tests_run_with_the_versions_that_users_get():
    run, test = blocks("run"), blocks("test")
    assert run == {pin: test.get(pin) for pin in run}


def test_no_accelerators_libraries_are_pulled_in():
    heavy = re.compile(r"torch|nvidia|cuda|triton|jax|vllm|tensorflow")
    assert not [pin for name in LOCKS for pin in blocks(name) if heavy.search(pin[0])]
