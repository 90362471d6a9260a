"""`autoscale lint` on files and `autoscale check` on a cluster that holds the same objects find the same."""

import ast
import copy
import random
import re
from pathlib import Path

import pytest
import yaml

from autoscale.check.preflight import diagnose
from autoscale.check.snapshot import take
from autoscale.kube.cluster import ClusterError
from autoscale.kube.kinds import KINDS, plural_of
from autoscale.lint.linter import lint_files

ROOT = Path(__file__).parent.parent.parent
SPACE = "llm"
LABELS = {"app": "vllm"}
SIGNALS = {
    "waiting": ("num_requests_waiting", ["0", "500m", "1", "5", "40", "900", "6000"]),
    "running": ("num_requests_running", ["1", "50", "60", "64", "100", "116", "128", "200"]),
    "kv_usage": ("kv_cache_usage_perc", ["500m", "700m", "850m", "910m", "950m", "1", "1700m", "70"]),
    "old_kv": ("gpu_cache_usage_perc", ["700m"]),
    "typo": ("num_request_waiting", ["5"]),
}
IMAGES = ("v0.8.5", "v0.10.1", "v0.11.0", "v0.12.0", "latest")


def hpa(metrics, *, kind="Deployment", name="vllm", low=1, high=4, behavior=None, scaler="vllm-hpa"):
    api = KINDS[kind].api if kind in KINDS else "apps/v1"
    spec = {
        "scaleTargetRef": {"apiVersion": api, "kind": kind, "name": name},
        "minReplicas": low,
        "maxReplicas": high,
        "metrics": metrics,
    }
    if behavior:
        spec["behavior"] = behavior
    metadata = {"name": scaler, "namespace": SPACE}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": spec,
    }


def metric(signal, value, path="stackdriver"):
    series = SIGNALS[signal][0]
    name = f"prometheus.googleapis.com|vllm:{series}|gauge" if path == "stackdriver" else f"vllm_{series}"
    target = {"type": "AverageValue", "averageValue": value}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}


def workload(*, kind="Deployment", seats=None, engines=1, image="v0.12.0", port=8000, labels=LABELS):
    args = ["--model=meta-llama/Llama-3.1-8B", f"--port={port}"]
    args += [f"--max-num-seqs={seats}"] if seats else []
    args += [f"--data-parallel-size={engines}"] if engines > 1 else []
    container = {
        "name": "vllm",
        "image": image if "/" in image else f"vllm/vllm-openai:{image}",
        "args": args,
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": str(engines)}},
    }
    template = {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}}
    spec = {"selector": {"matchLabels": dict(labels)}, "template": template}
    if kind == "LeaderWorkerSet":
        spec = {"leaderWorkerTemplate": {"size": 1, "leaderTemplate": template, "workerTemplate": template}}
    if kind == "StatefulSet":
        spec["serviceName"] = "vllm"
    metadata = {"name": "vllm", "namespace": SPACE}
    return {"apiVersion": KINDS[kind].api, "kind": kind, "metadata": metadata, "spec": spec}


def monitor(kind, *, selector=LABELS, port="http", space=SPACE):
    key = "endpoints" if kind == "PodMonitoring" else "podMetricsEndpoints"
    spec = {"selector": {"matchLabels": dict(selector)}, key: [{"port": port, "interval": "15s"}]}
    return {
        "apiVersion": KINDS[kind].api,
        "kind": kind,
        "metadata": {"name": "vllm", "namespace": space},
        "spec": spec,
    }


def service(*, selector=LABELS, port=8000):
    spec = {"selector": dict(selector), "ports": [{"port": 80, "targetPort": port}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "vllm", "namespace": SPACE},
        "spec": spec,
    }


def drawn(seed):
    """A scaler, what it scales and what serves and measures it, with faults in some of them."""
    rng = random.Random(seed)
    kind = rng.choice(["Deployment", "Deployment", "StatefulSet", "LeaderWorkerSet"])
    path = rng.choice(["stackdriver", "stackdriver", "adapter"])
    metrics = [
        metric(signal, rng.choice(SIGNALS[signal][1]), path)
        for signal in rng.sample(list(SIGNALS), rng.randint(0, 3))
    ]
    behavior = rng.choice(
        [
            None,
            {"scaleUp": {"tolerance": rng.choice(["50m", "0", "300m"])}},
            {"scaleUp": {"stabilizationWindowSeconds": rng.choice([0, 900, 4000])}},
            {"scaleUp": {"selectPolicy": "Disabled"}},
            {"scaleDown": {"tolerance": "200m", "stabilizationWindowSeconds": 60}},
        ]
    )
    low = rng.choice([0, 1, 1, 2])
    scaled = {"kind": kind, "name": rng.choice(["vllm"] * 5 + ["elsewhere"])}
    made = [hpa(metrics, **scaled, low=low, high=rng.choice([low, low + 3]), behavior=behavior)]
    made.append(
        workload(
            kind=kind,
            seats=rng.choice([None, 64, 64, 128]),
            engines=rng.choice([1, 1, 2]),
            image=rng.choice(IMAGES),
            port=rng.choice([8000, 8000, 8001]),
        )
    )
    other = {"app": "other"}
    if rng.random() < 0.7:
        kinds = ["PodMonitoring"] * 2 + ["PodMonitor"]
        ends = {"selector": rng.choice([LABELS, LABELS, other]), "port": rng.choice(["http", "http", 9])}
        made.append(monitor(rng.choice(kinds), **ends))
    if rng.random() < 0.5:
        made.append(service(selector=rng.choice([LABELS, other]), port=rng.choice([8000, 9000])))
    if rng.random() < 0.2:
        made.append(hpa(metrics, **scaled, scaler="second"))
    return made


