"""Whether anything grows: load for as long as asked, and what every process holds meanwhile.

    python benchmarks/soak.py [--minutes 30] [--rate 200] [--fleet-rate 20] [--out soak]

The load client sends --rate requests/s to the truth server; a second one --fleet-rate requests/s to `autoscale serve`.
Every 5 s memory (resident, MB), open descriptors and threads of each process are read from /proc (Linux), written to
OUT/soak.csv and drawn in OUT/soak.png. At the end a line per process: its slope per hour, from the second quarter on, and
per client sent and answered against planned.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis import run
from autoscale.local_servers import free_ports
from benchmarks.load_lab import ROOT, truth_server

EVERY_S = 5.0
FIGURES = {"rss_mb": "resident memory (MB)", "descriptors": "open descriptors", "threads": "threads"}
SETTLED = 0.25  # of the time: what grows before is starting


def held(pid: int) -> dict[str, float]:
    """What a process holds now; empty when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {
            "rss_mb": int(fields["VmRSS"].split()[0]) / 1024,
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(fields["Threads"]),
        }
    except (OSError, KeyError):
        return {}


@contextmanager
def started(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(log, "wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            yield process
        finally:
            process.terminate()


def until_up(url: str, within_s: float = 600.0) -> None:
    end_s = time.monotonic() + within_s
    while True:
        try:
            with urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.2)


def client(url: str, rate: float, duration_s: float, path: Path) -> list[str]:
    command = [str(Path(sys.executable).parent / "locust"), "-f", str(ROOT / "loadgen" / "completions.py")]
    command += [
        "--headless",
        "--only-summary",
        "--host",
        url,
        "--rate",
        f"{rate:g}",
        "-t",
        f"{duration_s:.0f}s",
    ]
    return [*command, "--prompt-tokens", "fixed:64", "--output-tokens", "fixed:16", "--run-dir", str(path)]


def soak(duration_s: float, rate: float, fleet_rate: float, out: Path) -> pd.DataFrame:
    """Load both servers; a row per process and moment."""
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        ports = str(free_ports(1)), str(free_ports(1))
        truth = [*truth_server(out), "--port", ports[0], "--ttft", "0.05", "--gap", "0.005"]
        fleet = [sys.executable, "-m", "autoscale", "serve", "--port", ports[1], "--replicas", "2"]
        processes = {
            name: stack.enter_context(started(command, out / f"{name}.log"))
            for name, command in {"truth server": truth, "autoscale serve": fleet}.items()
        }
        for port in ports:
            until_up(f"http://127.0.0.1:{port}/v1/models")
        loads = {
            "client": client(f"http://127.0.0.1:{ports[0]}", rate, duration_s, out / "client"),
            "fleet client": client(f"http://127.0.0.1:{ports[1]}", fleet_rate, duration_s, out / "fleet client"),
        }  # fmt: skip
        clients = {
            name: stack.enter_context(started(command, out / f"{name}.log"))
            for name, command in loads.items()
        }
        processes |= clients
        while any(
            not (out / name / run.HEADER).exists() and clients[name].poll() is None for name in clients
        ):
            time.sleep(0.1)  # a client takes a while to start
        begun_s = time.monotonic()
        while any(one.poll() is None for one in clients.values()):
            for name, process in processes.items():
                if process.poll() is None and (found := held(process.pid)):
                    rows.append({"time_s": round(time.monotonic() - begun_s, 1), "process": name, **found})
            time.sleep(EVERY_S)
    return pd.DataFrame(rows)


def slopes(samples: pd.DataFrame, duration_s: float) -> Iterator[str]:
    """A line per process: first settled and last value of each figure, and its slope per hour."""
    for name, of in samples.groupby("process", sort=False):
        settled = of[(of["time_s"] >= SETTLED * duration_s) & (of["time_s"] <= duration_s)]
        parts = []
        for figure in FIGURES:
            if len(settled) < 3:
                parts.append(f"{figure}: too few samples")
                continue
            per_hour = np.polyfit(settled["time_s"], settled[figure], 1)[0] * 3600
            first, last = settled[figure].iloc[[0, -1]]
            parts.append(f"{figure} {first:.0f} -> {last:.0f} ({per_hour:+.1f}/h)")
        yield f"{name:<16} {'; '.join(parts)}"


def accounted(name: str, path: Path, planned: float) -> str:
    """Sent and answered requests of a client against its plan."""
    requests = run.read(path).requests
    counted = requests["status"].value_counts().to_dict()
    sent = int(requests["sent_s"].notna().sum())
    off = (sent / len(requests) - 1) * 100
    return f"{name:<16} {len(requests)} planned ({planned:.0f} expected), {sent} sent ({off:+.2f} %): {json.dumps(counted)}"


def draw(samples: pd.DataFrame, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(FIGURES), sharex=True, figsize=(9, 8), layout="constrained")
    for axis, (column, title) in zip(axes, FIGURES.items(), strict=True):
        for name, of in samples.groupby("process", sort=False):
            axis.plot(of["time_s"] / 60, of[column], label=name)
        axis.set_ylabel(title)
        axis.set_ylim(bottom=0)
    axes[0].legend(ncols=4, fontsize="small")
    axes[-1].set_xlabel("minutes")
    figure.savefig(file, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s to the truth server")
    parser.add_argument("--fleet-rate", type=float, default=20.0, help="requests/s to autoscale serve")
    parser.add_argument("--out", type=Path, default=Path("soak"), help="an empty directory")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, too
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        parser.error(f"--out: {options.out} is not empty")
    duration_s = options.minutes * 60
    samples = soak(duration_s, options.rate, options.fleet_rate, options.out)
    samples.to_csv(options.out / "soak.csv", index=False)
    draw(samples, options.out / "soak.png")
    for line in slopes(samples, duration_s):
        print(line)
    for name, rate in (("client", options.rate), ("fleet client", options.fleet_rate)):
        print(accounted(name, options.out / name, rate * duration_s))
    return 0


if __name__ == "__main__":
    sys.exit(main())
