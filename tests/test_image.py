"""The Dockerfile against what it is made of and what the manifests ask of it; its steps need an engine, these do not."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
STEPS = [tuple(line.split(maxsplit=1)) for line in TEXT.splitlines() if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COPIED = [source for step, rest in STEPS if step == "COPY" for source in rest.split()[:-1]]
IN_BASE_IMAGE = {"sleep"}
INSTALL, COMPILE = [rest for step, rest in STEPS if step == "RUN"]


def of(step: str) -> str:
    """The argument of the only such step."""
    [rest] = [rest for name, rest in STEPS if name == step]
    return rest


def containers():
    """(file, pod specification, container) of every container in the manifests that runs the image."""
    for file in sorted((ROOT / "manifests").rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            spec = (document or {}).get("spec") or {}
            spec = (spec.get("template") or {}).get("spec", spec)
            for container in spec.get("containers", []) if isinstance(spec, dict) else []:
                if "llm-autoscale" in container.get("image", ""):
                    yield file.relative_to(ROOT), spec, container


CONTAINERS = list(containers())


def test_every_copied_path_exists_and_reaches_the_engine():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert (ROOT / ".dockerignore").read_text().startswith("*\n")  # nothing but what is named
    assert set(COPIED) == allowed
    assert all((ROOT / source).exists() for source in COPIED)


def test_what_pip_installs_is_copied_before_it_runs():
    names = [name for name, _ in STEPS]
    assert max(i for i, name in enumerate(names) if name == "COPY") < names.index("RUN")
    assert (
        "pip install --no-deps --require-hashes -r requirements/build.txt -r requirements/run.txt" in INSTALL
    )  # what was tested
    assert "pip install --no-deps --no-build-isolation ." in INSTALL
    project = PROJECT["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml"} <= set(COPIED)
    setuptools = PROJECT["tool"]["setuptools"]
    packages = {pattern.removesuffix("*") for pattern in setuptools["packages"]["find"]["include"]}
    assert packages <= set(COPIED)


def test_it_runs_as_the_user_that_it_made_and_that_the_pods_name():
    user = of("USER")
    assert int(user) > 0
    assert f"useradd --uid {user} " in INSTALL
    assert [name for name, _ in STEPS].index("USER") > [name for name, _ in STEPS].index("RUN")
    # what is compiled belongs to the user that will read it
    assert STEPS.index(("RUN", COMPILE)) > STEPS.index(("USER", user))
    assert CONTAINERS
    for file, spec, _ in CONTAINERS:
        assert spec["securityContext"]["runAsNonRoot"] is True, file
        assert spec["securityContext"]["runAsUser"] == int(user), file


@pytest.mark.parametrize("container", [c for _, _, c in CONTAINERS], ids=[f"{f}:{c['name']}" for f, _, c in CONTAINERS])  # fmt: skip
def test_the_command_of_a_pod_is_in_the_image(container):
    program, *arguments = container["command"]
    assert program in {*PROJECT["project"]["scripts"], "locust", *IN_BASE_IMAGE}
    for argument in arguments:
        if argument.endswith(".py"):  # relative to the working directory, where the sources stay
            assert PurePosixPath(argument).parts[0] in COPIED
            assert (ROOT / argument).exists()


def test_what_is_cached_lies_where_any_user_may_write():
    caches = dict(pair.split("=", 1) for pair in of("ENV").split())
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):  # the user has no home
        assert caches[name].startswith("/tmp/"), name


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["locust", "-f", "loadgen/completions.py", "--help"], "--find-capacity"),
        (["autoscale", "--help"], "recommend"),
    ],
)
def test_the_copied_files_alone_start_without_a_home(tmp_path, command, said):
    app = tmp_path / "app"
    app.mkdir()
    for source in COPIED:
        whole = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        whole(ROOT / source, app / source)
    program, *arguments = command
    module = {"locust": "locust", "autoscale": "autoscale"}[program]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(app), "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        cwd=app, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert "Traceback" not in done.stderr