def contradicted(metrics, **server):
    return [hpa(metrics), workload(**server), monitor("PodMonitoring")]


KNOWN = {  # what the two once answered differently, and the code that is right, "" for none
    "1.1 x 0.95 is more than 1": (contradicted([metric("kv_usage", "950m")]), "target-never-fires"),
    "1.1 x 60 is more than 64 seats": (
        contradicted([metric("running", "60")], seats=64),
        "target-never-fires",
    ),
    "an image of one's own with vLLM's flags": (
        contradicted([metric("running", "60")], seats=64, image="registry.example/llm:1"),
        "target-never-fires",
    ),
    "1.1 x 100 is less than 2 x 64 seats": (
        contradicted([metric("running", "100")], seats=64, engines=2),
        "",
    ),
}


class Holding:
    """A cluster that holds these objects, without pods, conditions or a metrics API; it lists as API servers do."""

    tells_queries = False
    simulated = False

    def __init__(self, objects):
        self.objects = objects

    def now_s(self):
        return 0.0

    def list(self, resource, namespace=None, selector=""):
        found = [o for o in self.objects if plural_of(o["kind"]) == resource]
        return [{key: value for key, value in o.items() if key not in ("kind", "apiVersion")} for o in found]

    def custom_metric(self, namespace, metric, selector):
        raise ClusterError("nothing registered", status=404, absent=True)


def said(findings):
    return {
        (f.severity, f.code, f.kind, f.namespace, f.name, f.field, f.problem, f.consequence, f.fix)
        for f in findings
    }


def both(objects, tmp_path):
    """What lint says of files, what check says of a cluster."""
    (tmp_path / "set.yaml").write_text(yaml.safe_dump_all(objects))
    live = diagnose(take(Holding(copy.deepcopy(objects)), SPACE, "vllm-hpa"), "vllm-hpa")
    return lint_files([tmp_path / "set.yaml"]).findings, live


@pytest.mark.parametrize("seed", range(60))
def test_files_and_cluster_get_the_same_verdict(seed, tmp_path):
    objects = drawn(seed)
    files, live = both(objects, tmp_path)
    if objects[0]["spec"]["scaleTargetRef"]["name"] == "elsewhere":  # what is another workload's is left out
        assert said(f for f in files if f.kind == "HorizontalPodAutoscaler") <= said(live)
    else:
        assert said(files) <= said(live)
    assert {f.code for f in live if said([f]) - said(files)} <= codes_of_status()


@pytest.mark.parametrize(("objects", "code"), KNOWN.values(), ids=KNOWN)
def test_the_known_contradictions_are_decided(objects, code, tmp_path):
    for findings in both(objects, tmp_path):
        found = [f.code for f in findings if f.field.endswith("averageValue")]
        assert found == ([code] if code else [])


def test_the_drawn_sets_hold_faults_of_many_kinds(tmp_path):
    found = [f for seed in range(60) for f in both(drawn(seed), tmp_path)[0]]
    assert len({f.code for f in found if f.severity == "error"}) > 12


def test_the_rules_of_another_model_are_left_out(tmp_path):
    healthy = contradicted([metric("waiting", "5")], seats=64)
    files, _ = both(healthy, tmp_path)
    labels = {"app": "other"}
    theirs = [
        hpa([metric("kv_usage", "950m")], name="other", scaler="other-hpa"),
        {**workload(seats=4, labels=labels), "metadata": {"name": "other", "namespace": SPACE}},
        {
            **monitor("PodMonitoring", selector=labels, port=9),
            "metadata": {"name": "other", "namespace": SPACE},
        },
    ]
    all_of_it, live = both(healthy + theirs, tmp_path)
    assert {f.name for f in all_of_it if f.severity == "error"} >= {"other-hpa", "other"}
    assert said(files) == {each for each in said(live) if each[1] not in codes_of_status()}


# --- the page --------------------------------------------------------------------------------------------------------


def codes_of_status():
    page = (ROOT / "docs/lint.md").read_text()
    section = page.split("## What only a cluster tells")[1].split("\n## ")[0]
    return set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", section))


def test_every_status_rule_stands_on_the_page():
    words = {
        node.value
        for file in (ROOT / "autoscale/check/rules").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    shaped = {word for word in words if re.fullmatch(r"[a-z]+(-[a-z]+)+", word)} - {"metrics-api"}
    assert shaped == codes_of_status()
