"""Servers of this machine that are started for a while: a port for each, until it answers, and its end.

A port that the system picked (port 0) and that was closed again is in the range from which the system serves outgoing
connections: any of them may take it before the server binds it. So these come from below that range.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import IO

from analysis.errors import SourceUnavailable

END_S = 20.0  # that a program gets to end in good order
PROMETHEUS_UP_S = 120.0  # that Prometheus may take to be ready, on a machine that is busy
# Below Linux' own range (32768 and up) and Kubernetes' node ports (30000 to 32767).
_FIRST, _END = 20_000, 30_000
_GIVEN: set[int] = set()  # never twice by one process: what was given may not be bound yet


def free_ports(count: int) -> int:
    """The first of so many ports in a row on which nobody listens, on any interface.

    Raises OSError where a hundred tries found none.
    """
    for _ in range(100):
        first = random.randrange(_FIRST, _END - count)
        row = range(first, first + count)
        if not _GIVEN.isdisjoint(row):
            continue
        with ExitStack() as held:
            try:
                for port in row:
                    held.enter_context(socket()).bind(("", port))
            except OSError:
                continue
            _GIVEN.update(row)
            return first
    raise OSError(f"no {count} free port(s) in a row between {_FIRST} and {_END}")


@contextmanager
def running(command: list[str], output: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile; it is asked to end at the end, and made to when it does not."""
    with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def until_up(url: str, process: subprocess.Popen[bytes], limit_s: float, what: str, log: str = "") -> None:
    """Return when a page of a server answers with success. Raises SourceUnavailable when it has ended, or takes too long."""
    import requests

    deadline = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(requests.RequestException):
            if requests.get(url, timeout=2).ok:
                return
        time.sleep(0.1)
    ended = f"after {limit_s:.0f} s" if process.poll() is None else f"ended with code {process.returncode}"
    raise SourceUnavailable(
        f"{what} did not start ({ended})", value=url, next_step=f"see {log}" if log else None
    )


def installed(program: str) -> str:
    """Where a program of the prometheus package is. Raises SourceUnavailable where it is not installed."""
    found = shutil.which(program)
    if found is None:
        raise SourceUnavailable(
            f"{program} is not installed",
            next_step="`make prometheus`, or `sudo apt-get install prometheus`, which holds prometheus and promtool",
        )
    return found


@contextmanager
def local_prometheus(home: Path, config: str, options: Sequence[str]) -> Iterator[str]:
    """A real Prometheus over the database `tsdb` of a folder, which may be empty: its address.

    Raises SourceUnavailable where it is not installed or does not start.
    """
    program, address = installed("prometheus"), f"127.0.0.1:{free_ports(1)}"
    (home / "prometheus.yml").write_text(config, encoding="utf-8")
    command = [
        program,
        f"--config.file={home / 'prometheus.yml'}",
        f"--storage.tsdb.path={home / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=error",
        *options,
    ]
    with running(command, subprocess.DEVNULL) as server:
        until_up(f"http://{address}/-/ready", server, PROMETHEUS_UP_S, "prometheus")
        yield f"http://{address}"
