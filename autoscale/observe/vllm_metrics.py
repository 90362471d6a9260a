"""A metrics page as rows: exposition text (Prometheus' or OpenMetrics') -> one number per column, replica and engine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.numbers import told_number
from autoscale.observe import series
from autoscale.observe.metric_names import OTHERS, TITLES, engine_facts, is_facts, is_known, version_facts
from autoscale.observe.series import Notes, listed

LONGEST_LIST = 8  # metric names of a page that a sentence shows
_LINE = re.compile(
    r'^[ \t]*([A-Za-z_:][\w:]*)[ \t]*(?:\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*)\})?[ \t]+([^\s#]+)'
    r"(?:[ \t]+([-+.0-9eE]+))?[ \t\r]*(?:#.*)?$",
    re.MULTILINE,
)
_LABEL = re.compile(r'([A-Za-z_]\w*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_TYPE = re.compile(r"^# TYPE ([\w:]+) \w+", re.MULTILINE)
_ESCAPED = re.compile(r"\\(.)")
_HISTOGRAM = re.compile(r"_(?:bucket|sum|count|created)$")


class Sample(NamedTuple):
    """One value of one series: metric name, labels, value, and the page's time stamp (NaN without one)."""

    name: str
    labels: Mapping[str, str]
    value: float
    stamp: float = math.nan


@dataclass
class PageReading:
    """What one look at one server gave: a row of columns per replica and engine, facts, and what was noticed."""

    rows: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    other_models: set[str] = field(default_factory=set)
    routers: dict[str, set[str]] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)


def parse_exposition(text: str) -> list[Sample]:
    """The samples of an exposition text that matter here; what is no number is NaN."""
    samples = []
    for name, labels, value, stamp in _LINE.findall(text):
        if is_known(name):
            pairs = {key: _ESCAPED.sub(_plain, said) for key, said in _LABEL.findall(labels)}
            samples.append(Sample(name, pairs, told_number(value), told_number(stamp)))
    return samples


def read_page(samples: Iterable[Sample], model: str | None = None, page: str = "") -> PageReading:
    """Rows of one page, which is that of the replica `page`; series of a model other than `model` are left out and named.

    Where `model` is not there and one other is, that one is read. No rows: `faults` says why.
    """
    reading = PageReading()
    once = _once(samples, page, reading.notes)
    choice = series.choose_series([(s.name, s.labels) for s in once], model, page=page, any_model=True)
    reading.notes.update(choice.notes, 0.0)
    reading.routers = choice.routers
    reading.other_models = choice.models - {choice.model} if choice.rows else choice.models
    for row in choice.rows:
        values = reading.rows[row.replica, row.engine] = {}
        for column, groups in row.columns.items():
            values[column] = _value(
                row.replica, column, [[once[n].value for n in some] for some in groups], reading
            )
    for number in choice.facts:
        reading.facts |= engine_facts(once[number].labels)
    reading.facts |= version_facts({once[number].name for number in choice.used})
    if choice.kinds:
        reading.facts["engine_kind"] = ", ".join(sorted(choice.kinds))
    return reading


def fault(text: str, reading: PageReading, model: str | None) -> tuple[str, str | None]:
    """Why a page gave no rows, and the next step: to follow "http://... ". The sentence says what is there."""
    if reading.routers:
        label, values = next(iter(reading.routers.items()))
        return (
            f"is a router's page: it repeats what the servers behind it tell ({label}: {listed(values)})",
            "scrape each of these servers instead: --scrape once per replica",
        )
    if len(reading.other_models) > 1:
        asked = f", and not {model}" if model else ", and the run names none"
        return f"has metrics of the models {listed(reading.other_models)}{asked}", "choose one with --model"
    if unclear := [
        said for (kind, _), (_, said, _) in reading.notes.found.items() if kind == "metrics_unclear"
    ]:
        return f"cannot be read: {unclear[0]}", "scrape a page that tells one replica"
    told = {sample.name for sample in parse_exposition(text)}
    declared = {name for name in _TYPE.findall(text) if is_known(name) and "queries" not in name} - told
    if declared and all(map(is_facts, told)):
        return (
            f"declares {listed(declared)} but gives no values",
            "start the server without --disable-log-stats; several API servers (--api-server-count) also need "
            "PROMETHEUS_MULTIPROC_DIR to be a directory that they can write",
        )
    for prefix, (server, instead) in OTHERS.items():
        if any(line[0].startswith(prefix) for line in _LINE.findall(text)):
            return f"has metrics of {server}, which are not read: {_what_is_there(text)}", instead
    others = ", ".join(title for kind, title in TITLES.items() if kind != "vllm")
    return f"has no vLLM metrics, nor those of {others}: {_what_is_there(text)}", _where_else(text)


def _what_is_there(text: str) -> str:
    names = sorted({_HISTOGRAM.sub("", line[0]) for line in _LINE.findall(text)})
    if text.lstrip()[:1] in ("[", "{") and _is_json(text):
        return "it answers JSON"
    if re.search(r"<(?:html|!doctype)", text[:1000], re.IGNORECASE):
        return "it is a web page"
    if not names:
        return "the page is empty" if not text.strip() else "it is no metrics page"
    telling = [name for name in names if not name.startswith(("python_", "process_"))] or names
    more = len(telling) - LONGEST_LIST
    return f"it has {', '.join(telling[:LONGEST_LIST])}" + (f" and {more} more" if more > 0 else "")


def _where_else(text: str) -> str | None:
    if text.lstrip()[:1] == "[" and "numActiveRequests" in text:
        return "TensorRT-LLM's Prometheus page is /prometheus/metrics, with return_perf_metrics on"
    return "give the address of the server's metrics page: /metrics for vLLM, /v1/metrics for NIM; SGLang needs --enable-metrics"


def _once(samples: Iterable[Sample], page: str, notes: Notes) -> list[Sample]:
    """Each series once: the newest by its stamp; a value that contradicts another of the same stamp is none."""
    kept: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for sample in samples:
        key = (sample.name, frozenset(sample.labels.items()))
        before = kept.get(key)
        if before is None or sample.stamp > before.stamp:
            kept[key] = sample
        elif not sample.stamp < before.stamp and not _same(sample.value, before.value):
            kept[key] = before._replace(value=math.nan)
            notes.add(
                "metrics_twice",
                sample.name,
                f"{page or 'the page'} tells {sample.name} twice, {before.value:g} and {sample.value:g}: neither is taken",
            )
    return list(kept.values())


def _value(replica: str, column: str, groups: list[list[float]], reading: PageReading) -> float:
    """Sum over the groups of the largest number in each; NaN without one, and for a counter that lacks a part."""
    told = []
    for values in groups:
        kept, wrong = series.sound(column, np.array(values))
        for value in np.array(values)[wrong]:
            series.note_unsound(reading.notes, replica, column, float(value))
        told.append(math.nan if np.isnan(kept).all() else float(np.nanmax(kept)))
        if column in series.COUNTERS and np.isnan(kept).any():
            return math.nan
    return sum(told)


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _plain(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
