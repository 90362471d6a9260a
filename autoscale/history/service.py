"""A service in production as its Prometheus shows it: which model, which pods, and the rows that everything else is learned from."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from analysis.access import Access
from analysis.errors import BadInput
from autoscale.observe.prometheus import Prometheus
from autoscale.observe.series import NAMELESS_POD, PLACES, listed, replica_of
from autoscale.observe.tidy import usual_interval_s
from autoscale.observe.window import WindowRead, label_matchers, read_window

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("requests_total", "running", "waiting")
STEP_S = 15.0  # of range queries, where a server gives no raw samples
CHUNK_S = 6 * 3600.0  # of raw samples: 16 pods at 15 s are 70,000 of three metrics
LEAST_S = 3600.0
SERVICES = (
    *PLACES,
    "tenant",
    "team",
    "deployment",
    "service",
    "app",
    "job",
)  # labels that tell services apart


@dataclass(frozen=True, eq=False)
class Service:
    """One model's replicas in one Prometheus over a window.

    asked       PromQL label matchers that were asked for
    matchers    those and the model's
    model       as the series call it; None where they do not
    start_s, end_s   of the window, unix s by the server's clock
    read        requests_total, running and waiting of every scrape, time_s from the window's start
    """

    door: Prometheus
    asked: str
    matchers: str
    model: str | None
    start_s: float
    end_s: float
    read: WindowRead

    @property
    def frame(self) -> pd.DataFrame:
        """The rows of the window."""
        return self.read.frame

    @cached_property
    def interval_s(self) -> float:
        """Usual seconds between two scrapes of a replica."""
        return usual_interval_s(self.frame, STEP_S)


def find_service(
    prometheus: str,
    last_s: float,
    *,
    until: float | None = None,
    namespace: str | None = None,
    selector: str = "",
    model: str | None = None,
    access: Access | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Service:
    """The service in the last `last_s` seconds before `until` (unix s; None: now, by the server's clock).

    Raises SourceUnavailable (not reachable, not Prometheus), TooLittleData (nothing there, naming what is), BadInput.
    """
    if not last_s >= LEAST_S:
        raise BadInput("--last", value=f"{last_s:g}s", expected="an hour or more, such as 14d")
    door = Prometheus(prometheus, access or Access())
    end_s = time.time() + door.clock_offset_s() if until is None else until
    matchers = label_matchers(namespace, selector)
    read = read_window(
        door,
        (end_s - last_s, end_s),
        step_s=STEP_S,
        matchers=matchers,
        model=model,
        any_model=model is None,
        columns=COLUMNS,
        chunk_s=CHUNK_S,
        progress=progress,
    )
    of_model = ",".join(
        filter(None, (matchers, f'model_name="{read.choice.model}"' if read.choice.model else ""))
    )
    for note in _services(read):
        read.choice.notes.add("services", note, note)
    return Service(door, matchers, of_model, read.choice.model, end_s - last_s, end_s, read)


def _services(read: WindowRead) -> Iterator[str]:
    """Sentences on what the rows mix: several services that have the model, and replicas that nothing tells apart.

    Raises BadInput where pods of several namespaces or clusters have the same names, so that they would be taken for one another.
    """
    by_label: dict[str, dict[str, set[str]]] = {label: defaultdict(set) for label in SERVICES}
    for labels in (read.found.labels[number] for number in sorted(read.choice.used)):
        for label, of_pod in by_label.items():
            of_pod[replica_of(labels)[0]].add(labels.get(label, ""))
    pods = set(read.frame["pod"])
    if NAMELESS_POD in pods:
        yield "the series name no pod and no instance: what they tell is taken as of one replica, so how many served is not known"
    for label, of_pod in by_label.items():
        values = {value for some in of_pod.values() for value in some if value}
        if len(values) < 2:
            continue
        way = "--namespace" if label == "namespace" else f"--selector '{label}=\"{min(values)}\"'"
        if label in PLACES and any(len(some - {""}) > 1 for some in of_pod.values()):
            raise BadInput(
                f"pods of the same names are in several {label}s",
                value=listed(values),
                expected="one of them",
                next_step=f"choose one with {way}",
            )
        if all(len(some) == 1 for some in of_pod.values()):
            yield (
                f"pods of {len(values)} {label}s ({listed(values)}) serve the model and are taken as one service, though one autoscaler "
                f"scales one workload: choose one with {way}"
            )
            return
