"""Real Locust processes against a small server of known truth: open and closed loop, workers, interruptions, bad input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import run
from autoscale.local_servers import free_ports
from loadgen.run.option_table import in_form

ROOT = Path(__file__).parents[2]
HEADER_KEYS = {
    "schema_version", "kind", "started_at", "ended_at", "command", "versions", "target", "model", "load", "stages",
    "lengths", "seed", "engine", "client",
}  # fmt: skip


@contextmanager
def truth_server(log: Path, *options: str):
    """A truth server (TTFT 50 ms, gap 5 ms): its URL."""
    port = free_ports(1)
    command = [sys.executable, ROOT / "benchmarks" / "truth_server.py", "--port", str(port), "--log", log, *options]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def start(url: str, folder: Path, *options: str, entry: str = "completions") -> subprocess.Popen[str]:
    """Locust in a process group of its own; its output goes to `folder`/log."""
    command = ["--headless", "--only-summary", "--host", url, "--run-dir", folder / "run"]
    command += ["--master-bind-port", str(free_ports(1))]
    command += ["--master-port", command[-1]] if "--processes" in options else []
    return locust(folder, entry, *command, *options)


def locust(folder: Path, entry: str, *options: Any, clock_ahead_s: float = 0.0) -> subprocess.Popen[str]:
    """`locust -f loadgen/<entry>.py`, on a machine whose clock is ahead by so much."""
    skew = f"from loadgen.wire import clock; real = clock.unix_now_s; clock.unix_now_s = lambda: real() + {clock_ahead_s}; "
    code = f"import sys; from locust.main import main; {skew if clock_ahead_s else ''}sys.exit(main())"
    command = [sys.executable, "-c", code, "-f", ROOT / "loadgen" / f"{entry}.py", *options]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            list(map(str, command)),
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def on_three_machines(url: str, folder: Path, *options: str) -> dict[str, subprocess.Popen[str]]:
    """A master and two workers that know of each other by their port only; the second worker's clock is ahead by 3 s."""
    port = free_ports(1)
    master = ["--master", "--master-bind-port", port, "--expect-workers", 2, "--headless", "--only-summary"]
    master += ["--host", url, "--run-dir", folder / "run", *options]
    machines = {"three machines": locust(folder, "completions", *master)}
    for number, ahead_s in enumerate((0.0, 3.0)):
        name = f"worker{number}"
        (folder / name).mkdir()
        worker = "--worker", "--master-port", port
        machines[name] = locust(folder / name, "completions", *worker, clock_ahead_s=ahead_s)
    return machines


def until(folder: Path, so: Callable[[], bool]) -> None:
    """Wait until something of the run in `folder` is so."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if so():
            return
        time.sleep(0.05)
    pytest.fail((folder / "log").read_text())


def ended(process: subprocess.Popen[str], folder: Path, within_s: float = 5.0) -> str:
    """The log, once the process has ended and, so many seconds later, no process of its group is left."""
    try:
        process.wait(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still running after 90 s:\n{(folder / 'log').read_text()}")
    deadline = time.monotonic() + within_s
    while exists(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not exists(process.pid)
    return (folder / "log").read_text()


def exists(group: int) -> bool:
    """Whether a process group has a process."""
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


LOAD_FILE = "arrivals: constant\noutput_tokens: fixed:10\nload:\n  - stages: 50:0.2\n"  # unquoted: no number to the base of 60

# In the order of the tests.
RUNS = {
    "web": ("completions", ""),
    "killed worker": ("completions", "--rate 40 -t 90s --processes 4 --output-tokens fixed:8"),
    "three machines": (
        "completions",
        "--stages 20:1.5,60:1.5 --output-tokens fixed:8 --slo ttft_p95=2s,itl_p99=1s --stop-when errors=50%,slo,saturated --csv stats",
    ),
    "interrupted search": (
        "completions",
        "--find-capacity 10m --slo ttft_p90=150ms --rate 40 --output-tokens fixed:8",
    ),
    "search by workers": ("completions", "--find-capacity 10m --slo ttft_p90=150ms --processes 1"),
    "closed loop": ("chat", "-u 4 -r 4 -t 3s --output-tokens uniform:2,6"),
    "one seat": ("completions", "--load load.yaml --max-in-flight 1"),
    "search": ("completions", "--find-capacity 20s --slo ttft_p90=150ms --rate 40 --output-tokens fixed:8"),
}


class Runs:
    """The runs by name, each with its directory; `truth` is the truth server's log.

    A run begins when it is asked for, and the next of RUNS with it: most of a run is waiting, but the starts of all of them
    at once take a small machine's cores for seconds, and seconds are what is tested.
    """

    def __init__(self, tmp_path_factory: pytest.TempPathFactory, url: str, few: str, truth: Path) -> None:
        self.folders, self.url, self.few, self.truth = tmp_path_factory, url, few, truth
        self.running: dict[str, tuple[Any, ...]] = {}

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        names = list(RUNS)
        for this in names[names.index(name) :][:2]:
            if this not in self.running:
                self._start(this)
        return self.running[name]

    def _start(self, name: str) -> None:
        entry, options = RUNS[name]
        folder = self.folders.mktemp(name.replace(" ", "-"))
        (folder / "load.yaml").write_text(LOAD_FILE)
        if name == "web":
            port = free_ports(1)
            web = [
                "--host",
                self.url,
                "--run-dir",
                folder / "run",
                "--web-host",
                "127.0.0.1",
                "--web-port",
                port,
            ]
            self.running[name] = locust(folder, entry, *web), folder, f"http://127.0.0.1:{port}"
        elif name == "three machines":
            machines = on_three_machines(self.url, folder, *options.split())
            self.running |= {machine: (process, folder) for machine, process in machines.items()}
        else:
            target = self.few if name == "search" else self.url
            self.running[name] = start(target, folder, *options.split(), entry=entry), folder


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Runs against a truth server, and one against a truth server with few seats."""
    logs = tmp_path_factory.mktemp("truth")
    with truth_server(logs / "log.jsonl") as url, truth_server(logs / "seats.jsonl", "--seats", "4") as few:
        runs = Runs(tmp_path_factory, url, few, logs / "log.jsonl")
        yield runs
        for process, *_ in runs.running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


