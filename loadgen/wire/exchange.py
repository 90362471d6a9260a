"""One request on its way: its times, its reads, and how it ended. No socket; the answer is parsed when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from loadgen.wire.receive import KernelClock
from loadgen.wire.stream import ParsedAnswer, parse_answer


class Carrier(Protocol):
    """What an exchange must know of the connection that carries it."""

    opened_s: float  # when it was opened or, while it opens, begun

    @property
    def body_begun(self) -> bool:
        """Whether more than the head of the answer has been read."""

    def give_up(self, status: str, error: str) -> None:
        """End the exchange and close the connection."""

    def end(self) -> None:
        """The same, with the answer as it is."""


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way. Times are now_s() readings; NaN = did not happen."""

    request_id: int
    payload: bytes = field(repr=False)  # holds the key
    due_s: float
    over: Callable[[Exchange], None]  # called in the hub when the exchange has ended
    stage: int = 0
    asked: tuple[int, int] = (0, 0)  # prompt and output tokens
    sent_s: float = math.nan
    waited: bool = False  # for a connection to be opened
    reads: list[bytes] = field(default_factory=list)
    size: int = 0  # bytes of the reads
    stamps_s: list[float] = field(default_factory=list)  # when each was read
    arrivals_ns: list[int] = field(default_factory=list)  # the kernel's stamp of its arrival; 0 = none
    # set by answer(): when each read arrived, and how long it lay in the kernel (NaN = unknown)
    times_s: NDArray[np.float64] | None = None
    waits_s: NDArray[np.float64] | None = None
    failure: tuple[str, str] | None = None
    given_up_s: float = math.nan  # when this side ended it
    connection: Carrier | None = None
    clock: KernelClock | None = None

    def answer(self) -> ParsedAnswer:
        """What came back."""
        if self.clock is None:
            return parse_answer(self.stamps_s, self.reads, self.failure)
        self.times_s, self.waits_s = self.clock.arrivals(self.sent_s, self.stamps_s, self.arrivals_ns)
        return parse_answer(self.times_s, self.reads, self.failure)

    @property
    def body_begun(self) -> bool:
        """Whether more than the head has been read; before that the server may keep the request in a queue."""
        return self.connection is not None and self.connection.body_begun

    def give_up(self, status: str, error: str) -> None:
        """End it from this side, where a connection carries it; the server sees that connection close."""
        if self.connection is not None:
            self.connection.give_up(status, error)
