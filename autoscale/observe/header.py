"""What collecting needs of run.json: the window of the run, and whose metrics are its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import run
from analysis.errors import BadRun, TooLittleData
from analysis.sound import within

LONGEST_S = 31 * 86_400.0  # of a window: more is a clock or a header gone wrong
FIRST_S, LAST_S = 946_684_800.0, 4_102_444_800.0  # unix times of 2000 and 2100


def wanted_model(header: Mapping[str, Any]) -> str | None:
    """The model name whose metrics are a run's: `metrics_model` where the served name is an adapter's, else `model`."""
    named = header.get("metrics_model") or header.get("model")
    return str(named) if named else None


def window_of(run_dir: Path | str, header: dict[str, Any]) -> tuple[float, float]:
    """When the run started and ended (unix s): its header's, for an interrupted run the end of its last request.

    By the clock that the client has now: it may have been set while the run went on.
    """
    started_at, ended_at = instant(run_dir, "started_at", header.get("started_at")), header.get("ended_at")
    if ended_at is None:
        recorded = run.read(run_dir)
        if not recorded.has("requests") or not len(recorded.requests):
            raise TooLittleData(
                "the run has no end and no requests",
                value=str(run_dir),
                next_step="collect after the run has ended",
            )
        ended_at = started_at + float(recorded.requests[["due_s", "last_token_s"]].max().max())
    ended_at = instant(run_dir, "ended_at", ended_at)
    if not 0 < ended_at - started_at <= LONGEST_S:
        raise BadRun(
            f"{run_dir} lasts {ended_at - started_at:.0f} s by its header",
            expected=f"an end after its start, and at most {LONGEST_S / 86_400:.0f} days",
            next_step=f"correct started_at and ended_at in {run.HEADER}",
        )
    told = header.get("clock_set_by_s")
    set_by_s = float(told) if told is not None and within(told, LAST_S) else 0.0
    return started_at + set_by_s, ended_at + set_by_s


def instant(run_dir: Path | str, name: str, value: Any) -> float:
    """A time of run.json in unix s. Raises BadRun when it cannot be one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not FIRST_S < value < LAST_S:
        raise BadRun(
            f"{run_dir}/{run.HEADER} has {name}",
            value=value,
            expected="unix seconds of this century",
            next_step="correct it, or record the run again",
        )
    return float(value)
