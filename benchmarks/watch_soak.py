"""Whether a long watch grows: `autoscale check` over an API server that is busy and restarts.

    python benchmarks/watch_soak.py [--hours 3] [--restart-minutes 10] [--out watch-soak]

The API server is the tests' stand-in with the objects of a recorded check as they stand at its end, in a process of its own,
so that a restart is a killed process and a new store. Every second it changes a pod and the HPA's status and makes an event;
events go after ten minutes. The checker is the command of the terminal, through a kubeconfig. Every 5 s its memory
(resident, MB), descriptors and threads are read from /proc (Linux), written to OUT/soak.csv and drawn in OUT/soak.png. At the
end: its slope per hour, how often it was without the server and for how long, and its exit code.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.check.feeding import RESOURCES
from autoscale.kube.cluster import read_observations
from autoscale.local_servers import free_ports
from benchmarks.load_lab import ROOT
from benchmarks.soak import EVERY_S, draw, held, slopes, until_up

FIXTURE = ROOT / "tests" / "fixtures" / "kubernetes" / "deployment.jsonl.gz"
NAMESPACE, HPA = "deployment", "vllm-dep-hpa"
EVENT_S = 600.0
DOWN_S = 5.0  # between the end of one server and the start of the next


def serve(port: int, version: int) -> None:
    """The API server with its changes, until it is killed."""
    spec = importlib.util.spec_from_file_location("standin", ROOT / "tests" / "kubernetes_standin.py")
    assert spec is not None
    assert spec.loader is not None
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)
    server = standin.ApiServer(port)
    server.version = server.oldest = version
    objects: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read_observations(FIXTURE):
        if row.resource == "custommetrics" and row.object["values"] is not None:
            server.metrics[row.object["metric"]] = row.object["values"]
        elif row.resource in RESOURCES:
            server.apply(row.resource, row.type, row.object)
            key = row.resource, row.object["metadata"]["name"]
            if row.type == "DELETED":
                objects.pop(key, None)
            else:
                objects[key] = row.object
    pods = [held_ for (resource, _), held_ in objects.items() if resource == "pods"]
    hpa = objects["horizontalpodautoscalers", HPA]
    event = next(held_ for (resource, _), held_ in objects.items() if resource == "events")
    events: deque[dict[str, Any]] = deque()
    for second in range(1 << 31):
        server.apply("pods", "MODIFIED", pods[second % len(pods)])
        server.apply("horizontalpodautoscalers", "MODIFIED", hpa)
        name = f"{event['metadata']['name']}-{version}-{second}"
        events.append(event | {"metadata": event["metadata"] | {"name": name, "uid": name}})
        server.apply("events", "ADDED", events[-1])
        if len(events) > EVENT_S:
            server.apply("events", "DELETED", events.popleft())
        time.sleep(1.0)


def watch(hours: float, restart_s: float, out: Path) -> tuple[pd.DataFrame, int]:
    """The samples, and the checker's exit code (-1: it had to be ended)."""
    port = str(free_ports(1))
    url = f"http://127.0.0.1:{port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (out / "kubeconfig").write_text(yaml.safe_dump(config))
    os.environ["KUBECONFIG"] = str(out / "kubeconfig")
    check = [sys.executable, "-m", "autoscale", "check", "-n", NAMESPACE, "--hpa", HPA]
    check += ["--timeout", f"{hours * 3600:.0f}", "--out", str(out / "run")]
    rows: list[dict[str, object]] = []
    version = 10_000
    checker: subprocess.Popen[bytes] | None = None
    begun_s = time.monotonic()
    while checker is None or checker.poll() is None:
        with open(out / "api.log", "ab") as log:
            command = [sys.executable, __file__, "--serve", port, str(version)]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        version += 100_000
        try:
            until_up(f"{url}/api/v1/pods")
            if checker is None:
                with open(out / "check.log", "wb") as said:
                    checker = subprocess.Popen(check, stdout=said, stderr=said)
            end_s = time.monotonic() + restart_s
            while time.monotonic() < end_s and checker.poll() is None:
                for name, process in (("check", checker), ("API server", server)):
                    if found := held(process.pid):
                        rows.append(
                            {"time_s": round(time.monotonic() - begun_s, 1), "process": name, **found}
                        )
                time.sleep(EVERY_S)
        finally:
            server.kill()
            server.wait()
        if time.monotonic() - begun_s > hours * 3600 + 120:
            checker.terminate()
            return pd.DataFrame(rows), -1
        time.sleep(DOWN_S)
    return pd.DataFrame(rows), checker.returncode


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]), int(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--restart-minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("watch-soak"), help="an empty directory")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, too
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"--out: {options.out} is not empty")
    samples, code = watch(options.hours, options.restart_minutes * 60, options.out)
    samples.to_csv(options.out / "soak.csv", index=False)
    draw(samples, options.out / "soak.png")
    for line in slopes(samples[samples["process"] == "check"], options.hours * 3600):
        print(line)
    gaps = [
        row.object
        for row in read_observations(options.out / "run" / "observations.jsonl.gz")
        if row.resource == "gap"
    ]
    closed = [gap["to_s"] - gap["from_s"] for gap in gaps if gap["to_s"] is not None]
    still = len(gaps) - 2 * len(closed)  # each is told when it begins and when it ends
    longest_s = max(closed, default=0.0)
    print(
        f"{len(closed)} gaps of single resources, the longest {longest_s:.1f} s, {still} open; exit code {code}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
