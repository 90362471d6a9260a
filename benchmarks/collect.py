"""Cost of collecting one hour of 16 pods at 1 s from a real Prometheus server (budget: 10 s, 500 MB).

The hour is made up and loaded into the server's storage with promtool; both come with the `prometheus` package.
Run: python -m benchmarks.collect
"""

import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from analysis import run
from autoscale.local_servers import local_prometheus
from autoscale.observe.collect import collect

PODS, DURATION_S = 16, 3600
REASONS = ("stop", "length", "abort", "error", "repetition")
SERIES = [
    *(
        (name, "gauge", "")
        for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc")
    ),
    *(
        (name, "counter", "")
        for name in ("num_preemptions_total", "prompt_tokens_total", "generation_tokens_total")
    ),
    *(("request_success_total", "counter", f',finished_reason="{reason}"') for reason in REASONS),
]


def hour(started_at: float) -> Iterator[str]:
    """The hour as OpenMetrics text: every series of every pod at 1 s."""
    declared = set()
    for name, kind, label in SERIES:
        if name not in declared:
            yield f"# TYPE vllm:{name.removesuffix('_total')} {kind}\n"
            declared.add(name)
        for pod in range(PODS):
            labels = f'pod="vllm-{pod}",engine="0",model_name="m"{label}'
            for t in range(DURATION_S):
                yield f"vllm:{name}{{{labels}}} {t * 0.37:.2f} {started_at + t:.3f}\n"
    yield "# EOF\n"


def main() -> None:
    started_at = float(int(time.time()) - DURATION_S - 300)
    with tempfile.TemporaryDirectory() as folder:
        text, storage = (Path(folder) / name for name in ("hour.txt", "tsdb"))
        with open(text, "w", encoding="utf-8") as file:
            file.writelines(hour(started_at))
        subprocess.run(
            ["promtool", "tsdb", "create-blocks-from", "openmetrics", text, storage],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with local_prometheus(Path(folder), "scrape_configs: []\n", ()) as url:
            header = {"started_at": started_at, "ended_at": started_at + DURATION_S, "model": "m"}
            target = run.create(Path(folder) / "run", header)
            before_mb = peak_mb()
            wall, cpu = time.perf_counter(), time.process_time()
            summary = collect(target, url)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{summary['rows']} rows of {len(summary['pods'])} pods, {len(summary['gaps'])} gaps")
    print(
        f"{wall:.1f} s wall, {cpu:.1f} s CPU; peak {peak_mb():.0f} MB, {before_mb:.0f} MB of it before the start"
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
