"""Accuracy and speed of the analysis: `python benchmarks/capacity.py [coverage [N]] [speed] [sweeps]`.

    coverage  N (200) synthetic servers with known truth, each measured by a 10-minute sweep of noisy stages, between
              which its speed wanders by up to 3 %: how often the 95 % intervals hold the truth (asked: 92-98 %), and
              how far the estimates are off
    speed     a run of one million requests, read and analysed (asked: 10 s)
    sweeps    the recorded sweeps of a real server

Without a name all three run; coverage takes about four minutes of one core.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "analysis")]

from recorded_sweeps import SWEEPS, sweep_to_run
from synthetic import Server, serve, sizes, sweep

from analysis import run
from analysis.capacity import analyse
from analysis.run import SIGNALS
from analysis.slo import parse_slo

WANDER = 0.03  # the most by which a server's speed differs between stages (standard deviation)
LOADS = np.array([0.5, 0.6, 0.7, 0.76, 0.82, 0.86, 0.89, 0.92, 0.94, 0.96, 0.98, 0.99])


def truth(server: Server, bound_s: float, count: int = 30_000) -> tuple[float, float]:
    """Rates of a long simulation: every second request waits; 5 % have a TTFT above the bound."""
    rng = np.random.default_rng(5)
    gaps, size = rng.exponential(1, count), sizes(server, count, rng)
    waits, late = [], []
    for load in LOADS:
        due = np.cumsum(gaps) / (load * server.saturated_rps)
        wait = (serve(server, due, size)[0] - due)[count // 20 :]
        waits.append((wait > 1e-9).mean())
        late.append((wait + server.first_token_s > bound_s).mean())
    found = [np.interp(at, np.maximum.accumulate(curve), LOADS) for at, curve in ((0.5, waits), (0.05, late))]
    return found[0] * server.saturated_rps, found[1] * server.saturated_rps


def coverage(servers: int) -> None:
    rows = []
    for k in range(servers):
        rng = np.random.default_rng(1000 + k)
        server = Server(
            seats=int(rng.integers(6, 40)),
            alone_s=float(rng.uniform(1, 5)),
            stretch=float(rng.uniform(1, 2)),
            size_cv=float(rng.choice([0.15, 0.4, 0.8])),
        )
        wander = float(rng.uniform(0, WANDER))
        bound_s = float(rng.uniform(0.3, 2) * server.alone_s)
        guess = server.saturated_rps * rng.uniform(0.85, 1.2)  # the user does not know where the knee is
        rates = [share * guess for share in (0.2, 0.4, 0.6, 0.75, 0.9, 1.0, 1.15, 1.4)]
        with tempfile.TemporaryDirectory() as folder:
            path = sweep(server, Path(folder) / "run", rates, 75, seed=k, wander=wander, every_s=75)
            found = analyse(run.read(path), parse_slo(f"ttft_p95={bound_s * 1000:.0f}ms"))
        knee, holds = truth(server, bound_s)
        for name, estimate, true in (
            ("saturated throughput", found.saturated, server.saturated_rps),
            ("knee", found.knee, knee),
            ("capacity at a TTFT SLO", found.capacity, holds),
        ):
            width = (estimate.high - estimate.low) / 2 / true
            rows.append((name, estimate.low <= true <= estimate.high, estimate.value / true - 1, width))
    table = pd.DataFrame(rows, columns=["quantity", "covered", "error", "half_width"])
    print(f"{servers} synthetic servers, sweeps of 10 minutes: 95 % intervals")
    print(f"{'quantity':<24}{'covered':>9}{'mean error':>12}{'rms error':>11}{'half width':>12}")
    for name, part in table.groupby("quantity", sort=False):
        rms = np.sqrt((part["error"] ** 2).mean())
        print(
            f"{name:<24}{part['covered'].mean():>9.1%}{part['error'].mean():>+12.2%}{rms:>11.2%}{part['half_width'].median():>12.2%}"
        )


def speed(requests: int = 1_000_000) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(seats=200, alone_s=4.0, stretch=2.0)
        guess = server.saturated_rps
        rates = [share * guess for share in (0.2, 0.4, 0.6, 0.8, 0.9, 1.1)]
        stage_s = requests / sum(rates)
        path = Path(folder) / "run"
        stages = [
            {"start_s": k * stage_s, "end_s": (k + 1) * stage_s, "rate": r} for k, r in enumerate(rates)
        ]
        counts = rng.multinomial(requests, np.array(rates) / sum(rates))
        due = np.concatenate(
            [np.sort(rng.uniform(k * stage_s, (k + 1) * stage_s, n)) for k, n in enumerate(counts)]
        )
        start, end = serve(server, due, sizes(server, requests, rng))
        run.create(path, {"started_at": 1e9, "ended_at": 1e9 + end.max(), "stages": stages})
        table = {
            "request_id": np.arange(requests),
            "stage": np.repeat(np.arange(len(rates)), counts),
            "due_s": due,
            "sent_s": due + 1e-4,
            "first_token_s": start + 0.05,
            "last_token_s": np.maximum(end, start + 0.06),
            "prompt_tokens": 100,
            "output_tokens": 100,
            "status": "ok",
            "error": "",
        }
        run.write_table(path, "requests", pd.DataFrame(table))
        times = np.arange(0, end.max(), 1.0)
        counted = [np.searchsorted(np.sort(v), times) for v in (due, start, end)]
        metrics = {"time_s": times, "pod": "pod-0", "engine": "0"}
        metrics |= {"waiting": counted[0] - counted[1], "running": counted[1] - counted[2], "kv_usage": 0.5}
        run.write_table(path, "metrics", pd.DataFrame(metrics))
        began, cpu = time.perf_counter(), time.process_time()
        found = analyse(run.read(path), parse_slo("ttft_p95=2s,tpot_p95=100ms,e2e_p95=20s,goodput=95%"))
        took, used = time.perf_counter() - began, time.process_time() - cpu
    print(f"{requests:,} requests read and analysed: {took:.1f} s ({used:.1f} s of CPU); knee {found.knee}")


def sweeps() -> None:
    slo = parse_slo("ttft_p95=2s,tpot_p95=100ms,e2e_p95=8s")
    for name in SWEEPS:
        with tempfile.TemporaryDirectory() as folder:
            found = analyse(run.read(sweep_to_run(name, Path(folder) / name)), slo)
        print(
            f"{name}\n  knee      {found.knee}\n  saturated {found.saturated}\n  {found.slo}: {found.capacity}"
        )
        print(f"  binds     {found.binds}")
        print("".join(f"  note      {note}\n" for note in found.notes), end="")
        columns = ["state", "rate_rps", "throughput_rps", "busy", *SIGNALS, "ttft_p50_s", "ttft_p95_s"]
        print(found.points[columns].round(3).to_string())


if __name__ == "__main__":
    asked = sys.argv[1:]
    if not asked or "sweeps" in asked:
        sweeps()
    if not asked or "speed" in asked:
        speed()
    if not asked or "coverage" in asked:
        coverage(next((int(word) for word in asked if word.isdigit()), 200))
