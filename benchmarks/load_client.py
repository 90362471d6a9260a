"""What the load generator costs and how true its times are, against a server of known truth.

    python benchmarks/load_client.py [--only NAME ...] [--seconds 8] [--realtime]

Client on core 0, truth server (truth_server.c, or .py without a compiler) on core 1: quiet both, or use --realtime (root),
which gives both a real-time priority and stops everything else on the machine meanwhile. One line per figure: asked,
measured, met or not; all takes five and a half minutes. Not part of all: `workers` (what a worker costs, for
manifests/locust). Other clients on the same server: benchmarks/peers.py.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.histogram import Histogram
from benchmarks.load_lab import (
    CLIENT_CORE,
    Bench,
    Figure,
    certificate,
    cpu_limit,
    cpu_per_1k,
    send_lag_ms,
    ttft_error_ms,
)

TTFT_S, TOKENS = 0.05, 128
HELD_STREAMS = 192  # need about 40 % of a core: a fifth is not enough


def streams(
    name: str,
    count: int,
    gap_s: float = 0.005,
    cpu: float | None = None,
    mean: float | None = None,
    p99: float | None = None,
    itl: float | None = None,
    tls: bool = False,
) -> Callable[[Bench], Iterator[Figure]]:
    """A closed loop of so many streams; with `tls` at most twice the CPU time of the same without."""

    def bench(b: Bench) -> Iterator[Figure]:
        server = ["--gap", str(gap_s)] + (["--gaps"] if itl else [])
        options = [
            "-u",
            str(count),
            "-r",
            str(count),
            "-t",
            f"{b.seconds:.0f}s",
            "--prompt-tokens",
            "fixed:16",
        ]
        if tls:
            server += ["--tls", *certificate(b.folder)]
            options += ["--insecure"]
        recorded, truth, joined = b.both(tuple(server), *options, scheme="https" if tls else "http")
        error = ttft_error_ms(joined)
        offered = count / (TTFT_S + (TOKENS - 1) * gap_s) * TOKENS
        share = events_per_s(joined) / offered
        cpu_s = b.seen[name] = cpu_per_1k(recorded, joined)
        limit = 2 * b.seen.get(name.removeprefix("tls "), (cpu or 0) / 2) if tls else cpu
        yield Figure(name, f"events read, of the {offered:,.0f}/s that the server offers", share, 0.98, True)
        yield Figure(name, "CPU s per 1k tokens", cpu_s, limit)
        yield Figure(name, "TTFT error mean (ms)", error.mean(), mean)
        yield Figure(name, "TTFT error p99 (ms)", float(np.quantile(error, 0.99)), p99)
        if itl:
            edges, counts = recorded.itl["gap_low_s"].to_numpy(), recorded.itl["count"].to_numpy(np.int64)
            said = Histogram.from_edges(edges, counts).quantile(0.99)
            true = float(np.quantile(np.concatenate(truth["gaps_s"].to_list()), 0.99))
            yield Figure(name, "ITL p99 error (ms)", abs(said - true) * 1e3, itl)
        yield Figure(name, "  server late p99 (ms)", truth["late_max_s"].quantile(0.99) * 1e3)

    return bench


def events_per_s(joined: pd.DataFrame) -> float:
    """Token events per second between the first and the last answer in which all streams were under way."""
    first_s, last_s = joined["first_token_s"].to_numpy(), joined["last_token_s"].to_numpy()
    longest_s = float((last_s - joined["sent_s"].to_numpy()).max())
    start_s, end_s = float(first_s.min()) + longest_s, float(last_s.max()) - longest_s
    inside = np.clip(np.minimum(last_s, end_s) - np.maximum(first_s, start_s), 0, None) / (last_s - first_s)
    return float(np.sum(joined["events"].to_numpy() * inside)) / (end_s - start_s)


def open20(b: Bench) -> Iterator[Figure]:
    """20 requests/s, Poisson."""
    options = ["--rate", "20", "-t", f"{max(b.seconds, 15):.0f}s", "--output-tokens", "fixed:32"]
    recorded, _, joined = b.both((), *options)
    error = ttft_error_ms(joined)
    yield Figure("open20", "TTFT error p50 (ms)", float(np.median(error)), 0.3)
    yield Figure("open20", "TTFT error p99 (ms)", float(np.quantile(error, 0.99)), 1.0)
    yield Figure("open20", "send lag p99 (ms)", float(np.quantile(send_lag_ms(recorded), 0.99)), 5.0)


def short(streamed: bool) -> Callable[[Bench], Iterator[Figure]]:
    """Answers of one token, at once."""
    name = "short-streamed" if streamed else "short"

    def bench(b: Bench) -> Iterator[Figure]:
        options = ["-u", "64", "-r", "64", "-t", f"{b.seconds:.0f}s", "--output-tokens", "fixed:1"]
        options += ["--prompt-tokens", "fixed:16", *([] if streamed else ["--no-stream"])]
        recorded, _, joined = b.both(("--ttft", "0"), *options)
        span_s = joined["last_token_s"].max() - joined["sent_s"].min()
        cpu_s = sum(recorded.header["client"]["cpu_s"].values()) / len(joined)
        yield Figure(
            name, "requests/s, each recorded", len(joined) / span_s, 2000 if streamed else 3000, True
        )
        yield Figure(name, "  requests per CPU second of the client", 1 / cpu_s)

    return bench


def rate(b: Bench) -> Iterator[Figure]:
    """Sent rate, lateness and arrivals, judged from the server's log."""
    gaps_of = {"poisson": stats.expon().cdf, "gamma:0.5": stats.gamma(4, scale=0.25).cdf}
    for per_s in (50, 200, 500):
        name = f"rate {per_s}"
        lags = []
        for arrivals in ("constant", *gaps_of):
            options = ["--rate", str(per_s), "-t", f"{max(b.seconds - 2, 2):.0f}s", "--arrivals", arrivals]
            options += ["--output-tokens", "fixed:2", "--prompt-tokens", "fixed:16"]
            recorded, truth, _ = b.both((), *options)
            off = abs(len(truth) / len(recorded.requests) - 1) * 100
            yield Figure(name, f"{arrivals}: sent off plan by (%)", off, 0.5)
            lags.append(send_lag_ms(recorded))
            received_s = np.sort(truth["received_s"])
            if arrivals in gaps_of:
                p = stats.kstest(np.diff(received_s) * per_s, gaps_of[arrivals]).pvalue
            else:  # equal gaps have no density: the times are tested for being evenly spread
                p = stats.kstest(received_s, stats.uniform(received_s[0], np.ptp(received_s)).cdf).pvalue
                off = float(np.quantile(np.abs(np.diff(received_s) * per_s - 1), 0.99)) / per_s * 1e3
                yield Figure(name, "constant: gap off by, p99 (ms)", off, 5.0)
            yield Figure(name, f"{arrivals}: Kolmogorov-Smirnov p value", p, 0.01, True)
        yield Figure(name, "send lag p99 (ms)", float(np.quantile(np.concatenate(lags), 0.99)), 5.0)


