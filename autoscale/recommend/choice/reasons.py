"""Why the answer is what it is: sentences that carry the figures of both sides."""

from __future__ import annotations

from collections.abc import Iterator

from autoscale.recommend.answer import Alternative, Decision, Point
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import static_fleet
from autoscale.recommend.choice.seeds import DAY_S
from autoscale.recommend.choice.settings import Behavior, Candidate, Choice, Setting, Standing, quantity
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.production import BASIS
from autoscale.recommendation import Reason

SAME_COST = 0.02  # alternatives within this are as good as the chosen one
WON = 0.01  # of the accelerator-hours, which makes it worth to measure again


def reasons(scenario: Scenario, decision: Decision) -> Iterator[Reason]:
    """The reasons of an answer to autoscale or not, most important first."""
    static, point = decision.static, decision.capacity
    assert point is not None
    cold_min = scenario.cold_start_s / 60
    yield Reason(
        "slo_binding",
        f"{point.binding} binds first: one replica holds the SLO up to {point.rate_rps:.2f} requests/s, with "
        f"{point.waiting:.1f} waiting, {point.running:.1f} running and {point.kv_usage:.0%} of the KV cache in use",
    )
    if decision.answer == "do_not_autoscale":
        assert static is not None
        yield _why_not(scenario, static, decision.best_hpa, cold_min)
    else:
        yield from _why(decision, point, cold_min)
    if decision.slower or decision.thin:
        yield _caution(decision)
    if decision.chosen is not None:
        yield Reason("promise", _promise(scenario, decision.chosen))
    if decision.chosen is not None:
        if decision.tutorial is not None:
            yield Reason(
                "tutorial", _against(scenario, decision.chosen, decision.tutorial, "the tutorial's default")
            )
        if decision.current is not None:
            kind = decision.current.setting.kind
            yield Reason(
                "current", _against(scenario, decision.chosen, decision.current, f"the current {kind}")
            )


def _more(decision: Decision) -> str:
    """What would tell more of the replica."""
    return "a load test" if decision.basis == BASIS else "a longer or quieter sweep"


def _caution(decision: Decision) -> Reason:
    """What the run's uncertainty about the replica does to the answer."""
    if decision.thin:
        return Reason(
            "thin",
            f"for a replica as slow as {decision.basis} allows no fleet holds the SLO: the answer is that of the replica as fitted; "
            f"{_more(decision)} would tell whether it can be trusted",
        )
    chosen, expected = decision.chosen, decision.expected
    assert chosen is not None
    assert expected is not None
    text = (
        f"chosen and compared for replicas {decision.slower:.1%} slower than fitted, as slow as {decision.basis} allows with 95% "
        f"confidence; as fitted: {expected.mean('attainment'):.2%} within every bound for {hours(expected.cost)} "
        "accelerator-hours"
    )
    best, setting = decision.interval.fitted, chosen.setting
    less = decision.interval.saved
    if best is not None and less > WON:
        text += (
            f", and {setting.targets[-1][0]} {quantity(best.targets[-1][1])} would do for {less:.0%} less: what "
            f"{_more(decision)} can win"
        )
    return Reason("careful", text)


def _periods(scenario: Scenario) -> str:
    hours_ = scenario.plan.duration_s / 3600
    return "days" if scenario.plan.duration_s >= DAY_S else f"repetitions of {hours_:.1f} h"


def _promise(scenario: Scenario, chosen: Judged[Choice]) -> str:
    """What the simulations of the choice show of the promise."""
    worst_s = chosen.longest_breach_s
    stretch = f"never over it for longer than {worst_s / 60:.0f} min" if worst_s else "never over it"
    return (
        f"the SLO is kept in {chosen.periods - chosen.broken} of {chosen.periods} {_periods(scenario)} that nothing was chosen on, which "
        f"shows {chosen.shown:.1%} of them; {stretch}; in the worst 5% with {chosen.worst:.2g} times the breaches that it allows"
    )


def _why(decision: Decision, point: Point, cold_min: float) -> Iterator[Reason]:
    assert decision.chosen is not None
    setting = decision.chosen.setting
    yield _signal_choice(decision, setting, point)
    yield from _pace(setting.behavior, cold_min)
    if setting.min_replicas > 1:
        yield Reason(
            "min_replicas",
            f"{setting.min_replicas} replicas at least: bursts are served by what is there, a start takes {cold_min:.0f} min",
        )
    if decision.static is not None:
        yield Reason("saving", _saving(decision.chosen, decision.static))


def _pace(behavior: Behavior, cold_min: float) -> Iterator[Reason]:
    if behavior.down_window_s is not None:
        window_min = behavior.down_window_s / 60
        start = f"the {cold_min:.0f} min that a replica needs to start"
        why = (
            f"no shorter than {start}: capacity that goes too early is not back in time"
            if window_min >= cold_min
            else f"shorter than {start}: the SLO holds without idle replicas being kept for longer"
        )
        yield Reason("behavior", f"a scale-down window of {window_min:.0f} min, {why}")
    if behavior.up_window_s:
        yield Reason(
            "behavior_up",
            f"growth only on what has lasted {behavior.up_window_s} s: a shorter peak is over before a replica that takes "
            f"{cold_min:.0f} min could serve it",
        )


