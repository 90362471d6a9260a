"""What one replica will do with requests of other lengths than those that were measured: rates, latencies, capacity.

The engine calibrated on the run serves Poisson arrivals of the new lengths at several rates. Intervals come from engines
that explain the run about as well as the fitted one (uncertainty.py): where the new lengths lean on a coefficient that
the run hardly shows, they are wide, and a sentence says which coefficient it is and what to measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.errors import BadInput, TooLittleData
from analysis.numbers import plain
from analysis.queueing import Replica
from analysis.saturation import Estimate
from analysis.slo import parse_slo
from autoscale.recommend.model.learning import Learned, Progress, learn, run_lengths, runs_of, system_of
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from autoscale.recommend.model.replaying import Offered, full_batch
from autoscale.recommend.model.uncertainty import FACTORS, capacity_ratios, drawn
from autoscale.recommend.pipeline import scenario_of
from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan import lengths
from loadgen.plan.lengths import Lengths

LOADS = (
    0.2,
    0.4,
    0.6,
    0.75,
    0.85,
    0.95,
)  # of the saturated throughput: the rates shown when none are asked for
REQUESTS = 3000  # simulated per rate; the first tenth is warm-up
ENGINES = 24  # drawn engines that are simulated at every rate
SLO_ENGINES = 8  # drawn engines whose SLO is searched for its rate
METRICS = ("ttft", "tpot", "e2e")
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

    `saturated`, `knee` and `slo` are requests/s with 95 % intervals (`slo` None: an idle replica breaks it already);
    `points` has a row per rate: rate_rps, METRIC_pP_s with _low and _high (TTFT, TPOT, E2E at p50 and p95), running, waiting, kv_usage;
    `limit` what fills first, in words and in numbers, `notes` sentences on how far the prediction reaches, `verify` a command that would test it.
    """

    learned: Learned
    prompt: Lengths
    output: Lengths
    saturated: Estimate
    knee: Estimate
    slo: Estimate | None
    binds: str | None
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
    progress: Progress | None = None,
) -> Prediction:
    """What one replica does with these lengths (syntax of loadgen.plan.lengths), from runs that measured others.

    Raises BadInput, BadRun, and TooLittleData when the model does not reproduce the runs.
    """
    report = progress or (lambda _fraction, _text: None)
    prompt, output = lengths.parse(prompt_tokens), lengths.parse(output_tokens)
    if "trace" in (prompt.kind, output.kind):
        raise BadInput("lengths", value="trace", expected="a distribution, for example uniform:200,400")
    if any(not (math.isfinite(rate) and rate > 0) for rate in rates_rps):
        raise BadInput("rates", value=list(rates_rps), expected="requests/s above 0")
    report(0.0, "reading the run")
    found = runs_of(runs)
    system = system_of(profile, found, None, None)
    learned = learn(found, system, slo, lambda f, text: report(0.3 * f, text))
    if learned.calibration is not None and (doubts := learned.calibration.untrusted()):
        raise TooLittleData(
            f"the engine model does not reproduce {found[0].path}: {'; '.join(doubts)}",
            next_step="measure again on one quiet replica",
        )
    return _predicted(learned, prompt, output, rates_rps, report)


