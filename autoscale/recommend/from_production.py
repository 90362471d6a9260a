"""The same answer without a run: the replica and the traffic learned from what a Prometheus tells of production."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import BadInput, TooLittleData
from analysis.files import read_yaml
from autoscale.bill import Price
from autoscale.history.learned import LearnedTraffic
from autoscale.history.operating import OperatingPoints, Stretch
from autoscale.history.production import Production, SeenStarts
from autoscale.profiles import Profile, load, names, overlay
from autoscale.profiles.prior_error import prior_error
from autoscale.profiles.profile import ColdStart, Phase
from autoscale.recommend.choice.keda.space import KedaAsked
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.settings import Manifest
from autoscale.recommend.choice.traffic import checked_share, offered, scenario_of, traffic_in_words
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.limits import limits_from_run
from autoscale.recommend.model.production import learn_from
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.pipeline import (
    TRAFFIC,
    Question,
    Recommended,
    answered,
    answers_directory,
    checked_scaler,
    noticed,
)
from autoscale.recommend.progress import Progress, Tell, part, silent, unheard
from autoscale.recommend.watching import WATCHING
from autoscale.recommendation import Provenance, read_recommendation
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import DEFAULTS, FleetOptions
from autoscale.version import own_version
from loadgen.plan.lengths import Lengths

DAY_S = 86_400.0
MANY_STARTS = 20
MOST_HITS = 0.95  # of prompt tokens from the prefix cache


def recommend_from(
    production: Production,
    *,
    profile: str | None = None,
    slo: str | None = None,
    attainment: float | None = None,
    promise: Promise | None = None,
    max_replicas: int | None = None,
    fleet: FleetOptions = DEFAULTS,
    keda: KedaAsked | None = None,
    price: Price | None = None,
    measured: Path | None = None,
    against: Path | None = None,
    schedule: bool = False,
    seeds: int = CHOOSING.own_at_least,
    jobs: int | None = None,
    out: Path | None = None,
    command: str = "",
    lengths: tuple[Lengths | None, Lengths | None] = (None, None),
    progress: Progress = silent,
    tell: Tell = unheard,
) -> Recommended:
    """The cheapest HPA setting that keeps the SLO on production's own traffic.

    Writes traffic.yaml, recommendation.json and hpa.yaml to `out`. Raises BadInput, TooLittleData.
    """
    learned = production.traffic
    hourly = price.per_accelerator_hour if price else None
    system = _system(profile, learned.model, production.starts, hourly, measured)
    old = read_recommendation(against) if against is not None else None
    current, unfit = current_that_fits(production, system, fleet, keda)
    of_current = checked_scaler(system, current, fleet, keda)
    load_text = learned.yaml(*lengths)
    target = answers_directory(out, (), system.name)
    traffic = _written(target / TRAFFIC, load_text)
    plan = offered(traffic, None, ("", ""))
    asked = plan.prompt, plan.output
    model = learn_replica_from(production.points, asked, system, learned, part(progress, 0.0, 0.08))
    scenario = scenario_of(
        system, traffic=traffic, slo=slo or system.workload.slo, attainment=checked_share(attainment),
        engine=model.engine, lengths=(str(plan.prompt), str(plan.output)), promise=promise, plan=plan, tell=tell,
    )  # fmt: skip
    scenario = replace(scenario, options=fleet, slo_cold_start_s=keda.slo_cold_start_s if keda else None)
    notes = [
        *production.notes,
        *unfit,
        *_notes(production.points, model),
        *noticed(of_current, scenario, tell),
    ]
    return answered(
        Question(scenario, model, current, keda, max_replicas, seeds, jobs, old, notes, price, schedule),
        Provenance(
            profile=system.name,
            traffic=traffic_in_words(plan, Path(TRAFFIC)),
            command=command,
            version=own_version(),
        ),
        target,
        progress,
    )


def _written(file: Path, load_text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(load_text, "utf-8")
    return file


def current_that_fits(
    production: Production, system: Profile, fleet: FleetOptions, keda: KedaAsked | None
) -> tuple[Manifest | None, list[str]]:
    """The scaler in use and no note; without it and a note where kube-state-metrics tells of one that cannot be simulated here.

    Raises BadInput for such a one that a file tells.
    """
    try:
        checked_scaler(system, production.current, fleet, keda)
    except BadInput as error:
        if production.current_given:
            raise
        return None, [f"what runs now is not set beside the answer: {error}"]
    return production.current, []


def learn_replica_from(
    points: OperatingPoints,
    lengths: tuple[Lengths, Lengths],
    system: Profile,
    traffic: LearnedTraffic,
    progress: Progress,
) -> ReplicaModel:
    """The model of one replica with requests of these lengths. Raises TooLittleData where no replica tells how long a token takes."""
    known = _telling(points)
    if not known:
        raise TooLittleData(
            "no replica tells how long a token takes",
            expected="vllm:inter_token_latency_seconds, or vllm:generation_tokens_total",
            next_step="scrape them, or measure one replica with `autoscale load`",
        )
    facts: Mapping[str, Any] = next(iter(points.facts.values()), {})
    prior = limits_from_run({"engine": dict(facts)}, EngineParams.from_profile(system))
    if math.isfinite(traffic.prefix_hit_share):
        prior = replace(prior, prefix_hit_fraction=min(traffic.prefix_hit_share, MOST_HITS))
    sheet_error = prior_error(system).step.half_width_95
    return learn_from(known, lengths, prior, sheet_error, progress, _cv_of_a_replica(traffic))


def _cv_of_a_replica(traffic: LearnedTraffic) -> float:
    """cv of the gaps between the requests of one replica, to which each goes by chance: a renewal process thinned."""
    replicas = traffic.came.mean_replicas
    if not replicas >= 1:
        return 1.0
    return math.sqrt(1 + (traffic.cv**2 - 1) / replicas)


def _telling(points: OperatingPoints) -> list[Stretch]:
    """Those that tell how long a token takes, from the quietest to the busiest, no more than are replayed."""
    told = [one for one in points.stretches if math.isfinite(one.itl_s) and one.rate_rps > 0]
    told.sort(key=lambda one: one.running)
    at = np.linspace(0, len(told) - 1, min(len(told), WATCHING.stretches))
    return [told[k] for k in np.unique(np.rint(at).astype(int))]


def profile_name(given: str | None, model: str) -> str:
    """The name that was given, or that of the one profile that serves the model. Raises BadInput where several or none do."""
    serving = [name for name in names() if load(name).model.id == model] if given is None else [given]
    if len(serving) != 1:
        raise BadInput(
            "several profiles serve the model" if serving else "no profile serves the model",
            value=model,
            expected=f"--profile with one of {', '.join(serving or names())}, or a file of your own",
        )
    return serving[0]


def _system(
    name: str | None, model: str, starts: SeenStarts | None, price: float | None, measured: Path | None
) -> Profile:
    """The profile of that name, or the one that serves the model; with what was seen of starts, price and overlay."""
    system = load(profile_name(name, model))
    if starts is not None:
        system = overlay(system, {"cold_start": cold_start_seen(starts, system.cold_start)})
    if price is not None:
        system = overlay(system, {"accelerator": {"price_per_chip_hour": price}})
    return system if measured is None else overlay(system, read_yaml(measured, "measured overlay"))


def cold_start_seen(starts: SeenStarts, known: ColdStart) -> dict[str, Any]:
    """What was seen as phases: the last holds weights and engine, which nobody parts. Of fewer than MANY_STARTS the longest say
    little of the 95th percentile, so it lies as far above the median as the profile's, at least."""

    def phase(seen: tuple[float, float], usual: Phase | None = None) -> dict[str, float]:
        median_s, p95_s = max(seen[0], 0.1), max(seen[1], seen[0], 0.1)
        if usual is not None and usual.median_s > 0 and starts.count < MANY_STARTS:
            p95_s = max(p95_s, median_s * usual.p95_s / usual.median_s)
        return {"median_s": median_s, "p95_s": p95_s}

    nothing = {"median_s": 0.0, "p95_s": 0.0}
    return {
        "node": phase(starts.node_s, known.node),
        "image": phase(starts.image_s, known.image),
        "engine_init": phase(starts.ready_s),
        "weights_rate_bytes_s": 1e18,
        "weights_shared": False,
        "group_join": nothing,
        "compile": nothing,
        "compile_cached": None,
    }


