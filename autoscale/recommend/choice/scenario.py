"""What a setting is judged under: the replica, the traffic, the SLO; and the judge that simulates it.

The SLO `ttft_p95=2s` asks that 95 % of the requests of the whole horizon have their first token within 2 s of their due
time. `attainment` replaces the terms' own percentiles: that share of all requests must keep every bound at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from analysis.numbers import known
from analysis.slo import Slo
from autoscale.profiles import Profile
from autoscale.recommend.choice.judging import Trial
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.settings import Setting
from autoscale.recommend.effort import CHOOSING
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.scalers import clock_note, foreign_name, gate_note, read_scaler
from autoscale.sim.fleet.simulate import FleetOptions, simulate, slots_for
from autoscale.sim.fleet.tally import Period, Tally
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.traffic import LoadPlan


class Kept:
    """A plan's arrivals, each seed drawn once while there is room for so many requests: the last ones used.

    Pickled as what is to be drawn.
    """

    def __init__(self, plan: LoadPlan, room: float = CHOOSING.kept_requests) -> None:
        self.plan, self.room = plan, room
        self._drawn: dict[int, list[Arrivals]] = {}  # seed -> arrivals, the last used last

    def under(self, seed: int) -> Iterable[Arrivals]:
        """The arrivals of a seed."""
        seeded, size = self.plan.of_seed(seed).arrivals(), self.plan.expected_requests
        if 2 * size > self.room:
            return seeded
        self._drawn[seed] = known = self._drawn.pop(seed, None) or list(seeded)
        while len(self._drawn) * size > self.room:
            del self._drawn[next(iter(self._drawn))]
        return known

    def __reduce__(self) -> tuple[type[Kept], tuple[LoadPlan, float]]:
        return Kept, (self.plan, self.room)


@dataclass(frozen=True)
class Scenario:
    """Everything but the setting. Calling it simulates one setting with one seed (judging.Judge).

    A seed draws the arrivals, the start-up phases and the routing; settings compared over the same seeds see the same.
    """

    profile: Profile
    engine: EngineParams
    plan: LoadPlan
    slo: Slo
    attainment: float | None = None
    slo_cold_start_s: float | None = None  # what the TTFT may be of a request that waits on a start from zero
    promise: Promise = Promise()  # noqa: RUF009 -- frozen
    options: FleetOptions = FleetOptions()  # noqa: RUF009 -- frozen

    kept: Kept | None = field(default=None, compare=False, repr=False)  # arrivals of `plan` that trials share

    @property
    def cold_start_s(self) -> float:
        """The median time that a replica takes to start."""
        return self.profile.cold_start.median_s(self.profile.model.weight_bytes)

    def clock_of(self, setting: Setting) -> list[str]:
        """By which clock the setting's schedules go, and how much of the load falls into them; nothing without one."""
        manifest = setting.manifest(self.profile)
        note = manifest and clock_note(
            read_scaler(self.profile, manifest), self.plan.begins_s, self.plan.duration_s
        )
        return [note] if note else []

    def keeping(self) -> Scenario:
        """The same, drawing the arrivals of a seed once for all trials under it."""
        return replace(self, kept=Kept(self.plan))

    def __call__(self, setting: Setting, seed: int, cost_limit_h: float | None = math.inf) -> Trial:
        """One trial of a setting (judging.Judge)."""
        return trial_of(self.outcome(setting, seed, cost_limit_h=cost_limit_h), self.attainment, self.promise)

    def outcome(
        self, setting: Setting, seed: int, *, keep: bool = False, cost_limit_h: float | None = None
    ) -> Outcome:
        """The simulation of one setting, to its end unless a limit is given (judging.Judge)."""
        plan = self.plan.of_seed(seed)
        allowed = self._breaches_allowed(plan.expected_requests)

        def stop(tally: Tally) -> str:
            if tally.least_accelerator_hours > (cost_limit_h or math.inf):
                return "cost"
            broken = [int(j - w) for j, w in zip(tally.judged, tally.within, strict=True)]
            if self.attainment is not None or self.slo.goodput is not None:
                broken.append(tally.requests - tally.good)
            return "breaches" if any(b > a for b, a in zip(broken, allowed, strict=False)) else ""

        return simulate(
            self.profile,
            setting.manifest(self.profile),
            self._arrivals(seed),
            seed=seed,
            duration_s=plan.duration_s,
            engine=self.engine,
            static_replicas=setting.replicas,
            slo=self.slo,
            options=replace(self.options, begins_s=plan.begins_s),
            slo_cold_start_s=self.slo_cold_start_s,
            keep=keep,
            stop=None if cost_limit_h is None else stop,
        )

    def _arrivals(self, seed: int) -> Iterable[Arrivals]:
        if self.kept is not None and self.kept.plan is self.plan:
            return self.kept.under(seed)
        return self.plan.of_seed(seed).arrivals()

    def too_long(self) -> float:
        """Share of the traffic's requests that the engine refuses because of max_model_len, by its first requests."""
        limit = self.profile.engine.max_model_len
        chunks = list(islice(self.plan.arrivals(), 4))
        refused = sum(int(((c.prompt_tokens >= limit) | (c.output_tokens > limit)).sum()) for c in chunks)
        return refused / max(1, sum(len(c.due_s) for c in chunks))

    def _breaches_allowed(self, expected: float) -> list[float]:
        asked = [t.percentile / 100 for t in self.slo.terms if t.percentile is not None and t.metric != "itl"]
        if self.attainment is not None:
            asked = [0.0 for _ in asked] + [self.attainment]
        elif self.slo.goodput is not None:
            asked.append(self.slo.goodput)
        return [(1 - share + CHOOSING.stop_margin) * expected for share in asked]


