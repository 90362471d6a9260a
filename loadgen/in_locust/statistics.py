"""Locust's own rows, of latencies and to three digits: in its web UI, its CSV files and its HTML report.

Locust rounds twice. It stores times rounded to whole milliseconds below 100 (a TPOT of 5.4 ms is off by 7 %), which can be
replaced (`bucket_response_time`); and it cuts percentiles in CSV, minimum and maximum in web UI and HTML to whole
milliseconds as it shows them, which is replaced here too. With three digits no figure is off by more than 0.5 %.
Locust writes CSV files once a second and never at the end; here they are written once more, so that no request is missing.
"""

from __future__ import annotations

import time
from typing import Any

import locust.stats
import numpy as np
from numpy.typing import NDArray

KIND = "latency"  # Locust's "Type" column of these rows


def be_precise() -> None:
    """Replace Locust's rounding in this process; the second call changes nothing."""
    # Locust says int; floats work everywhere, and a test looks at each place where they come out
    locust.stats.bucket_response_time = three_digits  # type: ignore[assignment]
    locust.stats.StatsCSV._percentile_fields = _percentile_fields  # type: ignore[method-assign,assignment]
    locust.stats.StatsEntry.to_dict = _to_dict  # type: ignore[method-assign,assignment]
    locust.stats.StatsCSVFileWriter.close_files = _write_and_close  # type: ignore[method-assign,assignment]


def say_no_more() -> None:
    """Leave Locust's tables at the end of this process out: the run's own summary was said. Its list of errors stays."""
    locust.stats.print_stats = locust.stats.print_percentile_stats = _say_nothing


def _say_nothing(*_: Any, **__: Any) -> None:
    pass


def three_digits(response_time_ms: float) -> float:
    """Rounds to three significant digits: at most 0.5 % off, where Locust's own rounding is off by up to 33 %."""
    return float(f"{response_time_ms:.3g}")


def add(stats: locust.stats.RequestStats, name: str, seconds: NDArray[np.float64], counts: Any) -> None:
    """Add many values at once, each so many times, to one row; Locust's total row counts requests only."""
    if not len(seconds):
        return
    entry = stats.entries[(name, KIND)]
    milliseconds = seconds * 1e3
    number = int(counts.sum())
    now = time.time()
    if (
        entry.use_response_times_cache
        and entry.last_request_timestamp
        and int(now) > int(entry.last_request_timestamp)
    ):
        entry._cache_response_times(int(now) - 1)
    entry.num_requests += number
    entry.num_reqs_per_sec[int(now)] += number
    entry.last_request_timestamp = now
    entry.total_response_time += float(milliseconds @ counts)  # type: ignore[assignment]  # Locust says int
    low, high = float(milliseconds.min()), float(milliseconds.max())
    entry.min_response_time = low if entry.min_response_time is None else min(entry.min_response_time, low)  # type: ignore[assignment]
    entry.max_response_time = max(entry.max_response_time, high)  # type: ignore[assignment]
    for value, times in zip(milliseconds.tolist(), counts.tolist(), strict=True):
        entry.response_times[three_digits(value)] += times  # type: ignore[index]


def _percentile_fields(
    writer: locust.stats.StatsCSV, entry: locust.stats.StatsEntry, use_current: bool = False
) -> list[Any]:
    if not entry.num_requests:
        return writer.percentiles_na
    current = use_current and entry.use_response_times_cache
    percentile = entry.get_current_response_time_percentile if current else entry.get_response_time_percentile
    return [percentile(fraction) or 0 for fraction in writer.percentiles_to_report]


_rounded_to_dict = locust.stats.StatsEntry.to_dict


def _to_dict(entry: locust.stats.StatsEntry, escape_string_values: bool = False) -> dict[str, Any]:
    extremes = {"min_response_time": entry.min_response_time, "max_response_time": entry.max_response_time}
    precise = {name: three_digits(value or 0) for name, value in extremes.items()}
    return {**_rounded_to_dict(entry, escape_string_values), **precise}


_close_files = locust.stats.StatsCSVFileWriter.close_files


def _write_and_close(writer: locust.stats.StatsCSVFileWriter) -> None:
    for file, rows, write in (
        (writer.requests_csv_filehandle, writer.requests_csv_writer, writer.requests_csv),
        (writer.failures_csv_filehandle, writer.failures_csv_writer, writer.failures_csv),
        (writer.exceptions_csv_filehandle, writer.exceptions_csv_writer, writer.exceptions_csv),
    ):
        file.seek(0)
        write(rows)
        file.truncate()
    writer._stats_history_data_rows(writer.stats_history_csv_writer, time.time())
    _close_files(writer)
