"""What a setting is judged under: the replica, the traffic, the SLO; and the judge that simulates it.

The SLO `ttft_p95=2s` asks that 95 % of the requests of the whole horizon have their first token within 2 s of their due
time. `attainment` replaces the terms' own percentiles: that share of all requests must keep every bound at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from analysis.slo import Slo
from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.profiles import Profile
from autoscale.recommend.choice.search import Trial
from autoscale.recommend.choice.settings import Candidate, quantity
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.outcome import Outcome, Tally
from autoscale.sim.fleet.simulate import FleetOptions, foreign_name, read_hpa, simulate, slots_for
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.traffic import LoadPlan

STOP_MARGIN = (
    0.02  # a trial ends early once this share of all expected requests more than allowed broke a bound
)

ROOM = 4_000_000  # requests that a process keeps drawn, about 30 bytes each

_SHARED: dict[str, LoadPlan] = {}  # "plan": the one that all processes of a search know
_DRAWN: dict[tuple[LoadPlan, int], list[Arrivals]] = {}  # plan and seed -> arrivals, the last used last


def share(plan: LoadPlan | None) -> None:
    """Tell this process the plan of its search, so that tasks need not carry it; None forgets it and its arrivals."""
    _SHARED.clear()
    _DRAWN.clear()
    if plan is not None:
        _SHARED["plan"] = plan


def drawn(plan: LoadPlan, seed: int) -> Iterable[Arrivals]:
    """The plan's arrivals under a seed; those of a shared plan are drawn once per process while there is room."""
    seeded = replace(plan, seed=seed).arrivals()
    if plan is not _SHARED.get("plan") or 2 * plan.expected_requests > ROOM:
        return seeded
    known = _DRAWN.pop((plan, seed), None) or list(seeded)
    _DRAWN[plan, seed] = known
    while len(_DRAWN) * plan.expected_requests > ROOM:
        del _DRAWN[next(iter(_DRAWN))]
    return known


@dataclass(frozen=True)
class Scenario:
    """Everything but the setting. Calling it simulates one setting with one seed (search.Judge).

    A seed draws the arrivals, the start-up phases and the routing; settings compared over the same seeds see the same.
    """

    profile: Profile
    engine: EngineParams
    plan: LoadPlan
    slo: Slo
    attainment: float | None = None
    options: FleetOptions = FleetOptions()  # noqa: RUF009 -- frozen

    def __getstate__(self) -> dict[str, Any]:
        """Everything, without the plan when every process of the search knows it (share)."""
        shared = self.plan is _SHARED.get("plan")
        return {**vars(self), "plan": None if shared else self.plan}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, plan=state["plan"] or _SHARED["plan"])

    def __call__(
        self, setting: Candidate | dict[str, Any] | int, seed: int, cost_limit_h: float | None = math.inf
    ) -> Trial:
        """One trial of a candidate, an HPA manifest, or a static fleet of that many replicas."""
        return trial_of(self.outcome(setting, seed, cost_limit_h=cost_limit_h), self.attainment)

    def outcome(
        self,
        setting: Candidate | dict[str, Any] | int,
        seed: int,
        *,
        keep: bool = False,
        cost_limit_h: float | None = None,
    ) -> Outcome:
        """The simulation of one setting, to its end unless a limit is given (search.Judge)."""
        static = setting if isinstance(setting, int) else None
        hpa = None if isinstance(setting, int) else self.manifest(setting)
        allowed = self._breaches_allowed()

        def stop(tally: Tally) -> str:
            if tally.least_accelerator_hours > (cost_limit_h or math.inf):
                return "cost"
            broken = [int(j - w) for j, w in zip(tally.judged, tally.within, strict=True)]
            if self.attainment is not None or self.slo.goodput is not None:
                broken.append(tally.requests - tally.good)
            return "breaches" if any(b > a for b, a in zip(broken, allowed, strict=False)) else ""

        return simulate(
            self.profile,
            hpa,
            drawn(self.plan, seed),
            seed=seed,
            duration_s=self.plan.duration_s,
            engine=self.engine,
            static_replicas=static,
            slo=self.slo,
            options=self.options,
            keep=keep,
            stop=None if cost_limit_h is None else stop,
        )

    def manifest(self, setting: Candidate | dict[str, Any]) -> dict[str, Any]:
        """The autoscaling/v2 object of a setting, as it would be applied."""
        return hpa_manifest(self.profile, setting) if isinstance(setting, Candidate) else setting

    def notes(self, setting: Candidate | dict[str, Any] | int) -> list[str]:
        """What to know of the figures of this setting. Raises BadInput when it cannot be simulated."""
        if isinstance(setting, int):
            slots_for(None, setting)
            return []
        spec = read_hpa(self.profile, self.manifest(setting))
        slots_for(spec, 0)
        note = foreign_name(self.profile, spec)
        return [note] if note else []

    def too_long(self) -> float:
        """Share of the traffic's requests that the engine refuses because of max_model_len, by its first requests."""
        limit = self.profile.engine.max_model_len
        chunks = list(islice(self.plan.arrivals(), 4))
        refused = sum(int(((c.prompt_tokens >= limit) | (c.output_tokens > limit)).sum()) for c in chunks)
        return refused / max(1, sum(len(c.due_s) for c in chunks))

    def _breaches_allowed(self) -> list[float]:
        expected = self.plan.expected_requests
        asked = [t.percentile / 100 for t in self.slo.terms if t.percentile is not None and t.metric != "itl"]
        if self.attainment is not None:
            asked = [0.0 for _ in asked] + [self.attainment]
        elif self.slo.goodput is not None:
            asked.append(self.slo.goodput)
        return [(1 - share + STOP_MARGIN) * expected for share in asked]


def trial_of(outcome: Outcome, attainment: float | None) -> Trial:
    """The figures of an outcome that the search compares."""
    margin = outcome.margin if attainment is None else outcome.attainment - attainment
    return Trial(
        margin=margin,
        attainment=outcome.attainment,
        accelerator_hours=outcome.accelerator_hours,
        replica_hours=outcome.replica_hours,
        ttft_p99_s=outcome.percentile("ttft", 99),
        tpot_p99_s=outcome.percentile("tpot", 99),
        wasted_scale_outs=outcome.wasted_scale_outs,
        flaps=outcome.flaps,
        longest_breach_s=outcome.longest_breach_s,
        peak_replicas=outcome.peak_replicas,
        stopped=outcome.stopped,
    )


def hpa_manifest(profile: Profile, setting: Candidate) -> dict[str, Any]:
    """The autoscaling/v2 HorizontalPodAutoscaler of a candidate for the profile's workload."""
    deploy, version = profile.deploy, profile.engine.vllm_version
    group = "leaderworkerset.x-k8s.io/v1" if deploy.kind == "LeaderWorkerSet" else "apps/v1"
    spec: dict[str, Any] = {
        "scaleTargetRef": {"apiVersion": group, "kind": deploy.kind, "name": deploy.name},
        "minReplicas": setting.min_replicas,
        "maxReplicas": setting.max_replicas,
        "metrics": [
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": hpa_metric_name(signal, version, deploy.metrics)},
                    "target": {"type": "AverageValue", "averageValue": quantity(value)},
                },
            }
            for signal, value in setting.targets
        ],
    }
    if setting.behavior.block is not None:
        spec["behavior"] = setting.behavior.block
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": deploy.hpa_name, "namespace": deploy.namespace},
        "spec": spec,
    }
