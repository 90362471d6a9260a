"""Whether a setting keeps the SLO: one simulation (Trial), several seeds of it (Judged), several seen as one (Panel)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from scipy import stats

from analysis.numbers import mean_interval
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.effort import CHOOSING

FIGURES = (  # of a trial, that results show
    "attainment",
    "replica_hours",
    "accelerator_hours",
    "ttft_p99_s",
    "tpot_p99_s",
    "wasted_scale_outs",
    "flaps",
    "longest_breach_s",
)
BOUNDS = {
    "attainment": (0.0, 1.0),
    "margin": (-1.0, 1.0),
}  # of figures; the others are times, counts and hours
S = TypeVar("S", bound=Setting)
S_co = TypeVar("S_co", bound=Setting, covariant=True)

# As the built-in map: a function over one or more iterables, results in order; or workers.Workers.map, side by side
Each = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Trial:
    """What one simulation of one setting with one seed gave.

    margin            smallest over the SLO's terms of share within the bound minus share asked; >= 0 holds
    attainment        share of all requests that keep every bound
    stopped           "" ran to the end; "breaches" or "cost": stopped early, the other figures are partial
    """

    margin: float
    attainment: float
    accelerator_hours: float
    replica_hours: float
    ttft_p99_s: float
    tpot_p99_s: float
    wasted_scale_outs: int
    flaps: int
    longest_breach_s: float
    peak_replicas: int
    stopped: str = ""

    @property
    def holds(self) -> bool:
        """Whether the SLO held and no replica was started in vain."""
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

    def lower(self, figure: str) -> float:
        """The value that the mean over seeds exceeds with 95 % confidence (one-sided t)."""
        values = [float(getattr(t, figure)) for t in self.trials]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return float(np.mean(values)) - doubt(spread, len(values))

    @property
    def wasted(self) -> int:
        """Replicas that were started in vain, over all trials."""
        return sum(t.wasted_scale_outs for t in self.trials)

    @property
    def hopeless(self) -> bool:
        """Whether more seeds would not help: replicas started in vain, or the SLO broken on average."""
        return self.given_up or self.wasted > 0 or self.mean("margin") < 0

    @property
    def given_up(self) -> bool:
        """Whether a trial was stopped before its end."""
        return any(t.stopped for t in self.trials)

    @property
    def holds(self) -> bool:
        """Whether the lower bound of the margin is at least 0 and nothing was wasted in any trial."""
        return not self.hopeless and self.lower("margin") >= 0

    @property
    def cost(self) -> float:
        """Mean accelerator-hours."""
        return self.mean("accelerator_hours")

    def may_hold(self, seeds: int) -> bool:
        """Whether it would hold with confidence over that many seeds, were its mean one standard error better than seen."""
        if self.given_up or self.wasted:
            return False
        spread = self.deviation("margin")
        return self.mean("margin") + spread / math.sqrt(len(self.trials)) >= doubt(spread, seeds)

    def and_over(self, more: Sequence[Trial]) -> Judged[S_co]:
        """The same setting with the trials of further seeds."""
        return replace(self, trials=(*self.trials, *more))

    def _whole(self, figure: str) -> list[float]:
        return [float(getattr(t, figure)) for t in self.trials if not t.stopped]


def doubt(spread: float, seeds: int) -> float:
    """How far a mean over so many seeds that differ by `spread` may be too high, with 95 % confidence (one-sided t)."""
    return float(stats.t.ppf(CHOOSING.confidence, max(seeds - 1, 1))) * spread / math.sqrt(seeds)


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


def _one(judge: Judge, cost_limit_h: float | None, pair: tuple[Setting, int]) -> Trial:
    return judge(*pair, cost_limit_h=cost_limit_h)


@dataclass(frozen=True)
class Panel:
    """A judge that sees a setting over several seeds as one trial: means, and the sum of what was wasted.

    Short traffic is cheap to simulate and differs much between seeds: a search on one seed would find what suits that
    seed. The panel ends with the first trial that is stopped, or as soon as the SLO is broken by far on average. Its
    margin is the mean less `caution` standard deviations between seeds, since what just holds here does not hold with
    confidence over others; up to two seeds do not tell their own deviation: `spread` stands for it.
    """

    judge: Judge
    size: int
    caution: float = 0.0
    spread: float = 0.0

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial that stands for `size` seeds; no two panels of different seeds share one."""
        trials: list[Trial] = []
        for k in range(self.size):
            trials.append(self.judge(setting, CHOOSING.panel_seeds + seed * self.size + k, cost_limit_h))
            if trials[-1].stopped:
                return trials[-1]
            if k < self.size - 1 and np.mean([t.margin for t in trials]) < -CHOOSING.by_far:
                break
        of = Judged(setting, tuple(trials))
        figures: dict[str, Any] = {f.name: of.mean(f.name) for f in fields(Trial) if f.name not in _COUNTED}
        figures["margin"] -= self.caution * (of.deviation("margin") if self.size > 2 else self.spread)
        return Trial(
            **figures,
            wasted_scale_outs=of.wasted,
            flaps=sum(t.flaps for t in trials),
            peak_replicas=max(t.peak_replicas for t in trials),
        )


_COUNTED = ("wasted_scale_outs", "flaps", "peak_replicas", "stopped")
