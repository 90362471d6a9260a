"""The cheapest setting that holds the SLO, found by simulating the real HPA rules.

The search rests on one fact: along a *line* (signals, behaviour and bounds fixed, the target rising) accelerator time
falls and attainment falls, so the loosest target that holds is the cheapest of its line and bisection finds it. Lines
race: a trial stops as soon as it has more breaches than the SLO allows or costs more than the best setting so far.
What was found is judged again over fresh seeds, cheapest first and the same seeds for all (common random numbers); one
that fails is followed by its next tighter target. The choice is the cheapest whose attainment holds with confidence,
not the luckiest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np
from scipy import stats

from autoscale.recommend.choice.settings import Behavior, Candidate

FLEET_LIMIT = 256  # replicas that a search for the needed fleet goes up to
# Lines raced and settings judged side by side, however many processes there are: the answer must not depend on that
AT_ONCE, FINALISTS = 4, 2
LEADERS = 2  # settings whose behaviours are searched
REFINEMENTS = 2  # rounds around the best setting at most
GAIN = 0.01  # of its cost, for which another round is worth it
LOOKS = 4  # settings looked at for each that may be judged in full
FIRST_LOOK = 2  # seeds after which the hopeless are given up
BY_FAR = 0.015  # of all requests: seeds differ by less
A_STEP = 0.005  # of all requests: about what one step of a target changes, at least
DEARER = 1.01  # what a tighter target costs at least, where it is not known
COST_SLACK = 0.01  # settings within 1 % of the cheapest are not told apart
CONFIDENCE = 0.95
PANEL_SEEDS = 1000  # those of the search; the confirming ones are below


Family = tuple[tuple[tuple[str, float], ...], str]  # targets fixed beside a line, and the line's signal


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
    """Simulates a setting (or a static fleet of N replicas) with one seed; picklable, so that workers can run it."""

    def __call__(self, setting: Candidate | int, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial; stops early once the SLO cannot hold any more or accelerator-hours exceed the limit.

        Without a limit (None) it runs to the end whatever happens.
        """
        ...


@dataclass(frozen=True)
class Line:
    """Settings that differ in one target only, from tight (many replicas) to loose."""

    settings: tuple[Candidate, ...]


@dataclass(frozen=True)
class Judged:
    """One setting over several seeds."""

    setting: Candidate | int
    trials: tuple[Trial, ...]

    def mean(self, figure: str) -> float:
        """Mean of one figure of the trials; NaN when none ran to the end."""
        values = [getattr(t, figure) for t in self.trials if not t.stopped]
        return float(np.mean(values)) if values else math.nan

    def deviation(self, figure: str) -> float:
        """Standard deviation of a figure over seeds; 0 with fewer than three trials that ran to the end."""
        values = [getattr(t, figure) for t in self.trials if not t.stopped]
        return float(np.std(values, ddof=1)) if len(values) > 2 else 0.0

    def interval(self, figure: str) -> tuple[float, float]:
        """95 % t interval of the mean over seeds; the single value twice when there is one trial."""
        values = [float(getattr(t, figure)) for t in self.trials if not t.stopped]
        if not values:
            return (math.nan, math.nan)
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        if spread == 0:
            return (mean, mean)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
        return (mean - half, mean + half)

    def lower(self, figure: str) -> float:
        """The value that the mean over seeds exceeds with 95 % confidence (one-sided t)."""
        values = [float(getattr(t, figure)) for t in self.trials]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return float(np.mean(values)) - _doubt(spread, len(values))

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


