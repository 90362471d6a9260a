"""What one replica will do with requests of other lengths than those that were measured: rates, latencies, capacity.

The engine calibrated on the run serves Poisson arrivals of the new lengths at several rates. Intervals come from engines
that explain the run about as well as the fitted one (uncertainty.py): where the new lengths lean on a coefficient that
the run hardly shows, they are wide, and a sentence says which coefficient it is and what to measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.errors import BadInput, TooLittleData
from analysis.numbers import plain
from analysis.run import Run
from analysis.saturation import Estimate
from analysis.slo import parse_slo
from autoscale.profiles import Profile
from autoscale.profiles.prior_error import prior_error
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.model.learning import learn, run_lengths, runs_of, slo_of, system_of
from autoscale.recommend.model.replica_model import DrawnRequests, ReplicaModel
from autoscale.recommend.progress import Progress, part, silent
from autoscale.sim.engine.replicas import EngineParams
from loadgen.plan import lengths
from loadgen.plan.lengths import Lengths

# Of the saturated throughput: the rates shown when none are asked for
LOADS = (0.2, 0.4, 0.6, 0.75, 0.85, 0.95)
NAMES = {
    "base_s": "what a step costs whatever is in it",
    "per_sequence_s": "what a running request adds to a step",
    "per_kv_token_s": "what a token in the KV cache adds to a step",
    "per_prefill_token_s": "what a prompt token costs",
    "request_overhead_s": "the time before a request reaches the scheduler",
}
FAR = 1.5  # mean lengths that differ from the measured ones by more than this factor are called far


@dataclass(frozen=True)
class Prediction:
    """One replica at the asked lengths.

    `saturated`, `knee` and `capacity` are requests/s with 95 % intervals (`capacity` None: an idle replica breaks the
    SLO already, `binds` says how; else it is the term that binds first); `points` has a row per rate: rate_rps,
    METRIC_pP_s with _low and _high (TTFT, TPOT, E2E at p50 and p95), running, waiting, kv_usage, queue_grows (above
    saturation: TTFT, E2E and waiting are infinite); `limit` what fills first, in words and in numbers, `notes` sentences on how far the prediction reaches, `verify` a command that would
    test it. `runs` and `model` are what it rests on.
    """

    profile: Profile
    runs: tuple[Run, ...]
    model: ReplicaModel
    slo: str
    prompt: Lengths
    output: Lengths
    saturated: Estimate
    knee: Estimate
    capacity: Estimate | None
    binds: str
    limit: tuple[str, str]
    points: pd.DataFrame
    notes: tuple[str, ...]
    verify: str


def predict(
    runs: Sequence[Path] | None,
    prompt_tokens: str,
    output_tokens: str,
    *,
    profile: str | None = None,
    slo: str | None = None,
    rates_rps: Sequence[float] = (),
    progress: Progress = silent,
) -> Prediction:
    """What one replica does with these lengths (syntax of loadgen.plan.lengths), from runs that measured others.

    Raises BadInput, BadRun, and TooLittleData when the model does not reproduce the runs.
    """
    prompt, output = _asked(prompt_tokens, output_tokens, rates_rps)
    progress(0.0, "reading the run")
    found = runs_of(runs)
    system = system_of(profile, found)
    asked = slo_of(slo, found, system)
    model = learn(found, system, asked, part(progress, 0.0, 0.3))
    if doubts := model.untrusted():
        raise TooLittleData(
            f"the engine model does not reproduce {found[0].path}: {'; '.join(doubts)}",
            next_step="measure again on one quiet replica",
        )
    requests = _fitting(DrawnRequests.drawn(prompt, output), model.engine)
    progress(0.35, "full batch")
    full = model.full_batch_at(requests)
    rates = sorted(rates_rps) or [float(f"{share * full.saturated.value:.2g}") for share in LOADS]
    points = []
    for k, rate in enumerate(rates):
        progress(0.4 + 0.4 * k / len(rates), f"{rate:g} req/s")
        points.append(_point(model, rate, requests, full.saturated.value))
    progress(0.8, "SLO")
    scenario = scenario_of(
        system, peak_rps=1.0, slo=asked, engine=model.engine, lengths=(str(prompt), str(output))
    )
    capacity, binds = model.capacity_at(scenario)
    return Prediction(
        profile=system,
        runs=tuple(found),
        model=model,
        slo=asked,
        prompt=prompt,
        output=output,
        saturated=full.saturated,
        knee=full.knee,
        capacity=capacity,
        binds=binds,
        limit=_limit(model.engine, full.seats),
        points=pd.DataFrame(points),
        notes=(*_growing(rates, full.saturated), *_notes(model, requests, system)),
        verify=_verify(found, prompt, output, full.knee.value),
    )


def _point(
    model: ReplicaModel, rate_rps: float, requests: DrawnRequests, saturated_rps: float
) -> dict[str, float | bool]:
    """A row of `points`."""
    row = model.latency_at(rate_rps, requests)
    grows = rate_rps > saturated_rps
    if grows:  # what the simulated requests waited says how many they were
        endless = (name for name in row if name.startswith(("ttft", "e2e")) or name == "waiting")
        row = row | dict.fromkeys(endless, math.inf)
    return {"rate_rps": rate_rps, **row, "queue_grows": grows}


def _asked(prompt_tokens: str, output_tokens: str, rates_rps: Sequence[float]) -> tuple[Lengths, Lengths]:
    """The lengths that were asked for. Raises BadInput."""
    prompt, output = lengths.parse_lengths(prompt_tokens), lengths.parse_lengths(output_tokens)
    if "trace" in (prompt.kind, output.kind):
        raise BadInput("lengths", value="trace", expected="a distribution, for example uniform:200,400")
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates_rps):
        raise BadInput("rates", value=list(rates_rps), expected="requests/s above 0")
    return prompt, output


def _fitting(requests: DrawnRequests, engine: EngineParams) -> DrawnRequests:
    """The requests, when the engine can hold one. Raises BadInput."""
    if (need := sum(requests.mean)) > engine.kv_tokens:
        raise BadInput(
            "a request of these lengths does not fit into the KV cache",
            value=round(need),
            expected=f"at most {engine.kv_tokens} tokens",
        )
    return requests


def _limit(engine: EngineParams, seats: float) -> tuple[str, str]:
    """What fills first at saturation, and in numbers."""
    total = engine.max_num_seqs * engine.data_parallel
    if seats > 0.9 * total:
        return "the batch fills first", f"{seats:.1f} of {total} seats (max_num_seqs) in use at saturation"
    tokens = engine.kv_tokens * engine.data_parallel
    return (
        "the KV cache fills first",
        f"its {tokens:,} tokens hold {seats:.1f} of these requests; {total} seats",
    )


def _growing(rates_rps: Sequence[float], saturated: Estimate) -> list[str]:
    return [
        f"{rate:.3g} req/s is more than one replica completes ({saturated.value:.3g}): the queue grows as long as it lasts"
        for rate in rates_rps
        if rate > saturated.value
    ]


def _notes(model: ReplicaModel, requests: DrawnRequests, system: Profile) -> list[str]:
    if not model.fitted:
        error = prior_error(system).step
        return [
            f"no run: the step time is the profile's prior from data sheets, which missed published ones by {error.median:.0%} "
            f"(median; every tenth by more than {error.p90:.0%}); measure a sweep first"
        ]
    notes = [note for capacity in model.capacities for note in capacity.notes]
    for what, asked, seen in zip(("prompts", "outputs"), requests.mean, model.shape, strict=True):
        if not 1 / FAR <= asked / seen <= FAR:
            notes.append(f"{what} of {asked:.0f} tokens on average were not measured: the run had {seen:.0f}")
    doubt = model.doubt_at(requests)
    if doubt is not None:
        name, share = doubt
        low, high = model.intervals[name]
        notes.append(
            f"{share:.0%} of the capacity's uncertainty is {NAMES[name]}: the run puts it between {low * 1e3:.3g} and "
            f"{high * 1e3:.3g} ms; a run with the asked lengths narrows it"
        )
    for a, b in model.confounded:
        notes.append(f"the run cannot tell {NAMES[a]} from {NAMES[b]}: their sum is known better than each")
    return notes


def _verify(runs: Sequence[Run], prompt: Lengths, output: Lengths, knee_rps: float) -> str:
    host = (runs[0].header.get("target") if runs else None) or "URL"
    stages = ",".join(f"{share * knee_rps:.2g}:120" for share in (0.4, 0.7, 0.9, 1.0, 1.3))
    return (
        f"autoscale load --headless --host {host} --stages {stages} --prompt-tokens {prompt} "
        f"--output-tokens {output}"
    )


def as_json(found: Prediction) -> dict[str, object]:
    """The prediction as plain types, NaN and infinity as None."""

    def of(estimate: Estimate) -> dict[str, float]:
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high}

    content = {
        "profile": found.profile.name,
        "runs": [str(run.path) for run in found.runs],
        "measured_lengths": run_lengths(found.runs),
        "prompt_tokens": str(found.prompt),
        "output_tokens": str(found.output),
        "saturated_rps": of(found.saturated),
        "knee_rps": of(found.knee),
        "slo": str(parse_slo(found.slo)),
        "slo_rps": of(found.capacity) if found.capacity else None,
        "binds": found.binds,
        "limit": ": ".join(found.limit),
        "points": found.points.to_dict(orient="records"),
        "notes": found.notes,
        "verify": found.verify,
    }
    return {name: plain(value) for name, value in content.items()}
