"""Predictions for real servers beside what happened, all of them: `python -m benchmarks.ledger` prints the table.

`ledger.jsonl` grows by a line whenever a benchmark on a real server ends (`benchmarks.one_gpu`); no line is ever changed
or left out. An entry: at, commit, machine, load_average (of the last minute, others' work included), vllm, server,
learnt_from and predicted_for (lengths), client_late_p95_s, saturated_rps, recommend, and `figures`: rate_rps, figure,
predicted, low, high (95 %; null where none is given), measured. Machines that are shared change their speed: `slower` says how
many times as long a step took right before and right after the predicted load as in the run that was learnt from, told by
load of the lengths that were learnt; `then`, `then_low`, `then_high` of a figure are the same engine at that speed. (An
entry of the first version has neither.) A run that nothing could be learnt from has `refused`, why, and no figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

LEDGER = Path(__file__).with_name("ledger.jsonl")


def read(file: Path = LEDGER) -> list[dict[str, Any]]:
    """All entries, oldest first."""
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )


def append(file: Path, entry: Mapping[str, Any]) -> None:
    """Add one line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry, default=float) + "\n")


def error(figure: Mapping[str, Any]) -> float:
    """(predicted - measured) / measured; NaN where either is nothing."""
    predicted, measured = figure["predicted"], figure["measured"]
    if not predicted or not measured or not math.isfinite(predicted):
        return math.nan
    return float(predicted / measured - 1)


def as_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """A Markdown table: a row per entry with its errors at the predicted rates, and whether the intervals held."""
    names = ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s", "running")
    lines = [
        "| when | machine | learnt from -> predicted | "
        + " | ".join(names)
        + " | intervals held | a step took, before and after | held at that speed | client late p95 |",
        "|" + "---|" * (len(names) + 7),
    ]
    for entry in entries:
        if refused := entry.get("refused"):
            lines.append(
                f"| {entry['at'][:16]} | {entry['machine']}, load {entry['load_average']:.1f} | nothing was predicted: {refused[:160]} |"
                + " - |" * (len(names) + 4)
            )
            continue
        cells = []
        for name in names:
            errors = [error(f) for f in entry["figures"] if f["figure"] == name]
            cells.append(", ".join("-" if math.isnan(e) else f"{100 * e:+.0f} %" for e in errors))
        lines.append(
            f"| {entry['at'][:16]} | {entry['machine']}, load {entry['load_average']:.1f} | {entry['learnt_from']} ->"
            f" {entry['predicted_for']} | "
            + " | ".join(cells)
            + f" | {_held(entry, '')} | {_slower(entry)} |"
            f" {_held(entry, 'then_')} | {1000 * entry['client_late_p95_s']:.0f} ms |"
        )
    return "\n".join(lines)


def _held(entry: Mapping[str, Any], which: str) -> str:
    """How many of the intervals hold what was measured; `which` is "" or "then_"."""
    ends = [(f.get(f"{which}low"), f["measured"], f.get(f"{which}high")) for f in entry["figures"]]
    judged = [(low, at, high) for low, at, high in ends if low is not None and high is not None]
    return f"{sum(low <= at <= high for low, at, high in judged)} of {len(judged)}" if judged else "-"


def _slower(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{each:.2f} times" for each in entry.get("slower", ())) or "-"


def summary(entries: Iterable[Mapping[str, Any]]) -> str:
    """The median absolute error per figure over everything in the ledger, as predicted and at the machine's speed then."""
    figures = [figure for entry in entries for figure in entry["figures"]]
    lines = []
    for title, key in (("as predicted", "predicted"), ("at the machine's speed then", "then")):
        errors: dict[str, list[float]] = {}
        for figure in figures:
            off = error({"predicted": figure.get(key), "measured": figure["measured"]})
            if not math.isnan(off):
                errors.setdefault(figure["figure"], []).append(abs(off))
        told = (f"{name} {100 * median(found):.0f} % (n={len(found)})" for name, found in errors.items())
        lines.append(f"Median absolute error {title}: {', '.join(told) or '-'}")
    return "\n".join(lines)
