"""Whether a schedule pays: learned on the first half of the days, judged on the second beside what is recommended without."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.errors import BadInput
from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles import Profile
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.circumstances import at_speed
from autoscale.recommend.choice.judging import Each, Judged, Trial
from autoscale.recommend.choice.scenario import Kept, Scenario, trial_of
from autoscale.recommend.choice.seeds import beside, own_seeds
from autoscale.recommend.choice.settings import Setting, quantity
from autoscale.recommend.choice.workers import workers
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.schedule.learn import Timed, learned
from autoscale.recommend.schedule.week import DAY_S, HOUR_S, WEEK_DAYS
from autoscale.schedule import Scheduled
from autoscale.signal_target import SignalTarget
from loadgen.plan.parts import ENOUGH, between
from loadgen.plan.traffic import LoadPlan


def halves_s(plan: LoadPlan) -> float:
    """How long the part is that a schedule is learned from: half of the days, of two weeks and more half of the weeks.

    Raises BadInput for traffic of less than two days.
    """
    days = int(plan.duration_s / DAY_S + 1 - ENOUGH)
    if days < 2:
        raise BadInput(
            "traffic for a schedule",
            value=f"{plan.duration_s / HOUR_S:.3g} h",
            expected="two days at least: one to learn from and one to be judged on",
            next_step="give more of it: --last 14d with --from-prometheus, or --traffic with what `autoscale traffic --last 14d` wrote",
        )
    weeks = days // WEEK_DAYS
    return DAY_S * (weeks // 2 * WEEK_DAYS if weeks >= 2 else days // 2)


@dataclass(frozen=True)
class FoundSchedule:
    """A schedule as the answer has it, and the week with the setting beside it, to be simulated; None where none was found."""

    told: Scheduled
    timed: Timed | None = None


def schedule_of(scenario: Scenario, decision: Decision, learn_s: float, jobs: int | None) -> FoundSchedule:
    """The schedule that is learned from the first `learn_s` for a recommendation, and whether it pays on what follows."""
    if decision.best_hpa is None or decision.chosen is None or decision.capacity is None:
        return FoundSchedule(Scheduled(sentence="no schedule: there is no HPA that it could stand beside"))
    served = at_speed(replace(scenario, kept=None), decision.slower)
    parts = [
        between(scenario.plan, 0.0, learn_s),
        between(scenario.plan, learn_s, min(2 * learn_s, scenario.plan.duration_s)),
    ]
    kept = [Kept(part) for part in parts]
    first, second = (replace(served, plan=k.plan, kept=k) for k in kept)
    with workers(kept, jobs) as each:
        seeds = beside(first.plan, own_seeds(first.plan, scenario.promise))
        found = learned(first, decision.best_hpa.setting, decision.capacity.rate_rps, seeds, each)
        if found is None:
            return FoundSchedule(
                Scheduled(
                    sentence="no schedule: none that was tried kept what is promised on the days it was learned from"
                )
            )
        plain = _seen(second, decision.chosen.setting, None, each)
        timed = _seen(second, found.setting.candidate, found.setting, each)
    span = (learn_s, learn_s + second.plan.duration_s)
    told = _answer(found.setting, timed, plain, span, int(second.plan.begins_s // HOUR_S), scenario.profile)
    return FoundSchedule(told, found.setting)


@dataclass(frozen=True)
class SeenDays:
    """A setting on the judged days: its trials, hours over the SLO per simulation, the most replicas of each hour."""

    judged: Judged[Setting]
    hours_over: float
    most: np.ndarray


def _seen(part: Scenario, setting: Setting, timed: Timed | None, each: Each) -> SeenDays:
    seeds = own_seeds(part.plan, part.promise)
    rows = list(each(partial(_one, part, setting, timed), seeds))
    judged = Judged(setting, tuple(trial for trial, _, _ in rows))
    return SeenDays(
        judged, float(np.mean([over for _, over, _ in rows])), np.max([most for _, _, most in rows], axis=0)
    )


def _one(part: Scenario, setting: Setting, timed: Timed | None, seed: int) -> tuple[Trial, int, np.ndarray]:
    scenario = part if timed is None else timed.under(part)
    outcome = scenario.outcome(setting if timed is None else timed.at_begin(part), seed)
    hours = np.arange(0.0, outcome.duration_s, HOUR_S)
    times = np.array([row[0] for row in outcome.replicas])
    sizes = np.array([row[1] for row in outcome.replicas])
    of_change = np.zeros(len(hours), int)
    np.maximum.at(of_change, np.minimum((times // HOUR_S).astype(int), len(hours) - 1), sizes)
    at_begin = sizes[np.maximum(np.searchsorted(times, hours, side="right") - 1, 0)]
    return (
        trial_of(outcome, part.attainment, part.promise),
        outcome.hours_over,
        np.maximum(of_change, at_begin),
    )


def _metrics(profile: Profile, timed: Timed) -> tuple[SignalTarget, ...]:
    version, path = profile.engine.vllm_version, profile.deploy.metrics
    return tuple(
        SignalTarget(signal, quantity(value), metric=hpa_metric_name(signal, version, path))
        for signal, value in timed.candidate.targets
    )


def _answer(
    timed: Timed, seen: SeenDays, plain: SeenDays, span: tuple[float, float], begin_h: int, profile: Profile
) -> Scheduled:
    least, windows = timed.week.windows()
    saved = 1 - seen.judged.cost / plain.judged.cost
    hours = len(plain.most)
    minima = [timed.week.at_hour(begin_h + hour) for hour in range(hours)]
    too_many = float(np.sum(np.array(minima) > plain.most))
    pays = bool(windows) and seen.judged.holds and saved >= CHOOSING.saving
    if pays:
        begin = f"{timed.week.in_words()}, beside {timed.targets}: {saved:.1%} fewer accelerator-hours than without"
    elif not windows:
        begin = "no schedule: the best minimum is the same at all hours"
    elif not seen.judged.holds:
        begin = f"no schedule: {timed.week.in_words()} would not keep what is promised"
    else:
        begin = f"no schedule: {timed.week.in_words()} would save {saved:.1%} only"
    sentence = (
        f"{begin}, on {hours / 24:.3g} days that it was not learned from; over the SLO in {seen.hours_over:.1f} of {hours} "
        f"hours ({plain.hours_over:.1f} without), more than needed in {too_many:.0f}"
    )
    return Scheduled(
        windows=windows,
        otherwise=least,
        targets=timed.targets,
        metrics=_metrics(profile, timed),
        behavior=timed.candidate.behavior.block,
        max_replicas=timed.candidate.max_replicas,
        recommended=pays,
        sentence=sentence,
        learned_s=(0.0, span[0]),
        judged_s=span,
        accelerator_hours=seen.judged.cost,
        plain_accelerator_hours=plain.judged.cost,
        holds=seen.judged.holds,
        plain_holds=plain.judged.holds,
        hours=hours,
        broken=seen.hours_over,
        broken_plain=plain.hours_over,
        too_many=too_many,
    )
