"""What runs teach about one replica: read, analysed, and the engine model calibrated on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from analysis.capacity import Capacity, analyse
from analysis.errors import AutoscaleError, BadInput, BadRun, TooLittleData
from analysis.files import read_yaml
from analysis.latency import latencies
from analysis.run import Run, newest, read
from analysis.slo import parse_slo
from analysis.steady import observe
from autoscale.profiles import Profile, from_content, load, names, overlay
from autoscale.recommend.model.calibrate import calibrate
from autoscale.recommend.model.limits import assumed, limits_from_run, seats_seen
from autoscale.recommend.model.one_capacity import agreed, refuted
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.progress import Progress, silent
from autoscale.recommendation import read_recommendation
from autoscale.sim.engine.replicas import EngineParams

DEFAULT_PROFILE = "llama-3.1-8b-1xl4"


def learn(runs: Sequence[Run], profile: Profile, slo: str, report: Progress = silent) -> ReplicaModel:
    """The model of one replica from runs of it, with what they say themselves about the SLO; without a run the prior.

    Raises BadRun, TooLittleData.
    """
    prior = EngineParams.from_profile(profile)
    if not runs:
        return ReplicaModel(prior)
    observed = [observe(run) for run in runs]
    capacities = [analyse(one, parse_slo(slo)) for one in observed]
    seats = seats_seen([one.metrics for one in observed])
    limited = limits_from_run(runs[0].header, prior, seats)
    try:
        fitted = calibrate(
            runs,
            limited,
            replicas=_replicas(capacities),
            exclude=[_set_aside(capacity) for capacity in capacities],
            gauges=[one.metrics for one in observed],
            saturated=[capacity.saturated for capacity in capacities],
            scheduling_known=profile.engine.async_scheduling is not None,
            progress=report,
        )
    except TooLittleData as error:
        raise _what_was_left(error, capacities) from None
    asked = parse_slo(slo)
    against = [
        sentence
        for capacity, one, run in zip(capacities, observed, runs, strict=True)
        for sentence in refuted(capacity, one, run, fitted, profile, asked)
    ]
    fitted = replace(fitted, refuted=tuple(against))
    together = [
        agreed(_noting(capacity, assumed(run, profile, limited, seats)), one, run, fitted, profile, asked)
        for capacity, one, run in zip(capacities, observed, runs, strict=True)
    ]
    return replace(fitted, capacities=tuple(together))


def _noting(capacity: Capacity, notes: Sequence[str]) -> Capacity:
    return replace(capacity, notes=(*capacity.notes, *notes))


def learn_replica(
    runs: Sequence[Path | str] | None = None, *, profile: str | None = None, slo: str | None = None
) -> ReplicaModel:
    """The model of one replica from run directories (None: the newest, or no run: the profile's prior).

    Profile and SLO are the run's where not given. Raises BadInput, BadRun, TooLittleData.
    """
    found = runs_of(None if runs is None else [Path(run) for run in runs])
    system = system_of(profile, found)
    return learn(found, system, slo_of(slo, found, system))


def capacity_of_run(path: Path, report: Progress = silent) -> Capacity | None:
    """How much one replica takes by a run that one replica served, the same answer as `recommend` gives; None when the run
    teaches nothing about one (no SLO, no metrics, several replicas, too few requests, a simulated fleet)."""
    try:
        runs = [_checked(read(path))]
        header = runs[0].header
        if not header.get("slo") or header.get("kind") == "simulated":
            return None
        system, notes = _served_by(path, runs[0])
        return _noting(learn(runs, system, str(header["slo"]), report).capacities[0], notes)
    except AutoscaleError:
        return None


def _served_by(path: Path, run: Run) -> tuple[Profile, list[str]]:
    """The profile of the recommendation that was made of the run, else the run's own; where several serve its model, the one
    whose tokens take about as long, and a note that says so."""
    with suppress(AutoscaleError):
        made = read_recommendation(path / "recommendation.json")
        if made.system is not None:
            return from_content(made.system.content, "system"), []
    serving = _serving(run)
    if run.header.get("profile") or len(serving) < 2:
        return system_of(None, [run]), []
    quick_s = float(latencies(run.requests)["tpot_s"].quantile(0.1))
    prompt = float(run.requests["prompt_tokens"].mean())

    def off(name: str) -> float:
        return abs(math.log(EngineParams.from_profile(load(name)).step_s(1, prompt) / quick_s))

    if not (quick_s > 0 and prompt > 0):
        return system_of(None, [run]), []
    nearest = min(serving, key=off)
    return load(nearest), [
        f"the run does not name its profile: of those that serve its model {nearest} is the nearest; recommend --profile names "
        "another"
    ]


def slo_of(asked: str | None, runs: Sequence[Run], profile: Profile) -> str:
    """The SLO that was asked for, else the first run's, else the profile's."""
    found = asked or (runs[0].header.get("slo") if runs else None) or profile.workload.slo
    parse_slo(found)
    return str(found)


def runs_of(paths: Sequence[Path] | None) -> list[Run]:
    """The runs, or the newest one, or none; each with metrics and completed requests. Raises BadRun, TooLittleData."""
    if paths is None:
        latest = newest()
        return [_checked(read(latest))] if latest else []
    return [_checked(read(path)) for path in paths]


def _checked(run: Run) -> Run:
    if not run.has("metrics"):
        raise BadRun(
            f"the run {run.path} has no metrics.parquet",
            next_step=f"collect it: autoscale collect {run.path} --prometheus URL",
        )
    status = run.requests["status"].value_counts()
    if status.get("ok", 0) == 0:
        first = run.requests["error"].dropna()
        raise TooLittleData(
            f"every request of {run.path} failed",
            value=", ".join(f"{count} {name}" for name, count in status.items()),
            expected="completed requests",
            next_step=f"the first error was: {first.iloc[0]}" if len(first) else None,
        )
    return run


def system_of(
    name: str | None, runs: Sequence[Run], price: float | None = None, measured: Path | None = None
) -> Profile:
    """The profile of that name, else the one that the first run names, else the default; with price and overlay put in."""
    if name is None and runs:
        header, by_model = runs[0].header, _serving(runs[0])
        if not header.get("profile") and len(by_model) > 1:
            raise BadInput(
                "several profiles serve the run's model",
                value=header.get("model"),
                expected=f"--profile with one of {', '.join(by_model)}",
            )
        name = header.get("profile") or (by_model[0] if by_model else None)
    system = load(name or DEFAULT_PROFILE)
    if price is not None:
        system = overlay(system, {"accelerator": {"price_per_chip_hour": price}})
    if measured is not None:
        system = overlay(system, read_yaml(measured, "measured overlay"))
    return system


def _serving(run: Run) -> list[str]:
    return [name for name in names() if load(name).model.id == run.header.get("model")]


def _set_aside(capacity: Capacity) -> set[int]:
    """Stages that say nothing about one replica: the client limited them, or several replicas (or a changing number) served."""
    single = _replicas([capacity]) == 1
    return {
        int(window.stage)
        for window in capacity.windows
        if window.client or (single and not 0 < window.replicas <= 1)
    }


def _what_was_left(error: TooLittleData, capacities: Sequence[Capacity]) -> TooLittleData:
    """The error, and why so little was left when stages were limited by the client."""
    windows = [window for capacity in capacities for window in capacity.windows]
    limited = [window for window in windows if window.client]
    if not limited:
        return error
    return TooLittleData(
        error.what,
        value=error.value,
        expected=error.expected,
        next_step=f"{len(limited)} of {len(windows)} stages were set aside because the load generator was their limit"
        f" ({'; '.join(limited[0].client)}): give it a core of its own, or --processes, and measure again",
    )


def _replicas(capacities: Sequence[Capacity]) -> int:
    """How many replicas served the usable stages at least: 1 when some can be used on their own."""
    counts = [w.replicas for c in capacities for w in c.windows if w.usable and w.replicas > 0]
    return math.ceil(min(counts, default=1.0))


def run_lengths(runs: Sequence[Run]) -> tuple[str, str] | None:
    """Lengths of the load that was sent, to be assumed for the default traffic; None when the run does not say."""
    lengths = runs[0].header.get("lengths") or {} if runs else {}
    prompt, output = lengths.get("prompt_tokens"), lengths.get("output_tokens")
    if not prompt or not output or "trace" in (prompt, output):
        return None
    return str(prompt), str(output)


def lengths_of(
    asked: tuple[str | None, str | None], runs: Sequence[Run], profile: Profile
) -> tuple[str, str]:
    """Lengths of prompts and answers: those asked for, else the first run's, else the profile's."""
    own = run_lengths(runs) or (profile.workload.prompt_tokens, profile.workload.output_tokens)
    prompt, output = (given or known for given, known in zip(asked, own, strict=True))
    return prompt, output
