"""What each signal could do alone: a sentence for the best of each, why it is chosen, or not, or breaks the SLO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from autoscale.recommend.answer import Alternative, Decision, Point
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.reasons import SAME_COST, hours
from autoscale.recommend.choice.settings import Candidate, Choice


def alternatives(decision: Decision, singles: Mapping[str, Judged[Candidate]]) -> Iterator[Alternative]:
    """One sentence per signal: why the best that it can do alone is chosen, or not, or breaks the SLO."""
    chosen, point = decision.chosen, decision.capacity
    assert point is not None
    for signal, best in singles.items():
        if best.holds:
            cheapest = best.cost <= min(one.cost for one in singles.values() if one.holds)
            yield Alternative(signal, best, _beside(best, chosen, cheapest))
        else:
            yield Alternative(signal, best, f"{nearest_sentence(best)}; {_why_none(signal, decision, point)}")


def nearest_sentence(best: Judged[Candidate]) -> str:
    """How near to the SLO a setting comes that does not do."""
    verdict = "does not keep the SLO, the nearest found"
    if best.mean("margin") >= 0:
        verdict = "starts replicas in vain" if best.wasted else "keeps the SLO under some seeds only"
    return (
        f"{verdict}: {best.mean('attainment'):.2%} of the requests within every bound for {hours(best.cost)} "
        "accelerator-hours"
    )


def _beside(best: Judged[Candidate], chosen: Judged[Choice] | None, cheapest: bool) -> str:
    if chosen is None:
        return f"holds for {hours(best.cost)} accelerator-hours"
    if best.setting == chosen.setting:
        why = "the cheapest that holds" if cheapest else "as cheap as any that holds"
        return f"chosen: {why}, {hours(best.cost)} accelerator-hours"
    extra = best.cost / chosen.cost - 1
    if abs(extra) <= SAME_COST:
        return f"not chosen, as good: it holds for {hours(best.cost)} accelerator-hours against {hours(chosen.cost)}"
    verb = "more" if extra > 0 else "less"
    why = "" if extra > 0 else ", judged over fewer seeds or not held by all of them"
    return f"not chosen: it holds for {hours(best.cost)} accelerator-hours, {abs(extra):.0%} {verb} than the chosen{why}"


def _why_none(signal: str, decision: Decision, point: Point) -> str:
    tried = [trial for setting, trial in decision.tried if setting.family == signal]
    if any(t.wasted_scale_outs and not t.stopped and t.margin >= 0 for t in tried):
        return "no target holds without starting replicas in vain"
    if signal == "waiting":
        return (
            f"no target holds: the SLO breaks at {point.waiting:.1f} waiting requests per replica, the queue grows "
            "only when it is too late"
        )
    if all(t.stopped == "cost" for t in tried):
        return "every target that was tried takes more accelerator time than the best"
    return "no target holds: replicas that start on this signal come too late for the traffic"
