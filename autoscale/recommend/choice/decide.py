"""From a scenario to an answer: autoscale, do not autoscale, infeasible, or need more data; with reasons and intervals.

decide      one replica -> the answer for a replica as slow as the run allows (or, when none holds, as fitted)
_decided    standing fleets -> what may be chosen -> hunt -> each signal alone -> what it is compared with -> _around
_hunt       search (search.py) -> what competes (choice.py) -> the steadiest that holds on seeds of its own (confirming.py)
_around     interval of the target (interval.py) -> how far things may move (circumstances.py)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoscale.recommend.answer import Decision, Point
from autoscale.recommend.choice.alternatives import alternatives
from autoscale.recommend.choice.beside import (
    Fleets,
    each_alone,
    least_bad,
    rules_of_others,
    standing_fleets,
)
from autoscale.recommend.choice.choice import choose
from autoscale.recommend.choice.circumstances import at_slow_starts, at_speed, at_traffic, robustness
from autoscale.recommend.choice.confirming import Confirming, Trials
from autoscale.recommend.choice.interval import as_good, target_interval
from autoscale.recommend.choice.judging import Each, Judge, Judged, Trial, confirm, shown_over
from autoscale.recommend.choice.keda.beside import ALWAYS, AT_ZERO, beside_keda, latency_alone
from autoscale.recommend.choice.keda.nights import Nights, hard_nights
from autoscale.recommend.choice.keda.reasons import of_gateway, of_latency, of_nights
from autoscale.recommend.choice.keda.space import KedaAsked, keda_space, whole_fleet, zero_space
from autoscale.recommend.choice.panel import Panel, hardest_first
from autoscale.recommend.choice.reasons import reasons, too_few
from autoscale.recommend.choice.scenario import Kept, Scenario
from autoscale.recommend.choice.search import ranked, search, static_fleet
from autoscale.recommend.choice.seeds import (
    beside,
    interval_looks,
    judging_seeds,
    looks_around,
    neighbour_seeds,
    own_seeds,
    panel_pool,
    panel_size,
)
from autoscale.recommend.choice.settings import Candidate, Choice, Given, Setting, Standing
from autoscale.recommend.choice.space import Space, build_space, family_of, with_spare
from autoscale.recommend.choice.why_not import why_not
from autoscale.recommend.choice.workers import workers
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from autoscale.recommend.progress import Progress, part, silent
from loadgen.plan.traffic import LoadPlan


@dataclass(frozen=True)
class _Question:
    """What is asked, and with what it is answered.

    fitted      the scenario with the replica as fitted; its arrivals are kept
    more        arrivals of more traffic, kept
    point       that replica's capacity
    step_scale  relative half-width of its step time's 95 % interval
    seeds       judge what competes for the choice
    keda        what is asked of a ScaledObject; None: the answer is an HPA
    own         confirm the choice, on which nothing was chosen, and whatever it is compared with
    own_hardest the same with the hardest first, in which order the choice is confirmed
    """

    fitted: Scenario
    more: Kept
    point: Point
    step_scale: float
    max_replicas: int | None
    current: Given | None
    keda: KedaAsked | None
    seeds: Sequence[int]
    own: range
    own_hardest: Sequence[int]
    each: Each
    report: Progress


def choose_setting(
    scenario: Scenario,
    *,
    max_replicas: int | None = None,
    current: Given | None = None,
    keda: KedaAsked | None = None,
    step_scale: float = 0.0,
    basis: str = "the run",
    seeds: int = CHOOSING.own_at_least,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Decision:
    """The cheapest setting that keeps what the scenario promises, or why there is none.

    `step_scale` is the relative half-width of the step time's 95 % interval (ReplicaModel.spread_at): the choice must
    hold for a replica that is as slow as that allows, too, so all figures are of such a one; the target's interval
    covers it; `basis` says what leaves it open. `max_replicas` None: as many as the traffic needs and a quarter more. The choice, and whatever it is
    compared with, is judged over the same seeds, so many at least: more where traffic is short, and what the promise
    needs to be shown. Same arguments, same answer.
    """
    progress(0.0, "one replica")
    if (idle := idle_verdict(scenario)) is not None:
        return Decision("infeasible", (idle,), None)
    kept = Kept(scenario.plan)
    more = Kept(scenario.plan.times(1 + CHOOSING.traffic_off), CHOOSING.kept_requests / 4)
    with workers((kept, more), jobs) as each:
        question = _Question(
            replace(scenario, kept=kept),
            more,
            capacity(scenario),
            step_scale,
            max_replicas,
            current,
            keda,
            seeds=judging_seeds(scenario.plan),
            own=(own := own_seeds(scenario.plan, scenario.promise, seeds)),
            own_hardest=own,
            each=each,
            report=progress,
        )
        found = _decided(question, CHOOSING.one_sided * step_scale)
        if found.answer == "infeasible" and step_scale:  # then at least for the replica as fitted
            found = replace(_decided(question, 0.0), thin=True)
    if found.answer == "infeasible":
        return found
    found = replace(found, basis=basis)
    answered = at_speed(scenario, found.slower)
    said = (*reasons(answered, found), *of_nights(answered, found), *of_gateway(answered, found))
    return replace(found, reasons=said)


def _decided(ask: _Question, slower: float) -> Decision:
    """The answer for replicas that are slower than fitted by so much; without the reasons of one to autoscale or not."""
    scenario, each = at_speed(ask.fitted, slower), ask.each
    start = max(1, math.ceil(_peak_rps(scenario.plan) / ask.point.rate_rps))
    panel = Panel(scenario, panel_size(scenario.plan))
    ask.report(0.05, "standing fleets")
    limit = ask.max_replicas or CHOOSING.fleet_limit
    fleets = standing_fleets(scenario, panel, start, limit, ask.own, each)
    if fleets is None:
        return Decision("infeasible", (too_few(scenario, ask.max_replicas, start),), ask.point)
    cap = ask.max_replicas or with_spare(fleets.standing)
    ask, panel = _hardest_first(ask, panel, fleets)
    space, hunt, nights = _hunted(ask, panel, fleets, cap, also=ask.fitted if slower else None)
    if not hunt.best and fleets.static is None:
        return Decision("infeasible", (too_few(scenario, ask.max_replicas, start),), ask.point)
    ask.report(0.75, "each signal alone")
    found = ranked(hunt.tried.items())
    singles = each_alone(scenario, panel, found, hunt.known(), space, ask.seeds, each)
    made = _compared(ask, scenario, fleets, cap)
    best = hunt.best_with([*singles.values(), *_rules_to_beat(ask, made)])
    nearly = best or hunt.not_worth
    singles = dict(zip(singles, hunt.as_confirmed(singles.values()), strict=True))
    judged = [*hunt.judged, *singles.values()]
    lead = nearly.setting if nearly else found[0][0]
    if ask.keda:
        pods = build_space(scenario, ask.point, fleets.standing, cap)
        others = beside_keda(panel, pods, lead, beside(scenario.plan, ask.own), each)
        made = replace(made, guides={**made.guides, **others, **nights})
    if best is not None and best.setting not in hunt.tried:  # found around another choice
        found = ranked([*found, (best.setting, best.trials[0])])
    made = replace(
        made,
        slower=slower,
        tried=tuple(found),
        best_hpa=nearly or least_bad(scenario, found, hunt.as_confirmed(judged), ask.seeds, each),
    )
    if best is not None and best.cost < _worth_h(fleets.static):
        made = replace(made, answer="autoscale", chosen=best)
    made = _around(ask, scenario, made, space, hunt.as_confirmed(judged), hunt.confirming.alike)
    made = replace(made, why_not=why_not(made, judged, hunt.confirming))
    ask.report(1.0, "done")
    latency = latency_alone(scenario, ask.keda, space, lead, ask.seeds, each)
    return replace(made, alternatives=(*alternatives(made, singles), *of_latency(latency)))


def _hunted(
    ask: _Question, panel: Panel, fleets: Fleets, cap: int, also: Judge | None
) -> tuple[Space, _Hunt, dict[str, Judged[Setting]]]:
    """What may be chosen and the hunt in it; of ScaledObjects that may go to zero both hunts' best by name, too."""
    scenario = panel.judge
    assert isinstance(scenario, Scenario)
    space = build_space(scenario, ask.point, fleets.standing, cap)
    if ask.keda:
        space = keda_space(space, scenario, ask.point, ask.keda)
    if not (ask.keda and ask.keda.to_zero):
        return space, _hunt(ask, panel, space, fleets, also), {}
    nights = zero_space(space, fleets.standing)
    whole, size = whole_fleet(nights), panel.size
    hard, pool = hard_nights(scenario, fleets.standing, whole, len(ask.own), size, ask.each)
    panel = replace(panel, hard=hard)
    hunts = {
        ALWAYS: (space, _hunt(ask, panel, space, fleets, also)),
        AT_ZERO: (nights, _hunt(ask, panel, nights, fleets, also, pool)),
    }
    space, hunt = min(hunts.values(), key=lambda one: one[1].best.cost if one[1].best else math.inf)
    return space, hunt, {name: one.best for name, (_, one) in hunts.items() if one.best}


