"""The lock against pyproject.toml and against what installs it: nothing unlocked, nothing stale, nothing for a GPU."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.audit import judge

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
NEEDED = [*PROJECT["project"]["dependencies"], *EXTRAS["load"], *EXTRAS["plan"]]
PIN = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)(?: ; [^\\]+)? \\$")
LOCKS = ("build", "run", "test", "docs")


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
        pytest.param("run", NEEDED, id="what the project needs, its load and its plans"),
        pytest.param("test", NEEDED, id="what the project needs, under test"),
        pytest.param("test", EXTRAS["test"], id="the test tools"),
        pytest.param("docs", PROJECT["dependency-groups"]["docs"], id="the site"),
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


def dependency(**said):
    return {"name": "aiohttp", "version": "3.14.5", "vulns": []} | said


VULNERABLE = {"id": "PYSEC-2026-1", "fix_versions": ["3.14.6"], "aliases": [], "description": "d"}
UNKNOWN = {
    "name": "numpy",
    "skip_reason": "Dependency not found on PyPI and could not be audited: numpy (2.4.1)",
}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        pytest.param([dependency()], 0, "1 locked packages, no known vulnerability", id="all known, none bad"),
        pytest.param([dependency(vulns=[VULNERABLE])], 1, "aiohttp 3.14.5: PYSEC-2026-1, fixed in 3.14.6", id="one is bad"),
        pytest.param([dependency(vulns=[VULNERABLE]), UNKNOWN], 1, "PYSEC-2026-1", id="one is bad, one unknown"),
        pytest.param([dependency(), UNKNOWN], 3, "of 2 packages 1 are not known", id="one unknown: no clean bill"),
        pytest.param([], 3, "nothing can be said of the lock", id="nothing looked at"),
    ],
)  # fmt: skip
def test_an_audit_says_no_more_than_it_knows(capsys, dependencies, code, said):
    assert judge(dependencies) == code
    assert said in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "tool", [[], ["no-such-tool"], [sys.executable, "-c", "raise SystemExit('no network')"]]
)
def test_an_audit_that_cannot_be_made_is_one_sentence_and_no_success(tool):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "audit.py", *tool], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.startswith("audit: nothing can be said of the lock: ")
    assert len(done.stderr.splitlines()) == 1
