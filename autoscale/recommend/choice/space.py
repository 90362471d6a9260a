"""What may be chosen: targets from tight to loose, behaviours and replica bounds, as lines that a search can bisect."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from autoscale.recommend.answer import Point
from autoscale.recommend.choice.keda.scaled_object import Keda
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.seeds import is_wide
from autoscale.recommend.choice.settings import (
    MAX_WINDOW_S,
    Behavior,
    Candidate,
    Targets,
    behaviors,
    outliving_s,
)
from autoscale.recommend.effort import CHOOSING

Family = tuple[Targets, str]  # targets fixed beside a line, and the line's signal
CALM_S = (
    60  # growth only on what lasted so long: peaks of seconds do not wait for a replica that takes minutes
)


@dataclass(frozen=True)
class Line:
    """Settings that differ in one target only, from tight (many replicas) to loose."""

    settings: tuple[Candidate, ...]

    def nearest(self, target: float) -> int:
        """Index of the setting whose target is nearest."""
        return min(range(len(self.settings)), key=lambda i: abs(self.settings[i].targets[-1][1] - target))


@dataclass(frozen=True)
class Space:
    """What may be chosen from: per signal the targets from tight to loose, behaviours, replica bounds."""

    targets: dict[str, tuple[float, ...]]
    behaviors: tuple[Behavior, ...]
    min_replicas: tuple[int, ...]
    max_replicas: int
    # Pairs (alarm, other): with a pair the queue is the alarm and the other signal holds scale-in back
    alarm: str = "waiting"
    waiting_in_pairs: tuple[float, ...] = ()
    lower_max: tuple[int, ...] = ()  # smaller maxima worth trying: they bound what a burst can cost
    # (behaviour, minimum, maximum) to begin with; without them the last behaviour, the least minimum and max_replicas
    beginnings: tuple[tuple[Behavior, int, int], ...] = ()
    wide: bool = True  # begin with pairs, too, and search the behaviours of more than the best
    keda: Keda | None = None  # of ScaledObjects: what KEDA is told, and what else it may be told
    kedas: tuple[Keda, ...] = ()

    def line(
        self,
        family: Family,
        behavior: Behavior,
        minimum: int,
        maximum: int | None = None,
        keda: Keda | None = None,
    ) -> Line:
        """The line over the targets of the family's signal, with its fixed targets beside it."""
        fixed, signal = family
        most = max(self.max_replicas if maximum is None else maximum, minimum)
        return Line(
            tuple(
                Candidate((*fixed, (signal, value)), behavior, minimum, most, keda or self.keda)
                for value in self.targets[signal]
            )
        )

    def begun(self) -> Iterator[Space]:
        """Itself; and for where nothing of it goes to zero and holds, with the longest wait before the last replica goes.

        A queue alone is idle whenever nobody waits: only a long wait keeps its replicas between two requests that do.
        """
        yield self
        if self.kedas:
            yield replace(self, keda=max(self.kedas, key=lambda keda: keda.zero_after_s or 0))

    def bounded(self, low: int, high: int) -> bool:
        """Whether these bounds leave the scaler something to do: between them, or at zero."""
        return low < high or (low == high and bool(self.kedas))

    def above(self, minimum: int) -> Space | None:
        """What keeps more than so many replicas at least; None when nothing is left."""
        least = minimum + 1
        beginnings = dict.fromkeys((b, max(low, least), high) for b, low, high in self.beginnings)
        left = tuple(one for one in beginnings if self.bounded(one[1], one[2]))
        minima = sorted({least, *(low for low in self.min_replicas if low > least)})
        return replace(self, min_replicas=tuple(minima), beginnings=left) if left else None

    def beside(self, setting: Candidate) -> list[Line]:
        """The lines that differ from the setting's own in one choice: another behaviour, bound, or queue target beside it."""
        (fixed, signal), behavior = family_of(setting), setting.behavior
        low, high = setting.min_replicas, setting.max_replicas
        line = partial(self.line, keda=setting.keda)
        families: list[Family] = []
        if signal != self.alarm:
            families = [(((self.alarm, w),), signal) for w in self.waiting_in_pairs]
            families = [f for f in [((), signal), *families] if f[0] != fixed]
        lines = [line(family, behavior, low, high) for family in families]
        others = [*self.behaviors, calmed(behavior)]
        lines += [line((fixed, signal), b, low, high) for b in others if b != behavior]
        around = {low - 1, low + 1} | set(self.min_replicas)
        lines += [
            line((fixed, signal), behavior, m, high)
            for m in sorted(around)
            if m != low
            and self.min_replicas[0] <= m <= max(*self.min_replicas, self.min_replicas[0] + 1)
            and self.bounded(m, high)
        ]
        maxima = {self.max_replicas, *self.lower_max} - {high}
        lines += [line((fixed, signal), behavior, low, m) for m in sorted(maxima) if self.bounded(low, m)]
        kedas = [keda for keda in self.kedas if keda != setting.keda]
        return [*lines, *(self.line((fixed, signal), behavior, low, high, keda) for keda in kedas)]

    def cheaper(self, setting: Candidate) -> list[Candidate]:
        """What should cost less and differs in one choice: a looser target, a shorter window, later growth, lower bounds."""
        looser = [
            replace(setting, targets=(*setting.targets[:k], (signal, above), *setting.targets[k + 1 :]))
            for k, (signal, value) in enumerate(setting.targets)
            for above in [v for v in self.targets[signal] if v > value + 1e-9][:2]
        ]
        window_s = _window_s(setting.behavior)
        shorter = self._shorter(window_s)[-2:]
        low, high = setting.min_replicas, setting.max_replicas
        lower = [replace(setting, min_replicas=low - 1)] if low > self.min_replicas[0] else []
        lower += [
            replace(setting, max_replicas=m) for m in self.lower_max if m < high and self.bounded(low, m)
        ]
        calmer = [] if setting.behavior.up_window_s else [calmed(setting.behavior)]
        sooner = [replace(setting, keda=keda) for keda in self.kedas if _sooner(keda, setting.keda)][-2:]
        return [*looser, *(replace(setting, behavior=b) for b in [*shorter, *calmer]), *lower, *sooner]

    def safer(self, setting: Candidate) -> list[Candidate]:
        """What should keep more for a little more: tighter targets, longer windows, one replica more at least."""
        tighter = [self.tighter(setting, steps) for steps in (1, 2)]
        longer = sorted(self._longer(setting), key=_window_s)[:2]
        calm = [replace(setting, behavior=behavior) for behavior in longer]
        later = [replace(setting, keda=keda) for keda in self.kedas if _sooner(setting.keda, keda)][:1]
        more = [
            replace(one, min_replicas=one.min_replicas + 1)
            for one in (setting, *calm)
            if self.bounded(one.min_replicas + 1, one.max_replicas)
        ]
        return list(dict.fromkeys([*(s for s in tighter if s is not None), *calm, *later, *more]))

    def riskier(self, setting: Candidate) -> list[Candidate]:
        """Its neighbours that keep less: a looser target, the next shorter window, one replica fewer at least."""
        *fixed, (signal, value) = setting.targets
        looser = (*fixed, (signal, round(value * (1 + CHOOSING.target_off), 3)))
        shorter = [replace(setting, behavior=b) for b in self._shorter(_window_s(setting.behavior))[-1:]]
        fewer = [replace(setting, min_replicas=setting.min_replicas - 1)] if setting.min_replicas > 1 else []
        return [replace(setting, targets=looser), *shorter, *fewer]

    def _shorter(self, window_s: int) -> list[Behavior]:
        return sorted((b for b in self.behaviors if _window_s(b) < window_s), key=_window_s)

    def _longer(self, setting: Candidate) -> list[Behavior]:
        return [b for b in self.behaviors if _window_s(b) > _window_s(setting.behavior)]

    def tighter(self, setting: Candidate, steps: int = 1) -> Candidate | None:
        """The next tighter setting of the same line, or that many steps on; None at its end."""
        *fixed, (signal, value) = setting.targets
        below = sorted(v for v in self.targets[signal] if v < value - 1e-9)[-steps:]
        return replace(setting, targets=(*fixed, (signal, below[0]))) if below else None

    def calmer(self, setting: Candidate) -> Candidate | None:
        """The same with the next longer scale-down window; None at the longest."""
        longer = self._longer(setting)
        return replace(setting, behavior=min(longer, key=_window_s)) if longer else None


