"""Faults of servers, disks, workers and signals against real load tests: the run ends, says why, and every planned request
has a row. The slow half runs with `-m faults` (make test-faults)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from analysis import run
from autoscale.local_servers import free_ports
from tests.loadgen.fault_server import EVENTS, FaultServer

ROOT = Path(__file__).parents[2]


@dataclass
class Load:
    """A load test under way, in a process group of its own."""

    process: subprocess.Popen[Any]
    folder: Path
    planned: int | None  # requests of an open loop's whole plan

    @property
    def path(self) -> Path:
        return self.folder / "run"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def workers(self) -> list[int]:
        return list(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))  # fmt: skip

    def until(self, so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not so():
            assert time.monotonic() < deadline, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.05)

    def until_s(self, elapsed_s: float) -> None:
        """Until so long after the start of the load."""
        self.until((self.path / run.HEADER).exists)
        started_at = run.read_header(self.path)["started_at"]
        self.until(lambda: time.time() > started_at + elapsed_s)

    def ended(self, code: int) -> None:
        """It ends by itself, with this exit code, no traceback and no process left behind."""
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after 120 s:\n{self.log}")
        assert self.process.returncode == code, self.log
        assert "Traceback" not in self.log
        deadline = time.monotonic() + 5
        while alive(self.process.pid):
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.05)

    def accounts(self, whole: bool = True) -> dict[str, int]:
        """How many requests have each status: every planned one has a row, and is sent or said not to be."""
        recorded = run.read(self.path)
        requests = recorded.requests
        assert recorded.header["ended_at"] is not None
        assert sorted(requests["request_id"]) == list(range(len(requests)))
        if whole and self.planned is not None:
            assert len(requests) == self.planned
        assert not [p for p in run.validate(recorded) if "metrics" not in p]
        dropped = requests["status"] == "dropped"
        assert requests["sent_s"][dropped].isna().all()
        assert dropped.sum() == recorded.header["client"]["unsent"]
        assert (requests["error"].isna() == (requests["status"] == "ok")).all()
        return {str(status): int(number) for status, number in requests["status"].value_counts().items()}

    def said(self, pattern: str) -> None:
        """It is in the log, once."""
        assert len(re.findall(pattern, self.log)) == 1, self.log


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def load(server, tmp_path) -> Iterator[Callable[..., Load]]:
    """Factory: `load(fault, options)` starts a load test on the fault."""
    started: list[Load] = []

    def start(
        fault: str, options: str, entry: str = "completions", limit: str = "true", run_dir: Path | None = None
    ):
        port = str(free_ports(1))
        folder = tmp_path / f"{len(started)}"
        folder.mkdir()
        command = [
            Path(sys.executable).parent / "locust",
            "-f",
            entry if isinstance(entry, Path) else ROOT / "loadgen" / f"{entry}.py",
            "--headless",
            "--only-summary",
        ]
        command += [
            "--host",
            f"{server.url}/{fault}",
            "--run-dir",
            run_dir or folder / "run",
            "--arrivals",
            "constant",
        ]
        command += ["--prompt-tokens", "fixed:8", "--output-tokens", "fixed:3", "--master-bind-port", port]
        command += ["--master-port", port] if "--processes" in options else []
        command = ["bash", "-c", f'{limit}; exec "$@"', "-", *map(str, command), *options.split()]
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        plan = re.search(r"--rate (\d+) -t (\d+)s", options)
        started.append(Load(process, folder, int(plan[1]) * int(plan[2]) if plan else None))
        return started[-1]

    yield start
    for one in started:
        if alive(one.process.pid):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


# --- fast -------------------------------------------------------------------------------------------------------------


def test_odd_answers_of_every_kind_are_incomplete_and_the_others_ok(load):
    runs = [
        load("mix-all", "--rate 40 -t 4s"),
        load("mix-all@closed", "-u 4 -r 4 -t 8s --no-stream", entry="chat"),
    ]
    for one in runs:
        one.ended(code=1)  # Locust's, for failed requests
        counted = one.accounts()
        assert counted["incomplete"] >= min(len(EVENTS), sum(counted.values()) // 5) > 0
        assert counted["ok"] == sum(counted.values()) - counted["incomplete"]
    assert counted["ok"] > 0
    assert runs[0].accounts() == {"ok": 128, "incomplete": 32}
    assert (
        run.read_header(runs[1].path)["pauses"]["number"] == 0
    )  # only what fails at a glance makes a user wait


UNFORESEEN = """
from loadgen.run import generator
from loadgen.completions import *

def refill(_):
    return 1 / 0

