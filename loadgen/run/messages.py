"""What the owner of a run and its workers tell each other, and the plain values in which that travels between processes.

    owner -> worker   Begin, Start, End, Pong
    worker -> owner   Ping, ClockMeasured, Ready, Failed, WorkerReport, Finished, LastWord, and within one process Found

Each field travels under its own name, read by the rule of its type (READ, WRITE): a process of another version has other
fields or values, and is told so in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeVar

from analysis.errors import BadInput
from analysis.histogram import BUCKETS
from loadgen.failing import Failure
from loadgen.run.capacity_search import FoundCapacity
from loadgen.run.endpoint.manner import Manner
from loadgen.run.measured import GapCounts, Measured, Pause, RequestRow
from loadgen.run.options import LoadOptions
from loadgen.run.probes import Probe
from loadgen.run.vitals import ClientSample
from loadgen.wire.target import HttpTarget

MOST_WHOLE = 2**63 - 1  # of a whole number that travels


class Offset(NamedTuple):
    """How far the owner's clock is ahead of a worker's, and the uncertainty of that (NaN = not measured), in s."""

    ahead_s: float
    uncertainty_s: float


@dataclass(frozen=True)
class Message:
    """What is told; `kind` names it among Locust's messages."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class Begin(Message):
    """Make ready: slice `index` of `of`, under the name `worker`. `salt` keeps prompts of runs apart, `tag` their requests."""

    kind: ClassVar[str] = "llm_begin"
    options: LoadOptions
    target: HttpTarget
    manner: Manner
    index: int
    of: int
    worker: str
    salt: int
    tag: str
    users: int | None  # of a closed loop, over all workers

    def __post_init__(self) -> None:
        """Raises ValueError for a slice that cannot be."""
        if not 0 <= self.index < self.of:
            raise ValueError(f"slice {self.index} of {self.of}")


@dataclass(frozen=True)
class Start(Message):
    """The instant at which all begin, on the owner's clock."""

    kind: ClassVar[str] = "llm_start"
    start_unix_s: Seconds


@dataclass(frozen=True)
class End(Message):
    """Send nothing that is due after `cut_s` of the run, and wait `grace_s` for answers."""

    kind: ClassVar[str] = "llm_end"
    cut_s: Seconds
    grace_s: Seconds


@dataclass(frozen=True)
class Ping(Message):
    """A worker asks for the time, and says whether --processes forked it (`family`), and its process id."""

    kind: ClassVar[str] = "llm_ping"
    sent_s: Seconds
    family: str
    pid: int


@dataclass(frozen=True)
class Pong(Message):
    """The answer to a Ping: unix times of the asking and of the answering clock."""

    kind: ClassVar[str] = "llm_pong"
    sent_s: Seconds
    owner_s: Seconds


@dataclass(frozen=True)
class ClockMeasured(Message):
    """What a worker found its clock to differ by."""

    kind: ClassVar[str] = "llm_clock"
    worker: str
    offset: Offset


@dataclass(frozen=True)
class Ready(Message):
    """A worker has its bodies and connections."""

    kind: ClassVar[str] = "llm_ready"
    worker: str


@dataclass(frozen=True)
class Failed(Message):
    """A worker cannot go on."""

    kind: ClassVar[str] = "llm_failed"
    worker: str
    failure: Failure


@dataclass(frozen=True)
class WorkerReport(Message):
    """What a worker measured since it reported last, and how it fared."""

    kind: ClassVar[str] = "llm_report"
    worker: str
    measured: Measured
    samples: list[ClientSample]


@dataclass(frozen=True)
class Found(Message):
    """What a search for the capacity has found so far; told within one process only."""

    kind: ClassVar[str] = "llm_found"
    worker: str
    found: FoundCapacity
    probes: tuple[Probe, ...]


@dataclass(frozen=True)
class Finished(Message):
    """A worker has nothing left to offer."""

    kind: ClassVar[str] = "llm_finished"
    worker: str


@dataclass(frozen=True)
class LastWord(Message):
    """A worker has reported everything."""

    kind: ClassVar[str] = "llm_last_word"
    worker: str


Seconds = float  # a finite time or length of time
Row = TypeVar("Row", bound=tuple[Any, ...])


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("no text")
    return value


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST_WHOLE:
        raise TypeError("no whole number")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError("no time")
    return float(value)


def _offset(value: Any) -> Offset:
    ahead_s, uncertainty_s = value
    return Offset(_seconds(ahead_s), float(uncertainty_s))


def _failure(value: Any) -> Failure:
    sentence, exit_code, trace = value
    return Failure(_text(sentence), _whole(exit_code), None if trace is None else _text(trace))


def _rows(make: Callable[[Any], Row], value: Any) -> list[Row]:
    return [make(row) for row in value]


def _gaps(value: Any) -> GapCounts:
    buckets, counts = value
    if len(buckets) != len(counts) or (buckets and not 0 <= min(buckets) <= max(buckets) < BUCKETS):
        raise ValueError("no histogram")
    return GapCounts(buckets, counts)


def _measured(value: Any) -> Measured:
    rows, gaps, pauses = value
    return Measured(
        _rows(RequestRow._make, rows),
        {_whole(stage): _gaps(counts) for stage, counts in gaps.items()},
        _rows(Pause._make, pauses),
    )


READ: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "int": _whole,
    "int | None": lambda value: None if value is None else _whole(value),
    "Seconds": _seconds,
    "LoadOptions": LoadOptions.from_message,
    "HttpTarget": HttpTarget.from_message,
    "Manner": Manner.from_message,
    "Offset": _offset,
    "Failure": _failure,
    "Measured": _measured,
    "list[ClientSample]": lambda value: _rows(ClientSample._make, value),
}
WRITE: dict[str, Callable[[Any], Any]] = {
    name: lambda value: value.message() for name in ("LoadOptions", "HttpTarget", "Manner")
}
TO_WORKER: tuple[type[Message], ...] = (Begin, Start, End, Pong)
TO_OWNER: tuple[type[Message], ...] = (Ping, ClockMeasured, Ready, Failed, WorkerReport, Finished, LastWord)
KINDS = {message.kind: message for message in (*TO_WORKER, *TO_OWNER)}


def encode(message: Message) -> dict[str, object]:
    """The message as plain values; tuples may arrive as lists."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    types = {field.name: str(field.type) for field in fields(message)}
    return {name: WRITE.get(types[name], lambda same: same)(value) for name, value in values.items()}


def decode(kind: str, data: Mapping[str, object]) -> Message:
    """The message of this kind in plain values. Raises BadInput when it is none of this version."""
    name = "the message"
    try:
        expected = {field.name: str(field.type) for field in fields(KINDS[kind])}
        if set(data) != set(expected):
            raise ValueError(f"fields {sorted(data)}")
        read = {}
        for name, rule in expected.items():
            read[name] = READ[rule](data[name])
        return KINDS[kind](**read)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{kind}, {name}: a process of this run says what this version does not understand ({error})",
            next_step="start master and workers from the same release",
        ) from None
