"""Whether a setting keeps the SLO: one simulation (Trial), several seeds of it (Judged)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from analysis.numbers import known, mean_interval
from autoscale.recommend.choice.promise import Promise, lower_share
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.effort import CHOOSING

FIGURES = (  # of a trial, that results show
    "attainment",
    "replica_hours",
    "accelerator_hours",
    "wasted_scale_outs",
    "flaps",
    "longest_breach_s",
    "days_kept",
)
BOUNDS = {
    "attainment": (0.0, 1.0),
    "margin": (-1.0, 1.0),
    "days_kept": (0.0, 1.0),
}  # of figures; the others are times, counts and hours
S = TypeVar("S", bound=Setting)
S_co = TypeVar("S_co", bound=Setting, covariant=True)

# As the built-in map: a function over one or more iterables, results in order; or workers.Workers.map, side by side
Each = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Trial:
    """What one simulation of one setting with one seed gave.

    margin            smallest over the SLO's terms of share within the bound minus share asked, of all requests and of
                      the period that decides (Promise); >= 0 holds
    attainment        share of all requests that keep every bound
    kept, periods     periods that kept the SLO, of so many
    overrun           breaches of the worst period, in multiples of what the SLO allows
    promise           what it is held to
    latencies         the percentiles that the SLO asks about, in s: ttft_p95
    longest_start_s   from created to ready, of the slowest start; NaN when nothing was started
    from_zero         requests that waited on a start from zero, and the longest TTFT among them, in s; NaN without one
    stopped           "" ran to the end; "breaches" or "cost": stopped early, the other figures are partial
    """

    margin: float
    attainment: float
    accelerator_hours: float
    replica_hours: float
    wasted_scale_outs: int
    flaps: int
    longest_breach_s: float
    peak_replicas: int
    kept: int
    periods: int
    overrun: float
    promise: Promise = Promise()  # noqa: RUF009 -- frozen
    longest_start_s: float = field(default=math.nan, compare=False)  # NaN is not itself
    from_zero: float = 0
    longest_from_zero_s: float = field(default=math.nan, compare=False)
    latencies: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    stopped: str = ""

    @property
    def days_kept(self) -> float:
        """Share of the periods that kept the SLO."""
        return self.kept / self.periods

    @property
    def holds(self) -> bool:
        """Whether the promise was kept and no replica was started in vain."""
        return not self.stopped and self.margin >= 0 and self.wasted_scale_outs == 0


class Judge(Protocol):
    """Simulates a setting with one seed; picklable, so that workers can run it."""

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial; stops early once the SLO cannot hold any more or accelerator-hours exceed the limit.

        Without a limit (None) it runs to the end whatever happens.
        """
        ...


@dataclass(frozen=True)
class Judged(Generic[S_co]):
    """One setting over several seeds."""

    setting: S_co
    trials: tuple[Trial, ...]

    def mean(self, figure: str) -> float:
        """Mean of one figure of the trials; NaN when none ran to the end."""
        values = self._whole(figure)
        return float(np.mean(values)) if values else math.nan

    def deviation(self, figure: str) -> float:
        """Standard deviation of a figure over seeds; 0 with fewer than three trials that ran to the end."""
        values = self._whole(figure)
        return float(np.std(values, ddof=1)) if len(values) > 2 else 0.0

    def interval(self, figure: str) -> tuple[float, float]:
        """95 % interval of the mean over seeds, of possible values; NaN with fewer than analysis.numbers.FEWEST_SEEDS trials."""
        return mean_interval(self._whole(figure), *BOUNDS.get(figure, (0.0, math.inf)))

    def spread(self, figure: str) -> tuple[float, float, float]:
        """Median, least and most of a figure over the trials: what one more of them may show; NaN when none has it."""
        values = [value for value in self._whole(figure) if known(value)]
        return (float(np.median(values)), min(values), max(values)) if values else (math.nan,) * 3

    def latencies(self) -> dict[str, list[float]]:
        """Per percentile that the SLO asks about its value in s of every trial that ran to the end."""
        found: dict[str, list[float]] = {}
        for trial in self.trials:
            for name, value_s in () if trial.stopped else trial.latencies:
                found.setdefault(name, []).append(value_s)
        return found

    @property
    def wasted(self) -> int:
        """Replicas that were started in vain, over all trials."""
        return sum(t.wasted_scale_outs for t in self.trials)

    @property
    def periods(self) -> int:
        """Periods of all trials."""
        return sum(t.periods for t in self.trials)

    @property
    def broken(self) -> int:
        """Periods that broke the SLO; of a trial that was stopped, all."""
        return sum(t.periods if t.stopped else t.periods - t.kept for t in self.trials)

    @property
    def in_vain(self) -> int:
        """Periods in which replicas were started in vain; of a trial with several, as many as were started at most."""
        return sum(min(t.wasted_scale_outs, t.periods) for t in self.trials)

    @property
    def shown(self) -> float:
        """The share of periods that keep the SLO at least, with 95 % confidence."""
        return lower_share(self.periods - self.broken, self.periods)

    @property
    def worst(self) -> float:
        """Mean overrun of the worst 5 % of the trials (one at least)."""
        ordered = sorted((math.inf if t.stopped else t.overrun for t in self.trials), reverse=True)
        count = math.ceil(CHOOSING.worst_share * len(ordered))
        return float(np.mean(ordered[:count])) if count else math.nan

    @property
    def longest_breach_s(self) -> float:
        """The longest stretch over the SLO in any trial that ran to its end, in s; NaN when none did."""
        return max(self._whole("longest_breach_s"), default=math.nan)

    @property
    def given_up(self) -> bool:
        """Whether a trial was stopped before its end."""
        return any(t.stopped for t in self.trials)

    @property
    def holds(self) -> bool:
        """Whether the trials show what was promised: enough periods kept, the worst of them bounded, little in vain.

        Where there are fewer than could show it (Promise.needed) it is what they do not speak against.
        """
        if self.given_up or not self.may_hold(len(self.trials)):
            return False
        return self.mean("margin") >= 0 and self.worst <= CHOOSING.worst_overrun

    @property
    def cost(self) -> float:
        """Mean accelerator-hours."""
        return self.mean("accelerator_hours")

    @property
    def steps_short(self) -> int:
        """Steps of a target to where it may hold: one, and more when it breaks the SLO on average."""
        short = -float(np.mean([-CHOOSING.by_far if t.stopped else t.margin for t in self.trials]))
        return 1 + min(max(0, int(short / CHOOSING.a_step)), CHOOSING.most_steps)

    @property
    def failing(self) -> bool:
        """Whether so many periods broke the SLO that those to come would have to be lucky."""
        promise = self.trials[0].promise
        return self.broken > 1 + promise.lost(self.periods) / 2

    def may_hold(self, seeds: int) -> bool:
        """Whether it would hold over that many seeds, were there no failure in those to come."""
        promise, each = self.trials[0].promise, self.trials[0].periods
        return self.broken <= promise.failures(seeds * each) and self.in_vain <= promise.lost(seeds * each)

    def and_over(self, more: Sequence[Trial]) -> Judged[S_co]:
        """The same setting with the trials of further seeds."""
        return replace(self, trials=(*self.trials, *more))

    def _whole(self, figure: str) -> list[float]:
        return [float(getattr(t, figure)) for t in self.trials if not t.stopped]


