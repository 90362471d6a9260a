"""When requests came to a service, from what its replicas told at every scrape.

A replica's `requests_total` counts what is finished; with what runs and waits there, it is all that ever came:

    came = requests_total + running + waiting

exact at every scrape, whatever the length of a request and however long it queued. A replica that starts has had none
before, also where it started while nothing was scraped; one that was there when the window began is counted from its first
scrape on. Between two scrapes the requests are
spread evenly; what a replica took between its last scrape and its end is not known.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import TooLittleData
from autoscale.observe.series import Notes
from autoscale.observe.tidy import silence_s, usual_interval_s, without_resets

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CameIn:
    """Requests that came to a service, per bin.

    start_s    of the first bin, in s of the window
    step_s     width of a bin
    counts     float64[n], requests; evenly spread over a gap
    gap        bool[n], no replica was scraped for so long before or after that the bin is not known by itself
    lost       bool[n], in a gap in which a replica ended or restarted, so that more came than is told
    replicas   float64[n], replicas that were scraped, the mean over the bin; NaN where nobody told
    interval_s between two scrapes of a replica; 0 where each request's own time is known
    notes      what was noticed, a sentence each
    """

    start_s: float
    step_s: float
    counts: Floats
    gap: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    replicas: Floats
    interval_s: float
    notes: tuple[str, ...] = ()

    @property
    def mean_replicas(self) -> float:
        """Replicas that were scraped while any was; NaN where nobody told."""
        return math.nan if self.gap.all() else float(self.replicas[~self.gap].mean())

    @property
    def rate_rps(self) -> Floats:
        """float64[n], requests per second."""
        return (self.counts / self.step_s).astype(np.float64)

    def wider(self, step_s: float) -> CameIn:
        """The same in bins as wide as `step_s`, a multiple of these; what does not fill the last one is left out.

        Raises TooLittleData when not one is full.
        """
        each = round(step_s / self.step_s)
        if not (bins := len(self.counts) // each):
            raise _shorter_than_a_bin(self.step_s * len(self.counts), step_s)

        def parts(values: NDArray[Any]) -> NDArray[Any]:
            return values[: bins * each].reshape(bins, each)

        return replace(
            self,
            step_s=step_s,
            counts=parts(self.counts).sum(axis=1),
            gap=np.asarray(parts(self.gap).any(axis=1)),
            lost=np.asarray(parts(self.lost).any(axis=1)),
            replicas=parts(self.replicas).mean(axis=1),
        )


def came_in(frame: pd.DataFrame, step_s: float, born: Mapping[str, Sequence[float]]) -> CameIn:
    """The requests that came, in bins of `step_s`, from rows of metrics (time_s, pod, engine, and the three columns).

    `born` tells when the pods of a name were created, in s of the window, of the names of which anything is told.

    Raises TooLittleData when no replica told its finished requests twice.
    """
    notes = Notes()
    interval_s = usual_interval_s(frame, step_s)
    silent_s = silence_s(interval_s)
    seen = np.unique(frame["time_s"].to_numpy(np.float64)[frame["requests_total"].notna()])
    if len(seen) < 2:
        raise TooLittleData(
            "no replica told its finished requests twice in the window",
            expected="vllm:request_success_total of at least two scrapes",
            next_step="ask for a longer window, or look at what is scraped",
        )
    start_s = float(seen[0])
    edges = np.asarray(start_s + step_s * np.arange(int((seen[-1] - start_s) // step_s) + 1), np.float64)
    if len(edges) < 2:
        raise _shorter_than_a_bin(float(seen[-1]) - start_s, step_s)
    came, replicas = np.zeros(len(edges)), np.zeros(len(edges) - 1)
    silences = [(a, b) for a, b in pairwise(seen.tolist()) if b - a > silent_s]
    lost: set[tuple[float, float]] = set()
    engines: Counter[str] = Counter()
    for (pod, _), of_engine in frame.groupby(["pod", "engine"], sort=True):  # a fortnight of all is large
        rows, resets = without_resets(of_engine.dropna(subset=["requests_total"]), notes)
        if rows.empty:
            continue
        own_s = rows["time_s"].to_numpy(np.float64)
        fell_s = [reset["time_s"] for reset in resets if reset["column"] == "requests_total"]
        for at_s in fell_s:
            before_s = float(own_s[np.searchsorted(own_s, at_s) - 1])
            notes.add(*_began_again(str(pod), born, before_s, at_s), times=1)
        lost.update(one for one in silences if _loses(own_s, fell_s, *one, silent_s))
        engines[str(pod)] += 1
        rows = rows.dropna(subset=["requests_total"])  # what a counter told twice is left out
        times_s, total = _of_replica(rows, seen, interval_s, silent_s)
        came += np.interp(edges, times_s, total)
        replicas += _present(times_s, edges, silent_s)
    return CameIn(
        start_s,
        step_s,
        np.diff(came),
        _gaps(silences, edges),
        _gaps(lost, edges),
        replicas / max(engines.values()),
        interval_s,
        tuple(notes.sentences()),
    )


def _began_again(
    pod: str, born: Mapping[str, Sequence[float]], before_s: float, at_s: float
) -> tuple[str, str, str]:
    """What a counter that fell between two scrapes means: its kind, whom it is about, its sentence. Pods of a StatefulSet or a
    LeaderWorkerSet come back under the name that they had."""
    if pod not in born:
        return "restart", pod, f"{pod} restarted, or a new pod has its name: what it held then is lost"
    if any(before_s < created_s <= at_s for created_s in born[pod]):
        return (
            "replaced",
            pod,
            f"{pod} came back as a new pod of its name: what the one before held then is lost",
        )
    return "restart", pod, f"{pod} restarted: what it held then is lost"


def _shorter_than_a_bin(seen_s: float, step_s: float) -> TooLittleData:
    return TooLittleData(
        "the window is shorter than a bin", value=f"{seen_s:.0f} s", expected=f"{step_s:.0f} s"
    )


def _of_replica(
    rows: pd.DataFrame, seen: Floats, interval_s: float, silent_s: float
) -> tuple[Floats, Floats]:
    """Times and how many requests had come by then since the window began."""
    times_s = rows["time_s"].to_numpy(np.float64)
    held = rows[["running", "waiting"]].fillna(0.0).sum(axis=1).to_numpy(np.float64)
    came = rows["requests_total"].to_numpy(np.float64) + held
    grown = np.maximum(
        np.diff(came), 0.0
    )  # it falls where a restart lost what was held: that had come before
    total = np.concatenate([[0.0], np.cumsum(grown)])
    if times_s[0] <= seen[0] + silent_s:
        return times_s, total
    empty_s = _last_without(float(times_s[0]), seen, interval_s, silent_s)
    return np.concatenate([[empty_s], times_s]), np.concatenate([[0.0], total + came[0]])


def _last_without(first_s: float, seen: Floats, interval_s: float, silent_s: float) -> float:
    """When a replica that is first seen then, and not at the window's begin, had no request yet: a scrape before, or when
    others were last seen where it appears with them after a silence of all."""
    ends = np.searchsorted(seen, first_s, side="right")
    near = seen[:ends]
    silent = np.flatnonzero((np.diff(near) > silent_s) & (near[1:] >= first_s - silent_s))
    return float(near[silent[-1]]) if len(silent) else first_s - interval_s


def _present(times_s: Floats, edges: Floats, silent_s: float) -> Floats:
    """The share of each bin in which a replica was scraped."""
    ends = times_s[1:][np.diff(times_s) <= silent_s]
    starts = times_s[:-1][np.diff(times_s) <= silent_s]
    known = np.concatenate([[0.0], np.cumsum(ends - starts)])
    if not len(ends):
        return np.zeros(len(edges) - 1)
    at = np.interp(
        edges, np.column_stack([starts, ends]).ravel(), np.column_stack([known[:-1], known[1:]]).ravel()
    )
    return np.diff(at) / np.diff(edges)


def _loses(own_s: Floats, fell_s: Sequence[float], before_s: float, after_s: float, silent_s: float) -> bool:
    """Whether a replica with these scrapes, whose counter fell then, was there before a silence and had ended or restarted after it."""
    first, behind = np.searchsorted(own_s, [before_s - silent_s, after_s])
    if first == behind:
        return False
    ended = behind == len(own_s) or own_s[behind] > after_s + silent_s
    return bool(ended) or own_s[behind] in fell_s


def _gaps(silences: Iterable[tuple[float, float]], edges: Floats) -> NDArray[np.bool_]:
    """Bins of which a part lies in a silence of all replicas."""
    found = np.zeros(len(edges) - 1, bool)
    for before_s, after_s in silences:
        low, high = np.searchsorted(edges, [before_s, after_s], side="right") - 1
        found[low : high + 1] = True
    return found
