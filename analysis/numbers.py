"""Numbers as the whole project reads them: NaN is "no data", quantiles of the normal distribution, means over
seeds with their interval, plain JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

# Quantiles of the standard normal distribution.
Z95 = 1.6448536269514722
Z975 = 1.959963984540054
Z99 = 2.3263478740408408


CONFIDENCE = 0.95  # of intervals over seeds
FEWEST_SEEDS = 3  # below which there is no interval


def known(x: float) -> bool:
    """Whether there is a number: NaN stands for "no data" everywhere. Plain enough to be compiled as it is."""
    return x == x  # the only place


def read_number(text: str) -> float:
    """The number that a text says in ASCII digits without underscores, as everybody but Python reads it. Raises ValueError."""
    if "_" in text or not text.isascii():
        raise ValueError(f"not a number: {text[:40]!r}")
    return float(text)


def parse_seconds(text: str) -> float:
    """Seconds in `20s`, `600`, `10m`, `1h` or `14d`; NaN for anything else."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return read_number(number) * unit
    except ValueError:
        return math.nan


def no_truth_value(value: Any) -> Any:
    """The value; `true`, which Python takes for 1, is no number. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")
    return value


def told_number(value: Any) -> float:
    """The number that somebody else wrote, as text or as a number: NaN where it is none, infinite where it is too large."""
    try:
        return read_number(value) if isinstance(value, str) else float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def plain(value: Any, skip: Collection[str] = ()) -> Any:
    """The value as JSON can hold it: what is not finite becomes null, records mappings, tuples and arrays lists.

    Fields of dataclasses that are named in `skip` are left out.
    """
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), skip)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), skip) for f in fields(value) if f.name not in skip}
    if isinstance(value, Mapping):
        return {str(key): plain(item, skip) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, skip) for item in value]
    return value


def mean_interval(
    values: Sequence[float], least: float = -math.inf, most: float = math.inf
) -> tuple[float, float]:
    """(low, high) of the mean, within [least, most] (0 to infinity, 0 to 1, or everything); NaN with fewer than FEWEST_SEEDS
    values or unknown ones. Values that are all alike have the mean twice.

    A t interval where the values are unbounded; of times, counts and costs on their logarithm, of shares on their logit
    (the delta method), so that its ends are possible values, too.
    """
    from scipy.special import expit, logit, stdtrit  # slow to load, and few ask

    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < FEWEST_SEEDS or not math.isfinite(mean):
        return math.nan, math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * error
    if error == 0 or not least < mean < most:
        return mean, mean
    if math.isfinite(most):
        share = (mean - least) / (most - least)
        steepness = share * (1 - share) * (most - least)
        ends = expit(logit(share) + np.array([-half, half]) / steepness)
        return least + float(ends[0]) * (most - least), least + float(ends[1]) * (most - least)
    if math.isfinite(least):
        factor = math.exp(min(half / (mean - least), 700.0))
        return least + (mean - least) / factor, least + (mean - least) * factor
    return mean - half, mean + half


def seeds_too_few(seeds: int) -> str:
    """What stands in the place of an interval that so few seeds do not give; empty where they do."""
    if seeds >= FEWEST_SEEDS:
        return ""
    return f"{seeds} seed{'s' * (seeds != 1)}: too few"
