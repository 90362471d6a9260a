"""Which of the series that were found make one number of one replica: the same rules for a page and for Prometheus.

    labels                             gauge                      counter
    model_name, model                  the run's model only       the same
    engine, dp_rank                    a row per engine           the same
    pid, api_server (one per process)  the largest, with a note   summed: each process counts its own
    tp_rank, pp_rank, ...              the largest: each tells the same of the whole engine
    finished_reason and others         not read, with a note      summed: each series counts a part
    server, backend, ... (a router's)  left out: they repeat what the replicas tell themselves
    cluster, namespace                 a row per pod and place, where pods of one name are in several
    job, prometheus_replica, ...       one scrape's series: others tell the same pod again

vLLM's processes (--api-server-count) each get the engine's statistics of some steps only, so that their gauges are of
different age and their counters add up; from 0.11.1 on its gauges come once (vllm-project/vllm#28792). A number that
cannot be is none: a fraction above 1, a negative count, infinity become NaN.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from analysis.errors import LONGEST_NAME, printable
from analysis.sound import LARGEST
from autoscale.observe.metric_names import COLUMNS, COUNTERS, KINDS, TITLES, Place, is_facts, place_of

ENGINE = ("engine", "dp_rank")
MODEL = ("model_name", "model")
PROCESS = ("pid", "process_id", "api_server", "api_server_id", "api_server_index", "api_server_rank")
ROUTER = ("server", "backend", "backend_id", "backend_url", "upstream", "worker_url", "worker_addr", "worker")
TARGET = ("pod", "pod_name", "kubernetes_pod_name", "instance")  # who was scraped, as Prometheus tells it
PLACES = ("cluster", "namespace")  # in which names of pods are theirs alone
INSIDE = ("exported_pod", "exported_instance", "ReplicaId", "WorkerId")  # several servers on one page
ON_A_PAGE = (*TARGET, *INSIDE, "endpoint", "replica", "address", "hostname")
NAMELESS_POD = "unknown"
MOST_NAMED = 4  # values of a label that a sentence lists
ALMOST = 1e-6  # rounding above a full cache

_RANK = re.compile(r"(?:tp|pp|ep|moe_ep|moe_tp|cp|dcp|pcp|attn_tp|attn_cp)_rank")
_ADDRESS = re.compile(r"\w+://.*|.*:[0-9]+")

Labels = Mapping[str, str]


@dataclass
class Notes:
    """What was noticed, each thing once: its kind, when it was first seen (s of the run), its sentence, how often."""

    found: dict[tuple[str, str], tuple[float, str, int]] = field(default_factory=dict)

    def add(self, kind: str, subject: str, message: str, time_s: float = 0.0, times: int = 0) -> None:
        """`message` is kept the first time that `subject` is noticed; `times` counts what happens again and again."""
        first_s, said, before = self.found.get((kind, subject), (time_s, message, 0))
        self.found[kind, subject] = (first_s, said, before + times)

    def update(self, other: Notes, time_s: float) -> None:
        """Take over what another reading, made at `time_s`, noticed."""
        for (kind, subject), (_, message, times) in other.found.items():
            self.add(kind, subject, message, time_s, times)

    def sentences(self) -> list[str]:
        """Each sentence once, with how often it was true where that is more than once."""
        return [
            message + (f" ({times} times)" if times > 1 else "") for _, message, times in self.found.values()
        ]


@dataclass(frozen=True)
class Row:
    """The series of one engine of one replica, as one scrape tells them.

    columns: column -> groups of series numbers; the value is the sum over the groups of the largest in each.
    scrape: the labels that tell this scrape of the replica from others ("job=a"); empty when there is one. Rows of one
    engine come with the fullest scrape first, and the others count only where it is silent.
    """

    replica: str
    engine: str
    columns: dict[str, list[list[int]]]
    scrape: str = ""


@dataclass
class EngineChoice:
    """What was chosen of all series: rows, engine kinds, the series of facts, and the models that are there."""

    rows: list[Row] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    used: set[int] = field(default_factory=set)
    facts: list[int] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    model: str | None = None
    routers: dict[str, set[str]] = field(default_factory=dict)  # label -> its values
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True)
class _One:
    number: int
    name: str
    labels: Labels
    place: Place
    replica: str
    engine: str = "0"


def choose_series(
    series: Sequence[tuple[str, Labels]],
    model: str | None,
    *,
    page: str | None = None,
    any_model: bool = False,
    sizes: Sequence[int] = (),
) -> EngineChoice:
    """The rows that `series` (name, labels) make; `page` names the replica whose page they are, None means Prometheus.

    `any_model`: where `model` is absent and one other is there, that is taken. No rows and several `models` mean that
    the caller has to ask which. `sizes` are samples per series: of two scrapes of a pod the fuller is taken.
    """
    choice = EngineChoice()
    found = [
        _One(
            number, name, labels, place, page if page is not None else _first(labels, TARGET) or NAMELESS_POD
        )
        for number, (name, labels) in enumerate(series)
        if (place := place_of(name, labels))
    ]
    found = _without_routers(found, choice, page is not None)
    found = _of_model(found, model, any_model, choice)
    if page is None:
        found = _by_place(found, choice)
    found = _replicas(found, ON_A_PAGE if page is not None else INSIDE, choice)
    found = _one_kind(found, choice)
    by_replica: dict[str, list[_One]] = defaultdict(list)
    for one in found:
        by_replica[one.replica].append(one)
    for replica, ones in by_replica.items():
        scrapes = {"": ones} if page is not None else _scrapes(ones, sizes)
        for scrape, some in scrapes.items():
            _add_rows(replica, some, scrape, choice)
    targets = {_first(series[n][1], TARGET) or NAMELESS_POD for n in choice.used}
    choice.facts = [
        n
        for n, (name, labels) in enumerate(series)
        if is_facts(name) and (page is not None or (_first(labels, TARGET) or NAMELESS_POD) in targets)
    ]
    return choice


def replica_of(labels: Labels) -> tuple[str, str]:
    """The replica that Prometheus scraped a series from, and its engine."""
    return _first(labels, TARGET) or NAMELESS_POD, _first(labels, ENGINE) or "0"


def sound(column: str, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values with NaN where they cannot be, and where a number was taken out."""
    highest = 1.0 + ALMOST if column == "kv_usage" else LARGEST
    wrong = (values < 0) | (values > highest)
    kept = np.where(wrong, np.nan, values)
    return (np.minimum(kept, 1.0) if column == "kv_usage" else kept), wrong


