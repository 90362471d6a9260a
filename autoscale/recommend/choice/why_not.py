"""Why settings that held in the search for less than the chosen one are not chosen."""

from __future__ import annotations

from collections.abc import Sequence

from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.confirming import Confirming
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.settings import Candidate, Choice
from autoscale.recommend.effort import CHOOSING


def why_not(
    decision: Decision, judged: Sequence[Judged[Candidate]], confirming: Confirming
) -> dict[Candidate, str]:
    """A clause for each setting of `decision.tried` that held for less, by what further seeds said of it or its line."""
    chosen = decision.chosen
    if chosen is None:
        return {}
    known = {j.setting: j for j in judged}
    failed = {j.setting: j for j in confirming.failed}
    found = {}
    for setting, trial in decision.tried:
        if not trial.holds or trial.accelerator_hours >= chosen.cost or setting == chosen.setting:
            continue
        if setting in failed:
            found[setting] = f"{what_broke(failed[setting])} on seeds of its own"
        elif setting in confirming.steady:
            found[setting] = (
                f"as cheap, but {1 - confirming.steady[setting]:.0%} of its neighbours' trials break the SLO"
            )
        elif setting in known:
            found[setting] = _of_judged(known[setting], chosen)
        else:
            found[setting] = _of_its_line(setting, [*failed.values(), *known.values()])
    return found


def what_broke(judged: Judged[Candidate]) -> str:
    """How the trials of a setting that does not hold failed."""
    if judged.broken:
        return f"broke the SLO in {judged.broken} of {judged.periods} periods"
    if judged.in_vain:
        return f"started replicas in vain in {judged.in_vain} of {judged.periods} periods"
    if judged.worst > CHOOSING.worst_overrun:
        return f"had {judged.worst:.1f} times the breaches that the SLO allows in its worst periods"
    return "broke the SLO for the replica as fitted"


def _of_judged(judged: Judged[Candidate], chosen: Judged[Choice]) -> str:
    if not judged.holds:
        return f"{what_broke(judged)} on further seeds"
    saved = 1 - judged.cost / chosen.cost
    if chosen.setting.replicas is not None and saved <= CHOOSING.saving:
        return f"held on further seeds, but saves {saved:.1%} of the standing replicas' accelerator-hours: not worth the risk"
    if chosen.setting.replicas is not None or saved > CHOOSING.alike:
        return "held on further seeds; others that cost less were confirmed first and failed"
    return f"as cheap on further seeds ({judged.cost:,.1f} accelerator-hours), one with steadier neighbours is chosen"


def _of_its_line(setting: Candidate, judged: Sequence[Judged[Candidate]]) -> str:
    """By the tightest of its line that broke; what is looser breaks, too."""
    alike = [j for j in judged if not j.holds and _line(j.setting) == _line(setting)]
    tighter = [j for j in alike if j.setting.targets[-1][1] <= setting.targets[-1][1]]
    if tighter:
        first = min(tighter, key=lambda j: j.setting.targets[-1][1])
        return f"{first.setting.label}, which keeps more, {what_broke(first)}"
    if alike:
        first = max(alike, key=lambda j: j.setting.targets[-1][1])
        return f"passed over: {first.setting.label}, the next looser one, {what_broke(first)} by far"
    return "did the same in the search as one that was judged, or less well"


def _line(setting: Candidate) -> tuple[object, ...]:
    return (
        *setting.targets[:-1],
        setting.targets[-1][0],
        setting.behavior,
        setting.min_replicas,
        setting.max_replicas,
    )
