"""The metrics of a window of time out of Prometheus: one row per scrape, pod and engine, whatever the series were called."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.errors import BadInput
from analysis.numbers import known, told_number
from autoscale.observe import series, tidy
from autoscale.observe.absent import nothing_found
from autoscale.observe.metric_names import COLUMNS, columns_of
from autoscale.observe.prometheus import RAW_CHUNK_S, Prometheus
from autoscale.observe.series import EngineChoice, Notes

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Samples = tuple[NDArray[np.float64], NDArray[np.float64]]  # times (unix s) and values there


@dataclass(frozen=True)
class WindowRead:
    """What a window held: its rows (time_s from the window's start), and the series that they were made of."""

    frame: pd.DataFrame
    choice: EngineChoice
    found: FoundSeries


def read_window(
    door: Prometheus,
    window: tuple[float, float],
    *,
    step_s: float,
    matchers: str = "",
    model: str | None = None,
    any_model: bool = False,
    columns: Collection[str] = COLUMNS,
    chunk_s: float = RAW_CHUNK_S,
    progress: Callable[[float, str], None] | None = None,
) -> WindowRead:
    """The rows of `window` (unix s by the server's clock) with the given columns of metrics.parquet.

    `step_s` is that of range queries, where raw samples are refused; `chunk_s` bounds one answer. `model` and `any_model`
    as in series.choose_series. Raises TooLittleData with what is there instead, BadInput when several models are.
    """
    found = FoundSeries()
    names = [name for name in door.names(window) if columns is COLUMNS or columns_of(name) & set(columns)]
    for done, some in door.samples(names, matchers, window, step_s, chunk_s):
        found.add(some)
        if progress:
            progress(done, f"{door.shown}: {done:.0%} of the window")
    choice = series.choose_series(
        [(labels.get("__name__", ""), labels) for labels in found.labels],
        model,
        any_model=any_model,
        sizes=[sum(map(len, pieces)) for pieces in found.times],
    )
    if not choice.rows:
        raise nothing_found(door, choice, model, matchers, window)
    frame = _frame(choice, found, window[0], columns)
    found.forget_samples()
    return WindowRead(frame, choice, found)


def label_matchers(namespace: str | None, selector: str) -> str:
    """PromQL label matchers of a namespace and a selector. Raises BadInput for what is no namespace."""
    if namespace is not None and not all(c.isalnum() or c in "-._" for c in namespace):
        raise BadInput("--namespace", value=namespace, expected="the name of a Kubernetes namespace")
    parts = [f'namespace="{namespace}"' if namespace else "", selector.strip("{}, ")]
    return ",".join(filter(None, parts))


class FoundSeries:
    """The series of all chunks: labels, and per series the pieces of its times (unix s) and values."""

    def __init__(self) -> None:
        self.labels: list[dict[str, str]] = []
        self.times: list[list[Any]] = []
        self.values: list[list[Any]] = []
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}

    def add(self, some: Iterable[tuple[dict[str, str], list[list[Any]]]]) -> None:
        """Take over the series of one chunk."""
        import numpy as np

        for labels, pairs in some:
            if not pairs:
                continue
            key = tuple(sorted(labels.items()))
            number = self._numbers.setdefault(key, len(self.labels))
            if number == len(self.labels):
                self.labels.append(labels)
                self.times.append([])
                self.values.append([])
            self.times[number].append(np.array([pair[0] for pair in pairs], dtype=np.float64))
            self.values[number].append(_numbers([pair[1] for pair in pairs]))

    def forget_samples(self) -> None:
        """Keep the labels alone: the samples are in rows by now."""
        self.times.clear()
        self.values.clear()

    def take(self, number: int) -> Samples:
        """The ascending times of one series, each once, and its values there; they are forgotten here."""
        import numpy as np

        times, values = np.concatenate(self.times[number]), np.concatenate(self.values[number])
        self.values[number], self.times[number] = [], []
        if (np.diff(times) > 0).all():
            return times, values
        times, first = np.unique(times, return_index=True)
        return times, values[first]


