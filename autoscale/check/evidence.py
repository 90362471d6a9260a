"""The evidence of a watch in a run directory: written while it happens, read again to judge it anew.

observations.jsonl.gz   every observation, in order of receipt; readable up to the last flush if the writer dies
replicas.parquet, events.jsonl, metrics.parquet   as in every run directory
check.json              findings, phases, criteria: the answer
measured.yaml           cold start and metric path as changes to a profile
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from analysis import run as runs
from analysis.errors import BadRun
from analysis.files import put_all
from analysis.redact import redacted
from autoscale.check.client_view import ClientView
from autoscale.check.replicas import counts
from autoscale.check.timeline import Timeline
from autoscale.kube.cluster import Observation, read_observations
from autoscale.kube.objects import mapping

OWN_LOAD = "load"  # the run directory of a load that the check itself sends, inside its own
OBSERVATIONS = "observations.jsonl.gz"
ANSWER = "check.json"
MEASURED = "measured.yaml"
FLUSH_EVERY_S = 2.0

_MEASURED_HEAD = """\
# Measured by `autoscale check`: changes to a profile, for `--measured`. A p95 of fewer than 20 starts is their largest.
# A weights rate of 1e18 says that the load time of the weights lies inside engine_init: no log told them apart, or
# nothing (--profile, --expect) told their size.
"""


class Recorder:
    """Appends observations to the run directory's evidence file; a context manager."""

    def __init__(self, run_dir: Path) -> None:
        self._file = gzip.open(run_dir / OBSERVATIONS, "at", encoding="utf-8", compresslevel=6)  # noqa: SIM115  # closed by __exit__
        self._flushed_s = 0.0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, seen: Observation, now_s: float) -> None:
        """Append one, without the secrets that it shows; what is older than two seconds is on disk."""
        self._file.write(json.dumps(redacted(seen.as_dict()), separators=(",", ":")) + "\n")
        if now_s - self._flushed_s > FLUSH_EVERY_S:
            self._file.flush()
            self._flushed_s = now_s


def open_evidence(run_dir: Path, header: Mapping[str, object]) -> float:
    """Start a run directory, or join the one that the load generator writes; returns its zero in unix s.

    Raises BadRun when it already holds a check's evidence.
    """
    if (run_dir / OBSERVATIONS).exists():
        raise BadRun(
            "the run directory already holds the evidence of a check",
            value=str(run_dir),
            next_step="choose another --run-dir, or judge it again with --replay",
        )
    if not (run_dir / runs.HEADER).exists():
        runs.create(run_dir, header)
    else:
        runs.update(run_dir, check=header["check"])
    return float(runs.read_header(run_dir)["started_at"])


def observations(run_dir: Path) -> Iterator[Observation]:
    """The recorded observations. Raises BadRun when there are none."""
    if not (run_dir / OBSERVATIONS).exists():
        raise BadRun(
            f"{run_dir} has no {OBSERVATIONS}", next_step="watch a cluster with `autoscale check` first"
        )
    return read_observations(run_dir / OBSERVATIONS)


def load_of(
    run_dir: Path, slo: str | None, rate: float = 1.0, ahead_s: float = 0.0, queries_told: bool = False
) -> ClientView:
    """What clients saw, from the load generator's run directory; an empty one when it holds no requests.

    The SLO is the one given, otherwise the one in the run's header.
    """
    from analysis.slo import parse_slo

    if not (run_dir / runs.HEADER).exists():
        return ClientView(rate=rate, ahead_s=ahead_s, queries_told=queries_told)
    run = runs.read(run_dir)
    text = slo or run.header.get("slo")
    sent = run.header.get("load") or {}
    changes = [
        run.started_at + float(stage["start_s"])
        for stage in runs.planned_stages(run.header)
        if "start_s" in stage
    ]
    requests = None
    if run.has("requests"):
        requests = run.requests.copy()
        for column in ("due_s", "sent_s", "first_token_s", "last_token_s"):
            requests[column] += run.started_at
    return ClientView(
        requests=requests,
        slo=parse_slo(text) if isinstance(text, str) and text else None,
        changes_s=[t * rate + ahead_s for t in changes],
        rate=rate,
        ahead_s=ahead_s,
        closed_loop=sent.get("loop") == "closed",
        run=run_dir,
        queries_told=queries_told,
        limited=mapping(run.header.get("client")).get("verdict") == "limited",
    )


def metrics_of(run_dir: Path, rate: float = 1.0, ahead_s: float = 0.0) -> Any:
    """The replicas' own metrics with times on the timeline's clock; None when none were scraped."""
    if not (run_dir / runs.HEADER).exists():
        return None
    run = runs.read(run_dir)
    if not run.has("metrics"):
        return None
    return run.metrics.assign(time_s=(run.metrics["time_s"] + run.started_at) * rate + ahead_s)


def run_time_s(time_s: float, started_at: float, rate: float = 1.0, ahead_s: float = 0.0) -> float:
    """A timeline's moment as seconds since the run started, on the clock that all tables of a run share."""
    return (time_s - ahead_s) / rate - started_at


def write_replicas(
    run_dir: Path, timeline: Timeline, started_at: float, rate: float = 1.0, ahead_s: float = 0.0
) -> None:
    """replicas.parquet: a row at every change of the counts."""
    rows = counts(timeline)
    names = ("time_s", "desired", "created", "scheduled", "ready")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    columns["time_s"] = [run_time_s(at_s, started_at, rate, ahead_s) for at_s in columns["time_s"]]
    runs.write_table(run_dir, "replicas", columns)


def noted_load(run_dir: Path) -> Path | None:
    """The run directory of the load that a check noted, or `load` inside its own; None where neither is a run."""
    noted = (runs.read_header(run_dir).get("check") or {}).get("load")
    places = [*([Path(noted)] if isinstance(noted, str) else []), run_dir / OWN_LOAD]
    # os.path.exists is False for what no path can be; Path.exists raises
    return next((place for place in places if os.path.exists(place / runs.HEADER)), None)


def write_answer(
    run_dir: Path, answer: Mapping[str, object], measured: Mapping[str, object]
) -> tuple[Path, ...]:
    """check.json and, when something was measured, measured.yaml; returns them.

    Where an answer stands already, this one is written beside it: check-2.json, measured-2.yaml.
    """
    number = next(k for k in count(1) if not _numbered(run_dir, ANSWER, k).exists())
    texts = {_numbered(run_dir, ANSWER, number): json.dumps(redacted(answer), indent=2) + "\n"}
    if measured:
        text = _MEASURED_HEAD + yaml.safe_dump(dict(measured), sort_keys=False)
        texts[_numbered(run_dir, MEASURED, number)] = text
    put_all(texts)
    return tuple(texts)


def _numbered(run_dir: Path, name: str, number: int) -> Path:
    return run_dir / (name if number == 1 else name.replace(".", f"-{number}."))
