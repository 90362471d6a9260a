"""What a choice is set beside: the standing fleet, the best that each signal can do alone, the HPA that comes nearest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoscale.recommend.answer import Point
from autoscale.recommend.choice.choice import choose
from autoscale.recommend.choice.judging import Each, Judge, Judged, confirm, shown_over
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import Tried, loosest, static_fleet
from autoscale.recommend.choice.settings import Behavior, Candidate, Standing
from autoscale.recommend.choice.space import Line, Space, tutorial_setting
from autoscale.recommend.effort import CHOOSING


@dataclass(frozen=True)
class Fleets:
    """Standing fleets: the fewest replicas that hold on the search's seeds with what they cost, and on all, if any."""

    count: int
    cost_h: float
    static: Judged[Standing] | None

    @property
    def standing(self) -> int:
        """Replicas that hold, as surely as is known."""
        return self.static.setting.replicas if self.static else self.count


def standing_fleets(
    scenario: Scenario, panel: Panel, start: int, limit: int, seeds: Sequence[int], each: Each
) -> Fleets | None:
    """The fewest standing replicas that hold over the seeds, looked for from `start` on; None when not even `limit` do."""
    count, tried = static_fleet(panel, start, limit)
    if count is None:
        return None
    below = tried.get(count - 1)
    nearly = below is not None and not below.stopped and below.margin >= -CHOOSING.nearly
    fewest = count - 1 if nearly else count
    static = None
    for replicas in range(fewest, min(limit, fewest + CHOOSING.fleet_beyond) + 1):
        if (judged := shown_over(scenario, [Standing(replicas)], seeds, each)[0]).holds:
            static = judged
            break
    return Fleets(count, static.cost if static else tried[count].accelerator_hours, static)


def rules_of_others(
    scenario: Scenario, point: Point, cap: int, seeds: Sequence[int], each: Each, keda: bool
) -> tuple[Judged[Candidate], dict[str, Judged[Candidate]]]:
    """The tutorial's HPA, and the HPAs of a guide and of a rule of thumb, over the seeds; guides' own objects with `keda`."""
    running = max(1.0, float(round(CHOOSING.thumb * point.running)))
    settings = {
        # llm-d, keda-epp-queue: queue 1, running 16 by AverageValue, Kubernetes' own pace
        "KEDA guide": Candidate((("waiting", 1), ("running", 16)), Behavior(), 1, cap),
        f"{CHOOSING.thumb:.0%} of the batch": Candidate(
            (("running", running),), Behavior(1800), min(2, cap), cap
        ),
    }
    if keda:
        del settings["KEDA guide"]
    tutorial, *others = shown_over(
        scenario, [tutorial_setting(scenario, cap), *settings.values()], seeds, each
    )
    return tutorial, dict(zip(settings, others, strict=True))


def each_alone(
    scenario: Scenario,
    panel: Panel,
    found: Sequence[Tried],
    judged: Sequence[Judged[Candidate]],
    space: Space,
    seeds: Sequence[int],
    each: Each,
) -> dict[str, Judged[Candidate]]:
    """Per signal the cheapest setting of that signal alone that holds over the seeds, or else what comes nearest.

    The search leaves signals behind that do not lead: here they get the behaviour and the bounds of the best, too.
    Nearest is the highest attainment, then the least cost, of those that came nearest in the search and the tightest
    target.
    """
    lines: list[Line] = []
    if judged and judged[0].holds:
        lead = judged[0].setting
        lines = [
            space.line(((), signal), lead.behavior, lead.min_replicas, lead.max_replicas, lead.keda)
            for signal in space.targets
            if signal != lead.family
        ]
    more = each(_along, [panel] * len(lines), lines)
    found = [*found, *(item for tried in more for item in tried)]
    best = {}
    for signal in space.targets:
        known = [j for j in judged if j.setting.family == signal]
        if not any(j.holds for j in known):
            known += _of_one_signal(scenario, signal, found, space, seeds, each)
        holding = [j for j in known if j.holds]
        best[signal] = (
            min(holding, key=lambda j: j.cost)
            if holding
            else max(_to_the_end(known), key=lambda j: (round(j.mean("attainment"), 3), -j.cost))
        )
    return best


def _along(judge: Judge, line: Line) -> list[Tried]:
    return loosest(judge, line, math.inf)[1]


def _of_one_signal(
    scenario: Scenario,
    signal: str,
    found: Sequence[Tried],
    space: Space,
    seeds: Sequence[int],
    each: Each,
) -> list[Judged[Candidate]]:
    """What was tried of a signal alone, judged; when none holds, with what came nearest and the tightest target."""
    of = [item for item in found if item[0].family == signal]
    judged = choose(scenario, of, space, seeds, each, most=CHOOSING.singles_at_most, widen=space.wide)
    if any(j.holds for j in judged):
        return judged
    near = sorted((i for i in of if not i[1].stopped), key=lambda item: -item[1].margin)[:2]
    behavior = max(space.behaviors, key=lambda b: b.down_window_s or 0)
    tightest = space.line(((), signal), behavior, space.min_replicas[0]).settings[0]
    few = seeds[: CHOOSING.first_look]
    return [*judged, *confirm(scenario, dict.fromkeys([tightest, *(s for s, _ in near)]), few, each)]


def _to_the_end(judged: Sequence[Judged[Candidate]]) -> list[Judged[Candidate]]:
    """Those of which at least one trial was not stopped early: the others have no figures."""
    return [j for j in judged if not all(t.stopped for t in j.trials)]


def least_bad(
    scenario: Scenario,
    found: Sequence[Tried],
    judged: Sequence[Judged[Candidate]],
    seeds: Sequence[int],
    each: Each,
) -> Judged[Candidate]:
    """When no HPA will do: the cheapest that keeps the SLO though it wastes, or else the one that comes nearest to it."""
    keeping = [item for item in found if not item[1].stopped and item[1].margin >= 0]
    keeping.sort(key=lambda item: item[1].accelerator_hours)
    near = sorted((i for i in found if not i[1].stopped), key=lambda item: -item[1].margin)
    settings = list(dict.fromkeys(setting for setting, _ in [*keeping[:2], *near[:2]]))
    whole = [*confirm(scenario, settings, seeds[: CHOOSING.first_look], each), *judged]
    kept = [j for j in whole if j.mean("margin") >= 0]
    return min(kept, key=lambda j: j.cost) if kept else max(whole, key=lambda j: j.mean("margin"))