def _signal_choice(decision: Decision, setting: Choice, point: Point) -> Reason:
    others = ", ".join(_alone(a) for a in decision.alternatives if a.signal != setting.family)
    queues = {"waiting", "gateway_queue"} & set(setting.family.split("+"))
    if queues == {setting.family}:
        code, text = (
            "queue",
            "the queue is the signal: the SLO still holds with a full batch, so throughput and cost come first and "
            "requests that wait are the first sign of too few replicas",
        )
    elif queues:
        code, text = (
            "queue_and_load",
            "two signals under the maximum rule: the queue raises the alarm, the other one holds scale-in back while "
            "the queue reads empty",
        )
    else:
        code, text = (
            "load",
            f"{setting.family} leads: latency breaks at {point.waiting:.1f} waiting requests per replica, so a queue "
            f"reacts only when users wait already{_soon_enough(decision)}",
        )
    return Reason(code, f"{text} (on its own: {others})")


def _soon_enough(decision: Decision) -> str:
    """That a queue alone does as well all the same; nothing where it does not."""
    queues = [a.judged for a in decision.alternatives if a.signal in ("waiting", "gateway_queue")]
    limit_h = (1 + SAME_COST) * (decision.chosen.cost if decision.chosen else 0.0)
    alike = any(judged is not None and judged.holds and judged.cost <= limit_h for judged in queues)
    return ", which is soon enough on this traffic" if alike else ""


def _alone(alternative: Alternative) -> str:
    judged = alternative.judged
    if judged is None or not judged.holds:
        return f"no {alternative.signal} target held"
    target = quantity(judged.setting.targets[-1][1])
    return f"{alternative.signal} {target} at {hours(judged.cost)} accelerator-hours"


def _why_not(
    scenario: Scenario, static: Judged[Standing], best: Judged[Candidate] | None, cold_min: float
) -> Reason:
    span = f"over {scenario.plan.duration_s / 3600:.1f} h"
    count = static.setting.replicas
    takes = "takes" if count == 1 else "take"
    standing = f"{static.setting.label} {takes} {hours(static.cost)} accelerator-hours {span}"
    advice = f"set minReplicas to {count}"
    assert best is not None
    hpa = f"the best HPA found ({best.setting.label}) takes {hours(best.cost)}"
    if best.holds and best.cost >= static.cost * (1 - CHOOSING.saving):
        return Reason(
            "standing_is_cheaper", f"{standing}, {hpa} for the same SLO: not worth the risk; {advice}"
        )
    if best.holds:
        return Reason(
            "no_setting_holds",
            f"{standing}; {hpa} and held over {len(best.trials)} seeds, but whatever was confirmed over seeds of its own "
            f"broke the SLO: {advice}",
        )
    failed = []
    if best.mean("margin") < 0:
        failed.append(f"leaves {best.mean('attainment'):.2%} of the requests within every bound")
    if best.wasted:
        failed.append(f"starts {best.mean('wasted_scale_outs'):.1f} replicas in vain")
    if not failed:
        failed.append("keeps the SLO under some seeds only")
    return Reason(
        "no_setting_holds",
        f"no target keeps the SLO without starting replicas in vain: a start takes {cold_min:.0f} min and load comes "
        f"faster; {standing}, {hpa} and {' and '.join(failed)}; {advice}",
    )


def too_few(scenario: Scenario, limit: int | None, start: int) -> Reason:
    """Why no number of replicas up to the limit is enough, and how many are."""
    if limit is None:
        return Reason(
            "no_fleet",
            f"even {CHOOSING.fleet_limit} standing replicas do not hold the SLO under this traffic",
        )
    needed, _ = static_fleet(scenario, max(start, limit + 1), CHOOSING.fleet_limit)
    best = scenario(Standing(limit), 1, cost_limit_h=None)
    return Reason(
        "max_too_few",
        f"maxReplicas {limit} is too few: all of them standing leave {best.attainment:.2%} of the requests within "
        f"every bound; "
        + (
            f"{needed} replicas are needed at the peak"
            if needed
            else f"not even {CHOOSING.fleet_limit} are enough"
        ),
    )


def _saving(chosen: Judged[Choice], static: Judged[Standing]) -> str:
    return (
        f"{hours(chosen.cost)} accelerator-hours against {hours(static.cost)} for {static.setting.label}: "
        f"{1 - chosen.cost / static.cost:.0%} less"
    )


def _against(scenario: Scenario, chosen: Judged[Choice], other: Judged[Setting], what: str) -> str:
    return (
        f"{what} {kept_sentence(other, _periods(scenario))}: {other.mean('attainment'):.2%} of the requests within every bound against "
        f"{chosen.mean('attainment'):.2%}, {hours(other.cost)} accelerator-hours against {hours(chosen.cost)}"
    )


def kept_sentence(judged: Judged[Setting], periods: str) -> str:
    """Whether a setting keeps what is promised, and which part of that it does not."""
    if judged.holds:
        return "keeps the SLO"
    if judged.in_vain and not judged.broken:
        return (
            f"keeps the SLO but starts replicas in vain (in {judged.in_vain} of {judged.periods} {periods})"
        )
    return f"does not keep the SLO in {judged.broken} of {judged.periods} {periods}"


def hours(hours_: float) -> str:
    """Hours for a sentence: "1,234", "12.3"."""
    return f"{hours_:,.0f}" if hours_ >= 100 else f"{hours_:.1f}"
