"""Several seeds of a setting seen as one trial (Panel, Rivals), and which seeds are worth a look: the hardest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from autoscale.recommend.choice.judging import Each, Judge, Judged, Trial, confirm
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.effort import CHOOSING

S = TypeVar("S", bound=Setting)


def hardest_first(judged: Judged[S], seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds by the margin of the setting's trials over them, the smallest first: what is hard for one is for most."""
    margins = {seed: made.margin for seed, made in zip(seeds, judged.trials, strict=True)}
    return tuple(sorted(seeds, key=lambda seed: (margins[seed], seed)))


@dataclass(frozen=True)
class Panel:
    """A judge that sees a setting over several seeds as one trial: means, and the sum of what was wasted.

    Short traffic is cheap to simulate and differs much between seeds: a search on one seed would find what suits that
    seed. The panel ends with the first trial that is stopped or breaks the SLO. Its margin is that of its worst seed
    less `caution` times `spread`, what margins deviate by between seeds: what just holds here breaks under others.
    `hard`: the seeds that it looks at, the hardest first; without them those that follow from the seed it is asked for.
    """

    judge: Judge
    size: int
    caution: float = 0.0
    spread: float = 0.0
    hard: tuple[int, ...] = ()

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial that stands for `size` seeds; no two panels of different seeds share one."""
        trials: list[Trial] = []
        first = CHOOSING.panel_seeds + seed * self.size
        for one in self.hard or range(first, first + self.size):
            trials.append(self.judge(setting, one, cost_limit_h))
            if trials[-1].stopped:
                return trials[-1]
            broken = not trials[-1].holds or trials[-1].margin < self.asked
            if cost_limit_h is not None and broken:
                break
        of = Judged(setting, tuple(trials))
        figures: dict[str, Any] = {f.name: of.mean(f.name) for f in fields(Trial) if f.name not in _COUNTED}
        figures["margin"] = min(t.margin for t in trials) - self.asked
        return Trial(
            **figures,
            wasted_scale_outs=of.wasted,
            flaps=sum(t.flaps for t in trials),
            peak_replicas=max(t.peak_replicas for t in trials),
            kept=of.periods - of.broken,
            periods=of.periods,
            promise=trials[0].promise,
        )

    @property
    def asked(self) -> float:
        """The margin that every seed must keep."""
        return self.caution * self.spread

    def seen_before(self, tried: Mapping[S, Trial], earlier: Panel) -> dict[S, Trial]:
        """What an earlier panel of the same seeds, which asked for no more, tried, as this one would see it."""
        more = self.asked - earlier.asked
        return {s: replace(t, margin=t.margin - more) for s, t in tried.items() if t.stopped != "cost"}

    def broken_before(self, tried: Mapping[S, Trial], earlier: Panel) -> dict[S, Trial]:
        """What broke the SLO on an earlier panel whose every seed is of this one, too."""
        if not set(earlier.hard) <= set(self.hard):
            return {}
        return {s: t for s, t in self.seen_before(tried, earlier).items() if not t.holds}


@dataclass(frozen=True)
class Rivals:
    """A judge that sees a setting beside another one, on the seeds that decide how many of all break the SLO.

    hours      of the other (accelerator-hours) over the seeds around the last that may break, by its margins: where no more
               than `may_break` of them do, enough hold of all, about
    usual      of the other over seeds of all kinds: what a setting takes of these shows what it costs over all
    cost_h     of the other over all seeds
    hard       seeds that broke what was tried before, of which `hard_may_break` may break this, too
    """

    judge: Judge
    hours: Mapping[int, float]
    may_break: int
    usual: Mapping[int, float]
    cost_h: float
    hard: Sequence[int]
    hard_may_break: int

    def __call__(
        self,
        setting: Setting,
        seed: int,  # noqa: ARG002 -- a Judge's: these are seen whatever it is
        cost_limit_h: float | None = math.inf,
    ) -> Trial:
        """One trial that stands for all seeds, at about what it costs over these.

        It ends when it is decided, or as soon as a few seeds show that it costs more than the limit.
        """
        broken, took_h, of_h, share = 0, 0.0, 0.0, 1.0
        limit_h = math.inf if cost_limit_h is None else cost_limit_h * CHOOSING.same
        for seen, one in enumerate(self.hours, 1):
            made = self.judge(setting, one, math.inf)
            broken += not made.holds
            if broken > self.may_break:
                return replace(made, stopped="breaches")
            if not made.stopped:
                took_h, of_h = took_h + made.accelerator_hours, of_h + self.hours[one]
                share = took_h / of_h
            if seen >= CHOOSING.first_look and share * self.cost_h > limit_h:
                return replace(made, stopped="cost")
        broken = 0
        for one in self.hard:
            broken += not self.judge(setting, one, math.inf).holds
            if broken > self.hard_may_break:
                return replace(made, stopped="breaches")
        return replace(
            made, margin=0.0, wasted_scale_outs=0, stopped="", accelerator_hours=share * self.cost_h
        )

    def cost(self, setting: Setting, each: Each) -> float:
        """What it costs over all seeds, in accelerator-hours, from what it takes of the usual ones."""
        took = confirm(self.judge, [setting], list(self.usual), each)[0].cost
        return took * len(self.usual) / sum(self.usual.values()) * self.cost_h


_COUNTED = (
    "wasted_scale_outs",
    "flaps",
    "peak_replicas",
    "kept",
    "periods",
    "promise",
    "latencies",
    "stopped",
)