def trial_of(outcome: Outcome, attainment: float | None, promise: Promise) -> Trial:
    """The figures of an outcome that the search compares."""
    margins = [_margin(period, attainment, promise, outcome) for period in outcome.periods]
    whole = outcome.margin if attainment is None else outcome.attainment - attainment
    return Trial(
        margin=min(whole, sorted(margins)[promise.lost(len(margins))]),
        attainment=outcome.attainment,
        accelerator_hours=outcome.accelerator_hours,
        replica_hours=outcome.replica_hours,
        wasted_scale_outs=outcome.wasted_scale_outs,
        flaps=outcome.flaps,
        longest_breach_s=outcome.longest_breach_s,
        peak_replicas=outcome.peak_replicas,
        kept=sum(margin >= 0 for margin in margins),
        periods=len(margins),
        overrun=max(_overrun(period, attainment) for period in outcome.periods),
        promise=promise,
        longest_start_s=outcome.longest_start_s,
        from_zero=outcome.from_zero,
        longest_from_zero_s=outcome.longest_from_zero_s,
        latencies=tuple(outcome.asked_latencies()),
        stopped=outcome.stopped,
    )


def _asked(period: Period, attainment: float | None) -> list[tuple[float, float]]:
    """Shares within the bounds and shares asked; none where nothing was due."""
    shares = period.shares if attainment is None else ((period.attainment, attainment),)
    return [(share, asked) for share, asked in shares if known(share)]


def _margin(period: Period, attainment: float | None, promise: Promise, outcome: Outcome) -> float:
    """Smallest share within a bound minus the share asked; a stretch that is too long counts by its excess of the period."""
    margin = min((share - asked for share, asked in _asked(period, attainment)), default=0.0)
    if promise.longest_breach_s is None:
        return margin
    excess_s = promise.longest_breach_s - period.longest_breach_s
    return min(margin, excess_s * len(outcome.periods) / outcome.duration_s) if excess_s < 0 else margin


def _overrun(period: Period, attainment: float | None) -> float:
    asked = _asked(period, attainment)
    return max(((1 - share) / max(1 - goal, 1e-9) for share, goal in asked), default=0.0)


def notes_on(profile: Profile, setting: Setting) -> list[str]:
    """What to know of the figures of this setting. Raises BadInput when it cannot be simulated."""
    manifest = setting.manifest(profile)
    if manifest is None:
        slots_for(None, setting.replicas or 0)
        return []
    spec = read_scaler(profile, manifest)
    slots_for(spec, 0)
    return [note for note in (foreign_name(profile, spec), gate_note(spec)) if note]