def step(b: Bench) -> Iterator[Figure]:
    """From 20 to 200 requests/s."""
    options = ["--stages", "20:4,200:4", "--arrivals", "constant", "--output-tokens", "fixed:2"]
    _, truth, _ = b.both((), *options)
    received_s = np.sort(truth["received_s"]) - truth["received_s"].min()
    yield Figure("step", "area error (%)", abs(np.sum(received_s >= 4) / 800 - 1) * 100, 2.0)
    around_s = np.diff(received_s[(received_s > 3.5) & (received_s < 4.5)])
    yield Figure("step", "largest gap at the step (ms)", float(around_s.max() * 1e3), 100.0)


def spike(b: Bench) -> Iterator[Figure]:
    """From 20 to 200 requests/s for 2 s."""
    file = b.folder / "spike.yaml"
    file.write_text(
        "arrivals: constant\noutput_tokens: fixed:2\nprompt_tokens: fixed:16\n"
        "load: [{spike: {base_rps: 20, peak_rps: 200, at_s: 3, hold_s: 2, duration_s: 8}}]\n"
    )
    _, truth, _ = b.both((), "--load", str(file))
    received_s = np.sort(truth["received_s"]) - truth["received_s"].min()
    inside = np.sum((received_s >= 3) & (received_s < 5))
    yield Figure("spike", "area of the spike, error (%)", abs(inside / 400 - 1) * 100, 2.0)
    yield Figure("spike", "area in all, error (%)", abs(len(received_s) / 520 - 1) * 100, 2.0)
    around_s = np.diff(received_s[(received_s > 2.9) & (received_s < 5.1)])
    yield Figure("spike", "largest gap around the spike (ms)", float(around_s.max() * 1e3), 100.0)


def omission(b: Bench) -> Iterator[Figure]:
    """One seat, 500 ms service, 10 requests/s, 8 requests: counted from the due time, 3,330 ms +-5 %."""
    options = ["--stages", "10:0.8", "--arrivals", "constant", "--output-tokens", "fixed:1"]
    recorded, _, _ = b.both(("--ttft", "0.5"), *options, "--max-in-flight", "1")
    requests = recorded.requests
    for what, column in (("TTFT", "first_token_s"), ("E2E", "last_token_s")):
        value_ms = float(np.quantile(requests[column] - requests["due_s"], 0.99)) * 1e3
        yield Figure(
            "omission", f"{what} p99 from due, off 3330 ms by (%)", abs(value_ms / 3330 - 1) * 100, 5.0
        )
        yield Figure("omission", f"  {what} p99 from due (ms)", value_ms)
    sent_ms = float(np.quantile(requests["first_token_s"] - requests["sent_s"], 0.99)) * 1e3
    yield Figure("omission", "TTFT p99 from send, off 507 ms by (%)", abs(sent_ms / 507 - 1) * 100, 5.0)


