"""What the linter reads: broken and hostile YAML, Lists, kustomizations, Helm output, ten thousand objects."""

import json
import time
from pathlib import Path

import pytest
import yaml

from analysis.documents import Problem, documents, plain_value
from analysis.errors import BadInput
from autoscale.deploy import Options, objects, write_files, write_set
from autoscale.lint.linter import lint_files, lint_objects
from autoscale.profiles import load

GPU = "llama-3.1-405b-2x8h100"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n"


def lint_text(tmp_path, text, name="a.yaml"):
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return lint_files([file])


def bomb(levels=9, width=9):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        pytest.param("a: [1, 2\nb: 3\n", "yaml-broken", 2, 2, id="a bracket that is not closed"),
        pytest.param(f"{SERVICE}---\nkind: X\n  bad: 1\n", "yaml-broken", 7, 6, id="the second of two documents"),
        pytest.param("a:\n\t- b\n", "yaml-broken", 2, 1, id="a tab as indentation"),
        pytest.param("name: {{ .Values.name }}\n", "yaml-broken", 1, 8, id="a Helm template that was not rendered"),
        pytest.param("a: 1\nb: 2\na: 3\n", "yaml-duplicate-key", 3, 1, id="the same key twice"),
        pytest.param(bomb(), "yaml-bomb", 6, None, id="aliases of aliases of aliases"),
        pytest.param("a: &a [*a]\n", "yaml-bomb", 1, 8, id="an alias inside itself"),
        pytest.param("[" * 5000, "yaml-bomb", 1, 101, id="five thousand brackets"),
        pytest.param("[" * 500 + "]" * 500, "yaml-bomb", 1, 101, id="five hundred brackets that close again"),
        pytest.param("{a: " * 5000, "yaml-bomb", 1, 401, id="five thousand braces"),
        pytest.param("- " * 5000 + "x", "yaml-bomb", 1, 201, id="five thousand lists in block style"),
        pytest.param("".join(f"{' ' * i}a:\n" for i in range(1500)), "yaml-bomb", 101, 101, id="mappings in block style"),
        pytest.param("a: !!python/object/apply:os.system ['true']\n", "yaml-tag-refused", 1, 4, id="a tag that runs code"),
        pytest.param("a: !vault x\n", "yaml-tag-refused", 1, 4, id="a tag of somebody's own"),
        pytest.param(b"a: \xff\xfe\n", "yaml-broken", 1, 1, id="bytes that are not UTF-8"),
        pytest.param("a: \x01\n", "yaml-broken", 1, None, id="a control character"),
        pytest.param("kind: Service\nmetadata: {name: a}\n", "not-an-object", 1, 1, id="an object without apiVersion"),
    ],
)  # fmt: skip
def test_bad_input_is_a_finding_with_its_place_and_never_a_crash(text, code, line, column, tmp_path):
    report = lint_text(tmp_path, text)
    finding = next(finding for finding in report.findings if finding.code == code)
    assert report.errors >= 1
    assert finding.line == line
    assert column is None or finding.column == column
    assert finding.file.endswith("a.yaml")


@pytest.mark.parametrize("depth", [101, 500, 5000])
def test_json_that_is_nested_too_deep_is_the_same_finding(depth, tmp_path):
    text = '{"a":\t' * depth + "1" + "}" * depth  # a tab: YAML alone would not take it
    report = lint_text(tmp_path, text.replace("\t", " "), "a.json")
    assert [finding.code for finding in report.findings] == ["yaml-bomb"]
    assert lint_text(tmp_path, text, "b.json").errors == 1


def test_documents_before_a_broken_one_are_still_judged(tmp_path):
    hpa = yaml.safe_dump(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"},
            "spec": {},
        }
    )
    report = lint_text(tmp_path, f"{hpa}---\n- [\n")
    assert {"yaml-broken", "api-refused"} <= {finding.code for finding in report.findings}


