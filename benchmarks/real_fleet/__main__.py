"""Start, load, watch, compare: see the package's docstring. Options: --help."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import requests

from analysis.errors import AutoscaleError, BadInput, NotAchieved
from analysis.numbers import known, plain
from analysis.opened import open_run
from autoscale.check import CheckResult
from autoscale.check.evidence import OWN_LOAD
from autoscale.check_command import run_check
from autoscale.cli.printing import show, show_paths
from autoscale.demo import directory
from autoscale.show.terminal.check import check_lines, state_line
from autoscale.sim.http.hosting import FleetThread
from benchmarks.one_gpu.measure import closed_loop, offered, throughput_rps
from benchmarks.real_fleet.clock import Compared, ServerTimes, compared, comparison_lines, rate_between
from benchmarks.real_fleet.fleet import GRACE_S, RealFleet
from benchmarks.real_fleet.kubelet import KEEPER, START_S
from benchmarks.real_fleet.setting import Setting, simulated_setting, vllm_setting

ROOT = Path(__file__).parent.parent.parent
KEPT = "REAL_FLEET_KEPT"  # set in the environment of the program that a keeper runs
ALONE_S = 20.0  # of as many users as the HPA's target, who do not make it scale
BUSY = 1.15  # times what these complete: about what one replica does while another starts on the same cores
HPA_S = 120.0  # for a window of 30 s, two syncs, and what is in flight


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the check passed, 1 when it did not. SIGTERM ends it in good order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _options(argv)
    out = directory(options.out)
    setting = simulated_setting(out) if options.simulated else vllm_setting(options.python, out)
    return 0 if trial(setting, out).passed else 1


def trial(setting: Setting, out: Path) -> CheckResult:
    """One scale-out and, the load over, one scale-in, all of it printed; files go to `out`."""
    fleet = RealFleet(
        setting.profile, setting.hpa, setting.words, out, "least_requests", simulated=setting.simulated
    )
    servers = fleet.kubelet.servers
    with FleetThread(fleet):
        print(f"the first server starts; its log is {out / 'server-1.log'}", flush=True)
        _until(fleet, lambda: fleet.gateway.router.opened, START_S, "the first server was not ready")
        print(
            f"ready {_span(servers[0].times.asked_s, servers[0].times.healthy_s)} after it was asked for",
            flush=True,
        )
        users = closed_loop(int(setting.target), ALONE_S)
        alone_rps = throughput_rps(offered(out / "alone", fleet.url, setting.lengths, setting.slo, users))
        busy_rps = round(BUSY * alone_rps, 2)
        print(
            f"with {setting.target} requests running it completes {alone_rps:.2f}/s; {busy_rps}/s will be offered"
        )
        _until(fleet, fleet.hpa_reads, HPA_S, "the HPA has no value of its metric")
        result = _checked(setting, busy_rps, fleet, out)
        over_s, own = time.time(), [server.times for server in servers]
        found = _compared(result, own)
        show(*check_lines(result))
        for line in [*_server_lines(own), *_served_lines(result, out), *comparison_lines(found)]:
            print(line, flush=True)
        content = plain({"servers": own, "compared": found})
        (out / "clock.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if len(servers) > 1:
            _scaled_in(fleet, over_s)
    show_paths([out])
    return result


def _scaled_in(fleet: RealFleet, over_s: float) -> None:
    """Wait until the HPA has taken one of the servers back, whichever."""
    _until(fleet, lambda: fleet.fleet.desired == 1, HPA_S, "the HPA did not scale in")
    _until(fleet, lambda: len(fleet.fleet.pods.replicas) == 1, GRACE_S + HPA_S, "the replica did not end")
    gone = next(own for own in (each.times for each in fleet.kubelet.servers) if known(own.ended_s))
    print(
        f"scale-in: the load over, a server was told to end after {_span(over_s, gone.stopping_s)}"
        f" and was gone {_span(gone.stopping_s, gone.ended_s)} later"
    )


def _checked(setting: Setting, busy_rps: float, fleet: RealFleet, out: Path) -> CheckResult:
    """`autoscale check` on the fleet, with the load that the project's own client sends."""
    prompt, output = setting.lengths
    busy_s = setting.watched_s - setting.quiet_s
    load = ["locust", "-f", str(ROOT / "loadgen" / "completions.py")]
    load += ["--prompt-tokens", prompt, "--output-tokens", output, "--slo", setting.slo]
    load += ["--stages", f"{setting.quiet_rps}:{setting.quiet_s:.0f},{busy_rps}:{busy_s:.0f}"]
    said = ""

    def progress(state: Any) -> None:
        nonlocal said
        if (line := state_line(state)) != said:
            said = line
            print(line, flush=True)

    return run_check(
        fleet=fleet.url,
        namespace="default",
        hpa=None,
        context=None,
        load=shlex.join(load),
        expect=None,
        timeout_s=setting.watched_s,
        scale_to=None,
        replay_dir=None,
        out=out / "check",
        slo=setting.slo,
        progress=progress,
    ).result


