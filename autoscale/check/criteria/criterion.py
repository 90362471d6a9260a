"""One question of a check with its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["pass", "fail", "not_judged"]


@dataclass(frozen=True)
class Criterion:
    """One question, its answer, the sentence for people and the figures behind it."""

    code: str
    outcome: Outcome
    sentence: str
    figures: Mapping[str, object] = field(default_factory=dict)


def span_text(interval: tuple[float, float]) -> str:
    """An interval as text, one number where both ends are equal."""
    low, high = interval
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