@pytest.mark.parametrize(
    ("text", "value"),
    [("~", None), ("yes", True), ("Off", False), ("0o17", 15), ("017", 15), ("0x1F", 31), ("-3", -3), ("1.5", 1.5),
     ("1e3", 1000.0), ("10:30", "10:30"), ("2024-01-02", "2024-01-02"), ("v1", "v1"), ("1.2.3", "1.2.3")],
)  # fmt: skip
def test_plain_scalars_are_what_an_api_server_reads(text, value):
    read = plain_value(text)
    assert read == value
    assert type(read) is type(value)


def test_what_is_built_is_what_the_safe_loader_builds_for_generated_sets():
    for path, text in write_set(load(GPU)):
        if path.endswith(".yaml"):
            mine = [document.value for document in documents(text, {}) if not isinstance(document, Problem)]
            assert mine == list(yaml.safe_load_all(text))


def test_findings_name_file_and_line_of_the_field(tmp_path):
    write_files(write_set(load(GPU)), tmp_path)
    file = tmp_path / "monitoring.yaml"
    file.write_text(file.read_text().replace("port: 8080", "port: 8000"))
    finding = next(f for f in lint_files([tmp_path]).findings if f.code == "scrape-port")
    assert finding.place.startswith(str(file))
    assert "port: 8000" in file.read_text().splitlines()[finding.line - 1]
    assert finding.field == "spec.endpoints[0].port"


def test_a_list_and_json_are_read_like_documents(tmp_path):
    set_ = objects(load(GPU))
    hpa = next(o for o in set_ if o["kind"] == "HorizontalPodAutoscaler")
    hpa["spec"]["scaleTargetRef"]["name"] = "other"
    whole = {"apiVersion": "v1", "kind": "List", "items": set_}
    for name, text in (("a.yaml", yaml.safe_dump(whole)), ("a.json", json.dumps(whole, indent="\t"))):
        report = lint_text(tmp_path, text, name)
        assert [f.code for f in report.findings if f.severity == "error"] == ["target-missing"]
        assert report.objects == len(set_)


def test_unknown_kinds_are_passed_over_with_a_note(tmp_path):
    text = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: a}\n---\nreplicas: 3\n"
    report = lint_text(tmp_path, text)
    assert report.findings == []
    assert any("Gadget" in note for note in report.notes)
    assert any("not a Kubernetes object" in note for note in report.notes)


def test_an_hpa_without_its_workload_says_what_could_not_be_compared():
    hpa = next(o for o in objects(load(GPU)) if o["kind"] == "HorizontalPodAutoscaler")
    report = lint_objects([hpa])
    assert [(f.severity, f.code) for f in report.findings] == [("warning", "target-not-in-set")]


def test_several_sets_in_one_tree_are_judged_one_by_one(tmp_path):
    for name in (GPU, "deepseek-r1-2x8h100"):  # both are called vllm and lws-hpa
        write_files(write_set(load(name)), tmp_path / name)
    assert lint_files([tmp_path]).errors == 0


def test_a_kustomization_pulls_its_base_in_and_patches_are_not_objects(tmp_path):
    write_files(write_set(load(GPU)), tmp_path / "base")
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        "resources: [../base/hpa.yaml, ../base/workload.yaml]\nnamespace: llm\npatches:\n- path: patch.yaml\n"
    )
    (overlay / "patch.yaml").write_text(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: lws-hpa}\nspec: {maxReplicas: 8}\n"
    )
    report = lint_files([overlay])
    assert {f.code for f in report.findings if f.severity == "error"} == {"scrape-missing"}
    assert {f.namespace for f in report.findings} == {"llm"}
    assert any("patches" in note and "kubectl kustomize" in note for note in report.notes)


