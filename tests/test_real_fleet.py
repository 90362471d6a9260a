"""A fleet of processes under the HPA's rules: benchmarks.real_fleet, with simulated servers in the place of vLLM."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from analysis.errors import SourceUnavailable
from analysis.run import read_header
from autoscale.check import WatchState, judge_again, prove
from autoscale.check.phases import Span
from autoscale.check.records import PodRecord
from autoscale.check.replicas import SeenReplica
from autoscale.check.scaleout import ScaleOut
from autoscale.observe.fleet_door import FleetDoor
from autoscale.sim.http.hosting import FleetThread
from benchmarks.real_fleet import clock
from benchmarks.real_fleet.fleet import RealFleet
from benchmarks.real_fleet.kubelet import KEEPER
from benchmarks.real_fleet.setting import simulated_setting

WITHIN_S = (
    180.0  # on a machine that is busy with other tests; nothing here takes a tenth of it on a quiet one
)


def until(holds: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def stream(url: str) -> bytes:
    body = json.dumps({"prompt": "a b c", "max_tokens": 40, "stream": True}).encode()
    request = urllib.request.Request(
        f"{url}/v1/completions", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WITHIN_S) as answer:
        return answer.read()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def quick(out):
    """Simulated servers, and an HPA that syncs each second and scales in after three: users who begin together pause together, too."""
    setting = simulated_setting(out)
    path = setting.profile.metric_path.model_copy(update={"sync_period_s": 1.0})
    profile = setting.profile.model_copy(update={"metric_path": path})
    return replace(setting, profile=profile, scale_in_window_s=3)


def test_load_starts_a_second_server_the_check_sees_it_and_the_last_one_goes(tmp_path):
    setting, over, judged = quick(tmp_path), threading.Event(), threading.Event()
    fleet = RealFleet(
        setting.profile, setting.hpa, setting.words, tmp_path, "least_requests", simulated=False
    )  # to the fleet they are processes like any

    def loop() -> None:
        while not over.is_set():
            assert stream(fleet.url).endswith(b"data: [DONE]\n\n")

    def seen(state: WatchState) -> None:
        """End the watch when it has seen the new server's first traffic."""
        phases = [phase for out in state.past.scale_outs for phase in out.phases]
        if any(phase.name == "ready_to_traffic" and not phase.open for phase in phases):
            judged.set()

    servers = fleet.kubelet.servers
    with FleetThread(fleet), ThreadPoolExecutor(7) as pool:
        until(lambda: fleet.gateway.router.opened)
        until(fleet.hpa_reads)
        door = FleetDoor(fleet.url)
        place = (door, "default", fleet.spec.name, tmp_path / "check")
        check = pool.submit(prove, *place, settle_s=None, stop=judged, progress=seen)
        loops = [pool.submit(loop) for _ in range(6)]  # of 4 seats, and an HPA that asks for 3 at most
        try:
            until(lambda: check.done() or judged.is_set())
            until(lambda: not math.isnan(servers[1].times.token_s))
            assert all(each["first_request"] for each in door.truth()["replicas"])
        finally:
            over.set()
            judged.set()
        for each in loops:
            each.result()
        result = check.result()
        until(lambda: len(fleet.fleet.pods.replicas) == 1)
    assert all(server.process.returncode is not None for server in servers)
    header = read_header(tmp_path / "check")
    assert (door.simulated, header["kind"], header["check"]["queries_told"]) == (False, "live", True)
    again = judge_again(tmp_path / "check").judgement
    assert [(each.code, each.outcome) for each in again.criteria] == [
        (each.code, each.outcome) for each in result.judgement.criteria
    ]
    (out,) = [each for each in result.judgement.history.scale_outs if each.by_hpa]
    assert (out.before, out.after) == (1, 2)
    assert {"decision_to_pods", "ready_to_traffic"} <= {phase.name for phase in out.phases}
    own = servers[1].times
    assert own.asked_s <= own.started_s <= own.healthy_s <= own.request_s <= own.token_s
    rows = clock.compared(out, own)
    assert len(clock.comparison_lines(rows)) == 1 + len(rows)
    assert not any(math.isnan(row.difference_s) for row in rows)


def test_a_server_that_does_not_start_ends_the_fleet(tmp_path):
    setting = simulated_setting(tmp_path)
    words = (sys.executable, "-c", "raise SystemExit(7)")
    fleet = RealFleet(setting.profile, setting.hpa, words, tmp_path, "least_requests", simulated=True)
    with pytest.raises(SourceUnavailable, match="ended with status 7"), FleetThread(fleet):
        until(lambda: fleet.kubelet.failed)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda keeper: keeper.stdin.close(), id="its input ends"),
        pytest.param(lambda keeper: keeper.send_signal(signal.SIGTERM), id="it is told to end"),
    ],
)
def test_nothing_outlives_its_keeper(end):
    child = "import subprocess as s; s.Popen(['sleep', '1000'])"
    program = f"import os, time; {child}; print(os.getpid(), flush=True); time.sleep(1000)"
    with subprocess.Popen(
        [sys.executable, str(KEEPER), sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as keeper:
        group = int(keeper.stdout.readline())
        assert alive(group)
        end(keeper)
        keeper.stdout.read()  # both held it
    assert not alive(group)


def test_the_clocks_are_compared_phase_by_phase():
    pod = PodRecord("uid", "vllm-1", {}, created_s=100.0, started_s=101.0, ready_s=161.5)
    phases = (Span("engine_start", 101.0, 160.0, 160.0), Span("ready_to_traffic", 161.5, 166.5, 166.5))
    out = ScaleOut(
        decided_s=100.0,
        before=1,
        after=2,
        by_hpa=True,
        reason="",
        phases=phases,
        replicas=(SeenReplica("vllm-1", (pod,), 1),),
        detected_s=99.0,
        ready_s=161.5,
        absorbed_s=200.0,
        slo_back_s=200.0,
        attributed=1.0,
        requests_in_breach=0,
    )
    own = clock.ServerTimes(100.25, started_s=101.0, healthy_s=161.25, request_s=161.75, token_s=162.0)
    rows = {row.what: (row.check_s, row.own_s, row.difference_s) for row in clock.compared(out, own)}
    assert rows == {
        "decision to process started": (1.0, 0.75, 0.25),
        "process started to ready": (60.5, 60.25, 0.25),
        "decision to ready": (61.5, 61.0, 0.5),
        "ready to first traffic": (5.0, 0.5, 4.5),  # the check reads gauges every 5 s
    }


def test_a_rate_is_completions_by_time():
    assert clock.rate_between([0.0, 1.0, 2.0, 21.0], 1.0, 21.0) == 0.1  # the ones at 1 and 2
    assert math.isnan(clock.rate_between([1.0], 3.0, math.nan))
    assert math.isnan(clock.rate_between([1.0], 1.0, 2.0))  # too short to say