WRONG_ENTRIES = [
    ({"rate": "fast"}, "--rate: 'fast'; expected requests/s"),
    ({"stages": "4-30"}, "stage 1 of --stages 4-30"),
    ({"max_in_flight": "many"}, "--max-in-flight: 'many'; expected a whole number"),
    ({"slo": "ttft_p95=soon"}, "ttft_p95=soon"),
]


def test_the_web_form_starts_a_run_and_shows_offered_against_sent(started):
    process, folder, address = started["web"]
    form = None
    while form is None:
        assert process.poll() is None, (folder / "log").read_text()
        with suppress(OSError):
            form = get(address, "/").decode()
        time.sleep(0.1)
    assert all(
        f'"{name}"' in form for name, shown in in_form().items() if shown
    )  # in the form's extra options
    assert form.index('"name": "stages"') < form.index('"name": "slo"') < form.index('"name": "arrivals"')
    for wrong, said in WRONG_ENTRIES:
        refused = json.loads(get(address, "/swarm", {"user_count": 1, "spawn_rate": 1, **wrong}))
        assert (refused["success"], said in refused["message"]) == (False, True), refused
    assert json.loads(get(address, "/stats/requests"))["state"] == "ready"
    asked = {
        "user_count": 1,
        "spawn_rate": 1,
        "rate": "40",
        "stages": "",
        "output_tokens": "fixed:2",
        "run_time": "3s",
    }
    assert json.loads(get(address, "/swarm", asked))["success"]
    stats: dict[str, Any] = {}

    def over() -> bool:
        stats.update(json.loads(get(address, "/stats/requests")))  # Locust answers the same for 2 s
        return stats["state"] == "stopped" and any(s["data"] for s in stats.get("extended_stats", ()))

    until(folder, over)
    recorded = run.read(folder / "run")
    [shown] = stats["extended_stats"]
    assert [row["time"] for row in shown["data"]] == [1, 2, 3]
    due, sent = (np.histogram(recorded.requests[c], range(4))[0] for c in ("due_s", "sent_s"))
    assert [row["offered"] for row in shown["data"]] == due.tolist()
    # sent is sampled twice a second and interpolated: the sum is right, each second by a sample's worth
    assert sum(row["sent"] for row in shown["data"]) == pytest.approx(sent.sum(), abs=20)
    charts = get(address, "/offered-sent").decode()
    assert charts.count("<polyline") == 6
    assert all(f"<h3>{name} (s)" in charts for name in ("TTFT", "TPOT"))
    assert '"offered-sent"' in form
    assert 'id="llm-charts"' in form
    rows = {
        row["Name"]: row for row in csv.DictReader(get(address, "/stats/requests/csv").decode().splitlines())
    }
    for name, column in (("TTFT", "first_token_s"), ("/v1/completions", "last_token_s")):
        exact_ms = (recorded.requests[column] - recorded.requests["due_s"]) * 1e3
        assert float(rows[name]["Average Response Time"]) == pytest.approx(exact_ms.mean(), rel=1e-3)
        p99_ms = np.quantile(exact_ms, 0.99, method="higher")
        assert float(rows[name]["99%"]) == pytest.approx(p99_ms, rel=0.005)
        [row] = [row for row in stats["stats"] if row["name"] == name]
        for shown_as, exact in (("min", exact_ms.min()), ("max", exact_ms.max())):
            assert row[f"{shown_as}_response_time"] == pytest.approx(exact, rel=0.005)
    report = get(address, "/stats/report").decode()
    assert "TTFT" in report
    assert report.count("<polyline") == 6
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=30)


