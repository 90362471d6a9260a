"""A set of a profile made for one server deploys that server: its limits, and an image of its version."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from autoscale.deploy import objects
from autoscale.lint.linter import lint_objects
from autoscale.profiles import load
from tests.recorded_sweeps import ENGINE


def served(folder: Path, content: dict[str, Any], base: str = "llama-3.1-8b-1xl4") -> dict[str, Any]:
    """The serving container of the set of a profile that extends `base`."""
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": base, **content}))
    workloads = [o for o in objects(load(str(file))) if o["kind"] in ("Deployment", "LeaderWorkerSet")]
    spec = workloads[0]["spec"]
    template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    return dict(template["spec"]["containers"][0])


LIMITS = ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size")


def test_the_limits_and_the_version_that_a_server_told_are_deployed(tmp_path: Path) -> None:
    engine = {name: ENGINE[name] for name in (*LIMITS, "vllm_version")}
    container = served(tmp_path, {"engine": engine})
    text = yaml.safe_dump(container)
    for name in LIMITS:
        assert f"--{name.replace('_', '-')}" in text
        assert str(ENGINE[name]) in text
    assert container["image"] == "vllm/vllm-openai:v0.32.0"


def passed(folder: Path, content: dict[str, Any], base: str) -> list[str]:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": base, **content}))
    return list(load(str(file)).deploy.pass_limits)


@pytest.mark.parametrize(
    ("content", "limits"),
    [
        pytest.param({"title": "t"}, ["max_model_len"], id="nothing stated: the base's"),
        pytest.param({"engine": {"max_num_seqs": 64}}, ["max_model_len", "max_num_seqs"], id="one stated"),
        pytest.param(
            {"engine": {"max_num_seqs": 64}, "deploy": {"pass_limits": []}}, [], id="the file's word"
        ),
        pytest.param({"engine": {"prefix_hit_fraction": 0.5}}, ["max_model_len"], id="no limit"),
    ],
)
def test_limits_that_a_file_states_are_passed(
    tmp_path: Path, content: dict[str, Any], limits: list[str]
) -> None:
    assert passed(tmp_path, content, "llama-3.1-8b-1xl4") == limits


@pytest.mark.parametrize(
    ("base", "content", "image"),
    [
        pytest.param(
            "llama-3.1-405b-2x8h100-baremetal",
            {"engine": {"vllm_version": "0.12.0"}},
            "registry.example.com/vllm-multihost:v0.12.0",
            id="one's own registry",
        ),
        pytest.param(
            "llama-3.1-8b-1xl4",
            {"engine": {"vllm_version": "0.12.0"}, "deploy": {"image": "mine:stable"}},
            "mine:stable",
            id="an image that is stated stays",
        ),
        pytest.param(
            "llama-3.1-8b-1xl4",
            {"engine": {"vllm_version": "0.12.1.dev7+g1a2b3c"}},
            "vllm/vllm-openai:v0.11.0",
            id="no image is published of a build",
        ),
    ],
)
def test_the_image_is_of_the_version(tmp_path: Path, base: str, content: dict[str, Any], image: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": base, **content}))
    assert load(str(file)).deploy.image == image


def not_as_measured(folder: Path, content: dict[str, Any], engine: dict[str, int]) -> list[str]:
    """What lint says of the set of a profile against the engine of a recommendation."""
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"extends": "llama-3.1-8b-1xl4", **content}))
    report = lint_objects(objects(load(str(file))), measured=engine)
    return sorted(finding.problem for finding in report.findings if finding.code == "not-as-measured")


MEASURED = {name: int(ENGINE[name]) for name in (*LIMITS[1:], "num_blocks")}


@pytest.mark.parametrize(
    ("engine", "measured", "said"),
    [
        pytest.param(
            {name: ENGINE[name] for name in LIMITS}, MEASURED, [], id="the server that was measured"
        ),
        pytest.param({}, {"max_num_seqs": 256, "max_num_batched_tokens": 2048}, [], id="vLLM's defaults"),
        pytest.param(
            {},
            MEASURED,
            ["block_size 32", "max_num_batched_tokens 512", "max_num_seqs 16"],
            id="limits left out",
        ),
        pytest.param({"max_num_seqs": 64}, {"max_num_seqs": 16}, ["--max-num-seqs is 64 here"], id="others"),
        pytest.param({"max_num_seqs": 64}, {}, [], id="a recommendation that says nothing"),
    ],
)
def test_lint_compares_the_servers_with_the_one_that_was_measured(
    tmp_path: Path, engine: dict[str, Any], measured: dict[str, int], said: list[str]
) -> None:
    found = not_as_measured(tmp_path, {"engine": engine}, measured)
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))