def confirm(
    judge: Judge,
    settings: Iterable[S],
    seeds: Sequence[int],
    each: Each = map,
    cost_limit_h: float | None = None,
) -> list[Judged[S]]:
    """Every setting judged over the same seeds, in the order given; with a limit, trials may stop early (Judge)."""
    settings = list(settings)
    pairs = [(setting, seed) for setting in settings for seed in seeds]
    trials = list(each(partial(_one, judge, cost_limit_h), pairs))
    return [
        Judged(setting, tuple(trials[i * len(seeds) : (i + 1) * len(seeds)]))
        for i, setting in enumerate(settings)
    ]


def shown_over(
    judge: Judge, settings: Iterable[S], seeds: Sequence[int], each: Each = map, hardest: bool = False
) -> list[Judged[S]]:
    """Every setting over all seeds, in the order given, but for those that cannot hold any more over so many.

    They are judged some seeds at a time, so that all have seen the same first ones; these run to the end, whatever
    happens, and later ones until the SLO cannot be kept. What breaks it twice as often as it might is given up early,
    unless the `hardest` seeds come first: of these more may break than of all. Where so few break that it may hold, they
    run to their ends, too.
    """
    judged: dict[S, Judged[S]] = {setting: Judged(setting, ()) for setting in settings}
    first, last = 0, CHOOSING.first_look
    while first < len(seeds):
        going = [
            j
            for j in judged.values()
            if not j.trials or (j.may_hold(len(seeds)) and (hardest or not j.failing))
        ]
        limit = None if first == 0 else math.inf
        for more in confirm(judge, [j.setting for j in going], seeds[first:last], each, limit):
            judged[more.setting] = judged[more.setting].and_over(more.trials)
        first, last = last, max(CHOOSING.seeds_at_once, 2 * last)
    for one in judged.values():
        if one.given_up and len(one.trials) == len(seeds) and one.may_hold(len(seeds)):
            judged[one.setting] = _to_the_end(judge, one, seeds, each)
    return list(judged.values())


def _to_the_end(judge: Judge, judged: Judged[S], seeds: Sequence[int], each: Each) -> Judged[S]:
    """The same with the trials that were stopped run to their ends: how bad the worst are decides."""
    stopped = [seed for seed, trial in zip(seeds, judged.trials, strict=True) if trial.stopped]
    ended = dict(zip(stopped, confirm(judge, [judged.setting], stopped, each)[0].trials, strict=True))
    return replace(
        judged,
        trials=tuple(ended.get(seed, t) for seed, t in zip(seeds, judged.trials, strict=True)),
    )


def _one(judge: Judge, cost_limit_h: float | None, pair: tuple[Setting, int]) -> Trial:
    return judge(*pair, cost_limit_h=cost_limit_h)
