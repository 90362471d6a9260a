"""What a KEDA 2.20.2 operator and its own code did, row by row, and what stands between such a row and ours."""

from __future__ import annotations

import dataclasses
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from autoscale.keda.fallback import Health, TargetPods
from autoscale.keda.loops import Loops
from autoscale.keda.prometheus_trigger import Answer, NoElement, PrometheusTrigger, QueryFailed
from autoscale.keda.scale_loop import Read, read_triggers
from autoscale.keda.scaled_object import API, ScaledObject

DATA = Path(__file__).parent / "data"
Row = dict[str, Any]
_FAKE_CLOCK = datetime(2000, 1, 1, tzinfo=UTC)  # where the recorder's clock starts


def rows(name: str) -> list[Row]:
    with gzip.open(DATA / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def answered(word: str, trigger: PrometheusTrigger, now_s: float = 0.0) -> Answer:
    """What Prometheus' stand-in answered: a number, or one of the recorder's words."""
    if word.startswith("http"):
        return QueryFailed(f"prometheus query api returned error. status: {word[4:]}")
    if word == "refused":
        at = f"{_FAKE_CLOCK + timedelta(seconds=int(now_s)):%Y-%m-%dT%H:%M:%SZ}"
        url = f"{trigger.server_address}/api/v1/query?query={trigger.query}&time={at}"
        return QueryFailed(f'Get "{url}": connection refused')
    words: dict[str, Answer] = {
        "empty": NoElement(),
        "novalue": NoElement("the value list is empty"),
        "multi": trigger.many(),
        "onevalue": QueryFailed(f"prometheus query {trigger.query} didn't return enough values"),
        "notjson": QueryFailed("invalid character '<' looking for beginning of value"),
        "null": -1.0,  # the value with which KEDA begins
    }
    return words[word] if word in words else float(word)


def read_all(scaled: ScaledObject, answers: dict[str, str], now_s: float) -> dict[str, Read]:
    """All triggers; `answers` by query."""
    found = {
        t.metric_name: answered(answers[t.query], t, now_s)
        for t in scaled.triggers
        if isinstance(t, PrometheusTrigger)
    }
    return read_triggers(scaled, found, now_s)


def shown(health: dict[str, Health]) -> Row:
    """Health as a status shows it."""
    return {
        name: {"numberOfFailures": entry.failures, "status": "Failing" if entry.failing else "Happy"}
        for name, entry in health.items()
    }


# --- live --------------------------------------------------------------------------------------------------------------

Change = tuple[float, int, int, str]  # when, from, to, by whom


def together(times: list[float], gap_s: float = 1.0) -> list[float]:
    """The first of each group of times that lie together."""
    found: list[float] = []
    for time in sorted(times):
        if not found or time - found[-1] > gap_s:
            found.append(time)
    return found


def merged(old: Row, patch: Row) -> Row:
    """A JSON merge patch."""
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key) or {}, value) if isinstance(value, dict) else value
    return new


class Replay:
    """One live scenario: polls, syncs, pods and what a person did from the recording; all replicas from the rules."""

    def __init__(self, row: Row) -> None:
        self.row, self.t0_s = row, datetime.fromisoformat(row["t0_utc"]).timestamp()
        self.spec, self.annotations = row["spec"], dict(row["annotations_at_start"] or {})
        self.replicas: int | None = row["initial_replicas"]
        self.changes: list[Change] = []
        created_s = self.t0_s + row["scaled_object_created_t"]
        self.loops = Loops.started(self.scaled(), created_s)

    def scaled(self) -> ScaledObject:
        name = self.row["scaled_object_name"]
        spec = {**self.spec, "scaleTargetRef": {"name": name}}
        metadata = {"name": name, "annotations": dict(self.annotations)}
        return ScaledObject.from_manifest(
            {"apiVersion": API, "kind": "ScaledObject", "metadata": metadata, "spec": spec}
        )

    def run(self) -> list[Change]:
        for time, _, what in sorted(self.moments(), key=lambda moment: moment[:2]):
            if isinstance(what, dict):
                self.act(time, what)
            elif self.replicas is not None:
                self.step(time, what)
        return self.changes

    def moments(self) -> list[tuple[float, int, str | Row]]:
        row = self.row
        queries = together([query["t"] for query in row["hpa_queries"]])
        unread = [
            seen["t"]
            for seen in row["hpa_status"]  # syncs that asked for no metric: at zero, or out of bounds
            if seen.get("conditions") and not any(0 <= seen["t"] - query <= 1.0 for query in queries)
        ]
        return [
            *((action["t"], 0, action) for action in row["actions"]),
            *((time, 1, "poll") for time in together([poll["t"] for poll in row["keda_polls"]])),
            *((time, 1, "sync") for time in queries),
            *((time, 1, "unread sync") for time in unread),
        ]

    def act(self, time: float, action: Row) -> None:
        what, given = action["what"], action.get("arg")
        if what == "scale":
            self.set(time, given, "person")
        elif what == "create_target":
            self.replicas = given
        elif what == "delete":
            restored = self.row["initial_replicas"] if self.loops.scaled.restore_to_original else None
            self.set(time, restored, "keda-restore")
            self.loops = dataclasses.replace(self.loops, hpa=None)
        else:
            if what == "ann":
                self.annotations = merged(self.annotations, given)
            else:
                self.spec = merged(self.spec, given)
            self.loops, replicas = self.loops.changed(self.scaled())
            self.set(time, replicas, "keda-paused-replicas")

    def step(self, time: float, what: str) -> None:
        assert self.replicas is not None
        there = [entry for entry in self.row["deployment"] if entry["t"] <= time]
        ready, observed = (there[-1]["ready"], there[-1]["status"]) if there else (0, 0)
        series, now_s = self.row["load_series"], self.t0_s + time
        answers = {
            query: next((value for t, value in reversed(points) if t <= time), points[0][1])
            for query, points in series.items()
        }
        reads, pods = read_all(self.loops.scaled, answers, now_s), TargetPods(self.replicas, ready)
        if what == "poll":
            self.loops, step = self.loops.polled(reads, pods, now_s)
            self.set(time, step.scale_to, "keda")
        elif what == "sync" or not self.loops.reads_metrics(self.replicas):
            self.loops, decision = self.loops.synced(reads, pods, observed, now_s)
            self.set(time, decision and decision.replicas, "hpa")

    def set(self, time: float, replicas: int | None, by: str) -> None:
        if replicas is not None and replicas != self.replicas:
            self.changes.append((time, self.replicas or 0, replicas, by))
            self.replicas = replicas
