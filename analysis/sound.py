"""What must hold of a run directory before anything is computed from it: its header's parts, its tables' times."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

LATEST_S = 1e11  # a later start is no unix time in seconds: milliseconds, or none at all
LARGEST = 1e18  # of any number in a table: what is larger overflows where it is squared
LONGEST_S = 1e9  # from the start to any moment of a run: 31 years
_MAPPINGS = ("engine", "load", "lengths", "check", "versions", "metrics")
_TEXTS = ("slo", "kind", "model", "metrics_model", "profile", "target", "endpoint")
_TEXT, _NUMBER, _WHOLE = "a text", "a number", "a whole number"
MOST = 10**9  # of anything that a server counts
_COUNT = f"a whole number from 0 to {MOST}"
# What is read of the other parts; a key with ! is never absent.
_REASON = {"sentence!": _TEXT}
_SHAPE: dict[str, Any] = {
    "engine": dict.fromkeys(("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"), _COUNT),
    "metrics": {"clock_offset_s": _NUMBER},
    "load": {"loop": _TEXT, "expected_requests": _NUMBER},
    "notes": [_TEXT],
    "stopped": _TEXT,
    "unwritten": _NUMBER,
    "access": {"key": _TEXT, "headers": [_TEXT]},
    "pauses": {"number!": _NUMBER, "seconds!": _NUMBER, "retry_after!": _NUMBER},
    "client": {
        "verdict": _TEXT,
        "stages": [{"stage!": _WHOLE, "verdict!": _TEXT, "reasons!": [_REASON]}],
        "lost_workers": [{"worker!": _TEXT, "time_s!": _NUMBER}],
        "rate_limited": {"requests!": _NUMBER, "retry_after_s": [_NUMBER]},
        "unsent": _NUMBER,
    },
}
_CHECK_TEXTS = ("hpa", "slo", "load")
FASTEST = 1e6  # control seconds per second of a check's clock


def header_problems(header: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
    """What is wrong in a header: the field, its value, what was expected."""
    if not within(header.get("started_at"), LATEST_S):
        yield "started_at", header.get("started_at"), "unix seconds"
        return
    ended = header.get("ended_at")
    if ended is not None and not (within(ended, LATEST_S) and abs(ended - header["started_at"]) <= LONGEST_S):
        yield "ended_at", ended, f"unix seconds, at most {LONGEST_S:g} s after started_at"
    if not within(header.get("clock_set_by_s", 0.0), LATEST_S):
        yield (
            "clock_set_by_s",
            header["clock_set_by_s"],
            "seconds by which the client's clock was set in the run",
        )
    for name in _MAPPINGS:
        if not isinstance(header.get(name) or {}, Mapping):
            yield name, header[name], "a JSON object"
            return
    for name in _TEXTS:
        if not isinstance(header.get(name) or "", str):
            yield name, header[name], "a text such as ttft_p95=2s" if name == "slo" else "a text"
    yield from _shape_problems("", header, _SHAPE)
    yield from _check_problems(header.get("check") or {})
    yield from _stage_problems("stages", header.get("stages") or [])
    yield from _stage_problems("load.stages", (header.get("load") or {}).get("stages") or [])


def _shape_problems(where: str, value: Any, shape: Any) -> Iterator[tuple[str, object, str]]:
    """Where the value is not of this shape: a kind, a list of one shape, or an object with a shape for some of its keys."""
    if isinstance(shape, list):
        if not isinstance(value, list):
            yield where, value, "a list"
        else:
            for number, item in enumerate(value):
                yield from _shape_problems(f"{where}[{number}]", item, shape[0])
    elif isinstance(shape, dict):
        if not isinstance(value, Mapping):
            yield where, value, "a JSON object"
            return
        for key, inner in shape.items():
            name = key.removesuffix("!")
            if name != key or value.get(name) is not None:
                yield from _shape_problems(f"{where}.{name}".lstrip("."), value.get(name), inner)
    elif not _is(value, shape):
        yield where, value, shape


def _is(value: object, kind: str) -> bool:
    """Whether a value is of this kind."""
    if kind == _TEXT:
        return isinstance(value, str)
    if not within(value, math.inf) or (kind != _NUMBER and not isinstance(value, int)):
        return False
    return kind != _COUNT or (isinstance(value, int) and 0 <= value <= MOST)


def _check_problems(facts: Mapping[str, Any]) -> Iterator[tuple[str, object, str]]:
    """What is wrong in what a check noted of its clock and its load."""
    for name in _CHECK_TEXTS:
        if not isinstance(facts.get(name) or "", str):
            yield f"check.{name}", facts[name], "a text"
    rate = facts.get("clock_rate", 1.0)
    if not (within(rate, FASTEST) and rate > 0):
        yield "check.clock_rate", rate, f"seconds of the cluster per second, above 0 and below {FASTEST:g}"
    if not within(facts.get("clock_ahead_s", 0.0), LATEST_S * FASTEST):
        yield "check.clock_ahead_s", facts["clock_ahead_s"], "seconds"


def _stage_problems(where: str, stages: Any) -> Iterator[tuple[str, object, str]]:
    if not isinstance(stages, list):
        yield where, stages, "a list"
        return
    numbers: set[int] = set()
    for number, stage in enumerate(stages):
        if not isinstance(stage, Mapping):
            yield f"{where}[{number}]", stage, "a JSON object"
            continue
        for name in ("start_s", "end_s"):
            if not within(stage.get(name), LONGEST_S):
                yield f"{where}[{number}].{name}", stage.get(name), "seconds since the start"
        if stage.get("rate") is not None and not within(stage["rate"], math.inf):
            yield f"{where}[{number}].rate", stage["rate"], "requests/s, or null"
        own = stage.get("stage", number)
        if not isinstance(own, int):
            yield f"{where}[{number}].stage", own, "a whole number"
        elif own in numbers:
            yield f"{where}[{number}].stage", own, "a number that no other stage has"
        else:
            numbers.add(own)


def table_problem(frame: pd.DataFrame) -> tuple[str, object, str] | None:
    """A time or a number that is none of a run, as (column, value, what was expected); NaN says that nothing happened,
    and every request was due."""
    time = f"seconds since the start, within {LONGEST_S:g} s of it"
    if "due_s" in frame and bool(frame["due_s"].isna().any()):
        return "due_s", math.nan, time
    for column in frame.select_dtypes("number").columns:
        timed = column.endswith("_s")
        most = LONGEST_S if timed else LARGEST
        if bool((wrong := frame[column].abs() > most).any()):
            return column, float(frame.loc[wrong, column].iloc[0]), time if timed else f"at most {LARGEST:g}"
    return None


def told_count(text: str) -> int | None:
    """The count that a server writes in decimal digits; None where it is none, or more than MOST."""
    digits = text.lstrip("0") or text[:1]
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(MOST)):
        return None
    return int(digits) if int(digits) <= MOST else None


def within(value: object, most: float) -> bool:
    """Whether it is a number of less than this size that a float holds (NaN is none)."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < most
        and abs(value) <= sys.float_info.max
    )
