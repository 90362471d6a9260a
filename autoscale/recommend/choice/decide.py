"""From a scenario to an answer: autoscale, do not autoscale, infeasible, or need more data; with reasons and intervals.

decide      one replica -> the answer for a replica as slow as the run allows (or, when none holds, as fitted)
_decided    standing fleets -> what may be chosen -> hunt -> each signal alone -> interval of the target
_hunt       search (search.py) -> choice on fresh seeds -> confirmation on seeds of its own (choice.py)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from autoscale.recommend.answer import Decision, Point
from autoscale.recommend.choice.beside import Fleets, each_alone, least_bad, standing_fleets
from autoscale.recommend.choice.choice import choose, confirmed
from autoscale.recommend.choice.interval import at_speed, target_interval
from autoscale.recommend.choice.judging import Each, Judge, Judged, Panel, Trial, confirm
from autoscale.recommend.choice.reasons import alternatives, reasons, too_few
from autoscale.recommend.choice.scenario import Kept, Scenario
from autoscale.recommend.choice.search import ranked, search
from autoscale.recommend.choice.seeds import interval_looks, own_seeds, panel_size
from autoscale.recommend.choice.settings import Candidate, Given, Standing
from autoscale.recommend.choice.space import Space, build_space, tutorial_setting
from autoscale.recommend.choice.workers import workers
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from autoscale.recommend.progress import Progress, part, silent
from loadgen.plan.traffic import LoadPlan


@dataclass(frozen=True)
class _Question:
    """What is asked, and with what it is answered.

    fitted      the scenario with the replica as fitted; its arrivals are kept
    point       that replica's capacity
    step_scale  relative half-width of its step time's 95 % interval
    seeds       confirm the figures of what a choice is compared with
    more        ... of what competes for the choice
    own         ... of the choice, on which nothing was chosen
    """

    fitted: Scenario
    point: Point
    step_scale: float
    max_replicas: int | None
    current: Given | None
    seeds: range
    more: range
    own: range
    each: Each
    report: Progress


def choose_setting(
    scenario: Scenario,
    *,
    max_replicas: int | None = None,
    current: Given | None = None,
    step_scale: float = 0.0,
    seeds: int = 4,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Decision:
    """The cheapest setting that holds the SLO under the scenario, or why there is none.

    `step_scale` is the relative half-width of the step time's 95 % interval (ReplicaModel.spread_at): the choice must
    hold for a replica that is as slow as that allows, too, so all figures are of such a one; the target's interval
    covers it. `max_replicas` None: as many as the traffic needs and a quarter more. `seeds` confirm the figures of what
    it is compared with; what competes for the choice is judged over twice as many, the choice over up to
    `own_at_most` more where traffic is short. Same arguments, same answer.
    """
    progress(0.0, "one replica")
    if (idle := idle_verdict(scenario)) is not None:
        return Decision("infeasible", (idle,), None)
    point, own = capacity(scenario), own_seeds(scenario.plan, seeds)
    kept = Kept(scenario.plan)
    with workers(kept, jobs) as each:
        question = _Question(
            replace(scenario, kept=kept),
            point,
            step_scale,
            max_replicas,
            current,
            seeds=range(1, seeds + 1),
            more=range(1, min(2 * seeds, len(own)) + 1),
            own=own,
            each=each,
            report=progress,
        )
        found = _decided(question, CHOOSING.one_sided * step_scale)
        if found.answer == "infeasible" and step_scale:  # then at least for the replica as fitted
            found = replace(_decided(question, 0.0), thin=True)
    if found.answer == "infeasible":
        return found
    return replace(found, reasons=tuple(reasons(at_speed(scenario, found.slower), found)))


def _decided(ask: _Question, slower: float) -> Decision:
    """The answer for replicas that are slower than fitted by so much; without the reasons of one to autoscale or not."""
    scenario, each = at_speed(ask.fitted, slower), ask.each
    start = max(1, math.ceil(_peak_rps(scenario.plan) / ask.point.rate_rps))
    panel = Panel(scenario, panel_size(scenario.plan))
    ask.report(0.05, "standing fleets")
    limit = ask.max_replicas or CHOOSING.fleet_limit
    fleets = standing_fleets(scenario, panel, start, limit, [*ask.more, *ask.own[: len(ask.more)]], each)
    if fleets is None:
        return Decision("infeasible", (too_few(scenario, ask.max_replicas, start),), ask.point)
    cap = ask.max_replicas or fleets.standing + max(1, math.ceil(fleets.standing * CHOOSING.spare))
    space = build_space(scenario, ask.point, fleets.standing, cap)
    hunt = _hunt(ask, panel, space, fleets, also=ask.fitted if slower else None)
    if not hunt.holding and fleets.static is None:
        return Decision("infeasible", (too_few(scenario, ask.max_replicas, start),), ask.point)
    ask.report(0.75, "each signal alone")
    found, known = ranked(hunt.tried.items()), [*hunt.holding, *(j for j in hunt.judged if not j.holds)]
    singles = each_alone(scenario, panel, found, known, space, ask.more, each)
    best = hunt.best_with(singles.values())
    tutorial = confirm(scenario, [tutorial_setting(scenario, cap)], ask.seeds, each)[0]
    made = Decision(
        answer="do_not_autoscale",
        reasons=(),
        capacity=ask.point,
        chosen=fleets.static,
        slower=slower,
        static=fleets.static,
        tutorial=tutorial,
        current=confirm(scenario, [ask.current], ask.seeds, each)[0] if ask.current else None,
        tried=tuple(found),
        best_hpa=best
        or least_bad(scenario, found, [*hunt.judged, *singles.values(), tutorial], ask.seeds, each),
    )
    ask.report(0.85, "interval of the target")
    if best is not None and _worth(best, fleets.static):
        looks = interval_looks(scenario.plan)
        interval = target_interval(ask.fitted, best, space, ask.step_scale, looks, each)
        made = replace(made, answer="autoscale", chosen=best, interval=interval)
    if slower and made.chosen:
        made = replace(made, expected=confirm(ask.fitted, [made.chosen.setting], ask.more, each)[0])
    ask.report(1.0, "done")
    return replace(made, alternatives=tuple(alternatives(made, singles)))


def _worth(best: Judged[Candidate], static: Judged[Standing] | None) -> bool:
    """Whether autoscaling saves enough of the standing fleet's accelerator time; always when no fleet holds."""
    return static is None or best.cost < static.cost * (1 - CHOOSING.saving)


