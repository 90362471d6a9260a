"""The profile that a run's server gives itself, loaded again."""

from pathlib import Path

import pytest
import yaml

from analysis.errors import BadInput
from analysis.run import Run, read
from autoscale.deploy import objects
from autoscale.profiles import load
from autoscale.recommend.measured_profile import UserFacts, measured_profile
from autoscale.recommend.model.learning import learn
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.sim.engine.replicas import EngineParams
from tests import recorded_sweeps

BASE, SLO = "llama-3.1-8b-1xl4", "ttft_p95=5s"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read(recorded_sweeps.sweep_to_run("sweep_D", tmp_path_factory.mktemp("measured") / "run"))


@pytest.fixture(scope="module")
def learnt(sweep: Run) -> ReplicaModel:
    return learn([sweep], load(BASE), SLO)


@pytest.fixture(scope="module")
def file(sweep: Run, learnt: ReplicaModel) -> Path:
    given = UserFacts(price=0.7, accelerator="a card of one's own")
    written = sweep.path.parent / "mine.yaml"
    written.write_text(measured_profile(sweep, learnt, BASE, given).text)
    return written


def test_the_calibrated_engine_comes_back_from_the_file(learnt: ReplicaModel, file: Path) -> None:
    assert EngineParams.from_profile(load(str(file))) == learnt.engine


def test_what_the_server_and_the_user_told_is_in_the_file(file: Path) -> None:
    system, told = load(str(file)), recorded_sweeps.ENGINE
    assert system.model.id == "tiny"
    for name in ("vllm_version", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size"):
        assert getattr(system.engine, name) == told[name]
    assert system.accelerator.name == "a card of one's own"
    assert system.accelerator.price_per_chip_hour == 0.7


def test_its_set_deploys_the_server_that_was_measured(file: Path) -> None:
    with pytest.raises(BadInput, match="on which nodes a card of one's own stands"):  # none of the L4's
        objects(load(str(file)))
    assert any("node_selector" in sentence for sentence in load(str(file)).predictions)
    stands = "deploy: {machine_type: own-4, node_selector: {card: own}}\n"
    placed = file.with_name("placed.yaml")
    placed.write_text(file.read_text() + stands)
    words = str(objects(load(str(placed))))
    assert "'card': 'own'" in words
    assert "vllm/vllm-openai:v0.32.0" in words
    for flag in ("max-num-seqs", "max-num-batched-tokens", "max-model-len", "block-size"):
        assert f"--{flag}" in words


def test_what_nobody_measured_is_named_with_what_gives_it(
    sweep: Run, learnt: ReplicaModel, file: Path
) -> None:
    said = "\n".join(load(str(file)).predictions)
    assert "--model-config" in said
    assert "autoscale check" in said
    assert "--price" not in said
    nothing = measured_profile(sweep, learnt, BASE, UserFacts())
    assert list(nothing.open_points) == yaml.safe_load(nothing.text)["predictions"]
    assert any("--price" in sentence for sentence in nothing.open_points)
    assert any("--accelerator" in sentence for sentence in nothing.open_points)


def test_a_config_that_is_no_json_is_refused(sweep: Run, learnt: ReplicaModel, file: Path) -> None:
    with pytest.raises(BadInput, match="not JSON"):
        measured_profile(sweep, learnt, BASE, UserFacts(model_config=file))