def starvation(b: Bench) -> Iterator[Figure]:
    """The verdict with the client held to a fifth of a core in three ways, or idle for four fifths of the time."""
    many = ["-u", str(HELD_STREAMS), "-r", str(HELD_STREAMS), "-t", f"{b.seconds:.0f}s"]
    few = ["-u", "40", "-r", "40", "-t", f"{b.seconds:.0f}s"]
    yield _verdict(b, "stopped 80 of 100 ms", many, "limited", _stopped)
    with cpu_limit(0.2) as into:
        if into is None:
            print("a CPU limit cannot be set here (no control group may be made): left out", file=sys.stderr)
        else:
            yield _verdict(b, "a CPU limit of 20 %", many, "limited", lambda _, pid: into(pid))
    yield _verdict(b, "four busy loops on its core", many, "limited", _crowded)
    yield _verdict(b, "at about 20 % load", few, "ok", None)
    open_loop = ["--rate", "20", "-t", f"{b.seconds:.0f}s", "--output-tokens", "fixed:128"]
    yield _verdict(b, "open loop, 20 requests/s", open_loop, "ok", None)


def _verdict(
    b: Bench, how: str, options: list[str], expected: str, hold: Callable[[float, int], None] | None
) -> Figure:
    def during(pid: int) -> None:
        while hold is not None and not (b.path / "run.json").exists():
            time.sleep(0.05)
        if hold is not None:
            hold(b.seconds, pid)

    with b.server() as (port, _):
        recorded = b.client(port, *options, "--prompt-tokens", "fixed:16", during=during, first=hold is None)
    client = recorded.header["client"]
    busy = sum(client["cpu_s"].values()) / b.seconds
    said = f"{how} (used {busy:.0%}): {expected}, 1 = yes"
    return Figure("starvation", said, float(client["verdict"] == expected), 1.0, True)


def _stopped(seconds: float, pid: int) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.08)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)


def _crowded(seconds: float, _: int) -> None:
    command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(4)]
    time.sleep(seconds)
    for loop in loops:
        loop.kill()
        loop.wait()


def workers(b: Bench) -> Iterator[Figure]:
    """What a worker costs at open loop: the C of manifests/locust/README.md."""
    for per_s in (10, 50, 100):
        options = ["--rate", str(per_s), "-t", f"{b.seconds:.0f}s", "--output-tokens", "fixed:128"]
        recorded, _, joined = b.both((), *options)
        cpu_s = sum(recorded.header["client"]["cpu_s"].values())
        yield Figure(f"workers {per_s}", "CPU s per 1k tokens", cpu_per_1k(recorded, joined))
        yield Figure(f"workers {per_s}", "CPU ms per request of 128 tokens", cpu_s / len(joined) * 1e3)


BENCHES: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "streams256": streams("streams256", 256, cpu=0.015, mean=2.0, p99=5.0),
    "streams64": streams("streams64", 64, cpu=0.020, p99=5.0),
    "streams500": streams("streams500", 500, gap_s=0.010, mean=5.0, itl=1.5),
    "open20": open20,
    "tls256": streams("tls streams256", 256, cpu=0.030, mean=2.0, p99=5.0, tls=True),
    "tls64": streams("tls streams64", 64, cpu=0.040, p99=5.0, tls=True),
    "short": short(False),
    "short-streamed": short(True),
    "rate": rate,
    "step": step,
    "spike": spike,
    "omission": omission,
    "starvation": starvation,
    "workers": workers,
}
APART = ("workers",)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=BENCHES, help=", ".join(BENCHES))
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a run (default 8)")
    parser.add_argument("--realtime", action="store_true", help="real-time priority for client and server")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    bench = Bench(options.seconds, options.realtime)
    figures: list[Figure] = []
    if not options.json:
        print(f"{'benchmark':<15} {'figure':<52} {'asked':<10} {'measured':>11}")
    for name in options.only or [n for n in BENCHES if n not in APART]:
        for figure in BENCHES[name](bench):
            figures.append(figure)
            if not options.json:
                print(figure, flush=True)
    asked = [f for f in figures if f.asked is not None]
    missed = [f for f in asked if not f.met]
    if options.json:
        rows: list[dict[str, Any]] = [figure._asdict() for figure in figures]
        print(json.dumps(rows, default=float, indent=1))
    else:
        print(f"{len(asked) - len(missed)} of {len(asked)} met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