@dataclass(frozen=True)
class _Hunt:
    """What a search tried, what was judged over seeds, and what holds for sure, the choice first."""

    tried: dict[Candidate, Trial]
    judged: list[Judged[Candidate]]
    holding: list[Judged[Candidate]]
    sure: Callable[
        [Sequence[Judged[Candidate]]], list[Judged[Candidate]]
    ]  # of those that held, what holds for sure

    def best_with(self, others: Iterable[Judged[Candidate]]) -> Judged[Candidate] | None:
        """The choice, or one of the others that is cheaper and as sure; None when nothing holds."""
        best = self.holding[0] if self.holding else None
        cheaper = [j for j in others if best is not None and j.holds and j.cost < best.cost]
        better = self.sure(cheaper)
        return better[0] if better and best is not None and better[0].cost < best.cost else best


def _hunt(ask: _Question, panel: Panel, space: Space, fleets: Fleets, also: Judge | None) -> _Hunt:
    """The search and what it leads to; when nothing that it found holds, it searches once more for what holds by more."""
    scenario, each, seeds = panel.judge, ask.each, ask.more
    sure = partial(confirmed, scenario, space=space, seeds=seeds, own=ask.own, each=each, also=also)
    spread = fleets.static.deviation("margin") if fleets.static else 0.0
    tried: dict[Candidate, Trial] = {}
    judged: list[Judged[Candidate]] = []
    for start, caution in zip((0.1, 0.4), CHOOSING.caution, strict=True):
        careful = replace(panel, caution=caution, spread=spread)
        found = search(careful, space, fleets.cost_h, each, part(ask.report, start, 0.3, "searching {}"))
        tried |= dict(found)
        between = max(spread, CHOOSING.by_far) if space.wide else spread
        looked = choose(scenario, found, space, seeds, each, spread=between)
        judged += looked
        if holding := sure(looked):
            return _Hunt(tried, judged, holding, sure)
        spread = max([spread, *(j.deviation("margin") for j in judged)])
    return _Hunt(tried, judged, [], sure)


def _peak_rps(plan: LoadPlan) -> float:
    """The highest rate of the plan, as a mean over minutes."""
    times = np.linspace(0, plan.duration_s, max(2, min(20_000, int(plan.duration_s / 60) + 1)))
    return float(np.max(plan.rate(times)))