def _hardest_first(ask: _Question, panel: Panel, fleets: Fleets) -> tuple[_Question, Panel]:
    """The question and the panel with the seeds first that are hardest for the fewest standing replicas that hold.

    What cannot hold shows it after few trials then, and the search looks where settings break.
    """
    scenario, fleet = panel.judge, fleets.static.setting if fleets.static else Standing(fleets.count)
    pool = panel_pool(ask.fitted.plan)
    seen = [*pool, *ask.seeds]
    order = hardest_first(confirm(scenario, [fleet], seen, ask.each)[0], seen)
    own = ask.own if fleets.static is None else hardest_first(fleets.static, ask.own)
    hard = tuple(seed for seed in order if seed in pool)[: panel.size]
    ask = replace(ask, seeds=tuple(seed for seed in order if seed in ask.seeds), own_hardest=own)
    return ask, replace(panel, hard=hard)


def _compared(ask: _Question, scenario: Scenario, fleets: Fleets, cap: int) -> Decision:
    """The standing fleet as the answer, beside whatever it is compared with."""
    seeds = beside(scenario.plan, ask.own)
    tutorial, guides = rules_of_others(scenario, ask.point, cap, seeds, ask.each, bool(ask.keda))
    return Decision(
        answer="do_not_autoscale",
        reasons=(),
        capacity=ask.point,
        chosen=fleets.static,
        static=fleets.static,
        tutorial=tutorial,
        guides=guides,
        current=shown_over(scenario, [ask.current], seeds, ask.each)[0] if ask.current else None,
    )