def _numbers(texts: list[Any]) -> Any:
    """Values as floats; infinite where a text is no number, so that it is noted and left out like any other."""
    import numpy as np

    try:
        return np.array(texts, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return np.array([_number(text) for text in texts])


def _number(text: Any) -> float:
    number = told_number(text)
    return number if known(number) or str(text).strip().lower() == "nan" else math.inf


@dataclass(frozen=True)
class _Told:
    """What one scrape tells of one engine: values per column at ascending times (unix s)."""

    scrape: str
    times: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]

    def within(self, kept: NDArray[np.bool_]) -> _Told:
        return _Told(self.scrape, self.times[kept], {name: all_[kept] for name, all_ in self.columns.items()})


def _frame(choice: EngineChoice, found: FoundSeries, zero_s: float, wanted: Collection[str]) -> pd.DataFrame:
    """One row per scrape, pod and engine, with the wanted columns of metrics.parquet: a fortnight of all is half a GB."""
    import numpy as np
    import pandas as pd

    engines: dict[tuple[str, str], list[_Told]] = {}
    for row in choice.rows:
        told = _read(row, found, choice.notes, zero_s)
        engines.setdefault((row.replica, row.engine), []).append(told)
    kept = [
        (key, told) for key, scrapes in engines.items() for told in _told_once(key[0], scrapes, choice.notes)
    ]
    lengths = [len(told.times) for _, told in kept]
    frame = pd.DataFrame({"time_s": np.concatenate([told.times for _, told in kept]) - zero_s})
    for name in COLUMNS:
        if name in wanted:
            frame[name] = np.concatenate(
                [t.columns.get(name, np.full(len(t.times), np.nan)) for _, t in kept]
            )
    for number, name in enumerate(("pod", "engine")):
        frame[name] = np.repeat(np.array([key[number] for key, _ in kept], dtype=object), lengths)
    return frame


def _told_once(replica: str, told: list[_Told], notes: Notes) -> list[_Told]:
    """The rows of one engine from its scrapes, the fullest first: one after the other, never two at a time."""
    import numpy as np

    taken = [told[0]]
    for one in told[1:]:
        times = np.concatenate([t.times for t in taken])
        low, high = times.min(), times.max()
        if ((one.times >= low) & (one.times <= high)).any():  # beside the others, not before or after them
            between = np.diff(np.unique(times))
            silence_s = tidy.silence_s(float(np.median(between)) if len(between) else 0.0)
            one = one.within((one.times < low - silence_s) | (one.times > high + silence_s))
            notes.add(
                "metrics_twice",
                f"{replica} {one.scrape}",
                f"{replica} is told twice: the series with {told[0].scrape} are taken, those with {one.scrape} left out",
            )
        taken.append(one)
    return taken


def _read(row: series.Row, found: FoundSeries, notes: Notes, zero_s: float) -> _Told:
    """The values of a row's columns at every time that one of its series has."""
    import numpy as np

    parts = {
        column: [
            [_sound(row.replica, column, found.take(n), notes, zero_s) for n in group] for group in groups
        ]
        for column, groups in row.columns.items()
    }
    times = np.unique(np.concatenate([t for groups in parts.values() for g in groups for t, _ in g]))
    return _Told(row.scrape, times, {column: _combined(groups, times) for column, groups in parts.items()})


def _sound(replica: str, column: str, samples: Samples, notes: Notes, zero_s: float) -> Samples:
    """The times and values of a series; what cannot be is NaN, and noted."""
    times, told = samples
    values, wrong = series.sound(column, told)
    if wrong.any():
        first = int(wrong.argmax())
        at_s = float(times[first]) - zero_s
        series.note_unsound(notes, replica, column, float(told[first]), at_s, int(wrong.sum()))
    return times, values


def _combined(groups: list[list[Samples]], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the groups of the largest in each, at each of the times; NaN where none has one.

    A part that appears later, as a finished_reason may, counts from then on.
    """
    import numpy as np

    total = np.full(len(times), np.nan)
    for group in groups:
        largest = np.full(len(times), np.nan)
        for at, values in group:
            where = np.searchsorted(times, at)
            largest[where] = np.fmax(largest[where], values)
        total = np.where(np.isnan(total), largest, total + np.nan_to_num(largest))
    return total
