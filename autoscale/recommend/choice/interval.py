"""Which targets the best one may be, when the replica is only known to within its interval.

Every speed of the replica that the run allows has a best target on the recommended line: the loosest that holds the SLO,
for the least accelerator time. The faster the replica, the looser it is; so its interval ends at the best targets of the
two ends of the replica's own interval. Lines of other windows and bounds that cost the same have their own: it covers these, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from autoscale.recommend.answer import TargetInterval
from autoscale.recommend.choice.circumstances import at_speed, at_traffic
from autoscale.recommend.choice.judging import Each, Judge, Judged, Trial
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.scenario import Kept, Scenario
from autoscale.recommend.choice.search import Tried, loosest
from autoscale.recommend.choice.settings import Candidate
from autoscale.recommend.choice.space import Line, Space, family_of
from autoscale.recommend.effort import CHOOSING

End = Tried | None


def target_interval(
    scenario: Scenario,
    chosen: Judged[Candidate],
    space: Space,
    step_scale: float,
    panel: int,
    each: Each = map,
    more: Kept | None = None,
    alike: Sequence[Candidate] = (),
) -> TargetInterval:
    """The interval of the chosen setting's last target; targets fixed beside it keep their one value.

    It holds the chosen target, the best ones for the replica as fitted, for both ends of its step time's 95 % interval
    (`step_scale`: relative half width) and for 5 % more traffic (`more`: its arrivals), and
    those that are not told apart from the best of the fitted one, and those of the settings that are as good (`alike`: as_good).
    Each is judged over two panels of so many seeds that
    nothing was chosen on (one when a panel is a single seed): what the traffic's chance does to the best target is part
    of the interval, too.
    """
    setting = chosen.setting
    (fixed, signal), value = family_of(setting), _target(setting)
    bounds = setting.min_replicas, setting.max_replicas
    line = space.line((fixed, signal), setting.behavior, *bounds, setting.keda)
    scales = [0.0, step_scale, -step_scale] if step_scale else [0.0]
    busier = at_traffic(scenario, CHOOSING.traffic_off, more)
    # long traffic: little differs between seeds, and each is dear
    looks = CHOOSING.interval_seeds if panel > 1 else CHOOSING.interval_seeds[:1]
    worlds = [*(at_speed(scenario, scale) for scale in scales), busier]
    judges = [Panel(world, panel) for world in worlds for _ in looks]
    found = list(each(partial(best_targets, line, value), judges, looks * len(worlds)))
    fitted, others = found[: len(looks)], found[len(looks) :]
    ends = [end for both in fitted for end in both] + [best for _, best in others]
    targets = [value, *(_target(end[0]) for end in ends if end is not None), *map(_target, alike)]
    best = min((best for _, best in fitted if best is not None), key=lambda b: _target(b[0]), default=None)
    saved = 0.0
    if step_scale and best is not None and best[0] != setting:
        both = [judges[0](one, looks[0], None).accelerator_hours for one in (best[0], setting)]
        saved = 1 - both[0] / both[1]
    return TargetInterval(
        {**{name: (v, v) for name, v in fixed}, signal: (min(targets), max(targets))},
        best[0] if best else None,
        saved,
    )


def as_good(chosen: Judged[Candidate], others: Iterable[Judged[Candidate]]) -> list[Candidate]:
    """Settings that scale by the same signals, under other windows and bounds, and hold at a cost that is not told apart.

    Under other seeds, or a little more traffic, the choice may be any of them.
    """
    family, limit_h = family_of(chosen.setting), (1 + CHOOSING.alike) * chosen.cost
    return [j.setting for j in others if family_of(j.setting) == family and j.holds and j.cost <= limit_h]


def best_targets(line: Line, near: float, judge: Judge, seed: int) -> tuple[End, End]:
    """The tightest target of a line that is not told apart from the best, and the best; None where none holds.

    The best is the loosest that holds; when looser ones cost the same, since no replica starts any more, the tightest
    of these.
    """
    end, tried = loosest(judge, line, math.inf, seed, line.nearest(near))
    if end is None:
        return None, None
    known = dict(tried)
    hours = known[end].accelerator_hours
    ask = partial(judge, seed=seed)
    best = _tightest(ask, _up_to(line, end), CHOOSING.flat * hours, known)
    return _tightest(ask, _up_to(line, best[0]), CHOOSING.same * hours, known), best


def _up_to(line: Line, end: Candidate) -> Sequence[Candidate]:
    return line.settings[: line.settings.index(end) + 1]


def _tightest(
    judge: Callable[..., Trial], settings: Sequence[Candidate], limit_h: float, known: dict[Candidate, Trial]
) -> Tried:
    """The tightest setting for at most so many hours, whose looser neighbours cost no more: galloping from the last."""
    good, bad, stride = len(settings) - 1, -1, 1
    middle = good - stride
    while good - bad > 1:
        middle = max(middle, bad + 1)
        setting = settings[middle]
        if setting not in known or known[setting].stopped:
            known[setting] = judge(setting, cost_limit_h=limit_h)
        if known[setting].holds and known[setting].accelerator_hours <= limit_h:
            good, stride = middle, 2 * stride
            middle = good - stride
        else:
            bad = middle
            middle = (good + bad) // 2
            stride = 1
    return settings[good], known[settings[good]]


def _target(setting: Candidate) -> float:
    return setting.targets[-1][1]
