"""A secret in every input of every verb: sent where it belongs, and found in nothing that the verb says or writes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from autoscale.cli import VERBS, app
from tests.kubernetes_standin import ApiServer
from tests.observe import servers
from tests.planted import found

ROOT = Path(__file__).parent.parent
PASSWORD, QUERY, KEY, HEADER, TOKEN, VALUE, NOTE, WORD = (
    f"{name}-planted-7f3a"
    for name in ("password", "query", "key", "header", "token", "value", "note", "word")
)
NUMBER = "918273645546372819"  # a password of digits, which YAML reads as a number
SECRETS = (PASSWORD, QUERY, KEY, HEADER, TOKEN, VALUE, NOTE, WORD, NUMBER)
LOGIN = f"user:{PASSWORD}@"
ASKS = f"?api_key={QUERY}"
ODD = "\udcff"  # a byte that is no UTF-8, as Python holds it
ENVIRONMENT = {
    "ODD_PLANTED": HEADER + ODD,
    "OPENAI_API_KEY": KEY,
    "VLLM_API_KEY": KEY,
    "HF_TOKEN": TOKEN,
    "PLANTED": HEADER,
}
LENGTHS = ["--prompt-tokens", "fixed:64", "--output-tokens", "fixed:16"]
LOAD = f"locust -f loadgen/completions.py --rate 1 -t 1s --api-key {WORD} --header 'X-Tenant: {HEADER}' --host http://{LOGIN}127.0.0.1:9/v1{ASKS}"


@dataclass(frozen=True)
class Inputs:
    """Files and servers that hold the planted secrets."""

    folder: Path
    run: Path
    api: ApiServer
    prometheus: str  # without http://, as everything here: HOST:PORT
    refusing: str
    fleet: str

    def at(self, name: str) -> str:
        return str(self.folder / name)


# verb -> what it is asked: the arguments and the exit codes that are an answer
Asked = tuple[Callable[[Inputs], list[str]], set[int]]
ASKED: dict[str, dict[str, Asked]] = {
    "serve": {
        "an HPA with annotations": (lambda i: ["--hpa", i.at("hpa.yaml"), "--port", "0"], {0}),
        "an address that cannot be had": (lambda i: ["--host", f"http://{LOGIN}h{ASKS}"], {2, 3}),
        "a file without an HPA": (lambda i: ["--hpa", i.at("set.yaml"), "--port", "x"], {2}),
    },
    "simulate": {
        "an HPA with annotations": (
            lambda i: ["--hpa", i.at("hpa.yaml"), "--traffic", i.at("load.yaml"), "--seeds", "1", "--out", i.at("out/simulate")],
            {0},
        ),
        "no HPA": (lambda i: ["--hpa", i.at("pod.yaml")], {2}),
        "a trace at an address": (lambda i: ["--hpa", i.at("hpa.yaml"), "--traffic", f"http://{LOGIN}h/t.csv{ASKS}"], {2}),
    },
    "collect": {
        "Prometheus": (
            lambda i: [str(i.run), "--prometheus", f"http://{LOGIN}{i.prometheus}/{ASKS}", "--header", f"X-Scope-OrgID: {HEADER}", "--json"],
            {0, 2, 3},
        ),
        "Prometheus that refuses": (
            lambda i: [str(i.run), "--prometheus", f"http://{i.refusing}/{ASKS}", "--token-file", i.at("key"), "--header", "X-T: $PLANTED"],
            {2, 3},
        ),
        "Prometheus noted in the run": (lambda i: [str(i.run)], {2, 3}),
        "a replica that refuses": (
            lambda i: [str(i.run), "--scrape", f"http://{LOGIN}{i.refusing}/metrics{ASKS}", "--api-key-file", i.at("key")],
            {2, 3},
        ),
        "nobody": (lambda i: [str(i.run), "--scrape", f"http://{LOGIN}127.0.0.1:9{ASKS}"], {2, 3}),
        "no header": (lambda i: [str(i.run), "--header", HEADER], {2}),
        "a header of bytes that are no text": (lambda i: [str(i.run), "--prometheus", "http://127.0.0.1:9", "--header", "X-T: $ODD_PLANTED"], {2}),
        "a replica, with such a header": (lambda i: [str(i.run), "--scrape", "http://127.0.0.1:9", "--header", "X-T: $ODD_PLANTED"], {2}),
        "a password of bytes that are no text": (lambda i: [str(i.run), "--prometheus", f"http://u:{PASSWORD}{ODD}@127.0.0.1:9"], {2}),
        "a query of bytes that are no text": (lambda i: [str(i.run), "--prometheus", f"http://{LOGIN}127.0.0.1:9{ASKS}{ODD}"], {2}),
        "no URL": (lambda i: [str(i.run), "--prometheus", f"ftp://{LOGIN}h {ASKS}"], {2}),
    },
    "traffic": {
        "Prometheus": (
            lambda i: ["--prometheus", f"http://{LOGIN}{i.prometheus}/{ASKS}", "--header", f"X-Scope-OrgID: {HEADER}", "--json", "--out", i.at("out/traffic.yaml")],
            {0, 2, 3},
        ),
        "Prometheus that refuses": (
            lambda i: ["--prometheus", f"http://{i.refusing}/{ASKS}", "--token-file", i.at("key"), "--out", i.at("out/traffic.yaml")],
            {2, 3},
        ),
        "an access log": (lambda i: ["--access-log", i.at("access.log"), "--out", i.at("out/log.yaml")], {2}),
        "a header of bytes that are no text": (lambda i: ["--prometheus", "http://127.0.0.1:9", "--header", "X-T: $ODD_PLANTED", "--out", i.at("out/traffic.yaml")], {2}),
        "no time": (lambda i: ["--prometheus", f"http://{LOGIN}h{ASKS}", "--until", "soon", "--out", i.at("out/traffic.yaml")], {2}),
    },
    "recommend": {
        "a run and an HPA": (
            lambda i: [str(i.run), "--current", i.at("hpa.yaml"), "--out", i.at("out/recommend"), "--traffic", f"http://{LOGIN}h{ASKS}"],
            {0, 1, 2},
        ),
        "no HPA": (lambda i: [str(i.run), "--current", i.at("pod.yaml")], {2}),
        "no recommendation": (lambda i: [str(i.run), "--against", i.at("pod.yaml")], {2}),
        "from a Prometheus that refuses": (
            lambda i: ["--from-prometheus", f"http://{LOGIN}{i.refusing}/{ASKS}", "--token-file", i.at("key"), "--out", i.at("out/prod")],
            {2, 3},
        ),
    },
    "watch": {
        "no recommendation": (lambda i: ["--recommendation", i.at("pod.yaml"), "--traffic", i.at("load.yaml")], {2}),
        "an address": (lambda i: ["--recommendation", f"http://{LOGIN}h/r.json{ASKS}", "--traffic", f"http://{LOGIN}h/t{ASKS}"], {2}),
    },
    "predict": {
        "a run": (lambda i: [str(i.run), *LENGTHS, "--json"], {0, 1, 2}),
        "no profile": (lambda i: [str(i.run), *LENGTHS, "--profile", i.at("pod.yaml")], {2}),
    },
    "profile": {
        "a run": (lambda i: ["--from-run", str(i.run), "--accelerator", "l4", "--out", i.at("out/mine.yaml")], {0, 2}),
        "a run on the terminal": (lambda i: ["--from-run", str(i.run)], {0, 2}),
        "no config": (lambda i: ["--from-run", str(i.run), "--model-config", i.at("pod.yaml")], {2}),
    },
    "report": {
        "a run": (lambda i: [str(i.run), "--out", i.at("out/run.html")], {0}),
        "no run": (lambda i: [f"http://{LOGIN}h{ASKS}"], {2}),
    },
    "load": {
        "no server": (lambda i: ["--headless", "--rate", "1", "--host", f"http://{LOGIN}127.0.0.1:9/v1{ASKS}"], {2, 3}),
        "a header of bytes that are no text": (lambda i: ["--headless", "--rate", "1", "--host", "http://127.0.0.1:9", "--header", "X-T: $ODD_PLANTED"], {2}),
        "a password of bytes that are no text": (lambda i: ["--headless", "--rate", "1", "--host", f"http://u:{PASSWORD}{ODD}@127.0.0.1:9"], {2}),
    },
    "profiles": {"no profile": (lambda i: [i.at("pod.yaml")], {2})},
    "signals": {"all": (lambda i: [], {0})},
    "traces": {"all": (lambda i: [], {0})},
    "manifests": {
        "an option": (lambda i: ["llama-3.1-8b-1xl4", "--set", f"hf_token={TOKEN}"], {2}),
        "a cluster": (lambda i: ["llama-3.1-8b-1xl4", "--apply"], {0, 1, 2, 3}),
        "a set": (lambda i: ["llama-3.1-8b-1xl4", "--out", i.at("out/set")], {0}),
    },
    "lint": {
        "files": (lambda i: [i.at("set.yaml"), i.at("pod.yaml"), i.at("hpa.yaml"), i.at("load.sh")], {0, 1}),
        "files, as JSON": (lambda i: [i.at("set.yaml"), i.at("pod.yaml"), i.at("load.sh"), "--json"], {0, 1}),
        "files, as SARIF": (lambda i: [i.at("set.yaml"), i.at("pod.yaml"), "--sarif"], {0, 1}),
        "a broken file": (lambda i: [i.at("broken.yaml")], {1, 2}),
        "a cluster": (lambda i: ["--cluster", "--json"], {0, 1}),
        "a cluster that is not there": (lambda i: ["--cluster", "--context", "gone"], {3}),
    },
    "check": {
        "a cluster": (
            lambda i: ["--hpa", "vllm", "--timeout", "2", "--out", i.at("out/check"), "--load", LOAD, "--json"],
            {0, 1, 3},  # 3: nobody answers the load
        ),
        "its evidence again": (lambda i: ["--replay", i.at("out/check")], {0, 1}),
        "a cluster that is not there": (lambda i: ["--hpa", "vllm", "--context", "gone", "--timeout", "1", "--out", i.at("out/gone")], {3}),
        "no fleet": (lambda i: ["--fleet", f"http://{LOGIN}127.0.0.1:9/{ASKS}"], {2, 3}),
        "another server than a fleet": (lambda i: ["--fleet", f"http://{i.refusing}/{ASKS}"], {2, 3}),
        "a load that is none": (lambda i: ["--hpa", "vllm", "--load", LOAD.replace("locust", "wrk", 1)], {2}),
        "a load with a quote too few": (lambda i: ["--hpa", "vllm", "--load", LOAD + " '"], {2}),
    },
    # What it does when it succeeds, minutes of it, are the verbs above, with inputs that it makes itself.
    "demo": {"no profile": (lambda i: ["--profile", i.at("pod.yaml"), "--out", i.at("out/demo")], {2})},
}  # fmt: skip

CONTAINER = {
    "name": "vllm",
    "image": f"registry/vllm:{'v0.11.0'}",
    "args": ["--model", "m", "--api-key", WORD],
    "env": [
        {"name": "HF_TOKEN", "value": TOKEN},
        {"name": "DB_PASSWORD", "value": int(NUMBER)},
        {"name": "PROXY_SECRET", "value": f"{VALUE}/REPLACE_ME"},
        {"name": "PROXY", "value": f"http://{LOGIN}proxy:3128/{ASKS}"},
    ],
    "ports": [{"containerPort": 8000}],
}
NOTES = {
    "example.com/api-key": NOTE,
    "example.com/from": f"http://{LOGIN}h/{ASKS}",
    "example.com/password": int(NUMBER),
}
APPLIED = {
    "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"containers": [CONTAINER]}})
}
META = {
    "name": "vllm",
    "namespace": "default",
    "uid": "u",
    "labels": {"app": "vllm"},
    "annotations": {**NOTES, **APPLIED},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": META,
    "spec": {"containers": [CONTAINER]},
    "status": {"phase": "Running"},
}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": META,
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "vllm"}},
        "template": {
            "metadata": {"labels": {"app": "vllm"}, "annotations": NOTES},
            "spec": {"containers": [CONTAINER]},
        },
    },
}
HPA = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": META,
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"},
        "minReplicas": 1,
        "maxReplicas": 3,
        "metrics": [{"type": "Pods", "pods": {"metric": {"name": "vllm_num_requests_waiting"}, "target": {"type": "AverageValue", "averageValue": "5"}}}],
    },
}  # fmt: skip
SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"a": f"{VALUE}/CHANGE_ME", "pin": int(NUMBER)}}  # fmt: skip
EVENT = {
    "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default", "uid": "e"}, "reason": "Failed", "type": "Warning",
    "involvedObject": {"kind": "Pod", "name": "vllm", "namespace": "default"}, "message": f"cannot pull http://{LOGIN}h/i{ASKS}",
    "lastTimestamp": "2026-01-01T00:00:00Z",
}  # fmt: skip
LOAD_FILE = {"load": [{"stages": "1:20"}], "prompt_tokens": "fixed:64", "output_tokens": "fixed:8"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, sweep_run: Callable[[str], Path]) -> Iterator[Inputs]:
    folder, run = tmp_path_factory.mktemp("secrets"), sweep_run("sweep_D")
    header = json.loads((run / "run.json").read_text())
    header |= {"prometheus": f"http://{LOGIN}127.0.0.1:9/{ASKS}", "target": f"http://{LOGIN}h/v1{ASKS}"}
    header |= {"command": LOAD, "environment": {"HF_TOKEN": TOKEN}}
    (run / "run.json").write_text(json.dumps(header))
    (folder / "key").write_text(KEY)
    (folder / "out").mkdir()
    (folder / "load.yaml").write_text(yaml.safe_dump(LOAD_FILE))
    logged = [
        json.dumps({"time": 1.78e9, "authorization": f"Bearer {TOKEN}"}),
        f"Bearer {TOKEN}",
        f"{{{VALUE}",
    ]
    (folder / "access.log").write_text("\n".join(logged))
    (folder / "hpa.yaml").write_text(yaml.safe_dump(HPA))
    (folder / "pod.yaml").write_text(yaml.safe_dump(POD))
    (folder / "set.yaml").write_text(yaml.safe_dump_all([DEPLOYMENT, SECRET]))
    (folder / "broken.yaml").write_text(f"env: [{{name: HF_TOKEN, value: {TOKEN}\npassword: {VALUE}: {{")
    (folder / "load.sh").write_text(f"#!/bin/sh\nexport HF_TOKEN={TOKEN}\n{LOAD}\n")
    api = ApiServer()
    for resource, item in {"pods": POD, "deployments": DEPLOYMENT, "horizontalpodautoscalers": HPA, "events": EVENT}.items():  # fmt: skip
        api.apply(resource, "ADDED", item)
    (folder / "kubeconfig").write_text(yaml.safe_dump(_kubeconfig(api.url)))
    with ExitStack() as open_ones:
        told = open_ones.enter_context(servers.serving(servers.FakePrometheus([])))
        echo: list[servers.Server] = []
        refuses = open_ones.enter_context(
            servers.serving(lambda path, query: (401, f"wrong: {path} {query} {echo[0].seen[-1]}"))
        )
        echo.append(refuses)
        address = [server.url.removeprefix("http://") for server in (told, refuses)]
        yield Inputs(folder, run, api, address[0], address[1], "")
    api.stop()


def _kubeconfig(url: str) -> dict[str, object]:
    servers_ = {"here": url, "gone": f"http://{LOGIN}127.0.0.1:9"}
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in servers_],
        "clusters": [{"name": name, "cluster": {"server": server}} for name, server in servers_.items()],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    }  # fmt: skip


def test_every_verb_is_asked() -> None:
    assert set(ASKED) == {verb.__name__.rstrip("_") for verb in VERBS}
    assert len(app.registered_commands) == len(VERBS)


def _done(command: list[str], inputs: Inputs) -> subprocess.CompletedProcess[str]:
    """The verb run to its end, or ended once it serves."""
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "KUBECONFIG": inputs.at("kubeconfig")}
    with subprocess.Popen(
        [sys.executable, "-m", "autoscale", *command], cwd=inputs.folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        said = ""
        if command[0] == "serve":
            for line in process.stderr:
                said += line
                if line.startswith("fleet"):
                    process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=220)
    return subprocess.CompletedProcess(command, process.returncode, out, said + err)


@pytest.mark.parametrize(
    ("verb", "case"), [pytest.param(verb, case, id=f"{verb}: {case}") for verb in ASKED for case in ASKED[verb]]
)  # fmt: skip
def test_no_secret_is_said_or_written(inputs: Inputs, verb: str, case: str) -> None:
    arguments, codes = ASKED[verb][case]
    before = (inputs.run / "run.json").read_text()
    done = _done([verb, *arguments(inputs)], inputs)
    changed = [file for file in inputs.run.rglob("*") if file.is_file() and file.name != "run.json"]
    written = (
        [(inputs.run / "run.json").read_text()] if (inputs.run / "run.json").read_text() != before else []
    )
    assert found(SECRETS, done.stdout, done.stderr, inputs.folder / "out", *changed, *written) == []
    assert done.returncode in codes, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
