"""From run directories to recommendation.json: read, learn the replica, decide, write.

runs -> ReplicaModel (model/) -> Scenario (choice/traffic.py) -> Decision (choice/) -> recommendation.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from analysis.files import free_directory
from analysis.run import Run
from autoscale.bill import Price
from autoscale.profiles.prior_error import prior_error
from autoscale.recommend import cost
from autoscale.recommend.answer import Decision
from autoscale.recommend.billing import bill
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Given, Manifest
from autoscale.recommend.choice.traffic import checked_share, offered, scenario_of, traffic_in_words
from autoscale.recommend.document import document, step_scale
from autoscale.recommend.drift import drift
from autoscale.recommend.effort import CHOOSING
from autoscale.recommend.model.learning import learn, lengths_of, runs_of, slo_of, system_of
from autoscale.recommend.model.one_replica import shape
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.open_points import more_data, of_runs, worth_of_a_run
from autoscale.recommend.progress import Progress, Tell, part, silent, unheard
from autoscale.recommend.schedule.judge import halves_s, schedule_of
from autoscale.recommendation import Provenance, Recommendation
from autoscale.recommendation import read_recommendation as read_recommendation
from autoscale.recommendation import write as write_recommendation
from autoscale.sim.fleet.scalers import foreign_name, read_scaler
from autoscale.version import own_version

ANSWER = "recommendation.json"


@dataclass(frozen=True)
class Recommended:
    """The answer: the document, the files that were written, and the objects behind it."""

    document: Recommendation
    files: list[Path]
    scenario: Scenario
    decision: Decision
    model: ReplicaModel
    runs: tuple[Run, ...]


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
    """The cheapest HPA setting that keeps the SLO, from one or more runs of one replica (None: the newest, or no run).

    Writes recommendation.json and hpa.yaml to `out` (default the run directory). `tell` hears what was read. Raises BadInput, BadRun, TooLittleData.
    """
    progress(0.0, "reading the run")
    found = runs_of(runs)
    system = system_of(profile, found, price.per_accelerator_hour if price else None, measured)
    # bad files are refused before the search, not after
    old = read_recommendation(against) if against is not None else None
    target = _target(out, found, system.name)
    of_current = None if current is None else foreign_name(system, read_scaler(system, current))
    asked, attainment = slo_of(slo, found, system), checked_share(attainment)
    tokens = lengths_of(lengths, found, system)
    plan = offered(traffic, peak_rps, tokens, hours, time_unit)
    model = learn(found, system, asked, part(progress, 0.02, 0.08))
    scenario = scenario_of(
        system, traffic=traffic, peak_rps=peak_rps, slo=asked, attainment=attainment, engine=model.engine, lengths=tokens,
        hours=hours, promise=promise, plan=plan, tell=tell,
    )  # fmt: skip
    learn_s = halves_s(scenario.plan) if schedule else None
    said, spread = _said(of_current, scenario, tell), _spread(model, scenario)
    decision = _decision(scenario, model, spread, current, max_replicas, seeds, jobs, progress)
    made = document(
        scenario,
        decision,
        model,
        spread=spread,
        notes=[*said, *(note for capacity in model.capacities for note in capacity.notes)],
        provenance=_provenance(found, scenario, traffic, command),
    )
    progress(0.98, "the bill")
    billed = bill(scenario, decision, price.currency if price else "")
    minima = None if learn_s is None else schedule_of(scenario, decision, learn_s, jobs)
    made = replace(_beside(made, scenario, decision, model, old), bill=billed, schedule=minima)
    return Recommended(made, _write(made, target), scenario, decision, model, tuple(found))


def _spread(model: ReplicaModel, scenario: Scenario) -> tuple[float, float]:
    """The 95 % interval of one replica's capacity relative to the model's: what runs leave open, or the prior's error."""
    if model.fitted:
        return model.spread_at(*(lengths.mean() for lengths in shape(scenario.plan)))
    half = prior_error(scenario.profile).step.half_width_95
    return 1 - half, 1 + half


def _decision(
    scenario: Scenario,
    model: ReplicaModel,
    spread: tuple[float, float],
    current: Manifest | None,
    max_replicas: int | None,
    seeds: int,
    jobs: int | None,
    progress: Progress,
) -> Decision:
    """The answer with what its runs leave open among the reasons; need_more_data when the model reproduces no run."""
    cost.check_search(scenario)
    if model.untrusted():  # the command that it gives settles the one-sided runs, too
        open_ = (*more_data(model), *of_runs(model.capacities, one_sided=False))
        return Decision("need_more_data", open_, None)
    decision = choose_setting(
        scenario,
        max_replicas=max_replicas,
        current=None if current is None else Given(current),
        step_scale=step_scale(spread),
        basis="the run" if model.fitted else "the prediction's error",
        seeds=seeds,
        jobs=jobs,
        progress=part(progress, 0.1, 0.88),
    )
    return replace(decision, reasons=(*decision.reasons, *of_runs(model.capacities, one_sided=True)))


def _beside(
    made: Recommendation,
    scenario: Scenario,
    decision: Decision,
    model: ReplicaModel,
    old: Recommendation | None,
) -> Recommendation:
    """The document with what became of an older one, and what a run would be worth where there is none."""
    return replace(
        made,
        drift=None if old is None else drift(scenario, old, decision),
        measuring=None if model.fitted else worth_of_a_run(decision),
    )


def _said(of_current: str | None, scenario: Scenario, tell: Tell) -> list[str]:
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
        f"{share:.1%} of the requests are longer than max_model_len {scenario.profile.engine.max_model_len:,}: vLLM "
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


def _target(out: Path | None, found: Sequence[Run], name: str) -> Path:
    """Where the answer goes: beside a run that it is of, or where nothing but an older answer lies."""
    target = out or (found[0].path if found else Path("runs") / f"recommend-{name}")
    own = target.resolve() in [run.path.resolve() for run in found]
    return free_directory(target, lambda path: own or (path / ANSWER).exists())


def _write(made: Recommendation, target: Path) -> list[Path]:
    files = [target / ANSWER]
    write_recommendation(made, files[0])
    if made.hpa:
        files.append(target / "hpa.yaml")
        files[1].write_text(yaml.safe_dump(made.as_json()["hpa"], sort_keys=False), encoding="utf-8")
    return files