@dataclass(frozen=True)
class Space:
    """What may be chosen from: per signal the targets from tight to loose, behaviours, replica bounds."""

    targets: dict[str, tuple[float, ...]]
    behaviors: tuple[Behavior, ...]
    min_replicas: tuple[int, ...]
    max_replicas: int
    # Pairs (waiting, other): with a pair the queue is the alarm and the other signal holds scale-in back
    waiting_in_pairs: tuple[float, ...] = ()
    lower_max: tuple[int, ...] = ()  # smaller maxima worth trying: they bound what a burst can cost
    # (behaviour, minimum, maximum) to begin with; without them the last behaviour, the least minimum and max_replicas
    beginnings: tuple[tuple[Behavior, int, int], ...] = ()
    wide: bool = True  # begin with pairs, too, and search the behaviours of more than the best

    def line(self, family: Family, behavior: Behavior, minimum: int, maximum: int | None = None) -> Line:
        """The line over the targets of the family's signal, with its fixed targets beside it."""
        fixed, signal = family
        most = max(self.max_replicas if maximum is None else maximum, minimum)
        return Line(
            tuple(
                Candidate((*fixed, (signal, value)), behavior, minimum, most)
                for value in self.targets[signal]
            )
        )

    def beside(self, setting: Candidate) -> list[Line]:
        """The lines that differ from the setting's own in one choice: another behaviour, bound, or queue target beside it."""
        (fixed, signal), behavior = _family(setting), setting.behavior
        low, high = setting.min_replicas, setting.max_replicas
        families: list[Family] = []
        if signal != "waiting":
            families = [((("waiting", w),), signal) for w in self.waiting_in_pairs]
            families = [f for f in [((), signal), *families] if f[0] != fixed]
        lines = [self.line(family, behavior, low, high) for family in families]
        others = [*self.behaviors, _calmer(behavior)]
        lines += [self.line((fixed, signal), b, low, high) for b in others if b != behavior]
        around = {low - 1, low + 1} | set(self.min_replicas)
        lines += [
            self.line((fixed, signal), behavior, m, high)
            for m in sorted(around)
            if m != low
            and self.min_replicas[0] <= m <= max(*self.min_replicas, self.min_replicas[0] + 1)
            and m < high
        ]
        maxima = {self.max_replicas, *self.lower_max} - {high}
        lines += [self.line((fixed, signal), behavior, low, m) for m in sorted(maxima) if m > low]
        return lines

    def cheaper(self, setting: Candidate) -> list[Candidate]:
        """What should cost less and differs in one choice: a looser target, a shorter window, later growth, lower bounds."""
        looser = [
            replace(setting, targets=(*setting.targets[:k], (signal, above), *setting.targets[k + 1 :]))
            for k, (signal, value) in enumerate(setting.targets)
            for above in [v for v in self.targets[signal] if v > value + 1e-9][:2]
        ]
        window_s = _window_s(setting.behavior)
        shorter = sorted((b for b in self.behaviors if _window_s(b) < window_s), key=_window_s)[-2:]
        low, high = setting.min_replicas, setting.max_replicas
        lower = [replace(setting, min_replicas=low - 1)] if low > self.min_replicas[0] else []
        lower += [replace(setting, max_replicas=m) for m in self.lower_max if low < m < high]
        calmer = [] if setting.behavior.up_window_s else [_calmer(setting.behavior)]
        return [*looser, *(replace(setting, behavior=b) for b in [*shorter, *calmer]), *lower]