def with_spare(standing: int) -> int:
    """The most replicas that a scaler may start where so many standing ones are needed and nobody says otherwise."""
    return standing + max(1, math.ceil(standing * CHOOSING.spare))


def family_of(setting: Candidate) -> Family:
    """The targets beside the line that a setting lies on, and the line's signal."""
    return setting.targets[:-1], setting.targets[-1][0]


def _sooner(one: Keda | None, other: Keda | None) -> bool:
    """Whether one goes to zero earlier than the other."""
    first, second = (k.zero_after_s or math.inf if k else math.inf for k in (one, other))
    return first < second


def calmed(behavior: Behavior) -> Behavior:
    """The same, growing only on what lasts."""
    return replace(behavior, down_window_s=behavior.down_window_s or 300, up_window_s=CALM_S)


def _window_s(behavior: Behavior) -> int:
    return 0 if behavior.down_window_s is None else behavior.down_window_s


def build_space(scenario: Scenario, point: Point, static: int, cap: int) -> Space:
    """Targets around one replica's signals at capacity, behaviours for its cold start, bounds up to the static fleet."""
    wide, cold_s = is_wide(scenario.plan), scenario.cold_start_s
    minima = sorted({1, *(max(1, round(static * share)) for share in CHOOSING.minima)})
    maxima = tuple(sorted({m for m in (static - 1, static, (static + cap) // 2) if 1 < m < cap}))
    return Space(
        _targets(scenario, point),
        tuple(behaviors(cold_s)),
        tuple(minima),
        cap,
        waiting_in_pairs=CHOOSING.waiting_in_pairs,
        lower_max=maxima if wide else tuple(m for m in maxima if m == static),
        beginnings=tuple(_beginnings(wide, cold_s, minima, static, cap)),
        wide=wide,
    )


def _targets(scenario: Scenario, point: Point) -> dict[str, tuple[float, ...]]:
    """Per signal the targets, as far as it can rise: seats or KV blocks run out first; one near that can never fire."""
    engine = scenario.engine
    room = min(
        engine.max_num_seqs * engine.data_parallel / max(point.running, 1e-9),
        engine.data_parallel / max(point.kv_usage, 1e-9),
    )
    fractions = CHOOSING.step ** np.arange(CHOOSING.tightest_power, CHOOSING.loosest_power)
    fractions = fractions[fractions < CHOOSING.fires * room]
    running = {rounded_target(point.running * f) for f in fractions}
    kv = {round(point.kv_usage * f, 2 if point.kv_usage > 0.2 else 3) for f in fractions}
    targets = {"waiting": CHOOSING.waiting_targets}
    if running := {value for value in running if value > 0}:
        targets["running"] = tuple(sorted(running))
    # below a hundredth the thousandths of the metrics adapter are too coarse
    targets["kv_usage"] = tuple(sorted(value for value in kv if value >= 0.01)) or (0.01,)
    return targets


def _beginnings(
    wide: bool, cold_s: float, minima: Sequence[int], static: int, cap: int
) -> list[tuple[Behavior, int, int]]:
    outliving = min(outliving_s(cold_s), MAX_WINDOW_S)
    ways = [Behavior(outliving), Behavior()] if wide else [Behavior(max(outliving, 1800))]
    bounds: Iterable[tuple[int, int]] = (
        product(minima, sorted({cap, static})) if wide else product((1, minima[len(minima) // 2]), (cap,))
    )
    return [(b, low, high) for (low, high), b in product(dict.fromkeys(bounds), ways) if low < high]


def rounded_target(value: float) -> float:
    """A number of requests as a target is written: whole ones from 20 on, fifths below."""
    return float(round(value)) if value >= 20 else round(value * 5) / 5


def tutorial_setting(scenario: Scenario, cap: int) -> Candidate:
    """The tutorial's HPA: its queue target, no behaviour block, one replica at least."""
    deploy = scenario.profile.deploy
    return Candidate((("waiting", deploy.tutorial_target),), Behavior(), deploy.min_replicas, cap)
