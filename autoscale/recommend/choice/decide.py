"""From a scenario to an answer: autoscale, do not autoscale, infeasible, or need more data; with reasons and intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np

from autoscale.kube.vllm_names import SIGNALS
from autoscale.recommend.answer import Decision, Point, Reason
from autoscale.recommend.choice.interval import ONE_SIDED, TargetInterval, at_speed, target_interval
from autoscale.recommend.choice.reasons import alternatives, reasons, too_few
from autoscale.recommend.choice.scenario import Scenario, share
from autoscale.recommend.choice.search import (
    BY_FAR,
    FLEET_LIMIT,
    Judged,
    Line,
    Panel,
    Space,
    Trial,
    choose,
    confirm,
    confirmed,
    loosest,
    search,
    static_fleet,
)
from autoscale.recommend.choice.settings import (
    MAX_WINDOW_S,
    Behavior,
    Candidate,
    behaviors,
    outliving_s,
    quantity,
)
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from loadgen.plan.traffic import LoadPlan

WAITING_TARGETS = (
    0.2,
    0.3,
    0.5,
    0.7,
    1,
    1.5,
    2,
    2.5,
    3,
    4,
    5,
    6,
    7,
    8,
    10,
    12,
    14,
    17,
    20,
    24,
    28,
    34,
    40,
    56,
    80,
    112,
    160,
)
STEP = 1.06  # between targets of a line
FIRES = 0.85  # of what a signal can reach: the HPA acts at 1.1 times its target
PANEL_S, PANEL_MOST = (
    0.3,
    6,
)  # short traffic is searched over several seeds at once, as many as take this long
MOST_LOOKS = 4  # seeds of a panel for the target's interval
NEARLY = 0.005  # of all requests: a standing fleet that breaks the SLO by less on one seed may hold on others
WIDE_S = 0.2  # traffic whose trials take no longer is searched from more beginnings
CONFIRM_S, MOST_SEEDS = 2.0, 56  # the choice is confirmed over as many seeds of its own as take this long
# Standard deviations of a margin between seeds that the search asks for beyond the SLO; more when nothing that it found
# holds with confidence
CAUTION = (0.3, 1.0)
SAVING = 0.02  # of the standing fleet's accelerator time, for which autoscaling is worth its risk
OWN_SEEDS = 5001  # of the confirmation: nothing was chosen on them
SINGLES = 4  # settings judged at most for each signal alone
FIGURES = (
    "attainment",
    "replica_hours",
    "accelerator_hours",
    "ttft_p99_s",
    "tpot_p99_s",
    "wasted_scale_outs",
    "flaps",
    "longest_breach_s",
)
Progress = Callable[[float, str], None]


def decide(
    scenario: Scenario,
    *,
    max_replicas: int | None = None,
    current: dict[str, Any] | None = None,
    step_scale: float = 0.0,
    seeds: int = 4,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Decision:
    """The cheapest setting that holds the SLO under the scenario, or why there is none.

    `step_scale` is the relative half-width of the step time's 95 % interval (Learned.spread): the choice must hold for a
    replica that is as slow as that allows, too, so all figures are of such a one; the target's interval covers it.
    `max_replicas` None: as many as the traffic needs and a quarter more. `seeds` confirm the figures of what it is
    compared with; what competes for the choice is judged over twice as many, the choice over up to MOST_SEEDS more
    where traffic is short. Same arguments, same answer.
    """
    report = progress or (lambda _fraction, _text: None)
    report(0.0, "one replica")
    if (idle := idle_verdict(scenario)) is not None:
        return Decision("infeasible", (idle,), None)
    point = capacity(scenario)
    caution = ONE_SIDED * step_scale
    with _pool(scenario.plan, jobs) as executor:
        ask = partial(
            _decided,
            scenario,
            point,
            step_scale,
            max_replicas,
            current,
            seeds,
            executor=executor,
            report=report,
        )
        found = ask(slower=caution)
        if found.answer == "infeasible" and caution:  # then at least for the replica as fitted
            found = replace(ask(slower=0.0), thin=True)
    if found.answer == "infeasible":
        return found
    return replace(found, reasons=tuple(reasons(at_speed(scenario, found.slower), found)))


def _decided(
    fitted: Scenario,
    point: Point,
    step_scale: float,
    max_replicas: int | None,
    current: dict[str, Any] | None,
    seeds: int,
    *,
    slower: float,
    executor: Executor | None,
    report: Progress,
) -> Decision:
    """The answer for replicas that are slower than fitted by so much; without the reasons of one to autoscale or not."""
    scenario = at_speed(fitted, slower)
    start = max(1, math.ceil(_peak_rps(scenario.plan) / point.rate_rps))
    limit = max_replicas or FLEET_LIMIT
    # short traffic differs more between seeds, and is cheap to judge over many
    own = own_seeds(scenario.plan, seeds)
    fresh, more = range(1, seeds + 1), range(1, min(2 * seeds, len(own)) + 1)
    judge, also = Panel(scenario, panel_size(scenario.plan)), fitted if slower else None
    report(0.05, "standing fleets")
    count, tried = static_fleet(judge, start, limit)
    if count is None:
        return Decision("infeasible", (too_few(scenario, max_replicas, start),), point)
    nearly = count > 1 and not tried[count - 1].stopped and tried[count - 1].margin >= -NEARLY
    fewest = count - 1 if nearly else count
    static = _standing(scenario, fewest, limit, [*more, *own[: len(more)]], executor)
    standing = static.setting if static else count
    assert isinstance(standing, int)
    cap = max_replicas or standing + max(1, math.ceil(standing / 4))
    space = build_space(scenario, point, standing, cap)
    cost_h = static.cost if static else tried[count].accelerator_hours
    sure = partial(confirmed, scenario, space=space, seeds=more, own=own, executor=executor, also=also)
    tries, judged, holding = _hunt(judge, space, static, cost_h, more, sure, executor, report)
    found = sorted(tries.items(), key=lambda item: (not item[1].holds, item[1].accelerator_hours))
    if not holding and static is None:
        return Decision("infeasible", (too_few(scenario, max_replicas, start),), point)
    report(0.75, "each signal alone")
    broken = [j for j in judged if not j.holds]
    singles = _singles(scenario, judge, found, [*holding, *broken], space, more, executor)
    cheaper = [j for j in singles.values() if j.holds and holding and j.cost < holding[0].cost]
    better = sure(cheaper)
    if better and better[0].cost < holding[0].cost:
        holding = better
    compared = [tutorial_setting(scenario, cap), *([current] if current else [])]
    others = confirm(scenario, compared, fresh, executor)  # type: ignore[arg-type]  # a manifest
    report(0.85, "interval of the target")
    best = holding[0] if holding else None
    worth = best is not None and (static is None or best.cost < static.cost * (1 - SAVING))
    interval = TargetInterval({})
    if best is not None and worth:
        looks = max(1, min(MOST_LOOKS, int(PANEL_S / _trial_s(scenario.plan))))
        interval = target_interval(fitted, best, space, step_scale, looks, executor)
    chosen = best if worth else static
    expected = confirm(fitted, [chosen.setting], more, executor)[0] if slower and chosen else None
    report(1.0, "done")
    made = Decision(
        answer="autoscale" if worth else "do_not_autoscale",
        reasons=(),
        capacity=point,
        chosen=chosen,
        interval=interval,
        slower=slower,
        expected=expected,
        static=static,
        tutorial=others[0],
        current=others[1] if current else None,
        tried=tuple(found),
        best_hpa=best
        or _least_bad(scenario, found, [*judged, *singles.values()], others[0], fresh, executor),
    )
    return replace(made, alternatives=tuple(alternatives(made, singles)))


def _hunt(
    judge: Panel,
    space: Space,
    static: Judged | None,
    cost_limit_h: float,
    seeds: Sequence[int],
    sure: Callable[[Sequence[Judged]], list[Judged]],
    executor: Executor | None,
    report: Progress,
) -> tuple[dict[Candidate, Trial], list[Judged], list[Judged]]:
    """What the search tried, what was judged over the seeds, and what holds for sure, the choice first.

    When nothing that it found holds, it searches once more for what holds by more.
    """
    spread = static.deviation("margin") if static else 0.0
    tries: dict[Candidate, Trial] = {}
    judged: list[Judged] = []
    for start, caution in zip((0.1, 0.4), CAUTION, strict=True):
        careful = replace(judge, caution=caution, spread=spread)
        found = search(careful, space, cost_limit_h, executor, partial(_tell, report, start))
        tries |= dict(found)
        between = max(spread, BY_FAR) if space.wide else spread
        looked = choose(judge.judge, found, space, seeds, executor, spread=between)
        judged += looked
        if holding := sure(looked):
            return tries, judged, holding
        spread = max([spread, *(j.deviation("margin") for j in judged)])
    return tries, judged, []


def _tell(report: Progress, start: float, fraction: float, text: str) -> None:
    report(start + 0.3 * fraction, f"searching {text}")


def _standing(
    scenario: Scenario, count: int, limit: int, seeds: Sequence[int], executor: Executor | None
) -> Judged | None:
    """The fewest standing replicas from `count` on that hold over the seeds; None when the limit is reached first."""
    for replicas in range(count, min(limit, count + 8) + 1):
        if (judged := confirm(scenario, [replicas], seeds, executor)[0]).holds:
            return judged
    return None


def _singles(
    scenario: Scenario,
    judge: Panel,
    found: Sequence[tuple[Candidate, Trial]],
    judged: Sequence[Judged],
    space: Space,
    seeds: Sequence[int],
    executor: Executor | None,
) -> dict[str, Judged]:
    """Per signal the cheapest setting of that signal alone that holds over the seeds, or else what comes nearest.

    The search leaves signals behind that do not lead: here they get the behaviour and the bounds of the best, too.
    Nearest is the highest attainment, then the least cost, of those that came nearest in the search and the tightest
    target.
    """
    lines = []
    if judged and judged[0].holds and isinstance(lead := judged[0].setting, Candidate):
        lines = [
            (judge, space.line(((), signal), lead.behavior, lead.min_replicas, lead.max_replicas))
            for signal in SIGNALS
            if signal != lead.family
        ]
    more = list(executor.map(_along, lines) if executor else map(_along, lines))
    found = [*found, *(item for tried in more for item in tried)]
    best: dict[str, Judged] = {}
    for signal in SIGNALS:
        known = [j for j in judged if _alone(j.setting, signal)]
        holding = [j for j in known if j.holds]
        if not holding:
            of = [item for item in found if _alone(item[0], signal)]
            known += choose(scenario, of, space, seeds, executor, most=SINGLES, widen=space.wide)
            holding = [j for j in known if j.holds]
        if not holding:
            near = sorted((i for i in of if not i[1].stopped), key=lambda item: -item[1].margin)[:2]
            behavior = max(space.behaviors, key=lambda b: b.down_window_s or 0)
            tightest = space.line(((), signal), behavior, space.min_replicas[0]).settings[0]
            known += confirm(scenario, dict.fromkeys([tightest, *(s for s, _ in near)]), seeds, executor)
        best[signal] = (
            min(holding, key=lambda j: j.cost)
            if holding
            else max(_to_the_end(known), key=lambda j: (round(j.mean("attainment"), 3), -j.cost))
        )
    return best


def _along(job: tuple[Panel, Line]) -> list[tuple[Candidate, Trial]]:
    return loosest(*job, math.inf)[1]


def _to_the_end(judged: Sequence[Judged]) -> list[Judged]:
    """Those of which at least one trial was not stopped early: the others have no figures."""
    return [j for j in judged if not all(t.stopped for t in j.trials)]


def _alone(setting: object, signal: str) -> bool:
    return isinstance(setting, Candidate) and setting.family == signal


def _least_bad(
    scenario: Scenario,
    found: Sequence[tuple[Candidate, Trial]],
    judged: Sequence[Judged],
    tutorial: Judged,
    seeds: Sequence[int],
    executor: Executor | None,
) -> Judged:
    """When no HPA will do: the cheapest that keeps the SLO though it wastes, or else the one that comes nearest to it."""
    keeping = [item for item in found if not item[1].stopped and item[1].margin >= 0]
    keeping.sort(key=lambda item: item[1].accelerator_hours)
    near = sorted((i for i in found if not i[1].stopped), key=lambda item: -item[1].margin)
    settings = list(dict.fromkeys(setting for setting, _ in [*keeping[:2], *near[:2]]))
    whole = [*confirm(scenario, settings, seeds, executor), *judged, tutorial]
    kept = [j for j in whole if j.mean("margin") >= 0]
    return min(kept, key=lambda j: j.cost) if kept else max(whole, key=lambda j: j.mean("margin"))


# --- what may be chosen ----------------------------------------------------------------------------------------------


def build_space(scenario: Scenario, point: Point, static: int, cap: int) -> Space:
    """Targets around one replica's signals at capacity, behaviours for its cold start, bounds up to the static fleet."""
    engine = scenario.engine
    cold_s = scenario.profile.cold_start.median_s(scenario.profile.model.weight_bytes)
    # as far as the signals can rise: seats or KV blocks run out first; a target near that can never fire
    room = min(
        engine.max_num_seqs * engine.data_parallel / max(point.running, 1e-9),
        engine.data_parallel / max(point.kv_usage, 1e-9),
    )
    fractions = STEP ** np.arange(-28, 12)
    fractions = fractions[fractions < FIRES * room]
    running = {_rounded(point.running * f) for f in fractions}
    kv = {round(point.kv_usage * f, 2 if point.kv_usage > 0.2 else 3) for f in fractions}
    targets: dict[str, tuple[float, ...]] = {"waiting": WAITING_TARGETS}
    if running := {value for value in running if value > 0}:
        targets["running"] = tuple(sorted(running))
    # below a hundredth the thousandths of the metrics adapter are too coarse
    targets["kv_usage"] = tuple(sorted(value for value in kv if value >= 0.01)) or (0.01,)
    minima = sorted({1, *(max(1, round(static * share)) for share in (0.25, 0.5, 0.75))})
    maxima = tuple(sorted({m for m in (static - 1, static, (static + cap) // 2) if 1 < m < cap}))
    wide, outliving = _trial_s(scenario.plan) <= WIDE_S, min(outliving_s(cold_s), MAX_WINDOW_S)
    ways = [Behavior(outliving), Behavior()] if wide else [Behavior(max(outliving, 1800))]
    bounds = (
        product(minima, sorted({cap, static})) if wide else product((1, minima[len(minima) // 2]), (cap,))
    )
    beginnings = [(b, low, high) for (low, high), b in product(dict.fromkeys(bounds), ways) if low < high]
    return Space(
        targets,
        tuple(behaviors(cold_s)),
        tuple(minima),
        cap,
        waiting_in_pairs=(1, 5, 10),
        lower_max=maxima if wide else tuple(m for m in maxima if m == static),
        beginnings=tuple(beginnings),
        wide=wide,
    )


def tutorial_setting(scenario: Scenario, cap: int) -> Candidate:
    """The tutorial's HPA: its queue target, no behaviour block, one replica at least."""
    deploy = scenario.profile.deploy
    return Candidate((("waiting", deploy.tutorial_target),), Behavior(), deploy.min_replicas, cap)


# --- small parts -----------------------------------------------------------------------------------------------------


def _peak_rps(plan: LoadPlan) -> float:
    """The highest rate of the plan, as a mean over minutes."""
    times = np.linspace(0, plan.duration_s, max(2, min(20_000, int(plan.duration_s / 60) + 1)))
    return float(np.max(plan.rate(times)))


def _rounded(value: float) -> float:
    return float(round(value)) if value >= 20 else round(value * 5) / 5


def own_seeds(plan: LoadPlan, least: int) -> range:
    """Seeds that nothing is chosen on: as many as take CONFIRM_S on one core, at least `least`."""
    return range(OWN_SEEDS, OWN_SEEDS + max(least, min(MOST_SEEDS, int(CONFIRM_S / _trial_s(plan)))))


def panel_size(plan: LoadPlan) -> int:
    """Over how many seeds the search looks at a setting."""
    return max(1, min(PANEL_MOST, int(PANEL_S / _trial_s(plan))))


def _trial_s(plan: LoadPlan) -> float:
    """About what one trial takes, in s of a processor: requests, and syncs every 15 s (measured)."""
    return 1.2e-6 * plan.expected_requests + 1e-6 * plan.duration_s


@contextmanager
def _pool(plan: LoadPlan, jobs: int | None) -> Iterator[Executor | None]:
    jobs = jobs or os.cpu_count() or 1
    share(plan)
    try:
        if jobs == 1:
            yield None
            return
        context = get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=share, initargs=(plan,)) as executor:
            yield executor
    finally:
        share(None)


__all__ = ["Decision", "Point", "Reason", "capacity", "decide", "idle_verdict", "quantity"]
