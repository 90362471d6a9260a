"""What cannot be written or assumed is refused before the work: nothing of somebody else's is overwritten."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from analysis.errors import BadInput
from analysis.files import leave_no_empty_directories, put_all
from autoscale.cli import app
from autoscale.cli.inputs import hpa_in
from autoscale.recommend import recommend
from tests import recorded_sweeps

ROOT = Path(__file__).parent.parent
PROFILE, OTHER = "llama-3.1-8b-1xl4", "llama-3.1-70b-v6e8"
HPA = ROOT / "manifests" / PROFILE / "hpa.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return recorded_sweeps.sweep_to_run("sweep_A", tmp_path_factory.mktemp("early") / "run")


@pytest.fixture
def full(tmp_path):
    """A directory that holds something of somebody's."""
    (tmp_path / "full").mkdir()
    for name in ("README.md", "hpa.yaml", "notes.html"):
        (tmp_path / "full" / name).write_text("kind: mine\n")
    return tmp_path / "full"


def refused(*words):
    """The sentence of a verb that does nothing."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, BadInput), result.output
    return str(result.exception)


def test_a_verb_that_is_refused_leaves_no_directory(run, tmp_path):
    (tmp_path / "half.yaml").write_text("stages:\n  - {rate: 3")
    (tmp_path / "mine").mkdir()
    for words in (
        ["recommend", run, "-p", PROFILE, "--traffic", tmp_path / "half.yaml"],
        ["simulate", "--hpa", HPA, "--traffic", tmp_path / "half.yaml"],
        ["check", "--fleet", "http://127.0.0.1:9"],
    ):
        for out in (tmp_path / "new" / "deep", tmp_path / "mine"):
            command = [sys.executable, "-m", "autoscale", *words, "--out", out]
            ended = subprocess.run(
                [str(word) for word in command], capture_output=True, text=True, check=False
            )
            assert ended.returncode in (2, 3), ended.stderr
            assert "error: " in ended.stderr, ended.stderr
        assert not (tmp_path / "new").exists(), words
        assert (tmp_path / "mine").is_dir(), words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_search_that_is_interrupted_leaves_no_process_and_no_directory(number, tmp_path):
    words = ["recommend", "-p", PROFILE, "--peak", "3", "--jobs", "2", "--out", str(tmp_path / "new")]
    command = [sys.executable, "-m", "autoscale", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as search:
        told = iter(search.stderr)
        assert any("searching" in line for line in told)
        search.send_signal(number)
        # read to its end, which comes when the workers, who hold it too, have gone
        assert list(told)[-1].startswith("interrupted: ")
    assert search.returncode == 130
    assert not (tmp_path / "new").exists()


def test_no_verb_writes_into_what_it_did_not_write(run, full):
    before = {path: path.read_text() for path in full.iterdir()}
    for words in (
        ["manifests", PROFILE, "--out", full],
        ["recommend", run, "-p", PROFILE, "--peak", "3", "--out", full],
        ["simulate", "--hpa", HPA, "--peak", "1", "--out", full],
        ["check", "--fleet", "http://127.0.0.1:9", "--out", full],
        ["demo", "--out", full],
        ["report", run, "--out", full / "notes.html"],
        ["profile", "--from-run", run, "--out", full / "hpa.yaml"],
    ):
        try:
            said = refused(*words)
        except AssertionError:  # the door to the fleet is asked first
            assert words[0] == "check"
            continue
        assert "already" in said, words
        assert "--out" in said, words
    assert {path: path.read_text() for path in full.iterdir()} == before


def test_a_set_is_written_over_its_own_profiles_only(tmp_path):
    out = tmp_path / "set"
    for _ in range(2):
        assert CliRunner().invoke(app, ["manifests", PROFILE, "--out", str(out)]).exit_code == 0
    (out / "patch.yaml").write_text("a patch of one's own")
    assert CliRunner().invoke(app, ["manifests", PROFILE, "--out", str(out)]).exit_code == 0
    assert "already holds something else" in refused("manifests", OTHER, "--out", out)
    every = shutil.copytree(ROOT / "manifests", tmp_path / "manifests")  # what a clone has
    assert "already holds something else" in refused("manifests", PROFILE, "--out", every)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attainment": 1.5}, "attainment: 1.5"),
        ({"peak_rps": -1.0}, "peak of the default traffic"),
        ({"traffic": Path("none.yaml")}, "no such traffic file"),
        ({"slo": "ttft_p95=soon"}, "ttft_p95=soon"),
        ({"hours": -3.0}, "--hours: -3"),
        ({"traffic": Path("a.yaml"), "hours": 3.0}, "exclude each other"),
    ],
)
def test_a_wrong_option_is_refused_before_the_run_is_learned_from(run, tmp_path, options, said):
    heard = []
    with pytest.raises(BadInput, match=said.replace("(", r"\(")):
        recommend(
            [run],
            profile=PROFILE,
            out=tmp_path / "out",
            progress=lambda share, _: heard.append(share),
            **options,
        )
    assert set(heard) <= {0.0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compare", HPA], "an HPA is given twice"),
        (["--traffic", "t.yaml", "--prompt-tokens", "500"], "--prompt-tokens and --traffic exclude each other"),
        (["--output-tokens", "few"], "few"),
        (["--hours", "0", "--peak", "1"], "--hours: 0"),
        (["--run", "nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_simulate_refuses_in_a_sentence(words, said):
    assert said in refused("simulate", "--hpa", HPA, *words)


@pytest.mark.parametrize(
    "verb", [["simulate", "--peak", "1"], ["serve", "--port", "0"]], ids=["simulate", "serve"]
)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("minReplicas: 1", "minReplicas: x", "spec.minReplicas: 'x'"),
        ("kind: Deployment", "kind: StatefulSet", "spec.scaleTargetRef.kind: the HPA targets another kind"),
    ],
    ids=["a field that cannot be", "another workload"],
)
def test_what_is_wrong_with_an_hpa_is_told_with_its_file(tmp_path, verb, old, new, said):
    text = HPA.read_text()
    assert old in text
    (tmp_path / "mine.yaml").write_text(text.replace(old, new))
    assert refused(*verb, "--hpa", tmp_path / "mine.yaml").startswith(f"{tmp_path}/mine.yaml: {said}")


def test_of_two_autoscalers_in_a_file_none_is_taken(tmp_path):
    two = tmp_path / "two.yaml"
    text = HPA.read_text()
    two.write_text(f"{text}\n---\n{text}")
    assert hpa_in(two)["kind"] == "HorizontalPodAutoscaler", "twice the same is one"
    two.write_text(f"{text}\n---\n{text.replace('maxReplicas: ', 'maxReplicas: 1')}")
    assert "holds several of kind HorizontalPodAutoscaler" in refused("simulate", "--hpa", two)


def as_a_cluster_prints(*objects):
    """`kubectl get scaledobject,hpa -o yaml`: one List, each object with what the API server adds."""
    given = [{**each, "metadata": {**each["metadata"], "uid": f"u{n}"}} for n, each in enumerate(objects)]
    return yaml.safe_dump(
        {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": given}
    )


SCALED = {
    "apiVersion": "keda.sh/v1alpha1",
    "kind": "ScaledObject",
    "metadata": {"name": "so"},
    "spec": {"scaleTargetRef": {"name": "vllm"}, "triggers": []},
}


def test_of_a_list_the_scaled_object_is_taken_and_the_hpa_that_keda_made_is_passed_over(tmp_path):
    file, hpa = tmp_path / "list.yaml", yaml.safe_load(HPA.read_text())
    owner = {"ownerReferences": [{"kind": "ScaledObject", "name": "so"}]}
    made = {**hpa, "metadata": {"name": "keda-hpa-so", **owner}}
    file.write_text(as_a_cluster_prints(made, SCALED))
    assert hpa_in(file)["kind"] == "ScaledObject"
    file.write_text(as_a_cluster_prints(hpa))
    assert hpa_in(file)["metadata"]["name"] == hpa["metadata"]["name"]
    file.write_text(as_a_cluster_prints(made, SCALED, hpa))
    assert "an HPA that KEDA did not make: 'vllm" in refused("simulate", "--hpa", file)
    file.write_text(as_a_cluster_prints(SCALED, {**SCALED, "metadata": {"name": "second"}}))
    assert "several of kind ScaledObject: 'so, second'" in refused("simulate", "--hpa", file)


def test_a_helm_template_is_called_one(tmp_path):
    template = tmp_path / "so.yaml"
    template.write_text("{{- if .Values.keda }}\nkind: ScaledObject\n{{- end }}\n")
    assert "give the output of `helm template`" in refused("simulate", "--hpa", template)
    template.write_text("kind: [\n")
    assert "Helm template" not in refused("simulate", "--hpa", template)


def test_an_object_of_another_controller_is_named_with_what_would_do(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("apiVersion: http.keda.sh/v1alpha1\nkind: HTTPScaledObject\nmetadata:\n  name: m\n")
    said = refused("simulate", "--hpa", other)
    assert "HTTPScaledObject" in said
    assert "kubectl get scaledobject,hpa -o yaml" in said


def test_traffic_is_not_asked_for_before_its_words_are_understood(full, tmp_path):
    words = ["traffic", "--prometheus", "http://127.0.0.1:9", "--out", tmp_path / "t.yaml"]
    for last in ("5x", "0d", "-5d", "infd"):
        assert f"--last: '{last}'; expected a time such as 14d" in refused(*words, "--last", last)
    assert "uniform:A,B" in refused(*words, "--prompt-tokens", "uniform:9")
    assert "something else already" in refused(*words[:-1], full / "hpa.yaml")


def test_a_scaler_that_cannot_be_simulated_is_refused_before_the_simulator_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr("autoscale.show.progress.compiled_engine", lambda: pytest.fail("compiled"))
    (tmp_path / "kafka.yaml").write_text(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: x}\n"
        "spec: {scaleTargetRef: {name: vllm}, triggers: [{type: kafka, metadata: {}}]}\n"
    )
    assert "kafka" in refused("simulate", "--hpa", tmp_path / "kafka.yaml")


def test_a_set_that_is_refused_leaves_no_directory(tmp_path):
    (tmp_path / "other.json").write_text(f'{{"answer": "autoscale", "profile": "{OTHER}"}}')
    refused("manifests", PROFILE, "--recommendation", tmp_path / "other.json", "--out", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_files_that_belong_together_are_written_all_or_none(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "hpa.yaml").write_text("kind: older\n")
    texts = {
        tmp_path / "set" / "hpa.yaml": "kind: newer\n",
        tmp_path / "set" / "alerts" / "rules.yaml": "kind: rules\n",
    }
    write = Path.write_text

    def full(path, text, **options):
        if "rules" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(BadInput, match=r"cannot write .*alerts/rules.yaml: no space left. Make room"):
            put_all(texts)
    leave_no_empty_directories()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["hpa.yaml"]
    assert (tmp_path / "set" / "hpa.yaml").read_text() == "kind: older\n"
    put_all(texts)
    assert {path: path.read_text() for path in texts} == texts
