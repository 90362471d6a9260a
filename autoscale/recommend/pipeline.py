"""From run directories to recommendation.json: read, analyse, calibrate, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from analysis.capacity import Capacity, Estimate
from analysis.errors import BadInput
from analysis.run import Run
from analysis.slo import parse_slo
from autoscale.profiles import Profile
from autoscale.recommend import cost
from autoscale.recommend.choice import decide as deciding
from autoscale.recommend.choice.interval import at_speed
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.document import document, write
from autoscale.recommend.document import read as read_document
from autoscale.recommend.model.calibrate import Calibration
from autoscale.recommend.model.learning import Progress, learn, run_lengths, runs_of, system_of
from autoscale.recommend.model.one_replica import shape
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.simulate import foreign_name, read_hpa
from loadgen.plan import rates
from loadgen.plan.traffic import LoadPlan

DEFAULT_PEAK = 4.0  # peak of the default traffic, in multiples of one replica's capacity

DEFAULT_REQUESTS = 250_000  # more than this of the default day is not simulated
PEAK_HOUR = 14.5  # of rates.DAY_SHAPE
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Recommendation:
    """The answer: `content` is recommendation.json, `files` what was written, `decision` the objects behind it."""

    content: dict[str, Any]
    files: list[Path]
    scenario: Scenario
    decision: deciding.Decision | None
    calibration: Calibration | None
    runs: tuple[Run, ...]
    capacities: tuple[Capacity, ...]

    @property
    def holds(self) -> bool:
        """Whether what is recommended keeps the SLO."""
        predicted = self.content.get("predicted")
        return bool(predicted and predicted["holds"])


def _refused(scenario: Scenario) -> list[str]:
    """That some of the traffic is too long for the model as it is served, when it is."""
    share = scenario.too_long()
    if not share:
        return []
    return [
        f"{share:.1%} of the requests are longer than max_model_len {scenario.profile.engine.max_model_len:,}: vLLM "
        "refuses them (HTTP 400) with any number of replicas, so they are left out of the SLO and of the load"
    ]


def _unheard(_note: str) -> None:
    """Nobody listens to notes."""


def scenario_of(
    profile: Profile,
    *,
    traffic: Path | None = None,
    peak_rps: float | None = None,
    slo: str | None = None,
    attainment: float | None = None,
    engine: EngineParams | None = None,
    lengths: tuple[str, str] | None = None,
    time_unit: str | None = None,
    tell: Tell = _unheard,
) -> Scenario:
    """What settings of this profile are judged under; engine, SLO and lengths are the profile's where not given.

    Without traffic it is the default day in bursts, its peak `peak_rps` or four times what one replica can serve.
    `time_unit` is that of a trace's timestamps; `tell` hears what was read from it.
    """
    if traffic is not None and peak_rps is not None:
        raise BadInput("traffic and peak exclude each other", value=peak_rps, expected="one of the two")
    if attainment is not None and not 0 < attainment < 1:
        raise BadInput("attainment", value=attainment, expected="a share between 0 and 1, for example 0.99")
    prompt, output = lengths or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    if traffic is None and time_unit is not None:
        raise BadInput("--trace-time-unit without --traffic", value=time_unit, next_step="leave it out")
    plan = (
        default_traffic(1.0 if peak_rps is None else peak_rps, prompt, output)
        if traffic is None
        else _plan(traffic, time_unit)
    )
    if plan.trace is not None:
        tell(plan.trace.sentence)
    scenario = Scenario(
        profile=profile,
        engine=engine or EngineParams.from_profile(profile),
        plan=plan,
        slo=parse_slo(slo or profile.workload.slo),
        attainment=attainment if attainment is not None else profile.workload.attainment,
    )
    if traffic is not None or peak_rps is not None or deciding.idle_verdict(scenario) is not None:
        return scenario
    peak = DEFAULT_PEAK * deciding.capacity(scenario).rate_rps
    return replace(scenario, plan=default_traffic(peak, prompt, output))


def default_traffic(peak_rps: float, prompt: str, output: str) -> LoadPlan:
    """The default day in bursts; of a busy service the hours around its peak, about 250,000 requests of it."""
    plan = LoadPlan.default_traffic(peak_rps, prompt, output)
    share = DEFAULT_REQUESTS / plan.expected_requests
    if share >= 1:
        return plan
    hours = 24 * max(share, 1 / 8)
    programme = rates.diurnal(peak_rps, hours * 3600, start_hour=PEAK_HOUR - 0.6 * hours)
    return replace(plan, programme=programme)


def recommend(
    runs: Sequence[Path] | None = None,
    *,
    profile: str | None = None,
    traffic: Path | None = None,
    peak_rps: float | None = None,
    slo: str | None = None,
    attainment: float | None = None,
    max_replicas: int | None = None,
    price: float | None = None,
    current: dict[str, Any] | None = None,
    measured: Path | None = None,
    against: Path | None = None,
    seeds: int = 4,
    jobs: int | None = None,
    out: Path | None = None,
    command: str = "",
    time_unit: str | None = None,
    progress: Progress | None = None,
    tell: Tell = _unheard,
) -> Recommendation:
    """The cheapest HPA setting that keeps the SLO, from one or more runs of one replica (None: the newest, or no run).

    Writes recommendation.json and hpa.yaml to `out` (default the run directory). `tell` hears what was read. Raises BadInput, BadRun, TooLittleData.
    """
    report = progress or (lambda _fraction, _text: None)
    report(0.0, "reading the run")
    found = runs_of(runs)
    system = system_of(profile, found, price, measured)
    old = (
        read_document(against) if against is not None else None
    )  # bad files are refused before the search, not after
    of_current = foreign_name(system, read_hpa(system, current)) if current is not None else None
    learned = learn(found, system, slo, lambda f, text: report(0.02 + 0.08 * f, text))
    calibration, capacities = learned.calibration, learned.capacities
    scenario = scenario_of(
        system,
        traffic=traffic,
        peak_rps=peak_rps,
        slo=learned.slo,
        attainment=attainment,
        engine=learned.engine,
        lengths=run_lengths(found),
        time_unit=time_unit,
        tell=tell,
    )
    cost.check_search(scenario)
    said = [*([f"current: {of_current}"] if of_current else []), *_refused(scenario)]
    for note in said:
        tell(note)
    prompt, output = (lengths.mean() for lengths in shape(scenario.plan))
    low, high = learned.spread(prompt, output)
    if calibration is not None and calibration.untrusted():
        decision = deciding.Decision("need_more_data", tuple(_more_data(calibration, capacities)), None)
    else:
        decision = deciding.decide(
            scenario,
            max_replicas=max_replicas,
            current=current,
            step_scale=(high - low) / 2,
            seeds=seeds,
            jobs=jobs,
            progress=lambda f, text: report(0.1 + 0.88 * f, text),
        )
    notes = [*said, *(note for capacity in capacities for note in capacity.notes)]
    of_run = [deciding.Reason("run", note) for capacity in capacities for note in capacity.notes]
    if decision.answer != "need_more_data":  # that one has its command already
        of_run += [r for capacity in capacities if (r := _one_sided(capacity)) is not None]
    decision = replace(decision, reasons=(*decision.reasons, *of_run))
    content = document(
        scenario,
        decision,
        calibration=calibration,
        spread=(low, high),
        measured=_measured(capacities[0]) if capacities else None,
        notes=notes,
        provenance={
            "runs": [str(run.path) for run in found],
            "profile": system.name,
            "traffic": str(traffic)
            if traffic
            else f"default: {scenario.plan.duration_s / 3600:.1f} h of a day in bursts",
            "command": command,
        },
    )
    if old is not None:
        content["drift"] = drift(scenario, old, decision)
    target = out or (found[0].path if found else Path("runs") / f"recommend-{system.name}")
    report(1.0, "writing")
    return Recommendation(
        content, _write(content, target), scenario, decision, calibration, tuple(found), tuple(capacities)
    )


def drift(scenario: Scenario, old: dict[str, Any], decision: deciding.Decision) -> dict[str, Any]:
    """Whether an older recommendation still holds on what is known now: {"holds", "confident", "sentence", figures}.

    `holds`: on average over seeds, with nothing started in vain; `confident`: with 95 % confidence and for a replica as
    slow as the run allows, as a choice has to.
    """
    if not old.get("hpa"):
        return {"holds": None, "sentence": f"the old answer was {old['answer']}: it has no target to test"}
    seeds = deciding.own_seeds(scenario.plan, 4)
    judged = deciding.confirm(scenario, [old["hpa"]], seeds)[0]
    slow = deciding.confirm(at_speed(scenario, decision.slower), [old["hpa"]], seeds)[0]
    holds = judged.mean("margin") >= 0 and not judged.wasted
    new = decision.expected or decision.chosen
    cost = (
        ""
        if new is None or not new.cost
        else f", {judged.cost / new.cost - 1:+.0%} accelerator-hours against the new one"
    )
    verb = "still holds" if slow.holds else "just about holds" if holds else "does not hold any more"
    targets = ", ".join(f"{m['name']} {m['averageValue']}" for m in old["metrics"])
    return {
        "holds": holds,
        "confident": slow.holds,
        "sentence": f"the old target ({targets}) {verb}: {judged.mean('attainment'):.2%} within every bound{cost}",
        "attainment": judged.mean("attainment"),
        "accelerator_hours": judged.cost,
    }


def _plan(path: Path, time_unit: str | None) -> LoadPlan:
    if not path.exists():
        raise BadInput(
            "no such traffic file", value=str(path), expected="a load file (.yaml) or a recorded trace"
        )
    if path.suffix in (".yaml", ".yml"):
        return LoadPlan.from_options(load_file=path, time_unit=time_unit)
    return LoadPlan.from_options(trace=path, time_unit=time_unit)


def _measured(capacity: Capacity) -> dict[str, Any]:
    """What the run itself says about one replica, without any model of the engine."""

    def of(estimate: Estimate) -> dict[str, Any]:
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "how": estimate.how}

    return {
        "knee": of(capacity.knee),
        "saturated": of(capacity.saturated),
        "slo": of(capacity.capacity),
        "binds": capacity.binds,
        "per_term": {name: of(estimate) for name, estimate in capacity.per_term.items()},
        "notes": list(capacity.notes),
        "stages": [str(window) for window in capacity.windows],
        "next_command": capacity.next_command,
    }


def _more_data(calibration: Calibration, capacities: Sequence[Capacity]) -> list[deciding.Reason]:
    reasons = [deciding.Reason("model_error", sentence) for sentence in calibration.untrusted()]
    for a, b in calibration.confounded:
        reasons.append(
            deciding.Reason(
                "confounded",
                f"the run cannot tell {a} from {b}: add stages with other prompt and output lengths",
            )
        )
    command = next((c.next_command for c in capacities if c.next_command), None)
    reasons.append(
        deciding.Reason(
            "measure_again",
            f"measure again on one quiet replica: {command or _sweep(capacities[0])} --prompt-tokens uniform:100,1500 "
            "--output-tokens uniform:50,250",
        )
    )
    return reasons


def _one_sided(capacity: Capacity) -> deciding.Reason | None:
    """What rests on the model alone because the run lies on one side of the knee, and the sweep that would settle it."""
    if capacity.next_command is None:
        return None
    usable = [w for w in capacity.windows if w.usable]
    stages = (
        f"the only usable stage was {usable[0].state}"
        if len(usable) == 1
        else f"all {len(usable)} usable stages were {usable[0].state}"
    )
    if usable[0].state == "saturated":
        what = "latencies below the knee are the model's, nothing was measured there"
    else:
        what = "where the replica saturates is the model's, nothing was measured there"
    return deciding.Reason(
        "one_sided", f"{stages}: {what}; measure on both sides of the knee: {capacity.next_command}"
    )


def _sweep(capacity: Capacity) -> str:
    """A sweep across the knee of what was measured, as a command."""
    top = float(capacity.points["throughput_rps"].max())
    stages = ",".join(f"{share * top:.2g}:120" for share in (0.3, 0.5, 0.7, 0.9, 1.2))
    return f"locust -f loadgen/completions.py --headless --host URL --stages {stages}"


def _write(content: dict[str, Any], target: Path) -> list[Path]:
    target.mkdir(parents=True, exist_ok=True)
    files = [target / "recommendation.json"]
    write(content, files[0])
    if content["hpa"]:
        files.append(target / "hpa.yaml")
        files[1].write_text(yaml.safe_dump(content["hpa"], sort_keys=False), encoding="utf-8")
    return files


__all__ = ["Recommendation", "drift", "recommend", "scenario_of"]