def test_helm_charts_templates_are_left_to_helm(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("name: x\nversion: 1.0.0\n")
    (tmp_path / "templates" / "a.yaml").write_text("name: {{ .Values.x }}\n")
    (tmp_path / "hpa.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    report = lint_files([tmp_path])
    assert report.errors == 0
    assert any("helm template" in note for note in report.notes)


def test_a_path_that_does_not_exist_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        lint_files([tmp_path / "nothing.yaml"])
    with pytest.raises(BadInput, match="nothing to lint"):
        lint_files([tmp_path])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "no Kubernetes object", id="an empty file"),
        pytest.param("# nothing yet\n---\n", "no Kubernetes object", id="comments only"),
        pytest.param("replicas: 3\n", "passed over", id="a values file says why it was passed over"),
        pytest.param("- 1\n- 2\n", "no Kubernetes object", id="a list of numbers"),
    ],
)
def test_a_file_without_any_object_is_bad_input(tmp_path, text, why):
    file = tmp_path / "set.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=why) as caught:
        lint_files([file])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["README.md", "load.sh"], ids=["a text", "a script by itself"])
def test_what_holds_no_object_is_bad_input_not_a_sound_set(tmp_path, name):
    file = tmp_path / name
    file.write_text("# Set\n\nkubectl apply -k .\n")
    for path in (file, tmp_path):
        with pytest.raises(BadInput, match="nothing to lint"):
            lint_files([path])


def test_the_adapters_values_beside_a_set_are_compared_with_the_hpa(tmp_path):
    write_files(write_set(load("llama-3.1-405b-2x8h100-baremetal")), tmp_path)
    assert lint_files([tmp_path]).errors == 0
    values = tmp_path / "prometheus-adapter-values.yaml"
    values.write_text(values.read_text().replace("as: vllm_num_requests_waiting", "as: vllm_waiting"))
    finding = next(f for f in lint_files([tmp_path]).findings if f.severity == "error")
    assert finding.code == "adapter-rule-missing"
    assert "vllm_waiting" in finding.problem


def test_sarif_and_json_hold_every_finding_with_level_and_region(tmp_path):
    write_files(write_set(load(GPU)), tmp_path)
    hpa = tmp_path / "hpa.yaml"
    hpa.write_text(hpa.read_text().replace("averageValue: '5'", "averageValue: '0'"))
    report = lint_files([tmp_path])
    run = report.sarif()["runs"][0]
    assert report.sarif()["version"] == "2.1.0"
    assert len(run["results"]) == len(report.findings) == len(report.to_json()["findings"])
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["locations"][0]["physicalLocation"]["region"]["startLine"] >= 1
    assert report.to_json()["errors"] == report.errors == 1
    json.dumps([report.sarif(), report.to_json()])


@pytest.mark.parametrize("profile", [GPU, "llama-3.1-70b-v6e8"])
def test_ten_thousand_objects_cost_no_more_per_object_than_a_thousand(profile, tmp_path):
    one = "---\n".join(
        text
        for path, text in write_set(load(profile), options=Options(bucket="weights"))
        if path.endswith(".yaml") and "kust" not in path
    )
    kinds = (
        "vllm-tpu",
        "vllm-hpa",
        "vllm-service",
        "lws-hpa",
        "vllm-leader",
        "sigs.k8s.io/name: vllm",
        "name: vllm",
    )

    def spent_s(copies):
        parts = []
        for number in range(copies):
            text = one
            for word in kinds:
                text = text.replace(f"{word}\n", f"{word}-{number}\n")
            parts.append(text)
        file = tmp_path / f"{copies}.yaml"
        file.write_text("---\n".join(parts))
        start = time.process_time()
        report = lint_files([file])
        assert report.errors == 0
        return (time.process_time() - start) / report.objects

    small = spent_s(70)
    assert spent_s(700) < 4 * small + 1e-4


def test_a_file_that_is_too_large_for_a_manifest_is_not_read(tmp_path: Path) -> None:
    with (file := tmp_path / "data.json").open("wb") as made:
        made.truncate(25_000_001)
    with pytest.raises(BadInput, match="too much for manifests"):
        lint_files([file])