def _rules_to_beat(ask: _Question, made: Decision) -> list[Judged[Candidate]]:
    """HPAs by the rules of others, where an HPA is asked for: one that holds for less than what the search found is the answer."""
    if ask.keda:
        return []
    return [Judged(s, j.trials) for j in made.guides.values() if isinstance(s := j.setting, Candidate)]


def _around(
    ask: _Question,
    scenario: Scenario,
    made: Decision,
    space: Space,
    judged: Iterable[Judged[Candidate]],
    as_cheap: Sequence[Candidate],
) -> Decision:
    """The answer with the interval of its target, how far things may move, and what the replica as fitted would do."""
    ask.report(0.85, "interval of the target")
    chosen, each = made.chosen, ask.each
    if chosen is None:
        return made
    if made.answer == "autoscale":
        assert made.best_hpa is not None
        looks = interval_looks(scenario.plan)
        family = family_of(made.best_hpa.setting)
        alike = [*as_good(made.best_hpa, judged), *(s for s in as_cheap if family_of(s) == family)]
        interval = target_interval(
            ask.fitted, made.best_hpa, space, ask.step_scale, looks, each, ask.more, alike
        )
        made = replace(made, interval=interval)
    ask.report(0.92, "how far things may move")
    near = _near(scenario.plan, 2 * len(CHOOSING.moves))
    made = replace(made, robust=robustness(scenario, chosen.setting, near, each, ask.more))
    if not made.slower:
        return made
    expected = confirm(ask.fitted, [chosen.setting], ask.seeds, each)[0]
    return replace(made, expected=expected, as_fitted_h=_as_fitted_h(ask, made, expected))


def _as_fitted_h(ask: _Question, made: Decision, expected: Judged[Choice]) -> float:
    """Accelerator-hours that would do for the replica as fitted: on the chosen line, or of a standing fleet."""
    panel = Panel(ask.fitted, panel_size(ask.fitted.plan))
    limit = made.static.setting.replicas if made.static else CHOOSING.fleet_limit
    count, tried = static_fleet(panel, max(1, limit - 1), limit)
    hours = [expected.cost * (1 - made.interval.saved), made.chosen.cost if made.chosen else math.inf]
    return min([*hours, *([tried[count].accelerator_hours] if count else [])])


def _near(plan: LoadPlan, neighbours: int) -> range:
    """Seeds of neighbours, which nothing else is judged on."""
    first = CHOOSING.near_seeds
    return range(first, first + neighbour_seeds(plan, neighbours))


def _worth_h(static: Judged[Standing] | None) -> float:
    """The accelerator-hours that autoscaling must stay below to be worth its risk; any when no standing fleet holds."""
    return math.inf if static is None else static.cost * (1 - CHOOSING.saving)