def _until(fleet: RealFleet, holds: Callable[[], object], within_s: float, otherwise: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        if fleet.kubelet.failed:
            raise fleet.kubelet.failed
        if time.monotonic() > deadline_s:
            raise NotAchieved(f"{otherwise} within {within_s:.0f} s")
        time.sleep(0.1)


def _compared(result: CheckResult, servers: list[ServerTimes]) -> list[Compared]:
    """The check's only scale-out and the second server; nothing where there was none."""
    outs = result.judgement.history.scale_outs
    return compared(outs[0], servers[1]) if outs and len(servers) > 1 else []


def _server_lines(servers: list[ServerTimes]) -> list[str]:
    """What the kubelet and the gateway saw, a line per server."""
    return [
        f"server {number}: process started after {_span(own.asked_s, own.started_s)}, healthy {_span(own.started_s, own.healthy_s)}"
        f" later, first request {_span(own.healthy_s, own.request_s)} later, first token {_span(own.request_s, own.token_s)} later"
        for number, own in enumerate(servers, 1)
    ]


def _served_lines(result: CheckResult, out: Path) -> list[str]:
    """What one replica served while the other started, and two while there was a backlog."""
    opened = open_run(out / "check" / OWN_LOAD)
    if opened.table is None or not (outs := result.judgement.history.scale_outs):
        return []
    done_s = (opened.run.started_at + opened.table.loc[opened.table["ok"], "last_token_s"]).tolist()
    one = rate_between(done_s, outs[0].decided_s, outs[0].ready_s)
    two = rate_between(done_s, outs[0].ready_s, outs[0].absorbed_s)
    return [
        f"requests/s completed while the second server started: {_rate(one)}; until the metric was back: {_rate(two)}"
    ]


def _rate(rps: float) -> str:
    return f"{rps:.2f}" if known(rps) else "too short to say"


def _span(from_s: float, to_s: float) -> str:
    return "-" if math.isnan(to_s - from_s) else f"{to_s - from_s:.2f} s"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_fleet", description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python that has vLLM")
    parser.add_argument("--simulated", action="store_true", help="simulated servers instead of vLLM")
    parser.add_argument("--out", type=Path, help="an empty directory (default the next free one under runs/)")
    return parser.parse_args(argv)


def kept() -> int:
    """This program again under a keeper: nothing of it is left, the load neither, however this process ends."""
    command = [sys.executable, str(KEEPER), sys.executable, "-m", "benchmarks.real_fleet", *sys.argv[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {KEPT: "1"}) as keeper:
        try:
            return keeper.wait()
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            keeper.stdin.close()


if __name__ == "__main__":
    if KEPT not in os.environ:
        sys.exit(kept())
    try:
        sys.exit(main())
    except (AutoscaleError, requests.RequestException) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1 if isinstance(error, NotAchieved) else 3)
