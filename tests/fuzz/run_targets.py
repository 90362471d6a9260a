"""Run directories whose files were spoilt: a table's columns, dtypes, values and bytes, the header, the evidence of a check.

Every verb that reads a run takes them: `learn` and `predict` (of which recommend, profile and report show the figures),
the page, and `check --replay`. The seeds are what the product writes: a sweep of a simulated replica, and a watched scale-out.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from analysis import run as runs
from analysis.capacity import analyse
from analysis.opened import open_run
from analysis.slo import parse_slo
from autoscale import profiles
from autoscale.check import judge_again
from autoscale.check.evidence import OBSERVATIONS, Recorder, open_evidence
from autoscale.forecast.virtual_watch import STARTED_AT, VirtualWatch, watched
from autoscale.recommend.model.learning import capacity_of_run, learn
from autoscale.recommend.model.limits import LIMITS
from autoscale.recommend.model.predict import predict
from autoscale.recommend.progress import silent
from autoscale.show.pages import run_page
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.outcome import FleetRecorder
from autoscale.sim.fleet.run_writer import metric_columns, request_columns, write_run
from autoscale.sim.fleet.simulate import simulate
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan, parse_arrivals
from tests.fuzz.mutations import PIECES, spoilt_document

PROFILE = profiles.load("llama-3.1-8b-1xl4")
ENGINE = EngineParams(
    *(0.02, 4e-4, 2e-6, 2e-4), num_blocks=800, max_num_seqs=16, max_num_batched_tokens=512, request_overhead_s=0.01
)  # fmt: skip
SLO = "ttft_p95=2s,tpot_p95=100ms"
VALUES = (-1e9, -1.0, -1e-9, 0.0, 0.5, 1e9, 1e18, 1e300, float("inf"), float("nan"))
WORDS = ("", "timeout", "\x00", "=1+1", "a" * 3000, None, 2**62, -5, "\u202e", "<script>", "nan")
TABLES = ("requests", "metrics", "replicas")


@dataclass(frozen=True, repr=False)  # its tables are long
class Spoilt:
    """A run directory as data: the header, its tables, bytes for a table's file, and the lines of a check's evidence."""

    header: Any
    tables: Mapping[str, pd.DataFrame]
    torn: Mapping[str, tuple[int, bytes]]
    lines: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"Spoilt({self.header!r:.2000}, {[*self.tables]}, {self.torn!r}, {len(self.lines)} lines)"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


def plan_of(stages: str, seed: int = 1) -> LoadPlan:
    """Poisson arrivals of short requests."""
    return LoadPlan(
        rates.parse_stages(stages),
        parse_arrivals("poisson"),
        lengths.parse_lengths("uniform:50,500"),
        lengths.parse_lengths("uniform:20,150"),
        seed=seed,
    )


@cache
def swept() -> Spoilt:
    """A sweep of one simulated replica, up to where it is full."""
    plan = plan_of("1:40,3:40,5:40,7:40")
    outcome = simulate(
        PROFILE, None, plan.arrivals(), seed=1, duration_s=plan.duration_s, engine=ENGINE, static_replicas=1, keep=True
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        write_run(outcome, folder, plan=plan)
        runs.update(folder, engine={limit: getattr(ENGINE, limit) for limit in LIMITS}, slo=SLO)
        return _read(folder)


@cache
def checked() -> Spoilt:
    """The evidence of a check: a scale-out from one replica to two or three, with the load in the same directory."""
    plan = plan_of("2:60,12:240")
    (arrivals,) = plan.arrivals()
    start = {"node": 20, "image": 10, "engine_init": 10, "weights_rate_bytes_s": 1e10}
    profile = profiles.overlay(PROFILE, {"cold_start": start})
    hpa = yaml.safe_load(HPA)
    watch = VirtualWatch(profile, hpa, ENGINE, arrivals, until_s=600, clients_s=600)
    scraped = FleetRecorder(profile, keep=True, replicas=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "check"
        facts = {"hpa": "served", "clock_rate": 1.0, "clock_ahead_s": 0.0, "slo": SLO, "load": None}
        sent = {"load": plan.describe() | {"loop": "open"}, "stages": plan.stages, "slo": SLO}
        open_evidence(folder, {"kind": "simulated", "command": "check", "check": facts, **sent})
        with Recorder(folder) as recorder:
            done = watched(watch, 1, lambda seen: recorder.write(seen, seen.time_s), scraped)
        runs.write_table(folder, "metrics", metric_columns(scraped.samples))
        runs.write_table(folder, "requests", request_columns(done, plan))
        runs.update(folder, started_at=STARTED_AT, ended_at=STARTED_AT + 600)
        return _read(folder)


HPA = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: served, namespace: default}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: served}
  minReplicas: 1
  maxReplicas: 3
  metrics:
    - type: Pods
      pods: {metric: {name: "vllm:num_requests_waiting"}, target: {type: AverageValue, averageValue: "3"}}
"""


def _read(folder: Path) -> Spoilt:
    header = json.loads((folder / runs.HEADER).read_text(encoding="utf-8"))
    tables = {name: pd.read_parquet(file) for name in TABLES if (file := folder / f"{name}.parquet").exists()}
    lines: tuple[Any, ...] = ()
    if (folder / OBSERVATIONS).exists():
        with gzip.open(folder / OBSERVATIONS, "rt", encoding="utf-8") as file:
            lines = tuple(json.loads(line) for line in file)
    return Spoilt(header, tables, {}, lines)