def _notes(points: OperatingPoints, model: ReplicaModel) -> Iterator[str]:
    """How far the load went, and pods whose speed is another."""
    engine = model.engine
    most = max(one.running for one in points.stretches)
    cache = max((one.kv_usage for one in points.stretches if math.isfinite(one.kv_usage)), default=math.nan)
    told = f" and {cache:.0%} of the KV cache" if math.isfinite(cache) else ""
    low, high = model.spread_at(*model.shape)
    yield (
        f"the replica is learned from {len(points.stretches)} stretches of production of up to {most:.0f} running requests"
        f"{told} on average, of {engine.max_num_seqs} seats; what a fuller batch takes is the model's, and its interval, "
        f"{low - 1:+.1%} to {high - 1:+.1%} of the replica's speed, says so"
    )
    yield from _other_speeds(_telling(points), model)


def _other_speeds(stretches: Sequence[Stretch], model: ReplicaModel) -> Iterator[str]:
    """Sentences on pods whose tokens take longer, or less long, than others' at the same load."""
    ratios: dict[str, list[float]] = {}
    for number, one in enumerate(stretches):
        row = model.replay[(model.replay["stage"] == number) & (model.replay["figure"] == "itl_mean_s")]
        if len(row) and math.isfinite(error := float(row["error"].iloc[0])):
            ratios.setdefault(one.pod, []).append(1 / (1 + error))
    usual = {pod: float(np.median(some)) for pod, some in ratios.items() if len(some) >= WATCHING.fewest}
    if len(usual) < 2:
        return
    middle = float(np.median(list(usual.values())))
    for pod, ratio in sorted(usual.items()):
        apart = ratio / middle - 1
        if abs(apart) >= WATCHING.other_speed:
            yield (
                f"{pod} takes {abs(apart):.0%} {'longer' if apart > 0 else 'less long'} for a token than the others at the "
                "same load: another speed; the replica is learned from all of them, --selector leaves pods out"
            )
