"""The answer of a search: what is recommended, what it was compared with, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscale.recommend.choice.judging import Judged, Trial
from autoscale.recommend.choice.settings import Candidate, Choice, Given, Setting, Standing
from autoscale.recommendation import Answer, Reason


@dataclass(frozen=True)
class Point:
    """One replica at the highest steady rate that holds the SLO, by the model: rate and mean signals there."""

    rate_rps: float
    waiting: float
    running: float
    kv_usage: float
    binding: str  # the SLO's term with the smallest margin there


@dataclass(frozen=True)
class Alternative:
    """The best that one signal alone can do, a setting that may break the SLO (judged.holds), and a sentence on it."""

    signal: str
    judged: Judged[Candidate] | None
    sentence: str


@dataclass(frozen=True)
class TargetInterval:
    """Per signal of a setting (low, high); the best target of its line for the replica as fitted, and the share of the
    chosen setting's accelerator time that it saves there."""

    ends: dict[str, tuple[float, float]]
    fitted: Candidate | None = None
    saved: float = 0.0


@dataclass(frozen=True)
class Robust:
    """How far things may move until the chosen setting breaks, each held by `seeds` simulations: shares of traffic and
    of a start, and the start in s."""

    traffic: float
    start: float
    start_s: float
    seeds: int


@dataclass(frozen=True)
class Decision:
    """The answer and everything it rests on.

    answer        autoscale | do_not_autoscale | infeasible | need_more_data
    chosen        the recommended setting, or standing fleet, over the confirming seeds; None when there is none
    interval      per signal of the chosen setting the targets that may be the best (low, high), and the best as fitted
    basis         what leaves the replica's speed open: the run, or the prediction's error
    slower        how much slower than fitted the replica of all these figures is: the end of its interval, relative
    thin          no fleet holds at that end: the figures are of the replica as fitted
    expected      the chosen setting for the replica as fitted, where that differs
    static        the fewest standing replicas that hold the SLO, with their trials; None when no number does
    guides        scalers by the rules of others, by what they are called, over the seeds of the choice
    as_fitted_h   accelerator-hours that would do for the replica as fitted; NaN where that does not differ
    why_not       why settings that held in the search for less than the chosen are not chosen
    best_hpa      the best HPA that was found, chosen or not, even one that starts replicas in vain or breaks the SLO
    alternatives  the best of each signal on its own, or what comes nearest to the SLO
    """

    answer: Answer
    reasons: tuple[Reason, ...]
    capacity: Point | None
    chosen: Judged[Choice] | None = None
    interval: TargetInterval = field(default_factory=lambda: TargetInterval({}))
    basis: str = "the run"
    slower: float = 0.0
    thin: bool = False
    expected: Judged[Choice] | None = None
    static: Judged[Standing] | None = None
    robust: Robust | None = None
    as_fitted_h: float = math.nan
    tutorial: Judged[Candidate] | None = None
    guides: Mapping[str, Judged[Setting]] = field(default_factory=dict)
    current: Judged[Given] | None = None
    tried: tuple[tuple[Candidate, Trial], ...] = ()
    best_hpa: Judged[Candidate] | None = None
    alternatives: tuple[Alternative, ...] = ()
    why_not: Mapping[Candidate, str] = field(default_factory=dict)