@dataclass(frozen=True)
class _Hunt:
    """What a search tried, what was judged over seeds, what was confirmed, and the choice, if any.

    `not_worth`: where there is none the cheapest that held, at a cost at which it was not confirmed.
    """

    tried: dict[Candidate, Trial]
    judged: list[Judged[Candidate]]
    confirming: Confirming
    best: Judged[Candidate] | None
    not_worth: Judged[Candidate] | None

    def known(self) -> list[Judged[Candidate]]:
        """The choice, or what would be it were it worth it; then what competed with it."""
        best = self.best or self.not_worth
        return [
            *([best] if best else []),
            *self.confirming.waiting.values(),
            *self.confirming.failed,
        ]

    def as_confirmed(self, judged: Iterable[Judged[Candidate]]) -> list[Judged[Candidate]]:
        """Each over seeds of its own where these broke what had held over those of judging."""
        failed = {j.setting: j for j in self.confirming.failed}
        return [failed.get(j.setting, j) for j in judged]

    def best_with(self, others: Iterable[Judged[Candidate]]) -> Judged[Candidate] | None:
        """The choice, or one of the others that is cheaper by more than what is told apart, and as sure."""
        best = self.best
        limit_h = self.confirming.trials.worth_h if best is None else best.cost * (1 - CHOOSING.alike)
        looked = {j.setting for j in self.confirming.failed}
        for one in sorted((j for j in others if j.holds and j.setting not in looked), key=lambda j: j.cost):
            if one.cost < limit_h and (sure := self.confirming.sure(one.setting)) is not None:
                return sure
        return best


def _hunt(
    ask: _Question,
    panel: Panel,
    space: Space,
    fleets: Fleets,
    also: Judge | None,
    pool: tuple[int, ...] = (),
) -> _Hunt:
    """The search and what it leads to; when nothing that it found holds, it searches once more for what holds by more.

    Of what goes to zero (it has a `pool` of days) also when the choice is dearer than what the search had promised: the luck
    of a few seeds had ended lines that hold. Where that, too, finds nothing, it searches above the minimum that failed. What
    replaces a choice then holds over twice as many seeds. The search of a pool learns the days that break what it finds, and
    begins without caution; of all others, if no trial is long, the choice is what is cheapest around the one that was found.
    """
    scenario, each = panel.judge, ask.each
    assert isinstance(scenario, Scenario)
    around = [scenario, at_traffic(scenario, CHOOSING.traffic_off, ask.more), at_slow_starts(scenario)]
    near = _near(scenario.plan, CHOOSING.plateau * (len(around) + 3))
    own, fitted = ask.own_hardest, beside(scenario.plan, ask.own_hardest)
    worth_h = _worth_h(fleets.static)
    trials = Trials(scenario, around, ask.seeds, near, own, each, also, fitted=fitted, worth_h=worth_h)
    confirming = Confirming(space, trials)
    spread = fleets.static.deviation("margin") if fleets.static else 0.0
    tried: dict[Candidate, Trial] = {}
    judged: list[Judged[Candidate]] = []
    best, not_worth, before = None, None, panel
    cautions = CHOOSING.night_caution if pool else (*CHOOSING.caution, CHOOSING.caution[0])
    for turn, caution in enumerate(cautions):
        careful = replace(panel, caution=caution, spread=spread)
        report = part(ask.report, 0.1 + 0.2 * turn, 0.2, "searching {}")
        if pool:
            nights = Nights(space, pool, ask.seeds, fleets.cost_h, each)
            careful, found, looked = nights.searched(careful, report)
            confirming.over(nights.of(careful))
            panel = replace(panel, hard=careful.hard)
        else:
            above = space.above(ranked(tried.items())[0][0].min_replicas) if turn == 2 else space
            if above is None:
                break
            known = careful.seen_before(tried, before) if above is space else {}  # it asks for less again
            found = search(careful, above, fleets.cost_h, each, report, known=known)
            looked = choose(scenario, found, above, ask.seeds, each, widen=space.wide)
        tried, before = tried | dict(found), careful
        judged += looked
        ask.report(0.3 + 0.2 * turn, "confirming")
        best = _cheapest(best, confirming.best(looked))
        not_worth = _cheapest(not_worth, *(j for j in looked if j.holds and j.cost >= worth_h))
        if not pool and looks_around(scenario.plan) and (best is not None or turn == 0):
            best = confirming.cheaper(best, not_worth)
        done = best or not_worth
        dearer = done is not None and done.cost > (1 + CHOOSING.alike) * found[0][1].accelerator_hours
        if (done is not None and not (pool and dearer and turn == 0)) or (pool and not looked):
            break
        if best is not None:
            further = range(ask.own.stop, ask.own.stop + len(ask.own))
            confirming.trials = replace(confirming.trials, further=further)
        spread = max([spread, *(j.deviation("margin") for j in judged)])
    return _Hunt(tried, judged, confirming, best, None if best else not_worth)


def _cheapest(*judged: Judged[Candidate] | None) -> Judged[Candidate] | None:
    return min((j for j in judged if j is not None), key=lambda j: j.cost, default=None)


def _peak_rps(plan: LoadPlan) -> float:
    """The highest rate of the plan, as a mean over minutes."""
    times = np.linspace(0, plan.duration_s, max(2, min(20_000, int(plan.duration_s / 60) + 1)))
    return float(np.max(plan.rate(times)))