def test_a_killed_worker_is_named_and_counted_and_an_interrupt_settles_the_run(started):
    process, folder = started["killed worker"]
    until(folder, lambda: all(list((folder / "run").glob(f"requests.w{i}.*")) for i in range(4)))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    events = folder / "run" / "events.jsonl"
    until(folder, events.exists)  # noted while the run goes on
    os.killpg(process.pid, signal.SIGINT)
    log = ended(process, folder)
    recorded = run.read(folder / "run")
    assert recorded.header["ended_at"] is not None, log
    [lost] = [w["name"] for w in recorded.header["workers"] if w["lost_at_s"] is not None]
    assert f"worker {lost} was lost" in events.read_text()
    assert f"worker {lost} was lost" in log
    requests = recorded.requests
    assert sorted(requests["request_id"]) == list(range(len(requests)))
    dropped = requests[requests["status"] == "dropped"]
    assert len(dropped) == recorded.header["client"]["unsent"] > 0
    # all of the lost one's after its last report; of the others what they had not sent when the interrupt came
    assert (
        dropped["error"].str.contains(f"worker {lost} was lost").tolist()
        == (dropped["worker"] == lost).tolist()
    )
    assert requests[requests["worker"] == lost]["status"].iloc[-1] == "dropped"
    assert recorded.header["client"]["verdict"] == "limited"
    alive = requests[requests["worker"] != lost]
    assert alive["worker"].nunique() == 3
    assert "ok" in set(alive["status"]) <= {"ok", "cancelled", "dropped"}


def test_master_and_workers_on_several_machines_deliver_the_plan_into_one_directory(started):
    process, folder = started["three machines"]
    log = ended(process, folder)
    assert process.returncode == 0, log
    recorded = run.read(folder / "run")
    assert set(recorded.header) >= HEADER_KEYS
    assert not [p for p in run.validate(recorded) if "metrics" not in p]
    requests = recorded.requests
    assert set(requests["status"]) == {"ok"}
    assert set(requests["worker"]) == {"w0", "w1"}
    assert sorted(requests["request_id"]) == list(range(len(requests)))
    assert set(requests["output_tokens"]) == {8}
    assert (requests["prompt_tokens"] == requests["prompt_tokens_asked"]).all()
    assert recorded.header["load"]["expected_requests"] == pytest.approx(120)
    assert recorded.itl["count"].sum() == 7 * len(requests)
    assert [s["stage"] for s in recorded.header["client"]["stages"]] == [0, 1]
    assert (requests["first_token_s"] - requests["sent_s"]).min() >= 0.0495
    table = log[log.index("stage  offered/s") :].split("\n[")[0].splitlines()
    assert max(len(line) for line in table if str(folder) not in line) <= 80
    with open(folder / "stats_stats.csv") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    ttft_ms = (requests["first_token_s"] - requests["due_s"]) * 1e3
    low, high = (np.percentile(ttft_ms, 50, method=side) for side in ("lower", "higher"))  # Locust takes one
    assert 0.995 * low <= float(rows["TTFT"]["50%"]) <= 1.005 * high  # three digits
    assert {rows[name]["Request Count"] for name in ("/v1/completions", "TTFT", "Aggregated")} == {
        str(len(requests))
    }
    assert float(rows["TPOT"]["50%"]) == pytest.approx(tpot_ms(requests).median(), rel=0.01)  # about 5 ms
    assert set(rows) == {"TTFT", "TPOT", "ITL", "/v1/completions", "Aggregated"}  # the endpoint's row is E2E
    # The skew of the second machine is measured; the server's clock shows that both workers' times are the same clock's.
    offsets = sorted(worker["clock_offset_s"] for worker in recorded.header["workers"])
    assert offsets == pytest.approx([-3.0, 0.0], abs=0.05)
    truth = [json.loads(line) for line in started.truth.read_text().splitlines()]
    received = {t["id"]: t["received_s"] for t in truth}
    tag = recorded.header["request_tag"]
    ahead = requests["request_id"].map(lambda i: received[f"{tag}-{i}"]) - requests["sent_s"]
    first, second = (ahead[requests["worker"] == worker].median() for worker in ("w0", "w1"))
    assert first == pytest.approx(second, abs=0.05)


