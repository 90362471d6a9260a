"""A simulated fleet in virtual time, watched as a cluster is: its observations, and what the clients of its load saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.run import STATUSES
from autoscale.kube.cluster import Observation
from autoscale.profiles.profile import Profile
from autoscale.sim.engine.replicas import EngineParams, Replicas
from autoscale.sim.fleet.control import DEFAULTS, Fleet, FleetOptions
from autoscale.sim.fleet.outcome import FleetRecorder
from autoscale.sim.fleet.scalers import hpa_of, read_scaler
from autoscale.sim.fleet.simulate import slots_for
from autoscale.sim.http.kubernetes_view import KubernetesView
from loadgen.plan.arrivals import Arrivals

STARTED_AT = 1_800_000_000.0  # the control clock's zero in unix s: any moment would do


@dataclass(frozen=True)
class VirtualWatch:
    """What is watched, for how long.

    until_s     end of the watch, control s from the fleet's start
    clients_s   when the clients end, true s from the fleet's start: what has not finished by then is cancelled
    speed       control s per true s (autoscale.sim.fleet.control)
    replicas    how many there are at the start, None: the HPA's minReplicas
    sample_s    how often the watcher itself asks for the metrics, in control s; 0: never, it sees what the HPA asks
    """

    profile: Profile
    hpa: Mapping[str, Any]
    engine: EngineParams
    arrivals: Arrivals
    until_s: float
    clients_s: float
    speed: float = 1.0
    replicas: int | None = None
    sample_s: float = 0.0
    options: FleetOptions = DEFAULTS


def watched(
    watch: VirtualWatch, seed: int, see: Callable[[Observation], None], scraped: FleetRecorder | None = None
) -> NDArray[Any]:
    """Run it; `see` is told every observation in order, and the requests come back (engine.FINISHED, true s), with those
    that the clients cancelled at their end. `scraped` keeps the gauges of every scrape.

    Raises BadInput when the HPA does not fit the profile.
    """
    scaler = read_scaler(watch.profile, watch.hpa)
    spec = hpa_of(scaler)
    start = max(1, spec.min_replicas) if watch.replicas is None else watch.replicas
    slots = slots_for(scaler, start)
    engines = Replicas(
        watch.engine,
        slots,
        seed=seed,
        routing=watch.options.routing,
        connections=watch.options.connections or None,
        no_ready=watch.options.no_ready,
    )

    def emit(time_s: float, resource: str, kind: str, content: Any) -> None:
        see(Observation(STARTED_AT + time_s, resource, kind, content))

    view = KubernetesView(watch.profile, spec, STARTED_AT, emit)
    view.begin(start)
    fleet = Fleet(
        watch.profile,
        engines,
        slots,
        scaler=scaler,
        replicas=start,
        seed=seed,
        options=watch.options,
        speed=watch.speed,
        watcher=view,
    )
    engines.offer(watch.arrivals)
    asked = int(watch.until_s / watch.sample_s) if watch.sample_s else 0
    for at_s in [*(k * watch.sample_s for k in range(1, asked + 1)), watch.until_s]:
        while scraped is not None and fleet.next_s <= at_s:
            fleet.advance(fleet.next_s)
            scraped.sample(fleet)
        fleet.advance(at_s)
        if watch.sample_s:
            fleet.metrics(at_s)
    return _at_their_end(fleet, engines, watch)


def _at_their_end(fleet: Fleet, engines: Replicas, watch: VirtualWatch) -> NDArray[Any]:
    """All requests as their clients left them; the fleet goes on while the clients do."""
    fleet.watcher = None
    fleet.advance(watch.clients_s * watch.speed)
    engines.advance(max(watch.clients_s, fleet.now_s / watch.speed))
    found = engines.finished()
    found = found[found["end_s"] <= watch.clients_s]
    due = watch.arrivals.due_s
    missing = np.flatnonzero(~np.isin(watch.arrivals.request_id, found["request_id"]))
    cut = np.zeros(len(missing), found.dtype)
    cut["request_id"], cut["due_s"] = watch.arrivals.request_id[missing], due[missing]
    for name in ("sent_s", "first_token_s", "last_token_s"):
        cut[name] = np.nan
    cut["status"] = STATUSES.index("cancelled")
    return np.sort(np.concatenate([found, cut]), order=["request_id"], kind="stable")
