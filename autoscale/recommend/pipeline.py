"""From run directories to recommendation.json: read, learn the replica, decide, write.

runs -> ReplicaModel (model/) -> Scenario (choice/traffic.py) -> Decision (choice/) -> recommendation.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from analysis.files import free_directory, put_all
from analysis.run import Run
from autoscale.bill import Price
from autoscale.profiles import Profile
from autoscale.profiles.prior_error import prior_error
from autoscale.recommend import cost
from autoscale.recommend.answer import Decision
from autoscale.recommend.billing import bill
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.keda.space import KedaAsked, check_zero
from autoscale.recommend.choice.keda.written import scaled_object_text
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Given, Manifest
from autoscale.recommend.choice.traffic import checked_share, offered, scenario_of, traffic_in_words
from autoscale.recommend.days import by_days, days_in_words
from autoscale.recommend.document import document, step_scale
from autoscale.recommend.drift import drift
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.learning import learn, lengths_of, runs_of, slo_of, system_of
from autoscale.recommend.model.load_test import load_test_worth
from autoscale.recommend.model.one_replica import shape
from autoscale.recommend.model.production import BASIS
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.open_points import more_data, of_runs, worth_of_a_run
from autoscale.recommend.open_speed import idle_in_doubt, speed_at_the_slo, with_its_capacity
from autoscale.recommend.progress import Progress, Tell, part, silent, unheard
from autoscale.recommend.schedule.judge import halves_s, schedule_of
from autoscale.recommendation import Provenance, Recommendation, WorthOfARun, recommendation_text
from autoscale.recommendation import read_recommendation as read_recommendation
from autoscale.sim.fleet.control import DEFAULTS, FleetOptions
from autoscale.sim.fleet.scalers import check_gateway, foreign_name, read_scaler
from autoscale.version import own_version

ANSWER = "recommendation.json"
TRAFFIC, LOAD_TEST = "traffic.yaml", "load-test.yaml"  # of a service that is in production


@dataclass(frozen=True)
class Recommended:
    """The answer: the document, the files that were written, and the objects behind it."""

    document: Recommendation
    files: list[Path]
    scenario: Scenario
    decision: Decision
    model: ReplicaModel
    runs: tuple[Run, ...]

    @property
    def from_production(self) -> bool:
        """Whether the replica was learned from production."""
        return self.model.basis == BASIS


def recommend(
    runs: Sequence[Path] | None = None,
    *,
    profile: str | None = None,
    traffic: Path | None = None,
    peak_rps: float | None = None,
    slo: str | None = None,
    attainment: float | None = None,
    promise: Promise | None = None,
    max_replicas: int | None = None,
    fleet: FleetOptions = DEFAULTS,
    keda: KedaAsked | None = None,
    price: Price | None = None,
    current: Manifest | None = None,
    measured: Path | None = None,
    against: Path | None = None,
    schedule: bool = False,
    seeds: int = CHOOSING.own_at_least,
    jobs: int | None = None,
    out: Path | None = None,
    command: str = "",
    lengths: tuple[str | None, str | None] = (None, None),
    hours: float | None = None,
    time_unit: str | None = None,
    progress: Progress = silent,
    tell: Tell = unheard,
) -> Recommended:
    """The cheapest setting of an HPA, or with `keda` of a ScaledObject, that keeps the SLO, from runs of one replica (None: the newest, or none).

    Writes recommendation.json and hpa.yaml or scaledobject.yaml to `out` (default the run directory). `tell` hears what was read. Raises BadInput, BadRun, TooLittleData.
    """
    found = runs_of(runs)
    progress(0.0, "reading the run" if found else "reading the profile")
    system = system_of(profile, found, price.per_accelerator_hour if price else None, measured)
    # bad files are refused before the search, not after
    old = read_recommendation(against) if against is not None else None
    target = answers_directory(out, found, system.name)
    of_current = checked_scaler(system, current, fleet, keda)
    asked, attainment = slo_of(slo, found, system), checked_share(attainment)
    tokens = lengths_of(lengths, found, system)
    plan = offered(traffic, peak_rps, tokens, hours, time_unit)
    model = learn(found, system, asked, part(progress, 0.02, 0.08))
    scenario = scenario_of(
        system, traffic=traffic, peak_rps=peak_rps, slo=asked, attainment=attainment, engine=model.engine, lengths=tokens,
        hours=hours, promise=promise, plan=plan, tell=tell,
    )  # fmt: skip
    scenario = replace(scenario, options=fleet, slo_cold_start_s=keda.slo_cold_start_s if keda else None)
    return answered(
        Question(
            scenario, model, current, keda, max_replicas, seeds, jobs, old, noticed(of_current, scenario, tell), price,
            schedule,
        ),
        _provenance(found, scenario, traffic, command),
        target,
        progress,
        runs=found,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Question:
    """What is chosen for, however the model was learned: `current` is what runs now, `keda` what is asked of a
    ScaledObject, `old` an older answer, `notes` what was noticed on the way."""

    scenario: Scenario
    model: ReplicaModel
    current: Manifest | None
    keda: KedaAsked | None
    max_replicas: int | None
    seeds: int
    jobs: int | None
    old: Recommendation | None
    notes: Sequence[str]
    price: Price | None
    schedule: bool


def answered(
    asked: Question, provenance: Provenance, target: Path, progress: Progress, runs: Sequence[Run] = ()
) -> Recommended:
    """The answer, with its recommendation.json and hpa.yaml in `target`."""
    whole, model = asked.scenario, asked.model
    learn_s = halves_s(whole.plan) if asked.schedule else None  # too little is told before the search
    asked = replace(asked, scenario=(scenario := by_days(whole)))
    spread = speed_at_the_slo(model, scenario, _spread(model, scenario))
    decision = _decision(asked, spread, progress)
    made = document(
        scenario,
        decision,
        model,
        spread=spread,
        notes=[
            *days_in_words(scenario.plan),
            *idle_in_doubt(scenario, model, spread),
            *asked.notes,
            *(note for capacity in model.capacities for note in capacity.notes),
        ],
        provenance=provenance,
    )
    made = with_its_capacity(made, scenario, model, spread)
    progress(0.98, "the schedule and the bill" if asked.schedule else "the bill")
    minima = None if learn_s is None else schedule_of(whole, decision, learn_s, asked.jobs)
    billed = bill(scenario, decision, asked.price.currency if asked.price else "", minima)
    made = replace(
        _beside(made, scenario, decision, model, asked.old, target),
        bill=billed,
        schedule=None if minima is None else minima.told,
    )
    return Recommended(made, _write(made, target), scenario, decision, model, tuple(runs))


def _spread(model: ReplicaModel, scenario: Scenario) -> tuple[float, float]:
    """The 95 % interval of one replica's capacity relative to the model's: what runs leave open, or the prior's error."""
    if model.fitted:
        return model.spread_at(*(lengths.mean() for lengths in shape(scenario.plan)))
    half = prior_error(scenario.profile).step.half_width_95
    return 1 - half, 1 + half