def test_a_terminated_search_says_what_it_had_found(started):
    process, folder = started["interrupted search"]
    until(folder, lambda: bool(list((folder / "run").glob("requests.*"))))
    os.kill(process.pid, signal.SIGTERM)
    log = ended(process, folder)
    recorded = run.read(folder / "run")
    found = recorded.header["find_capacity"]
    assert found["ended"] == "the run was interrupted"
    assert found["probes"][-1]["reason"] == "interrupted"
    assert process.returncode == 130, log
    assert recorded.header["ended_at"] is not None
    requests = recorded.requests
    assert "ok" in set(requests["status"]) <= {"ok", "cancelled", "dropped"}
    assert requests["due_s"].max() <= recorded.header["stages"][-1]["end_s"]


def test_bad_input_is_one_sentence_and_an_exit_code_and_leaves_no_worker(started):
    process, folder = started["search by workers"]
    log = ended(process, folder, within_s=30)
    assert process.returncode == 2
    assert "\nlocust: --find-capacity with several workers. Run it in one process (without --processes" in log
    assert "Traceback" not in log
    assert not (folder / "run").exists()


def test_closed_loop_users_of_the_chat_endpoint(started):
    process, folder = started["closed loop"]
    log = ended(process, folder)
    assert process.returncode == 0, log
    recorded = run.read(folder / "run")
    requests = recorded.requests
    assert set(requests["status"]) == {"ok"}
    assert recorded.header["stages"][0]["users"] == 4
    assert (requests["output_tokens"] == requests["output_tokens_asked"]).all()
    assert requests["events"].sum() == requests["output_tokens"].sum()  # the role chunk is no token


def test_one_seat_counts_the_wait_from_the_due_time(started):
    process, folder = started["one seat"]
    # answers of 50 + 9 * 5 = 95 ms, one at a time, every 20 ms: the last of 10 is due at 180 ms and begins after 855 ms
    log = ended(process, folder)
    requests = run.read(folder / "run").requests
    assert len(requests) == 10, log
    assert requests["due_s"].to_numpy(float) == pytest.approx(np.arange(10) / 50)
    last = requests.iloc[-1]
    assert last["first_token_s"] - last["due_s"] >= 0.855 - 0.18 + 0.05
    assert 0.0495 <= (requests["first_token_s"] - requests["sent_s"]).median() < 0.3
    assert "cap" in {r["code"] for r in run.read_header(folder / "run")["client"]["stages"][0]["reasons"]}


def test_a_search_records_its_probes_as_stages_of_one_run(started):
    process, folder = started["search"]
    log = ended(process, folder)
    recorded = run.read(folder / "run")
    found = recorded.header["find_capacity"]
    assert (process.returncode == 0) == (found["rate_rps"] is not None), (
        log
    )  # none held: on a machine too busy to tell
    stages = recorded.header["stages"]
    requests = recorded.requests
    assert [p["rate"] for p in found["probes"]] == [s["rate"] for s in stages]
    assert found["probes"][0]["rate"] == 40
    assert [s["stage"] for s in stages] == list(range(len(stages)))
    assert set(requests["stage"]) <= set(range(len(stages)))
    for stage in stages:
        mine = requests[requests["stage"] == stage["stage"]]
        assert mine["due_s"].between(stage["start_s"], stage["end_s"]).all()
        expected = stage["rate"] * (stage["end_s"] - stage["start_s"])
        assert len(mine) == pytest.approx(expected, abs=5 * np.sqrt(expected) + 1)
    assert not requests["request_id"].duplicated().any()
    # 4 seats of 50 + 7 * 5 ms serve 47/s: 80/s breaks any bound, if the time sufficed to try it
    assert all(p["verdict"] != "holds" for p in found["probes"] if p["rate"] >= 80)
    held, broke = found["bracket_rps"]
    assert found["rate_rps"] == held
    assert f"requests/s ({broke:.4g}/s broke it)" in log if held and broke else "capacity" in log or held


def test_a_process_that_does_not_end_after_its_run_says_where_it_stands_and_is_ended():
    program = """
import time
from locust.env import Environment
from loadgen.in_locust import process_end
process_end.EXIT_S = 0.2
process_end.quit_within(Environment(), lambda: print("settled"), 60)
time.sleep(60)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert (said.returncode, said.stdout) == (1, "settled\n")
    assert "most recent call first" in said.stderr


def tpot_ms(requests: Any) -> Any:
    return (requests["last_token_s"] - requests["first_token_s"]) / (requests["output_tokens"] - 1) * 1e3


def get(address: str, path: str, form: dict[str, Any] | None = None) -> bytes:
    data = None if form is None else urllib.parse.urlencode(form).encode()
    with urllib.request.urlopen(f"{address}{path}", data, timeout=10) as answer:
        return answer.read()
