"""The laboratory of benchmarks/load_client.py: a client on one core, a server of known truth on the other, both sides joined."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from analysis import run

CLIENT_CORE, SERVER_CORE = 0, 1


class Figure(NamedTuple):
    """One line of the table; `asked` is None where nothing is."""

    bench: str
    what: str
    value: float
    asked: float | None = None
    at_least: bool = False

    def __str__(self) -> str:
        sign = "" if self.asked is None else f"{'>=' if self.at_least else '<='} {self.asked:.4g}"
        met = "" if self.asked is None else ("met" if self.met else "MISSED")
        return f"{self.bench:<15} {self.what:<52} {sign:<10} {self.value:>11.4g}  {met}"

    @property
    def met(self) -> bool:
        assert self.asked is not None
        return self.value >= self.asked if self.at_least else self.value <= self.asked


class Bench:
    """Runs server and client, and joins what both say about each request."""

    def __init__(self, seconds: float, realtime: bool) -> None:
        self.seconds, self.realtime = seconds, realtime
        self.folder = Path(tempfile.mkdtemp(prefix="loadgen-bench-"))
        self.number = 0
        self.truth = truth_server(self.folder)
        self.seen: dict[str, float] = {}  # figures that others are compared with

    @contextmanager
    def server(self, *options: str) -> Iterator[tuple[str, Path]]:
        """A truth server on its core: its port and log."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
        log = self.folder / f"truth{self.number}.jsonl"
        command = [*self.priority(), *self.truth, "--port", port]
        command += ["--log", str(log), "--core", str(SERVER_CORE), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                yield port, log
            finally:
                process.terminate()

    def client(
        self,
        port: str,
        *options: str,
        scheme: str = "http",
        during: Callable[[int], None] | None = None,
        first: bool = True,
    ) -> run.Run:
        """One Locust run on the client's core; with `first` before all others if the bench is in real time."""
        self.number += 1
        path = self.path
        command = [*(self.priority() if first else []), "taskset", "-c", str(CLIENT_CORE), sys.executable]
        command += ["-m", "locust", "--headless", "-f", str(ROOT / "loadgen" / "completions.py")]
        command += ["--only-summary", "--run-dir", str(path), "--host", f"{scheme}://127.0.0.1:{port}"]
        with (
            open(self.folder / "log", "w") as log,
            subprocess.Popen([*command, *options], stdout=log, stderr=log) as process,
        ):
            if during is not None:
                during(process.pid)
            process.wait()
        if not (path / "run.json").exists():
            raise SystemExit((self.folder / "log").read_text())
        return run.read(path)

    @property
    def path(self) -> Path:
        """The run directory of the latest client."""
        return self.folder / f"run{self.number}"

    def both(
        self, server: tuple[str, ...], *client: str, scheme: str = "http"
    ) -> tuple[run.Run, pd.DataFrame, pd.DataFrame]:
        """(run, truth of all requests, requests that ended well joined with their truth)."""
        with self.server(*server) as (port, log):
            recorded = self.client(port, *client, scheme=scheme)
        truth = truth_of(log)
        truth = truth[truth["id"].str.contains("-")].copy()
        truth["request_id"] = truth["id"].str.rsplit("-").str[-1].astype(np.int64)
        good = recorded.requests[recorded.requests["status"] == "ok"]
        return recorded, truth, good.merge(truth, on="request_id", suffixes=("", "_true"))

    def priority(self) -> list[str]:
        """What comes before a command that runs in real time."""
        return ["chrt", "-f", "50"] if self.realtime else []


def truth_of(log: Path) -> pd.DataFrame:
    """What the server says, a row per request."""
    return pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])


def ttft_error_ms(joined: pd.DataFrame) -> np.ndarray:
    """Said minus true TTFT: from sent to first token, against from received to first sent."""
    said = joined["first_token_s"] - joined["sent_s"]
    return ((said - (joined["first_s"] - joined["received_s"])) * 1e3).to_numpy(float)


def send_lag_ms(recorded: run.Run) -> np.ndarray:
    """Sent minus due."""
    return ((recorded.requests["sent_s"] - recorded.requests["due_s"]) * 1e3).to_numpy(float)


def cpu_per_1k(recorded: run.Run, joined: pd.DataFrame) -> float:
    """CPU seconds of the client process during the load, per 1,000 tokens."""
    return sum(recorded.header["client"]["cpu_s"].values()) / float(joined["output_tokens"].sum()) * 1000


def truth_server(folder: Path) -> list[str]:
    """The command of the truth server: the one in C where a compiler is at hand, else the one in Python.

    Python's is itself up to 40 ms late with 500 streams, and then its log says when it really sent.
    """
    source, binary = ROOT / "benchmarks" / "truth_server.c", folder / "truth_server"
    compiler = shutil.which("cc")
    for tls in (["-DTLS", "-lssl", "-lcrypto"], []):
        command = [str(compiler), "-O2", "-o", str(binary), str(source), *tls]
        if compiler and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [str(binary)]
    return [sys.executable, str(ROOT / "benchmarks" / "truth_server.py")]


def certificate(folder: Path) -> list[str]:
    """A self-signed certificate made with openssl: its files."""
    files = [str(folder / "cert"), str(folder / "key")]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-out", files[0], "-keyout", files[1]]
    subprocess.run(command, check=True, capture_output=True)
    return files


@contextmanager
def cpu_limit(share: float) -> Iterator[Callable[[int], None] | None]:
    """A control group that may use `share` of a core: how to move a process into it; None where none can be made."""
    roots = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu"))
    root = next((r for r in roots if (r / "cgroup.procs").exists() and os.access(r, os.W_OK)), None)
    group = None if root is None else root / f"loadgen-bench-{os.getpid()}"
    if group is None or root is None:
        yield None
        return
    try:
        group.mkdir()
        if (control := root / "cgroup.subtree_control").exists():
            control.write_text("+cpu")
        quota_us = round(share * 100_000)
        if (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} 100000")
    except OSError:
        yield None
    else:
        yield lambda pid: (group / "cgroup.procs").write_text(str(pid)) and None
    finally:
        for pid in (group / "cgroup.procs").read_text().split() if group.exists() else ():
            (root / "cgroup.procs").write_text(pid)
        if group.exists():
            group.rmdir()