def _decision(asked: Question, spread: tuple[float, float], progress: Progress) -> Decision:
    """The answer with what its runs leave open among the reasons; need_more_data when the model reproduces no run."""
    scenario, model = asked.scenario, asked.model
    cost.check_search(scenario)
    if model.untrusted():  # the command that it gives settles the one-sided runs, too
        open_ = (*more_data(model), *of_runs(model.capacities, one_sided=False))
        return Decision("need_more_data", open_, None)
    decision = choose_setting(
        scenario,
        max_replicas=asked.max_replicas,
        current=None if asked.current is None else Given(asked.current),
        keda=asked.keda,
        step_scale=step_scale(spread),
        basis=model.basis if model.fitted else "the prediction's error",
        seeds=asked.seeds,
        jobs=asked.jobs,
        progress=part(progress, 0.1, 0.88),
    )
    return replace(decision, reasons=(*decision.reasons, *of_runs(model.capacities, one_sided=True)))


def _beside(
    made: Recommendation,
    scenario: Scenario,
    decision: Decision,
    model: ReplicaModel,
    old: Recommendation | None,
    target: Path,
) -> Recommendation:
    """The document with what became of an older one, and what a run would be worth where there is none."""
    return replace(
        made,
        drift=None if old is None else drift(scenario, old, decision),
        measuring=_measuring(scenario, decision, model, target / LOAD_TEST),
    )


def checked_scaler(
    system: Profile, current: Manifest | None, fleet: FleetOptions, keda: KedaAsked | None
) -> str | None:
    """A note on the scaler in use. Raises BadInput for one that cannot be simulated, and for a zero that nothing bridges."""
    if keda is not None and keda.to_zero:
        check_zero(fleet)
    if current is None:
        return None
    scaler = read_scaler(system, current)
    check_gateway(scaler, fleet.gateway)
    return foreign_name(system, scaler)


def _measuring(scenario: Scenario, decision: Decision, model: ReplicaModel, file: Path) -> WorthOfARun | None:
    if not model.fitted:
        return worth_of_a_run(decision)
    return load_test_worth(model, scenario, decision, file) if model.basis == BASIS else None


def noticed(of_current: str | None, scenario: Scenario, tell: Tell) -> list[str]:
    """What is to be known of the current HPA and of the traffic; told at once."""
    said = [*([f"current: {of_current}"] if of_current else []), *_refused(scenario)]
    for note in said:
        tell(note)
    return said


def _refused(scenario: Scenario) -> list[str]:
    """That some of the traffic is too long for the model as it is served, when it is."""
    share = scenario.too_long()
    if not share:
        return []
    return [
        f"{100 * share:.2g}% of the requests are longer than max_model_len {scenario.profile.engine.max_model_len:,}: vLLM "
        "refuses them (HTTP 400) with any number of replicas, so they are left out of the SLO and of the load"
    ]


def _provenance(runs: Sequence[Run], scenario: Scenario, traffic: Path | None, command: str) -> Provenance:
    return Provenance(
        runs=tuple(str(run.path) for run in runs),
        profile=scenario.profile.name,
        traffic=traffic_in_words(scenario.plan, traffic),
        command=command,
        version=own_version(),
    )


def answers_directory(out: Path | None, found: Sequence[Run], name: str) -> Path:
    """Where the answer goes: beside a run that it is of, or where nothing but an older answer lies."""
    target = out or (found[0].path if found else Path("runs") / f"recommend-{name}")
    own = target.resolve() in [run.path.resolve() for run in found]
    return free_directory(target, lambda path: own or (path / ANSWER).exists() or _begun(path))


def _begun(path: Path) -> bool:
    """Whether an answer that did not come to its end left nothing but the traffic."""
    return [one.name for one in path.iterdir()] == [TRAFFIC]


def _write(made: Recommendation, target: Path) -> list[Path]:
    texts = {target / ANSWER: recommendation_text(made)}
    if made.scaled_object:
        texts[target / "scaledobject.yaml"] = scaled_object_text(made)
    if made.hpa:
        texts[target / "hpa.yaml"] = yaml.safe_dump(made.as_json()["hpa"], sort_keys=False)
    if made.measuring and made.measuring.load:
        texts[target / LOAD_TEST] = made.measuring.load
    put_all(texts)
    return list(texts)