@st.composite
def spoilt(draw: st.DrawFn, seed: Callable[[], Spoilt]) -> Spoilt:
    """The seed with one to four things in it changed, now and then a file's bytes as well."""
    found = seed()
    header, tables, lines = found.header, dict(found.tables), list(found.lines)
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.integers(0, 3 if lines else 2))
        if part == 0:
            header = draw(spoilt_document([header]))
        elif part == 3:
            _spoil_line(draw, lines)
        else:
            name = draw(st.sampled_from(sorted(tables)))
            tables[name] = _spoilt_table(draw, tables[name])
    torn = {}
    if draw(st.integers(0, 7)) == 0:
        piece = draw(st.sampled_from(PIECES))
        torn[draw(st.sampled_from(sorted(tables)))] = (draw(st.integers(0, 20_000)), piece)
    return Spoilt(header, tables, torn, tuple(lines))


def _spoil_line(draw: st.DrawFn, lines: list[Any]) -> None:
    at = draw(st.integers(0, len(lines) - 1))
    how = draw(st.integers(0, 3))
    if how == 0:
        del lines[at : at + draw(st.integers(1, 200))]
        lines[:] = lines or [None]
    elif how == 1:
        lines.insert(draw(st.integers(0, len(lines) - 1)), lines[at])
    else:
        lines[at] = draw(spoilt_document([lines[at]]))


def _spoilt_table(draw: st.DrawFn, table: pd.DataFrame) -> pd.DataFrame:
    """A copy with a column dropped, retyped, filled, reversed, with holes, shifted in time, or with fewer or doubled rows."""
    frame = table.copy()
    if not len(frame.columns):
        return frame
    column = draw(st.sampled_from(sorted(frame.columns)))
    how = draw(st.integers(0, 9))
    part = slice(draw(st.integers(0, max(len(frame) - 1, 0))), None, draw(st.integers(1, 50)))
    if how == 0:
        return frame.drop(columns=[column])
    if how == 1:
        return frame.assign(**{column: frame[column].astype(str)})
    if how == 2:
        return frame.assign(**{column: draw(st.sampled_from(VALUES))})
    if how == 3:
        return frame.assign(**{column: draw(st.sampled_from(WORDS))})
    if how == 4:
        return frame.assign(**{column: frame[column].to_numpy()[::-1]})
    if how == 5:
        return frame.head(draw(st.integers(0, 50)))
    if how == 6:
        return pd.concat([frame, frame])
    frame[column] = frame[column].astype(object)
    values = (*VALUES, *WORDS) if how == 7 else VALUES if how == 8 else (None,)
    frame.iloc[part, frame.columns.get_loc(column)] = draw(st.sampled_from(values))
    try:
        return frame.assign(**{column: pd.to_numeric(frame[column])}) if how == 8 else frame
    except (ValueError, TypeError):
        return frame


def in_folder(given: Spoilt, take: Callable[[Path], object]) -> None:
    """What `take` makes of the run directory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        (folder / runs.HEADER).write_text(json.dumps(given.header), encoding="utf-8", errors="surrogatepass")
        for table, frame in given.tables.items():
            file = folder / f"{table}.parquet"
            try:
                pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
            except (pa.ArrowException, OverflowError, UnicodeEncodeError):
                file.unlink(missing_ok=True)  # no writer could have written it
                continue
            if table in given.torn:
                at, piece = given.torn[table]
                file.write_bytes(file.read_bytes()[:at] + piece)
        if given.lines:
            with gzip.open(folder / OBSERVATIONS, "wt", encoding="utf-8", errors="surrogatepass") as lines:
                lines.writelines(json.dumps(line) + "\n" for line in given.lines)
        take(folder)


def take_analysed(given: Spoilt) -> None:
    """Looked at and analysed with and without an SLO."""

    def take(folder: Path) -> None:
        run = runs.read(folder)
        runs.validate(run)
        for slo in (None, parse_slo(SLO)):
            analyse(run, slo)

    in_folder(given, take)


def take_learnt(given: Spoilt) -> None:
    """A replica learnt from it, and predicted at other lengths."""

    def take(folder: Path) -> None:
        learn([runs.read(folder)], PROFILE, SLO)
        predict([folder], "uniform:100,200", "50", profile=PROFILE.name, rates_rps=[1.0])

    in_folder(given, take)


def take_reported(given: Spoilt) -> None:
    """Its page."""

    def take(folder: Path) -> None:
        seen = replace(open_run(folder), learned=capacity_of_run(folder, silent))
        run_page(seen, None, folder / "run.html")

    in_folder(given, take)


def take_replayed(given: Spoilt) -> None:
    """Judged again, beside what it said before."""

    def take(folder: Path) -> None:
        judge_again(folder)
        shutil.rmtree(folder)

    in_folder(given, take)


def run_of(seed: bytes) -> Spoilt:
    """A committed finding: parts of the header and columns of the sweep's tables replaced, `rows` of them kept."""
    changed = json.loads(seed)
    found = deepcopy(swept())
    tables = dict(found.tables)
    for name, frame in tables.items():
        columns = dict(changed.get(name, {}))
        tables[name] = frame.head(columns.pop("rows", len(frame))).assign(**columns)
    return Spoilt(found.header | changed.get("header", {}), tables, {})
