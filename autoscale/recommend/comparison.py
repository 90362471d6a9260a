"""Settings side by side under one scenario: simulated over the same seeds, so that all see the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autoscale.kube.objects import mapping
from autoscale.kube.scaler import KEDA_MAX_REPLICAS
from autoscale.recommend.choice.judging import FIGURES, Judged
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario, trial_of
from autoscale.recommend.choice.settings import Candidate, Given, Setting
from autoscale.recommend.progress import Progress, silent
from autoscale.sim.fleet.outcome import Outcome

BOUNDED = 0.2  # of the time at the maximum, or asleep at 0, from which on it is named as what breaks the SLO


@dataclass(frozen=True)
class Compared:
    """One setting's simulations, one per seed from 0 on, and what they are held to."""

    setting: Setting
    outcomes: tuple[Outcome, ...]
    promise: Promise

    def figures(self) -> dict[str, float | bool | int]:
        """Means over the seeds, the 95 % interval of the attainment, and whether it holds.

        FIGURES, cost, lost_ and rejected_requests, and each percentile that the SLO asks about: `ttft_p95_s`.
        """
        judged = Judged(
            self.setting, tuple(trial_of(outcome, None, self.promise) for outcome in self.outcomes)
        )
        low, high = judged.interval("attainment")
        count = len(self.outcomes)
        return {
            **{name: judged.mean(name) for name in FIGURES},
            **{f"{name}_s": sum(values) / len(values) for name, values in judged.latencies().items()},
            "attainment_low": low,
            "attainment_high": high,
            "cost": sum(o.cost for o in self.outcomes) / count,
            "holds": judged.holds,
            "seeds": count,
            "lost_requests": sum(o.lost + o.unserved for o in self.outcomes) / count,
            "rejected_requests": sum(o.rejected for o in self.outcomes) / count,
            **self._gateway(),
        }

    def _gateway(self) -> dict[str, float]:
        """Means over the seeds of what an inference gateway held and turned away; nothing without one."""
        held = [outcome.held for outcome in self.outcomes if outcome.held is not None]
        if not held:
            return {}
        return {
            "gateway_held_s": sum(h.held_s for h in held) / len(held),
            "gateway_most_waiting": sum(h.most_waiting for h in held) / len(held),
            "gateway_turned_away": sum(sum(h.turned_away.values()) for h in held) / len(held),
        }

    def causes(self) -> list[str]:
        """Why requests were held or lost that replicas had room for: a gateway, a trigger that cannot be read, no way back
        from zero, no more replicas allowed; each of the first seed in which it was so."""
        held = [outcome.held.cause for outcome in self.outcomes if outcome.held and outcome.held.cause]
        most = self._most()
        bounded = [
            f"all {most} replicas that it allows were asked for in {share:.0%} of the time, and the SLO was broken: more are "
            "needed, or less traffic"
            for outcome in self.outcomes
            if most and not outcome.holds and (share := outcome.share_asking(most)) > BOUNDED
        ]
        unread = [outcome.unread for outcome in self.outcomes if outcome.unread]
        return [*held[:1], *(unread[0] if unread else ()), *self._asleep()[:1], *bounded[:1]]

    def _asleep(self) -> list[str]:
        """That nothing woke a fleet that went to zero while requests came."""
        return [
            f"stood at 0 replicas for the last {outcome.asleep_s / outcome.duration_s:.0%} of the time and nothing woke it: "
            f"{outcome.lost + outcome.unserved:,} requests were lost. A trigger must read what is there without pods, such as "
            "a gateway's queue"
            for outcome in self.outcomes
            if outcome.asleep_s > BOUNDED * outcome.duration_s
        ]

    def _most(self) -> int:
        """The replicas that the setting allows; 0 for a fleet that stands."""
        if isinstance(self.setting, Given):
            spec = mapping(self.setting.content.get("spec"))
            return int(spec.get("maxReplicas") or spec.get("maxReplicaCount") or KEDA_MAX_REPLICAS)
        return self.setting.max_replicas if isinstance(self.setting, Candidate) else 0


def compare(
    scenario: Scenario,
    settings: Mapping[str, Setting],
    seeds: int,
    *,
    keep_first: bool = False,
    progress: Progress = silent,
) -> dict[str, Compared]:
    """Every setting by its name over so many seeds; `keep_first` keeps what a run directory needs of the first seed."""
    found = {}
    for i, (name, setting) in enumerate(settings.items()):
        outcomes = []
        for seed in range(seeds):
            progress((i + seed / seeds) / len(settings), f"{name}, seed {seed}")
            outcomes.append(scenario.outcome(setting, seed, keep=keep_first and seed == 0))
        found[name] = Compared(setting, tuple(outcomes), scenario.promise)
    return found