def static_fleet(judge: Judge, start: int, limit: int, seed: int = 0) -> tuple[int | None, dict[int, Trial]]:
    """The fewest standing replicas that hold the SLO (None: not even `limit`), and what was tried."""
    tried: dict[int, Trial] = {}

    def holds(count: int) -> bool:
        if count not in tried:
            tried[count] = judge(count, seed)
        return tried[count].holds

    low, high = 0, max(1, min(start, limit))
    while not holds(high):
        if high >= limit:
            return None, tried
        low, high = high, min(limit, high + max(1, high // 2))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high, tried


def loosest(
    judge: Judge, line: Line, cost_limit_h: float, seed: int = 0, start: int | None = None
) -> tuple[Candidate | None, list[tuple[Candidate, Trial]]]:
    """The loosest setting of a line that holds for less than the limit, by bisection, and all that was tried.

    With `start`, an index near which the end is expected, it gallops from there: two or three trials when that is right.

    A trial that was stopped for its cost says nothing about the SLO: the search goes on looser; one that was stopped
    for its breaches goes on tighter; when both meet, the line holds nothing cheaper than the limit.
    """
    tried: list[tuple[Candidate, Trial]] = []
    best: Candidate | None = None
    low, high, stride = -1, len(line.settings), 1
    middle = high // 2 if start is None else min(start, high - 1)
    galloping = start is not None
    while high - low > 1:
        setting = line.settings[middle]
        trial = judge(setting, seed, cost_limit_h)
        tried.append((setting, trial))
        looser = trial.stopped == "cost" or trial.holds
        if trial.holds:
            best = setting
        low, high = (middle, high) if looser else (low, middle)
        ahead = middle + stride if looser else middle - stride
        galloping = galloping and low < ahead < high
        middle = ahead if galloping else (low + high) // 2
        stride *= 2
    return best, tried


def search(
    judge: Judge,
    space: Space,
    static_cost_h: float,
    executor: Executor | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> list[tuple[Candidate, Trial]]:
    """Everything that was tried, those that hold first and cheapest first, each with its trial.

    Coordinate descent: families of signals, then behaviours for the two best, then all bounds for the best of those, then
    whatever differs from the best in one choice, until nothing gets cheaper. Every round is a set of independent lines,
    run side by side when an executor is given.
    """
    found: dict[Candidate, Trial] = {}
    report = progress or (lambda _fraction, _text: None)

    def limit() -> float:
        holding = [t.accelerator_hours for t in found.values() if t.holds]
        return min([static_cost_h, *holding]) * (1 + COST_SLACK)

    raced: set[Candidate] = set()  # the first setting stands for its line

    def race(lines: Sequence[Line], share: tuple[float, float], text: str) -> None:
        done = 0
        lines = [line for line in lines if line.settings[0] not in raced]
        raced.update(line.settings[0] for line in lines)
        for start in range(0, len(lines), AT_ONCE):
            part = lines[start : start + AT_ONCE]
            run = partial(_loosest, judge, cost_limit_h=limit(), near=_ends(found))
            for tried in executor.map(run, part) if executor else map(run, part):
                found.update(dict(tried))
                done += 1
                report(share[0] + (share[1] - share[0]) * done / len(lines), text)

    families: list[Family] = [((), s) for s in space.targets]
    if space.waiting_in_pairs and space.wide:
        middle = space.waiting_in_pairs[len(space.waiting_in_pairs) // 2]
        families += [((("waiting", middle),), s) for s in space.targets if s != "waiting"]
    beginnings = space.beginnings or ((space.behaviors[-1], space.min_replicas[0], space.max_replicas),)
    race(
        [space.line(family, *beginning) for family, beginning in product(families, beginnings)],
        (0.0, 0.35),
        "signals",
    )
    bounds = dict.fromkeys((low, high) for _, low, high in beginnings)
    starts = [(family, *bound) for family, bound in product(families, bounds)]
    leaders = _ranked(found, lambda c: (_family(c), c.min_replicas, c.max_replicas), starts)[
        : LEADERS if space.wide else 1
    ]
    race(
        [space.line(family, b, low, high) for (family, low, high), b in product(leaders, space.behaviors)],
        (0.35, 0.7),
        "behaviours",
    )
    pairs = list(product(dict.fromkeys(family for family, _, _ in leaders), space.behaviors))
    family, behavior = _ranked(found, lambda c: (_family(c), c.behavior), pairs)[0]
    others = product((space.max_replicas, *reversed(space.lower_max)), space.min_replicas)
    race(
        [space.line(family, behavior, low, high) for high, low in others if low < high],
        (0.7, 0.85),
        "replica bounds",
    )
    for step in range(REFINEMENTS):
        before = cheapest(found.items())
        if before is None:
            break
        share = 0.85 + 0.15 * step / REFINEMENTS
        race(space.beside(before[0]), (share, share + 0.15 / REFINEMENTS), "around the best")
        after = cheapest(found.items())
        if after is None or after[1].accelerator_hours > (1 - GAIN) * before[1].accelerator_hours:
            break
    return sorted(found.items(), key=lambda item: (not item[1].holds, item[1].accelerator_hours))


def cheapest(found: Iterable[tuple[Candidate, Trial]]) -> tuple[Candidate, Trial] | None:
    """The setting that holds for the least accelerator time, with its trial; None when none holds."""
    holding = [item for item in found if item[1].holds]
    return min(holding, key=lambda item: item[1].accelerator_hours, default=None)


def _loosest(
    judge: Judge, line: Line, cost_limit_h: float, near: dict[str, float]
) -> list[tuple[Candidate, Trial]]:
    expected = near.get(line.settings[0].family)
    start = None
    if expected is not None:
        start = min(range(len(line.settings)), key=lambda i: abs(line.settings[i].targets[-1][1] - expected))
    return loosest(judge, line, cost_limit_h, start=start)[1]


def _ends(found: dict[Candidate, Trial]) -> dict[str, float]:
    """Family -> the last target of its cheapest holding setting so far."""
    best: dict[str, tuple[float, float]] = {}
    for setting, trial in found.items():
        if trial.holds:
            end = (trial.accelerator_hours, setting.targets[-1][1])
            best[setting.family] = min(best.get(setting.family, end), end)
    return {family: value for family, (_, value) in best.items()}


def _family(setting: Candidate) -> Family:
    return setting.targets[:-1], setting.targets[-1][0]


def _ranked(
    found: dict[Candidate, Trial], key: Callable[[Candidate], Any], among: Sequence[Any]
) -> list[Any]:
    """`among` by the cost of the cheapest holding setting of each; those without one come last, in their order."""
    best: dict[Any, float] = {}
    for setting, trial in found.items():
        if trial.holds:
            best[key(setting)] = min(best.get(key(setting), math.inf), trial.accelerator_hours)
    return sorted(among, key=lambda one: best.get(one, math.inf))


def _calmer(behavior: Behavior) -> Behavior:
    """The same, growing only on what lasted a minute: peaks of seconds do not wait for a replica that takes minutes."""
    return replace(behavior, down_window_s=behavior.down_window_s or 300, up_window_s=60)


def _window_s(behavior: Behavior) -> int:
    return 0 if behavior.down_window_s is None else behavior.down_window_s


def confirm(
    judge: Judge,
    settings: Iterable[Candidate | int],
    seeds: Sequence[int],
    executor: Executor | None = None,
    cost_limit_h: float | None = None,
) -> list[Judged]:
    """Every setting judged over the same seeds, in the order given; with a limit, trials may stop early (Judge)."""
    settings = list(settings)
    pairs = [(setting, seed) for setting in settings for seed in seeds]
    run = partial(_one, judge, cost_limit_h)
    trials = list(executor.map(run, pairs) if executor else map(run, pairs))
    return [
        Judged(setting, tuple(trials[i * len(seeds) : (i + 1) * len(seeds)]))
        for i, setting in enumerate(settings)
    ]


def _one(judge: Judge, cost_limit_h: float | None, pair: tuple[Candidate | int, int]) -> Trial:
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

    def __call__(self, setting: Candidate | int, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial that stands for `size` seeds; no two panels of different seeds share one."""
        trials: list[Trial] = []
        for k in range(self.size):
            trials.append(self.judge(setting, PANEL_SEEDS + seed * self.size + k, cost_limit_h))
            if trials[-1].stopped:
                return trials[-1]
            if k < self.size - 1 and np.mean([t.margin for t in trials]) < -BY_FAR:
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


def choose(
    judge: Judge,
    found: Sequence[tuple[Candidate, Trial]],
    space: Space,
    seeds: Sequence[int],
    executor: Executor | None = None,
    most: int = 16,
    spread: float = 0.0,
    widen: bool = True,
) -> list[Judged]:
    """Settings judged over the seeds, cheapest first, until none that is left could be cheaper than one that holds.

    A setting that breaks the SLO makes room for its next tighter target (several steps on when it is far off), one that
    starts replicas in vain for the next longer scale-down window, and, to `widen` the search, one that holds for what
    should cost a little less (Space.cheaper). Each is judged over two seeds first; those that break the SLO by more
    than `spread`, what margins differ by between seeds, and those that cost more than the best did over these two, go
    no further. Settings that did the same in the search are one, the simplest. At most `most` settings are judged in
    full. Those that hold come first, the cheapest first.
    """
    costs = {setting: trial.accelerator_hours for setting, trial in found if not trial.stopped}
    lost = {s for s, t in found if t.stopped or t.margin < -BY_FAR}
    alike: dict[tuple[float, float], Candidate] = {}
    for setting, trial in sorted(found, key=lambda item: len(item[0].targets)):
        if trial.holds:
            alike.setdefault((trial.accelerator_hours, trial.margin), setting)
    waiting = {setting: costs[setting] for setting in alike.values()}
    judged: dict[Candidate, Judged] = {}
    guesses: set[Candidate] = set()  # no more of their lines when they break the SLO by far
    in_full = 0
    first, rest = seeds[:FIRST_LOOK], seeds[FIRST_LOOK:]
    while waiting and in_full < most and len(judged) < LOOKS * most:
        best = min((j for j in judged.values() if j.holds), key=lambda j: j.cost, default=None)
        limit = best.cost if best else math.inf
        batch = _unlike([s for s in sorted(waiting, key=waiting.__getitem__) if waiting[s] < limit])
        if not batch:
            break
        looked = confirm(judge, batch, first, executor, math.inf)
        usual = Judged(best.setting, best.trials[: len(first)]).cost if best else math.inf
        open_ = [
            j
            for j in looked
            if not j.given_up and not j.wasted and j.mean("margin") >= -spread and j.cost < usual
        ]
        more = confirm(judge, [j.setting for j in open_], rest, executor) if rest else []
        in_full += len(open_)
        whole = {
            j.setting: Judged(j.setting, (*j.trials, *m.trials))
            for j, m in zip(open_, more, strict=bool(rest))
        }
        for setting, j in zip(batch, looked, strict=True):
            expected = waiting.pop(setting)
            judged[setting] = full = whole.get(setting, j)
            if full.holds and full.cost < limit and widen:
                further = {s: costs.get(s, 0.99 * full.cost) for s in space.cheaper(setting) if s not in lost}
                guesses.update(further)
            elif (
                full.holds
                or (not full.given_up and full.cost >= usual)
                or (full.given_up and setting in guesses)
            ):
                continue
            else:
                after = _instead(full, setting, space)
                seen = expected if full.given_up else max(expected, full.cost)
                further = {after: max(costs.get(after, 0.0), DEARER * seen)} if after is not None else {}
            waiting.update({s: cost for s, cost in further.items() if s not in judged})
    return sorted(judged.values(), key=lambda j: (not j.holds, j.cost))


def _unlike(settings: Iterable[Candidate]) -> list[Candidate]:
    """The first few that differ in more than a target: neighbours on a line tell little about each other's chances."""
    kinds: dict[Any, Candidate] = {}
    for s in settings:
        kinds.setdefault((s.targets[-1][0], s.behavior, s.min_replicas, s.max_replicas), s)
        if len(kinds) == FINALISTS:
            break
    return list(kinds.values())


def confirmed(
    judge: Judge,
    judged: Sequence[Judged],
    space: Space,
    seeds: Sequence[int],
    own: Sequence[int],
    executor: Executor | None = None,
    most: int = 12,
    also: Judge | None = None,
) -> list[Judged]:
    """`judged` (by `choose` over `seeds`) that may hold, cheapest first, one that holds with confidence in front.

    The cheapest of many that held is the luckiest of them, in part: it must hold over seeds of its own, too, and over
    all of them with confidence. Its own seeds are taken as many at a time as there were seeds before, until it is
    certain either way, and it must not be hopeless under the judge `also`. What fails makes room for its next tighter
    target; at most `most` are looked at, and none is returned when none of them holds.
    """
    every = len(seeds) + len(own)
    whole = [j for j in judged if len(j.trials) == len(seeds) and _may_hold(j, every)]
    waiting = {j.setting: j for j in whole if isinstance(j.setting, Candidate)}
    for _ in range(most):
        if not waiting:
            break
        setting, best = min(waiting.items(), key=lambda item: item[1].cost)
        del waiting[setting]
        alone = Judged(setting, ())
        for first in range(0, len(own), len(seeds)):
            again = confirm(judge, [setting], own[first : first + len(seeds)], executor)[0]
            alone = Judged(setting, (*alone.trials, *again.trials))
            both = Judged(setting, (*best.trials, *alone.trials))
            if both.holds and alone.mean("margin") >= 0:
                if also is not None and confirm(also, [setting], seeds, executor)[0].hopeless:
                    break
                return [both, *(j for j in waiting.values() if j.holds)]
            if both.wasted or not _may_hold(both, every):
                break
        after = tighter(setting, space)
        if after is not None and after not in waiting:
            next_ = confirm(judge, [after], seeds, executor)[0]
            if _may_hold(next_, every):
                waiting[after] = next_
    return []


def _may_hold(judged: Judged, seeds: int) -> bool:
    """Whether it would hold with confidence over that many seeds, were its mean one standard error better than seen."""
    if judged.given_up or judged.wasted:
        return False
    spread = judged.deviation("margin")
    return judged.mean("margin") + spread / math.sqrt(len(judged.trials)) >= _doubt(spread, seeds)


def _doubt(spread: float, seeds: int) -> float:
    """How far a mean over so many seeds that differ by `spread` may be too high, with 95 % confidence (one-sided t)."""
    return float(stats.t.ppf(CONFIDENCE, max(seeds - 1, 1))) * spread / math.sqrt(seeds)


def _instead(judged: Judged, setting: Candidate, space: Space) -> Candidate | None:
    """What to try where a setting failed; None at the end of the line or of the windows."""
    if judged.wasted and judged.mean("margin") >= 0:
        longer = [b for b in space.behaviors if _window_s(b) > _window_s(setting.behavior)]
        return replace(setting, behavior=min(longer, key=_window_s)) if longer else None
    short = BY_FAR if judged.given_up else -judged.lower("margin")
    return tighter(setting, space, 1 + min(int(short / A_STEP), 4))


def tighter(setting: Candidate, space: Space, steps: int = 1) -> Candidate | None:
    """The next tighter setting of the same line, or that many steps on; None at its end."""
    *fixed, (signal, value) = setting.targets
    below = sorted(v for v in space.targets[signal] if v < value - 1e-9)[-steps:]
    return replace(setting, targets=(*fixed, (signal, below[0]))) if below else None
