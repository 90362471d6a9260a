"""What settings cost, as recommendation.json holds it; money is in the price's currency, which is the user's word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from autoscale.typed_json import LeftOut

MONTH_H = 365.25 * 24 / 12


@dataclass(frozen=True)
class Price:
    """Of one accelerator-hour, and what it is counted in."""

    per_accelerator_hour: float
    currency: str = ""


@dataclass(frozen=True)
class Billed:
    """One setting for a month of 730.5 hours like those of the traffic; money is None without a price.

    accelerator_hours  of which `starting` were spent before a replica was ready, `wasted` on replicas that were removed
                       before, `idle` by ready replicas without a request
    by_hour            mean accelerators held in each hour of the day (UTC, from 0); NaN where the traffic has none
    cost_by_hour       what each of these hours costs, once
    """

    setting: str
    accelerator_hours: float = math.nan
    starting: float = math.nan
    wasted: float = math.nan
    idle: float = math.nan
    output_tokens: float = math.nan
    by_hour: tuple[float, ...] = ()
    cost: Annotated[float | None, LeftOut] = None
    cost_starting: Annotated[float | None, LeftOut] = None
    cost_wasted: Annotated[float | None, LeftOut] = None
    cost_idle: Annotated[float | None, LeftOut] = None
    cost_per_million_output_tokens: Annotated[float | None, LeftOut] = None
    cost_by_hour: Annotated[tuple[float, ...] | None, LeftOut] = None


@dataclass(frozen=True)
class Bill:
    """Settings by what they are here (recommended, standing fleet, current HPA), each split by so many simulations.

    `hours` of traffic stand for the month.
    """

    hours: float = math.nan
    simulations: int = 0
    price: float | None = None
    currency: str = ""
    settings: Mapping[str, Billed] = field(default_factory=dict)
