"""Requests that are still to come: offered in chunks by callers, lent piece by piece to the kernels."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput

# Arrivals lent to a kernel at once: bounds how far its tables must be able to grow in one call.
CHUNK = 8192


class Requests(Protocol):
    """What `offer` needs of a chunk: equally long arrays in due order (`loadgen.plan.traffic.Arrivals`)."""

    @property
    def due_s(self) -> NDArray[np.float64]: ...
    @property
    def prompt_tokens(self) -> NDArray[np.int32]: ...
    @property
    def output_tokens(self) -> NDArray[np.int32]: ...
    @property
    def prefix_tokens(self) -> NDArray[np.int32]: ...


class Columns(NamedTuple):
    """A chunk as the kernels read it: contiguous arrays of one type each."""

    request_id: NDArray[np.int64]
    due_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]


class Lent(NamedTuple):
    """The arrivals of one kernel call: those of `chunk` before `end`; the next one after them is due at `follows_s`."""

    chunk: Columns
    end: int
    follows_s: float


@dataclass(slots=True)
class _Chunk:
    columns: Columns
    next: int = 0  # the first that has not arrived


_NOTHING = Lent(
    Columns(np.zeros(0, np.int64), np.zeros(0), *(np.zeros(0, np.int32) for _ in range(3))), 0, math.inf
)


class ArrivalQueue:
    """Offered requests in due order; `prefix_hit_fraction` of every prompt, at least, is known to the prefix cache."""

    def __init__(self, prefix_hit_fraction: float) -> None:
        self.prefix_hit_fraction = prefix_hit_fraction
        self.next_id = 0
        self.last_due_s = -math.inf
        self._chunks: deque[_Chunk] = deque()

    def offer(self, arrivals: Requests, now_s: float) -> None:
        """Append a chunk, due at or after everything before it. `request_id` is kept when it has one."""
        due_s = _column(arrivals.due_s, np.float64)
        if not len(due_s):
            return
        earliest_s = max(self.last_due_s, now_s)
        if due_s[0] < earliest_s or bool((due_s[1:] < due_s[:-1]).any()):
            raise BadInput(
                "arrivals are not in due order or lie in the past",
                value=float(due_s[0]),
                expected=f"due_s ascending from {earliest_s:g}",
            )
        ids = getattr(arrivals, "request_id", None)
        if ids is None:
            ids = np.arange(self.next_id, self.next_id + len(due_s))
        ids = _column(ids, np.int64)
        self.next_id = max(self.next_id, int(ids[-1]) + 1)
        self.last_due_s = float(due_s[-1])
        prompt, output, prefix = (
            _column(tokens, np.int32)
            for tokens in (arrivals.prompt_tokens, arrivals.output_tokens, arrivals.prefix_tokens)
        )
        if self.prefix_hit_fraction:
            prefix = np.maximum(prefix, (prompt * self.prefix_hit_fraction).astype(np.int32))
        self._chunks.append(_Chunk(Columns(ids, due_s, prompt, output, prefix)))

    def submit_s(self, now_s: float) -> float:
        """When a request without a due time is due: now, or with the last of those to come."""
        return max(now_s, self.last_due_s) if self._chunks else now_s

    @property
    def next_s(self) -> float:
        """When the next request is due; inf when none is to come."""
        return self._due_s(self._chunks[0].next) if self._chunks else math.inf

    def _due_s(self, position: int) -> float:
        """When the request at this position of the first chunk is due, or the first of the chunk behind it."""
        due_s = self._chunks[0].columns.due_s
        if position < len(due_s):
            return float(due_s[position])
        return float(self._chunks[1].columns.due_s[0]) if len(self._chunks) > 1 else math.inf

    def lend(self) -> tuple[Lent, int]:
        """What the next kernel call may let in, and the first of it; `take_back` says how far it came."""
        if not self._chunks:
            return _NOTHING, 0
        columns, first = self._chunks[0].columns, self._chunks[0].next
        end = min(first + CHUNK, len(columns.due_s))
        return Lent(columns, end, self._due_s(end)), first

    def take_back(self, first: int) -> None:
        """The first of the lent arrivals that is not yet due."""
        if self._chunks:
            self._chunks[0].next = first
            if first == len(self._chunks[0].columns.due_s):
                self._chunks.popleft()


def _column(values: Any, dtype: Any) -> NDArray[Any]:
    """A copy, as the one kind of array that the kernels were compiled for: contiguous, writable, of that type."""
    return np.array(values, dtype, order="C")
