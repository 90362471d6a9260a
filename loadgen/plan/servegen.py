"""ServeGen's windows: per client and 600 s a rate, a CV and a fitted gap distribution, from which arrivals are drawn.

Each client in a window is a renewal process: gaps Gamma or Weibull with the fitted shape (param1), scaled to the window's
rate, started in the middle of its life (stationary), independent of the other clients. Lengths, when the file
`*_length_hist.csv*` lies beside `*_client_windows.csv*`, are drawn from that request-weighted histogram; without it they
are not known and the plan has to name a distribution.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from analysis.numbers import read_number
from loadgen.plan.text_files import lines

COLUMNS = ("client_id", "window_start_s", "rate_rps", "cv", "dist", "param1", "param2")
LENGTH_COLUMNS = ("kind", "tokens", "weight_requests")
WINDOW_S = 600.0
MOST = 1e9  # seconds, tokens or weight
MOST_RPS = 10_000.0  # of all clients in a window, which is drawn at once
BURN_IN = 20.0  # mean gaps before a window, so that it starts in the middle of a gap

Floats = NDArray[np.float64]
Columns = tuple[Floats, NDArray[np.int64], NDArray[np.int64]]  # due_s, prompt tokens, output tokens


def expected(path: str, from_s: float, to_s: float) -> tuple[Floats, Floats]:
    """Edges in trace seconds and the expected requests between them, inside [from_s, to_s)."""
    windows = _windows(path)
    last = max(windows) + WINDOW_S
    starts = np.arange(0.0, last, WINDOW_S)
    rate = np.array([sum(client[0] for client in windows.get(start, ())) for start in starts])
    if rate.max() > MOST_RPS:
        busiest = int(rate.argmax())
        raise BadInput(
            f"{path}: the rates of the window at {starts[busiest]:.0f} s add up to {rate[busiest]:,.0f}/s",
            expected=f"at most {MOST_RPS:,.0f} requests/s",
        )
    edges = np.unique(np.clip(np.append(starts, last), from_s, min(to_s, last)))
    if len(edges) < 2:
        raise BadInput(
            f"{path}: the window lies beyond the trace", value=from_s, expected=f"less than {last:g} s"
        )
    of = np.searchsorted(starts, edges[:-1], side="right") - 1
    return edges, rate[of] * np.diff(edges)


def drawn_requests(path: str, from_s: float, to_s: float, rng: np.random.Generator) -> Iterator[Columns]:
    """Arrivals window by window: due_s in trace seconds, prompt and output tokens (0 when not known)."""
    windows = _windows(path)
    prompts, outputs = _histogram(path, "input"), _histogram(path, "output")
    for start in sorted(windows):
        low, high = max(start, from_s), min(start + WINDOW_S, to_s)
        if low >= high:
            continue
        due = np.sort(np.concatenate([_client(*client, high - low, rng) for client in windows[start]])) + low
        if len(due):
            yield due, _lengths(prompts, len(due), rng), _lengths(outputs, len(due), rng)


def knows_lengths(path: str) -> bool:
    """Whether a length histogram lies beside the windows."""
    return _beside(path) is not None


def _client(rate_rps: float, dist: str, shape: float, length_s: float, rng: np.random.Generator) -> Floats:
    """Arrival times of one client in [0, length_s)."""
    requests = rate_rps * length_s
    start = BURN_IN * (1 + rng.random())
    times, at = [], 0.0
    while at < start + requests:
        size = int(start + requests - at) + 16
        if dist == "Gamma":
            gaps = rng.standard_gamma(shape, size) / shape
        else:
            gaps = rng.weibull(shape, size) / math.gamma(1 + 1 / shape)
        times.append(at + np.cumsum(gaps))
        at = float(times[-1][-1])
    u = np.concatenate(times) - start
    return u[(u >= 0) & (u < requests)] / rate_rps


def _windows(path: str) -> dict[float, list[tuple[float, str, float]]]:
    """(rate, distribution, shape) of the clients by window start. Raises BadInput with line and column."""
    windows: dict[float, list[tuple[float, str, float]]] = {}
    for number, row in _rows(path):
        if len(row) < len(COLUMNS):
            where = f"{path} line {number}, column {len(row) + 1} ({COLUMNS[len(row)]}) is missing"
            raise BadInput(where, value=",".join(row), expected=",".join(COLUMNS))
        start, rate, shape = (_number(path, number, row, column) for column in (1, 2, 5))
        if start % WINDOW_S:
            where = f"{path} line {number}, column 2 (window_start_s)"
            raise BadInput(where, value=row[1], expected=f"a multiple of {WINDOW_S:.0f} s")
        if row[4] not in ("Gamma", "Weibull"):
            raise BadInput(
                f"{path} line {number}, column 5 (dist)", value=row[4], expected="Gamma or Weibull"
            )
        if rate > 0:
            windows.setdefault(start, []).append((rate, row[4], max(shape, 0.01)))
    if not windows:
        raise BadInput(f"{path} holds no window with a rate above 0")
    return windows


def _number(path: str, number: int, row: list[str], column: int, names: tuple[str, ...] = COLUMNS) -> float:
    try:
        value = read_number(row[column])
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST:
        where = f"{path} line {number}, column {column + 1} ({names[column]})"
        raise BadInput(where, value=row[column], expected=f"a number from 0 to {MOST:g}")
    return value


def _beside(path: str) -> Path | None:
    name = Path(path).name.replace("client_windows", "length_hist")
    file = Path(path).with_name(name)
    return file if "client_windows" in Path(path).name and file.exists() else None


def _histogram(path: str, kind: str) -> tuple[NDArray[np.int64], Floats] | None:
    """Token counts and the cumulative share of requests, or None."""
    file = _beside(path)
    if file is None:
        return None
    tokens, weights = [], []
    for number, row in _rows(str(file)):
        if row[0] not in ("input", "output"):
            where = f"{file} line {number}, column 1 (kind)"
            raise BadInput(where, value=row[0], expected="input or output")
        if len(row) < len(LENGTH_COLUMNS):
            where = f"{file} line {number}, column {len(row) + 1} ({LENGTH_COLUMNS[len(row)]}) is missing"
            raise BadInput(where, value=",".join(row), expected=",".join(LENGTH_COLUMNS))
        if row[0] != kind:
            continue
        tokens.append(int(_number(str(file), number, row, 1, LENGTH_COLUMNS)))
        weights.append(_number(str(file), number, row, 2, LENGTH_COLUMNS))
    if not sum(weights) > 0:
        raise BadInput(f"{file} has no {kind} lengths with a weight above 0")
    return np.array(tokens), np.cumsum(weights) / sum(weights)


def _lengths(
    histogram: tuple[NDArray[np.int64], Floats] | None, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    if histogram is None:
        return np.zeros(n, dtype=np.int64)
    tokens, share = histogram
    return tokens[np.minimum(np.searchsorted(share, rng.random(n)), len(tokens) - 1)]


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the rows below the header."""
    for number, text in islice(lines(path), 1, None):
        try:
            yield number, next(csv.reader([text]))
        except csv.Error as error:
            raise BadInput(f"{path} line {number}: {error}") from None
