"""Two recorded load sweeps of a real vLLM server, turned into run directories.

    sweep_A   0.5 to 6 req/s on a shared machine: capacity wandered between 2.7 and 3.3 req/s, and in the 1.0 req/s
              step the client itself was late
    sweep_D   1 to 5.5 req/s on a quiet machine; the knee lies at about 4.5 req/s

Each is a client's own record per request (unix times) and what a real Prometheus answered to range queries at 1 s.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import run

RECORDINGS = Path(__file__).parent / "fixtures" / "vllm"
SWEEPS = ("sweep_A", "sweep_D")
ENGINE = {
    "vllm_version": "0.32.0",
    "block_size": 32,
    "num_blocks": 81,
    "kv_tokens": 81 * 32,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "max_model_len": 2048,
}
SERIES = {  # column -> recorded query
    "waiting": "waiting",
    "running": "running",
    "kv_usage": "kv",
    "preemptions_total": "preemptions",
    "prompt_tokens_total": "prompt",
    "generation_tokens_total": "gen",
    "requests_total": "success",
}


def sweep_to_run(name: str, out: Path) -> Path:
    """Write the recorded sweep `name` ("sweep_A" or "sweep_D") as a run directory at `out`; returns `out`."""
    source = RECORDINGS / name
    steps = [json.loads(file.read_text()) for file in sorted(source.glob("step*.json"))]
    started_at = steps[0]["t0"]
    ended_at = max(step["t1"] + step["drain_s"] for step in steps)
    stages = [
        {
            "stage": i,
            "start_s": step["t0"] - started_at,
            "end_s": step["t1"] - started_at,
            "rate": step["rate"],
        }
        for i, step in enumerate(steps)
    ]
    requests = _requests(source, started_at)
    run.create(
        out,
        {
            "kind": "live",
            "started_at": started_at,
            "ended_at": ended_at,
            "command": f"recorded {name}",
            "versions": {"vllm": ENGINE["vllm_version"]},
            "target": "http://127.0.0.1:8100",
            "model": "tiny",
            "load": {"arrivals": "poisson", "stages": stages},
            "stages": stages,
            "lengths": {"prompt_tokens": "uniform:48,96", "output_tokens": "uniform:96,160"},
            "ignore_eos": True,
            "seed": steps[0]["seed"],
            "engine": ENGINE,
        },
    )
    run.write_table(out, "requests", requests)
    run.write_table(out, "metrics", _metrics(source, started_at, ended_at))
    return out


def prometheus_answer(name: str, series: str) -> dict[str, Any]:
    """The recorded answer of Prometheus to one range query: {"status": "success", "data": ...}."""
    with gzip.open(RECORDINGS / name / f"prom_{series}.json.gz", "rt") as file:
        return dict(json.load(file))


def _requests(source: Path, started_at: float) -> pd.DataFrame:
    rows = []
    for stage, file in enumerate(sorted(source.glob("step*.jsonl.gz"))):
        with gzip.open(file, "rt") as lines:
            for line in lines:
                record = json.loads(line)
                usage = record["usage"] or {}
                assert record["status"] == 200, "every recorded request was answered"
                assert record["err"] is None, "no recorded request failed"
                rows.append(
                    {
                        "stage": stage,
                        "worker": "0",
                        "due_s": record["sched"] - started_at,
                        "sent_s": record["send"] - started_at,
                        "first_token_s": record["first"] - started_at,
                        "last_token_s": record["last"] - started_at,
                        "prompt_tokens": usage.get("prompt_tokens"),
                        "output_tokens": usage.get("completion_tokens"),
                        "events": record["ev"],
                        "status": "ok",
                        "http_status": 200,
                        "prompt_tokens_asked": record["n_in"],
                        "output_tokens_asked": record["n_out"],
                    }
                )
    frame = pd.DataFrame(rows).sort_values("due_s", kind="stable", ignore_index=True)
    frame["request_id"] = frame.index
    return frame


def _metrics(source: Path, started_at: float, ended_at: float) -> pd.DataFrame:
    columns: dict[str, pd.Series] = {}
    for column, query in SERIES.items():
        answers = prometheus_answer(source.name, query)["data"]["result"]
        series = [pd.Series({t: float(v) for t, v in answer["values"]}) for answer in answers]
        columns[column] = pd.concat(series, axis=1).sum(
            axis=1, min_count=1
        )  # finished requests: one per reason
    frame = pd.DataFrame(columns).sort_index()
    frame = frame[(frame.index >= started_at) & (frame.index <= ended_at)]
    frame.insert(0, "time_s", frame.index - started_at)
    return frame.assign(pod="127.0.0.1:8100", engine="0").reset_index(drop=True)
