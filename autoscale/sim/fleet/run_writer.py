"""The outcome of a simulation as a run directory, the same files as a live run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import run as run_directory
from analysis.run import METRIC_COLUMNS, STATUSES
from autoscale.sim.engine.state import REFUSED
from autoscale.sim.fleet.held import OUTCOMES
from autoscale.sim.fleet.outcome import Outcome
from loadgen.plan.traffic import LoadPlan

Columns = dict[str, NDArray[Any] | list[str]]  # by the names of the run directory's tables


def write_run(
    outcome: Outcome,
    path: Path | str,
    *,
    plan: LoadPlan | None = None,
    command: str = "",
) -> Path:
    """Write the outcome as a run directory of kind simulated, the same files as a live run; returns the path.

    `plan` is the load that was simulated: its stages and lengths are noted and every request gets its stage, as
    Locust writes them; without it the run is one stage. Requests and metrics are written when the simulation kept
    them. The zero of its times is the time of writing. Raises BadRun when the directory already holds a run.
    """
    profile = outcome.profile
    header = {
        "kind": "simulated",
        "command": command,
        "versions": {},
        "target": f"simulated fleet of {profile.name}",
        "model": profile.model.id,
        "profile": profile.name,
        "seed": outcome.seed,
        "slo": str(outcome.slo),
        "unserved": outcome.unserved,  # offered requests that have no row: nobody served them before the end
        "engine": {
            "vllm_version": profile.engine.vllm_version,
            "block_size": profile.engine.block_size,
            "max_num_seqs": profile.engine.max_num_seqs,
        },
    }
    if plan is not None:
        lengths = {"prompt_tokens": str(plan.prompt), "output_tokens": str(plan.output)}
        header |= {"load": plan.describe(), "stages": plan.stages, "lengths": lengths}
    path = run_directory.create(path, header)
    run_directory.update(path, ended_at=run_directory.read_header(path)["started_at"] + outcome.duration_s)
    if outcome.requests is not None:
        run_directory.write_table(path, "requests", request_columns(outcome.requests, plan))
    if outcome.samples:
        run_directory.write_table(path, "metrics", metric_columns(outcome.samples))
    run_directory.write_table(path, "replicas", _replica_columns(outcome))
    happened: list[tuple[float, str, str, dict[str, str]]]
    happened = [(t, "SuccessfulRescale", f"from {a} to {b}: {why}", {}) for t, a, b, why in outcome.decisions]
    happened += [(t, kind, f"{pod} {kind}", {"pod": pod}) for t, kind, pod, _ in outcome.events]
    for time_s, kind, message, facts in sorted(happened, key=lambda h: h[0]):
        run_directory.append_event(path, time_s, kind, message, **facts)
    return path


def _replica_columns(outcome: Outcome) -> dict[str, list[float]]:
    """A row per change of the counts, and one at the end of the run: how long the last counts lasted."""
    rows = [*outcome.replicas]
    if rows and rows[-1][0] < outcome.duration_s:
        rows.append((outcome.duration_s, *rows[-1][1:]))
    names = ("time_s", "desired", "created", "scheduled", "ready")
    return {name: [float(row[k]) for row in rows] for k, name in enumerate(names)}


def request_columns(done: NDArray[Any], plan: LoadPlan | None) -> Columns:
    """Finished requests (engine.FINISHED) as columns of the run's requests, with the stage of the plan that each was due in."""
    ok = done["status"] == STATUSES.index("ok")
    return {
        "request_id": done["request_id"],
        "stage": np.zeros(len(done), np.int32) if plan is None else plan.stage_of(done["due_s"]),
        "worker": ["simulated"] * len(done),
        "due_s": done["due_s"],
        "sent_s": done["sent_s"],
        "first_token_s": done["first_token_s"],
        "last_token_s": done["last_token_s"],
        "prompt_tokens": done["prompt_tokens"].astype(np.int64),
        "output_tokens": done["output_tokens"].astype(np.int64),
        "events": done["output_tokens"],
        "status": [STATUSES[s] for s in done["status"]],
        "http_status": np.select(
            [
                done["slot"] == REFUSED,
                ok | np.isfinite(done["first_token_s"]),
                *(done["slot"] == slot for slot in OUTCOMES),
            ],
            [400, 200, *(status for _, status in OUTCOMES.values())],
            503,
        ).astype(np.int16),
        "prompt_tokens_asked": done["prompt_tokens"],
        "output_tokens_asked": done["output_tokens"],
    }


def metric_columns(samples: Sequence[Any]) -> Columns:
    """Gauges of scrapes (outcome.FleetRecorder.samples) as columns of the run's metrics."""
    rows = np.concatenate([rows for _, rows, _ in samples])
    return {
        "time_s": np.concatenate([np.full(len(r), t) for t, r, _ in samples]),
        "pod": [pod for _, _, pods in samples for pod in pods],
        "engine": [str(e) for e in rows["engine"]],
        **{name: rows[name] for name in METRIC_COLUMNS},
    }