def note_unsound(
    notes: Notes, replica: str, column: str, value: float, time_s: float = 0.0, times: int = 1
) -> None:
    """Say that a number of a column was left out, and why."""
    what = f"{column} of {value:g}" if np.isfinite(value) else f"{column} that is no finite number"
    why = "a fraction is 0 to 1" if column == "kv_usage" else f"it cannot be below 0, nor above {LARGEST:g}"
    notes.add("metrics_value", f"{replica} {column}", f"{replica}: {what} is left out: {why}", time_s, times)


def listed(values: Collection[str]) -> str:
    """Names in a sentence: the first few, and how many there are."""
    some = sorted(printable(value, LONGEST_NAME) for value in values)
    if len(some) <= MOST_NAMED:
        return ", ".join(some)
    return f"{', '.join(some[:MOST_NAMED])} and {len(some) - MOST_NAMED} more"


def _first(labels: Labels, names: Iterable[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")


def _values(ones: Iterable[_One], label: str) -> set[str]:
    return {one.labels[label] for one in ones if one.labels.get(label)}


def _splits(ones: Iterable[_One], label: str) -> bool:
    """Whether some metric comes with several values of the label."""
    seen: dict[tuple[str, str, str], str] = {}
    for one in ones:
        if value := one.labels.get(label):
            key = (one.replica, one.name, one.place.column)
            if seen.setdefault(key, value) != value:
                return True
    return False


def _without_routers(found: list[_One], choice: EngineChoice, page: bool) -> list[_One]:
    """Without the series of a router: one page, and a value per server behind it."""
    for label in ROUTER:
        labelled = [one for one in found if one.labels.get(label)]
        pages = {
            name
            for name in {o.replica for o in labelled}
            if _splits((o for o in labelled if o.replica == name), label)
        }
        if page or len(labelled) < len(found):  # Prometheus may put a label of this name on all that it has
            pages |= {one.replica for one in labelled if _ADDRESS.fullmatch(one.labels[label])}
        dropped = [one for one in labelled if one.replica in pages]
        if not dropped:
            continue
        choice.routers[label] = _values(dropped, label)
        for replica in sorted({one.replica for one in dropped}):
            choice.notes.add(
                "metrics_router",
                f"{replica} {label}",
                f"{replica}: a router's copies of other servers' metrics are left out ({label}: "
                f"{listed(_values((o for o in dropped if o.replica == replica), label))})",
            )
        gone = {one.number for one in dropped}
        found = [one for one in found if one.number not in gone]
    return found


def _of_model(found: list[_One], model: str | None, any_model: bool, choice: EngineChoice) -> list[_One]:
    """Those of the wanted model, or of the only one; series that name no model stay."""
    choice.models = {name for one in found if (name := _first(one.labels, MODEL))}
    choice.model = model
    if choice.models and (model is None or model not in choice.models):
        if len(choice.models) > 1 or (model is not None and not any_model):
            return []
        (choice.model,) = choice.models
        if model is not None:
            choice.notes.add(
                "metrics_model",
                choice.model,
                f"the metrics are of model {choice.model}, the only one there; the run's is {model}",
            )
    return [one for one in found if _first(one.labels, MODEL) in ("", choice.model)]


def _by_place(found: list[_One], choice: EngineChoice) -> list[_One]:
    """Pods of one name in several places are several, and have the place in their names."""
    for label in reversed(PLACES):
        pods: dict[str, list[_One]] = defaultdict(list)
        for one in found:
            pods[one.replica].append(one)
        several = {
            pod for pod, ones in pods.items() if len(_values(ones, label)) > 1 and _splits(ones, label)
        }
        if not several:
            continue
        values = _values((one for pod in several for one in pods[pod]), label)
        way = "--namespace" if label == "namespace" else "--selector"
        choice.notes.add(
            "metrics_places",
            label,
            f"pods of the same names ({listed(several)}) are in several {label}s ({listed(values)}): each is taken as a replica of "
            f"its own; choose one with {way}",
        )
        found = [
            replace(one, replica=f"{one.labels[label]}/{one.replica}") if one.replica in several else one
            for one in found
            if one.replica not in several or one.labels.get(label)
        ]
    return found


def _replicas(found: list[_One], labels: Iterable[str], choice: EngineChoice) -> list[_One]:
    """Each with the server behind its page as its replica, where a label tells several apart."""
    pages: dict[str, list[_One]] = defaultdict(list)
    for one in found:
        pages[one.replica].append(one)
    named: list[_One] = []
    for page, ones in pages.items():
        label = next((label for label in labels if _splits(ones, label)), None)
        if label is not None:
            values = _values(ones, label)
            choice.notes.add(
                "metrics_servers",
                f"{page} {label}",
                f"{page} tells of {len(values)} servers ({label}: {listed(values)}): each is taken as a replica",
            )
            ones = [
                replace(o, replica=f"{page}/{o.labels[label]}" if page else o.labels[label])
                for o in ones
                if o.labels.get(label)
            ]
        named += [replace(o, engine=_first(o.labels, ENGINE) or "0") for o in ones]
    return named


def _one_kind(found: list[_One], choice: EngineChoice) -> list[_One]:
    """The series of one engine kind per replica: the first of KINDS that tells a gauge."""
    kept: list[_One] = []
    kinds: dict[str, set[str]] = defaultdict(set)
    gauges: dict[str, set[str]] = defaultdict(set)
    for one in found:
        kinds[one.replica].add(one.place.kind)
        if one.place.column not in COUNTERS:
            gauges[one.replica].add(one.place.kind)
    best = {
        replica: next((k for k in KINDS if k in (gauges[replica] or there - {"nim"})), None)
        for replica, there in kinds.items()
    }
    for one in found:
        if best[one.replica] == one.place.kind:
            kept.append(one)
            choice.kinds.add(one.place.kind)
    for replica, there in kinds.items():
        if (others := there - {best[replica], "nim"}) and (taken := best[replica]):
            choice.notes.add(
                "metrics_kind",
                replica,
                f"{replica} has metrics of {TITLES[taken]} and of {', '.join(TITLES[k] for k in sorted(others))}: "
                f"{TITLES[taken]}'s are taken",
            )
    return kept


def _scrapes(ones: list[_One], sizes: Sequence[int]) -> dict[str, list[_One]]:
    """What tells a scrape of one replica from its others -> its series, the fullest first (jobs, twin Prometheuses)."""
    known = {*ENGINE, *MODEL, *PROCESS}
    gauges = [
        one for one in ones if one.place.column not in COUNTERS
    ] or ones  # counters have parts of their own
    everywhere = set.intersection(*(set(one.labels) for one in ones)) - known
    labels = [label for label in sorted(everywhere) if not _RANK.fullmatch(label) and _splits(gauges, label)]
    if not labels:
        return {"": ones}
    scrapes: dict[str, list[_One]] = defaultdict(list)
    for one in ones:
        scrapes[" ".join(f"{label}={one.labels[label]}" for label in labels)].append(one)

    def fullness(key: str) -> tuple[int, int, str]:
        samples = sum(sizes[one.number] for one in scrapes[key]) if sizes else 0
        return -len({one.place.column for one in scrapes[key]}), -samples, key

    return {key: scrapes[key] for key in sorted(scrapes, key=fullness)}


def _add_rows(replica: str, ones: list[_One], scrape: str, choice: EngineChoice) -> None:
    engines: dict[str, dict[str, list[_One]]] = defaultdict(lambda: defaultdict(list))
    for one in ones:
        engines[one.engine][one.place.column].append(one)
    for engine, by_column in engines.items():
        columns = {}
        for column in COLUMNS:
            some = by_column.get(column, [])
            best = min((one.place.rank for one in some), default=0)
            some = [one for one in some if one.place.rank == best]
            if some and (groups := _groups(replica, column, some, choice.notes)):
                columns[column] = groups
        if columns:
            choice.used.update(one.number for some in by_column.values() for one in some)
            choice.rows.append(Row(replica, engine, columns, scrape))


def _groups(replica: str, column: str, ones: list[_One], notes: Notes) -> list[list[int]]:
    """Series numbers whose largest are summed; none when a gauge comes in parts that do not add up."""
    if len(ones) == 1:
        return [[ones[0].number]]
    own = {*ENGINE, *MODEL, *PROCESS, *ON_A_PAGE}
    others = sorted({label for one in ones for label in one.labels} - own)
    parts = [
        label
        for label in others
        if not _RANK.fullmatch(label) and len({one.labels.get(label, "") for one in ones}) > 1
    ]
    for label in parts:  # a series without the label, beside those with it, is their total
        ones = [one for one in ones if not one.labels.get(label)] or ones
    if column in COUNTERS:
        groups: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
        for one in ones:
            key = tuple(sorted((k, v) for k, v in one.labels.items() if not _RANK.fullmatch(k)))
            groups[key].append(one.number)
        return list(groups.values())
    if unclear := [label for label in parts if len({one.labels.get(label, "") for one in ones}) > 1]:
        label = unclear[0]
        notes.add(
            "metrics_unclear",
            f"{replica} {column}",
            f"{replica}: {column} comes once per {label} ({listed(_values(ones, label))}) and is not read",
        )
        return []
    for label in PROCESS:
        if len(values := _values(ones, label)) > 1:
            notes.add(
                "metrics_processes",
                f"{replica} {column}",
                f"{replica}: {column} comes once per {label} ({len(values)} processes, each with its last look): the "
                "largest is taken",
            )
    return [[one.number for one in ones]]
