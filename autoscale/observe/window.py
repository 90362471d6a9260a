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
    import pandas as pd


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

    def take(self, number: int) -> pd.Series:
        """The values of one series by their times, each time once; they are forgotten here."""
        import numpy as np
        import pandas as pd

        one = pd.Series(np.concatenate(self.values[number]), index=np.concatenate(self.times[number]))
        self.values[number], self.times[number] = [], []
        return one if one.index.is_unique else one[~one.index.duplicated()]


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


def _frame(choice: EngineChoice, found: FoundSeries, zero_s: float, wanted: Collection[str]) -> pd.DataFrame:
    """One row per scrape, pod and engine, with the wanted columns of metrics.parquet: a fortnight of all is half a GB."""
    import pandas as pd

    frames: dict[tuple[str, str], list[tuple[str, pd.DataFrame]]] = {}
    for row in choice.rows:
        columns = {
            column: _combined(row.replica, column, groups, found, choice.notes, zero_s)
            for column, groups in row.columns.items()
        }
        rows = pd.DataFrame(columns).reindex(columns=[name for name in COLUMNS if name in wanted])
        rows.insert(0, "time_s", rows.index - zero_s)
        frames.setdefault((row.replica, row.engine), []).append((row.scrape, rows))
    kept = [
        _told_once(replica, told, choice.notes).assign(pod=replica, engine=engine)
        for (replica, engine), told in frames.items()
    ]
    return pd.concat(kept, ignore_index=True)


def _told_once(replica: str, told: list[tuple[str, pd.DataFrame]], notes: Notes) -> pd.DataFrame:
    """The rows of one engine from its scrapes, the fullest first: one after the other, never two at a time."""
    import pandas as pd

    first, taken = told[0]
    for scrape, rows in told[1:]:
        low, high = taken["time_s"].min(), taken["time_s"].max()
        if rows["time_s"].between(low, high).any():  # beside the others, not before or after them
            silence_s = tidy.silence_s(tidy.usual_interval_s(taken.assign(pod=replica), 0.0))
            rows = rows[~rows["time_s"].between(low - silence_s, high + silence_s)]
            notes.add(
                "metrics_twice",
                f"{replica} {scrape}",
                f"{replica} is told twice: the series with {first} are taken, those with {scrape} left out",
            )
        taken = pd.concat([taken, rows])
    return taken


def _combined(
    replica: str, column: str, groups: list[list[int]], found: FoundSeries, notes: Notes, zero_s: float
) -> pd.Series:
    """Sum over the groups of the largest in each, at every time that one of them has."""
    import pandas as pd

    told = []
    for numbers in groups:
        some = []
        for number in numbers:
            samples = found.take(number)
            values, wrong = series.sound(column, samples.to_numpy())
            if wrong.any():
                first = int(wrong.argmax())
                at_s = float(samples.index[first]) - zero_s
                series.note_unsound(
                    notes, replica, column, float(samples.iloc[first]), at_s, int(wrong.sum())
                )
                samples = pd.Series(values, index=samples.index)
            some.append(samples)
        told.append(some[0] if len(some) == 1 else pd.concat(some).groupby(level=0).max())
    # a part that appears later, as a finished_reason may, counts from then on
    return told[0] if len(told) == 1 else pd.concat(told).groupby(level=0).sum(min_count=1)