generator.Generator._refill = refill
"""


def test_an_exception_that_nobody_foresaw_and_an_interrupt_in_the_grace_end_the_run(load, tmp_path):
    (tmp_path / "unforeseen.py").write_text(UNFORESEEN)
    broken = load("silent", "--rate 20 -t 30s", entry=str(tmp_path / "unforeseen"))
    graceful = load("silent", "--rate 20 -t 2s --timeout 60 --grace 50")
    graceful.until_s(3.0)
    os.kill(graceful.process.pid, signal.SIGTERM)
    graceful.ended(code=130)
    assert graceful.accounts() == {"cancelled": 40}
    graceful.said("Interrupted while waiting for answers")
    broken.process.wait(60)
    assert broken.process.returncode not in (0, None)
    assert "ZeroDivisionError" in broken.log


def test_a_tokenizer_that_counts_nothing_is_not_believed(load):
    lying = load("count0", "--rate 20 -t 2s", entry="chat")
    lying.ended(code=0)
    assert lying.accounts() == {"ok": 40}


def test_requests_that_are_cut_off_after_the_grace_are_counted_and_said(load):
    """A stage beyond the capacity has many: they are no failure of the run."""
    one = load("silent", "--rate 20 -t 2s --timeout 60 --grace 1")
    one.ended(code=0)
    assert one.accounts() == {"cancelled": 40}
    one.said(r"40 of 40 requests had no answer 1 s after the end of the load and were cut off")


CLOCK = """
import os, time
true = time.time
time.time = lambda: true() + (BY_S if os.path.exists(FILE) else 0)
"""


@pytest.mark.parametrize(
    ("by_s", "options"), [(-3600, ""), (3600, "--processes 2")], ids=["back", "ahead, workers"]
)
def test_a_clock_that_is_set_meanwhile_changes_no_duration(load, tmp_path, by_s: int, options: str):
    (tmp_path / "python").mkdir()
    sign = tmp_path / "set"
    code = CLOCK.replace("BY_S", str(by_s)).replace("FILE", repr(str(sign)))
    (tmp_path / "python" / "sitecustomize.py").write_text(code)
    limit = f"export PYTHONPATH={tmp_path / 'python'}:$PYTHONPATH"
    one = load("ok", f"--rate 10 -t 4s --grace 3 {options}", limit=limit)
    one.until_s(1.5)
    sign.touch()
    one.ended(code=0)
    assert one.accounts() == {"ok": 40}
    header = run.read_header(one.path)
    assert 4.0 <= header["ended_at"] - header["started_at"] < 60.0
    assert header["clock_set_by_s"] == pytest.approx(by_s, abs=1.0)
    one.said("the clock of this machine was set by")


def test_without_descriptors_requests_are_connection_errors_and_a_failing_server_is_not_hammered(
    load, server
):
    few = load("silent", "--rate 100 -t 3s --grace 0", limit="ulimit -n 256")
    busy = load("503", "-u 10 -r 10 -t 4s")
    few.ended(code=1)
    few.said("only 256 files may be open and 4096 requests in flight need 4224")
    counted = few.accounts()
    assert set(counted) == {"cancelled", "connection_error"}
    assert "too many open files" in run.read(few.path).requests["error"].dropna().iloc[-1]
    busy.ended(code=1)
    [(status, number)] = busy.accounts().items()
    assert status == "http_error"
    assert number <= 60
    pauses = run.read_header(busy.path)["pauses"]
    assert 0 < pauses["number"] <= number
    busy.said("users waited .* times after failures")


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("fault", sorted(EVENTS))
def test_one_odd_answer_in_ten(load, fault):
    runs = [load(f"mix-{fault}", "--rate 20 -t 4s"), load(f"mix-{fault}@2", "--rate 20 -t 4s --processes 2")]
    for one in runs:
        one.ended(code=1)
        assert one.accounts() == {"ok": 72, "incomplete": 8}


@pytest.mark.faults
@pytest.mark.parametrize(
    ("signalled", "group", "options", "at_s"),
    [
        ("SIGTERM", False, "--rate 20 -t 30s", 2.0),
        ("SIGINT", False, "--rate 20 -t 30s", 2.0),
        ("SIGINT", True, "--rate 20 -t 30s --processes 2", 2.0),
        ("SIGTERM", False, "--rate 20 -t 30s --processes 2", 2.0),
        ("SIGINT", False, "-u 5 -r 5 -t 30s", 2.0),
        ("SIGINT", False, "--rate 20 -t 3s --grace 50", 4.0),
        ("SIGINT", True, "--rate 20 -t 3s --grace 50 --processes 2", 4.0),
        ("SIGTERM", False, "--rate 20 -t 3s --grace 50 --processes 2", 4.0),
        ("SIGINT", False, "--rate 20 -t 4s --grace 50", 2.5),  # shortly before the end of the plan
    ],
)
def test_an_interrupt_at_any_time_leaves_a_row_for_each_request_that_was_due(
    load, signalled, group, options, at_s
):
    one = load("silent", f"{options} --timeout 60")
    one.until_s(at_s)
    (os.killpg if group else os.kill)(one.process.pid, signal.Signals[signalled])
    begun_s = time.monotonic()
    one.ended(code=130)
    assert time.monotonic() - begun_s < 20
    assert set(one.accounts(whole=False)) == {"cancelled"}


@pytest.mark.faults
@pytest.mark.parametrize("options", ["--rate 20 -t 30s", "--rate 20 -t 30s --processes 2"])
def test_a_terminal_that_is_closed_is_an_interrupt(load, options):
    one = load("silent", f"{options} --timeout 60", limit="trap - HUP")
    one.until_s(2.0)
    os.killpg(one.process.pid, signal.SIGHUP)
    one.ended(code=130)
    assert set(one.accounts(whole=False)) == {"cancelled"}


BROKEN = """
from loadgen.run import generator
from loadgen.wire.clock import now_s
from loadgen.completions import CompletionsUser

