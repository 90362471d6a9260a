"""Numbers as the whole project reads them: NaN is "no data", quantiles of the normal distribution, plain JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

# Quantiles of the standard normal distribution.
Z95 = 1.6448536269514722
Z99 = 2.3263478740408408


def known(x: float) -> bool:
    """Whether there is a number: NaN stands for "no data" everywhere. Plain enough to be compiled as it is."""
    return x == x  # the only place


def parse_seconds(text: str) -> float:
    """Seconds in `20s`, `600`, `10m` or `1h`; NaN for anything else."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return float(number) * unit
    except ValueError:
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
