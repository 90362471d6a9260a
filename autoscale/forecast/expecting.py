"""What a recommendation predicts of the load that a check ran: that load, simulated over seeds on the recommendation's replica.

Each simulation draws its own starts, its own phases of scrapes and syncs, and a replica as slow or fast as the
recommendation's runs leave open; it is watched and read as the cluster was (check.figures). A figure's interval is the
least and the most of SEEDS of them: one more simulation would lie inside with probability (SEEDS - 1) / (SEEDS + 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from analysis.errors import BadInput
from analysis.numbers import known
from autoscale.check import Expectation, Figures, figures_of
from autoscale.check.client_view import ClientView
from autoscale.check.expectation import Interval, of_any_load
from autoscale.check.scaleout import history
from autoscale.check.timeline import Timeline
from autoscale.forecast.replayed_load import ReplayedLoad, client_view, load_as_sent
from autoscale.forecast.virtual_watch import STARTED_AT, VirtualWatch, watched
from autoscale.recommend.behind import SystemBehind, system_behind
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommendation import Recommendation
from autoscale.sim.engine.replicas import EngineParams

SEEDS = 39  # 95 %
FIRST_SEED = 9_000  # of seeds that no recommendation was judged on
Z = 1.96  # half widths of a 95 % interval in standard deviations
SAMPLED_S = 5.0  # how often a check asks a live cluster for the metrics (check.watch.prove)

Expecting = Callable[[Timeline, ClientView], Expectation]


def expecting(recommendation: Recommendation) -> Expecting:
    """What to expect of a check, once it is known what was watched and what load was sent.

    Raises BadInput when the recommendation has no HPA, or does not hold the system that it is for.
    """
    if recommendation.scaler is None:
        raise BadInput(
            "the recommendation has no HPA that a cluster could be held to",
            value=recommendation.answer,
            expected="one whose answer is autoscale",
        )
    behind = _Behind(**vars(system_behind(recommendation)))

    def expect(timeline: Timeline, load: ClientView) -> Expectation:
        found = load_as_sent(timeline, load)
        if load.slo is None and isinstance(found, ReplayedLoad):
            found = NO_SLO
        if isinstance(found, tuple):
            return of_any_load(recommendation, *found)
        return _over_seeds(behind, recommendation, timeline, load, found)

    return expect


NO_SLO = ("no SLO of the load is known", "name it with --slo")


@dataclass(frozen=True)
class _Behind(SystemBehind):
    def engine_of(self, seed: int) -> EngineParams:
        """A replica as the recommendation's runs leave it open."""
        if not self.slower:
            return self.engine
        rng = np.random.Generator(np.random.PCG64([seed, 9007]))
        return scaled(self.engine, max(0.1, 1 + self.slower / Z * float(rng.standard_normal())))


def _over_seeds(
    behind: _Behind,
    recommendation: Recommendation,
    timeline: Timeline,
    load: ClientView,
    sent: ReplayedLoad,
) -> Expectation:
    first = timeline.decisions[0].before if timeline.decisions else timeline.size
    assert recommendation.scaler is not None
    watch = VirtualWatch(
        behind.profile,
        dict(recommendation.scaler),
        behind.engine,
        sent.arrivals,
        until_s=sent.until_s,
        clients_s=sent.clients_s,
        speed=load.rate,
        replicas=first or None,
        sample_s=0.0 if load.queries_told else SAMPLED_S,
    )
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    runs = [_one(replace(watch, engine=behind.engine_of(seed)), seed, load, sent) for seed in seeds]
    intervals = {one.name: _interval([getattr(run, one.name) for run in runs]) for one in fields(Figures)}
    basis = f"{SEEDS} simulations of this load on the recommendation's replica, HPA and starts"
    return replace(of_any_load(recommendation, "", ""), basis=basis, **intervals)  # type: ignore[arg-type]


def _one(watch: VirtualWatch, seed: int, load: ClientView, sent: ReplayedLoad) -> Figures:
    timeline = Timeline()
    done = watched(watch, seed, timeline.add)
    return figures_of(timeline, history(timeline, client_view(done, load, sent, STARTED_AT)))


def _interval(values: list[float]) -> Interval | None:
    """The least and the most; None where most simulations do not show the figure."""
    shown = [value for value in values if known(value)]
    return (min(shown), max(shown)) if 2 * len(shown) > len(values) else None