whole = generator.Generator.{step}

def breaks_after_2_s(self, *arguments):
    if self.started.is_set() and now_s() > self.clock.zero_s + 2 and self.cut_s > 1e9:
        raise RuntimeError("broken here")
    return whole(self, *arguments)

generator.Generator.{step} = breaks_after_2_s
"""


@pytest.mark.faults
@pytest.mark.parametrize("step", ["_parse", "_sample", "flush", "_send_due", "_over"])
@pytest.mark.parametrize(
    "options", ["--rate 40 -t 30s", "--rate 40 -t 30s --processes 2", "-u 4 -r 4 -t 30s"]
)
def test_a_half_that_breaks_ends_the_run_and_keeps_what_was_recorded(load, tmp_path, step, options):
    if options.startswith("-u") and step == "_send_due":
        pytest.skip("of the open loop only")
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN.format(step=step))
    one = load("good", options, entry=broken)
    one.ended(code=1)
    one.said(
        r"ERROR/loadgen: internal error: RuntimeError in broken.py line 10: broken here. The traceback is in .*traceback.txt"
    )
    assert one.accounts(whole=False)["ok"] > 40
    assert "breaks_after_2_s" in (one.path / "traceback.txt").read_text()
    assert run.read_header(one.path)["stopped"].startswith("internal error: RuntimeError")


@pytest.mark.faults
def test_an_interrupt_before_the_load_is_one_sentence(load):
    one = load("good", "--rate 20 -t 30s --master --expect-workers 2")
    one.until(lambda: "Waiting for workers" in one.log)
    os.kill(one.process.pid, signal.SIGINT)
    one.ended(code=130)
    one.said("locust: interrupted before the load began")


@pytest.mark.faults
@pytest.mark.parametrize("number", [1, 2], ids=["one worker", "all workers"])
def test_killed_workers_are_named_and_exit_code_1(load, number):
    one = load("good", "--rate 40 -t 8s --processes 2")
    one.until_s(3.0)
    for worker in one.workers()[:number]:
        os.kill(worker, signal.SIGKILL)
    one.ended(code=1)
    assert one.accounts(whole=number == 1)["dropped"] > 0
    one.said("The run is not as planned: lost w[01](, w1)? of 2 workers")


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["429", "503", "fin"])
def test_users_wait_after_failures(load, server, fault):
    one = load(fault, "-u 10 -r 10 -t 6s", entry="chat")
    one.ended(code=1)
    pauses = run.read_header(one.path)["pauses"]
    [number] = one.accounts().values()
    assert number <= 80
    assert pauses["number"] <= number
    assert (pauses["retry_after"] == pauses["number"]) == (fault == "429")


@pytest.mark.faults
def test_a_file_size_limit_keeps_every_row_so_far(load):
    one = load("good", "--rate 150 -t 10s", limit="ulimit -f 40")
    one.ended(code=1)
    one.said("cannot write the run directory .*: file too large")
    assert (
        "ok" in set(one.accounts(whole=False)) <= {"ok", "cancelled"}
    )  # stopped when the gaps no longer fit


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_the_run_and_keeps_what_was_written(load, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        one = load("good", "--rate 100 -t 20s", run_dir=disk / "run")
        one.ended(code=1)
        one.said("MB free and the run may take")
        one.said("Stopping: cannot write the run directory .*: no space left on device")
        recorded = run.read(disk / "run")
        assert recorded.header["ended_at"] is not None
        sent = max(recorded.requests["request_id"]) + 1
        assert len(recorded.requests) + recorded.header["unwritten"] >= sent
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.faults
def test_a_deleted_run_directory_ends_the_run(load):
    one = load("good", "--rate 50 -t 30s")
    one.until_s(2.5)
    shutil.rmtree(one.path)
    one.ended(code=1)
    assert "cannot write the run directory" in one.log


@pytest.mark.faults
def test_a_part_that_is_taken_away_is_missed_at_the_end(load):
    one = load("good", "--rate 20 -t 6s")
    one.until_s(4.0)
    for part in one.path.glob("requests.*.part.parquet"):
        part.unlink()
    one.ended(code=1)
    one.said(r"The run is not as planned: \d+ of 120 rows were taken from .* meanwhile")


@pytest.mark.faults
def test_a_summary_that_nobody_can_read_is_no_failure_of_the_run(load):
    one = load("good", "--rate 20 -t 3s", limit="exec >/dev/full")
    one.ended(code=0)
    assert one.accounts() == {"ok": 60}
    one.said("the summary could not be printed: No space left on device")


@pytest.mark.faults
def test_parts_of_an_older_run_are_refused(load, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    run.write_table(old, "requests", {"request_id": [1]}, part="local.000001")
    one = load("good", "--rate 5 -t 3s", run_dir=old)
    one.ended(code=2)
    one.said("already holds requests.local.000001.part.parquet, of an older run")