def _predicted(
    learned: Learned, prompt: Lengths, output: Lengths, rates_rps: Sequence[float], report: Progress
) -> Prediction:
    rng = np.random.default_rng(0)
    engine, calibration = learned.engine, learned.calibration
    sizes = prompt.draw(rng, REQUESTS), output.draw(rng, REQUESTS)
    gaps = rng.exponential(1.0, REQUESTS)
    mean = float(sizes[0].mean()), float(sizes[1].mean())
    if (need := mean[0] + mean[1]) > engine.kv_tokens:
        raise BadInput(
            "a request of these lengths does not fit into the KV cache",
            value=round(need),
            expected=f"at most {engine.kv_tokens} tokens",
        )
    factors = calibration.factors if calibration else np.ones((1, len(FACTORS)))
    spread = learned.spread(*mean)
    report(0.35, "full batch")
    saturated_rps, seats = full_batch(engine, *sizes)
    knee_rps = _replica(engine, saturated_rps, seats, mean).knee_rps
    rates = sorted(rates_rps) or [float(f"{share * saturated_rps:.2g}") for share in LOADS]
    picked = factors[:: max(len(factors) // ENGINES, 1)][:ENGINES]
    points = []
    for k, rate in enumerate(rates):
        report(0.4 + 0.4 * k / len(rates), f"{rate:g} req/s")
        due_s = np.cumsum(gaps) / rate
        tables = [_figures(drawn(engine, f), due_s, *sizes) for f in (np.ones(len(FACTORS)), *picked)]
        points.append({"rate_rps": rate, **_between(tables)})
    report(0.8, "SLO")
    slo, binds = _slo_rate(learned, prompt, output, factors, spread)
    return Prediction(
        learned=learned,
        prompt=prompt,
        output=output,
        saturated=_estimate(saturated_rps, spread, "a full batch of the calibrated engine"),
        knee=_estimate(knee_rps, spread, "every second request finds the batch full"),
        slo=slo,
        binds=binds,
        limit=_limit(engine, seats),
        points=pd.DataFrame(points),
        notes=tuple(_notes(learned, mean, factors)),
        verify=_verify(learned, prompt, output, knee_rps),
    )


def _replica(engine: EngineParams, saturated_rps: float, seats: float, mean: tuple[float, float]) -> Replica:
    """The queue that `analysis` would fit to the engine: seats, and how much slower a full batch is than one request."""
    prompt, output = mean
    alone_s = (output - 1) * engine.step_s(1, prompt + output / 2)
    whole = max(round(seats), 1)
    return Replica(whole, saturated_rps, max(whole / saturated_rps / alone_s, 1.0))


def _figures(
    engine: EngineParams, due_s: NDArray[np.float64], prompt: NDArray[np.int32], output: NDArray[np.int32]
) -> dict[str, float]:
    """Percentiles and mean signals of one simulated rate, after a tenth of the requests."""
    times = np.linspace(due_s[len(due_s) // 10], due_s[-1], 400)
    done, series = replay(engine, Offered.at(due_s, prompt, output), times)
    done = done[len(done) // 10 :]
    due, first, last = due_s[len(due_s) // 10 :], done["first_token_s"], done["last_token_s"]
    more = done["output_tokens"] > 1
    values = {
        "ttft": first - due,
        "tpot": (last - first)[more] / (done["output_tokens"][more] - 1),
        "e2e": last - due,
    }
    figures = {
        f"{metric}_p{p}_s": float(np.quantile(values[metric], p / 100)) if values[metric].size else math.nan
        for metric in METRICS
        for p in (50, 95)
    }
    return {**figures, **{name: float(series[name].mean()) for name in ("running", "waiting", "kv_usage")}}


def _between(tables: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of the first engine with the middle 95 % of all of them."""
    row: dict[str, float] = {}
    for name, value in tables[0].items():
        row[name] = value
        if name.endswith("_s"):
            low, high = np.quantile([t[name] for t in tables], [0.025, 0.975])
            row[f"{name[:-2]}_low"], row[f"{name[:-2]}_high"] = float(low), float(high)
    return row


def _slo_rate(
    learned: Learned,
    prompt: Lengths,
    output: Lengths,
    factors: NDArray[np.float64],
    spread: tuple[float, float],
) -> tuple[Estimate | None, str | None]:
    """The highest rate that holds the SLO, by simulation; as uncertain as the capacity, or more where a bound on the
    step time itself binds."""
    scenario = scenario_of(
        learned.profile,
        peak_rps=1.0,
        slo=str(parse_slo(learned.slo)),
        engine=learned.engine,
        lengths=(str(prompt), str(output)),
    )
    if (verdict := idle_verdict(scenario)) is not None:
        return None, verdict.sentence
    point = capacity(scenario)
    some = factors[:: max(len(factors) // SLO_ENGINES, 1)][:SLO_ENGINES]
    rates = [point.rate_rps]
    for one in some if len(factors) > 1 else ():
        drawn_scenario = replace(scenario, engine=drawn(learned.engine, one))
        idle = idle_verdict(drawn_scenario) is not None
        rates.append(0.0 if idle else capacity(drawn_scenario).rate_rps)
    low = min(min(rates), point.rate_rps * spread[0])
    high = max(max(rates), point.rate_rps * spread[1])
    return Estimate(point.rate_rps, low, high, "simulated with the calibrated engine"), point.binding


def _estimate(value: float, spread: tuple[float, float], how: str) -> Estimate:
    return Estimate(value, value * spread[0], value * spread[1], how)


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


def _notes(learned: Learned, mean: tuple[float, float], factors: NDArray[np.float64]) -> list[str]:
    calibration = learned.calibration
    if calibration is None:
        return [
            "no run: the step time is the profile's prior from data sheets, expect 5 to 15 % error; measure a sweep first"
        ]
    notes = [note for capacity in learned.capacities for note in capacity.notes]
    for what, asked, seen in zip(("prompts", "outputs"), mean, calibration.shape, strict=True):
        if not 1 / FAR <= asked / seen <= FAR:
            notes.append(f"{what} of {asked:.0f} tokens on average were not measured: the run had {seen:.0f}")
    blame = _blame(learned.engine, factors, mean)
    if blame is not None:
        name, share = blame
        low, high = calibration.intervals[name]
        notes.append(
            f"{share:.0%} of the capacity's uncertainty is {NAMES[name]}: the run puts it between {low * 1e3:.3g} and "
            f"{high * 1e3:.3g} ms; a run with the asked lengths narrows it"
        )
    for a, b in calibration.confounded:
        notes.append(f"the run cannot tell {NAMES[a]} from {NAMES[b]}: their sum is known better than each")
    return notes


def _blame(
    engine: EngineParams, factors: NDArray[np.float64], mean: tuple[float, float]
) -> tuple[str, float] | None:
    """The coefficient whose draws explain most of the capacity's variance, and the share it explains; None = none half."""
    log_capacity = np.log(capacity_ratios(engine, factors, *mean))
    if len(factors) < 3 or log_capacity.std() < 0.02:
        return None
    shares = [float(np.corrcoef(np.log(column), log_capacity)[0, 1] ** 2) for column in factors.T[:4]]
    best = int(np.nanargmax(shares))
    return (FACTORS[best], shares[best]) if shares[best] > 0.5 else None


def _verify(learned: Learned, prompt: Lengths, output: Lengths, knee_rps: float) -> str:
    host = (learned.runs[0].header.get("target") if learned.runs else None) or "URL"
    stages = ",".join(f"{share * knee_rps:.2g}:120" for share in (0.4, 0.7, 0.9, 1.0, 1.3))
    return (
        f"locust -f loadgen/completions.py --headless --host {host} --stages {stages} --prompt-tokens {prompt} "
        f"--output-tokens {output}"
    )


def as_json(found: Prediction) -> dict[str, object]:
    """The prediction as plain types, NaN and infinity as None."""
    learned = found.learned

    def of(estimate: Estimate) -> dict[str, float]:
        return {"value": estimate.value, "low": estimate.low, "high": estimate.high}

    content = {
        "profile": learned.profile.name,
        "runs": [str(run.path) for run in learned.runs],
        "measured_lengths": run_lengths(learned.runs),
        "prompt_tokens": str(found.prompt),
        "output_tokens": str(found.output),
        "saturated_rps": of(found.saturated),
        "knee_rps": of(found.knee),
        "slo": str(parse_slo(learned.slo)),
        "slo_rps": of(found.slo) if found.slo else None,
        "binds": found.binds,
        "limit": ": ".join(found.limit),
        "points": found.points.to_dict(orient="records"),
        "notes": found.notes,
        "verify": found.verify,
    }
    return {name: plain(value) for name, value in content.items()}
