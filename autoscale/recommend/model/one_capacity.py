"""How much one replica takes under an SLO: the one answer of a run, with one interval, for every surface.

It rests on all that was seen. The calibrated engine, which reproduces every request of the run, gives the rate and most of
the interval (replica_model.ReplicaModel.capacity_at); what the stages show by themselves has to agree. A rate that was
held for a whole stage is never above the interval, one that broke the SLO never inside what holds: where they do, the
interval grows as far as the disagreement and a note names the stages. Where the engine cannot be trusted the answer is
that of the stages alone (analysis.capacity), as wide as stages of their length allow.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.capacity import Capacity
from analysis.holding import UNMEASURED
from analysis.run import Run
from analysis.saturation import Estimate
from analysis.slo import Slo, meets, stage_needed_s
from analysis.steady import Observed, StageWindow
from autoscale.profiles import Profile
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.one_replica import fitted_lengths, idle_verdict
from autoscale.recommend.model.replica_model import DrawnRequests, ReplicaModel
from loadgen.plan import rates
from loadgen.plan.lengths import Lengths, parse_lengths
from loadgen.plan.traffic import LoadPlan, parse_arrivals

LIVES = 3.0  # of a request (median E2E) that a stage must last to say something by itself
SHORT_ERROR = 1.5  # relative error of a rate from stages as long as one request; it falls as they get longer
HALF = 0.4  # of a run that was slower than the rest: from there on nobody can tell which is usual
FLAT = (
    2.0  # times as wide as the throughput's interval, from which on a rate's is said to lie on a flat curve
)
SURE = 0.95  # confidence with which a stage holds or breaks a bound


def agreed(
    capacity: Capacity, observed: Observed, run: Run, model: ReplicaModel, profile: Profile, slo: Slo
) -> Capacity:
    """The capacity of one run with the model's answer taken in, and notes on what disagrees."""
    life_s = float(observed.table["e2e_s"].median())
    short = _too_short(capacity, observed, life_s, slo)
    notes = [*capacity.notes, *short, *slowed_notes(model, capacity)]
    if doubts := model.untrusted():
        notes.append(
            f"the engine model does not reproduce the run ({'; '.join(doubts)}): the rates are those of the stages alone"
        )
        return replace(_widened(capacity, life_s), notes=tuple(notes))
    full = model.full_batch_at(DrawnRequests.drawn(*lengths_sent(run)))
    scenario = _steady_load(run, model, profile, slo)
    found, binds = model.capacity_at(scenario)
    found = found or Estimate(np.nan, 0.0, _lowest(capacity), "not held even by an idle replica")
    if _only_overloaded(capacity, model):
        found = Estimate(np.nan, 0.0, full.saturated.high, UNMEASURED)
    notes += _flat(found, full.saturated, binds)
    found, more = _against_stages(found, capacity, observed, model, life_s, slo)
    found, unsure = _either_speed(found, scenario, observed, model)
    more += unsure
    return replace(
        capacity,
        saturated=full.saturated,
        knee=full.knee,
        capacity=found,
        binds=binds if found.known else capacity.binds,
        per_term={},
        notes=(*notes, *more),
    )


def _steady_load(run: Run, model: ReplicaModel, profile: Profile, slo: Slo) -> Scenario:
    """The run's requests at a steady rate, served by the calibrated engine."""
    plan = LoadPlan(rates.constant(1.0, 600.0), parse_arrivals("poisson"), *lengths_sent(run))
    return Scenario(profile, model.engine, plan, slo)


def refuted(
    capacity: Capacity, observed: Observed, run: Run, model: ReplicaModel, profile: Profile, slo: Slo
) -> list[str]:
    """That stages kept an SLO which an idle replica misses by the model: whoever is right, the model is not. Stages that
    the client limited count: what came was in time."""
    kept = [str(window.stage) for window in capacity.windows if _verdict(observed, window, slo)[0]]
    if not kept or (verdict := idle_verdict(_steady_load(run, model, profile, slo))) is None:
        return []
    stages = f"stage{'s' * (len(kept) > 1)} {', '.join(kept)}"
    return [f"by the model {verdict.sentence.split(':')[0]}, but {stages} of {run.path} kept the SLO"]


def _flat(found: Estimate, saturated: Estimate, binds: str) -> list[str]:
    """That the bound lies where its curve is flat, so that the rate is known much worse than the speed."""
    if not (found.known and 0 < found.low < found.high < math.inf and saturated.low < saturated.high):
        return []
    steeper = math.log(found.high / found.low) / math.log(saturated.high / saturated.low)
    if steeper < FLAT:
        return []
    return [
        f"{binds} hardly changes with the rate near its bound: what is open about the server's speed counts {steeper:.1f} "
        "times in the rate; choose a bound further from what a full batch takes, or measure longer"
    ]


def _only_overloaded(capacity: Capacity, model: ReplicaModel) -> bool:
    """Whether requests waited in every stage; where nobody knows, whether none was steady."""
    replay = model.replay
    waited = replay.loc[replay["figure"] == "waiting", "measured"].dropna()
    if len(waited):
        return bool((waited >= 1).all())
    return not any(w.usable and w.state == "steady" for w in capacity.windows)


def lengths_sent(run: Run) -> tuple[Lengths, Lengths]:
    """Prompt and output lengths that the run was sent: its distributions, else log-normal ones like its requests'."""
    said = run.header.get("lengths") or {}
    texts = [str(said.get(name) or "trace") for name in ("prompt_tokens", "output_tokens")]
    found = []
    for text, column in zip(texts, ("prompt_tokens", "output_tokens"), strict=True):
        if text != "trace":
            found.append(parse_lengths(text))
            continue
        tokens = run.requests[column].dropna().to_numpy(dtype="int32")
        found.append(fitted_lengths([tokens[tokens > 0]]))
    return found[0], found[1]


def slowed_notes(model: ReplicaModel, capacity: Capacity) -> list[str]:
    """A sentence on every time in which something else slowed the server."""
    notes = []
    for s in model.usual.merged():
        inside = [
            str(w.stage)
            for w in capacity.windows
            if min(s.to_s, w.end_s) - max(s.from_s, w.start_s) > 0.5 * (w.end_s - w.start_s)
        ]
        where = f" (stage{'s' * (len(inside) > 1)} {', '.join(inside)})" if inside else ""
        if s.factor > 1.05:
            notes.append(
                f"from {s.from_s:.0f} s to {s.to_s:.0f} s of the run{where} a step took {s.factor - 1:.0%} longer than in "
                "the rest at the same load: something else used the server; the rates are those of the undisturbed server"
            )
    return notes


def _either_speed(
    found: Estimate, scenario: Scenario, observed: Observed, model: ReplicaModel
) -> tuple[Estimate, list[str]]:
    """The estimate as wide as both speeds, when about half of the run was slower than the rest: either may be usual."""
    stretches = model.usual.merged()
    slowed_s = sum(s.to_s - s.from_s for s in stretches)
    whole_s = float(observed.table["due_s"].max())
    if not stretches or slowed_s < HALF * whole_s or np.isnan(found.value):
        return found, []
    factor = float(np.exp(sum((s.to_s - s.from_s) * np.log(s.factor) for s in stretches) / slowed_s))
    slower, _ = replace(model, engine=scaled(model.engine, factor)).capacity_at(
        replace(scenario, engine=scaled(model.engine, factor))
    )
    low = min(found.low, slower.low if slower else 0.0)
    return replace(found, low=low), [
        f"{slowed_s / whole_s:.0%} of the run was slower than the rest: which of the two is usual cannot be told, so the "
        "interval holds both; measure again on a quiet server, or in short pieces that take turns"
    ]


def _too_short(capacity: Capacity, observed: Observed, life_s: float, slo: Slo) -> list[str]:
    """That stages are too short to say anything by themselves, and how long they should be."""
    lengths_s = [w.end_s - w.start_s for w in capacity.windows]
    if not lengths_s or not math.isfinite(life_s) or float(np.median(lengths_s)) >= LIVES * life_s:
        return []
    return [
        f"stages of {np.median(lengths_s):.0f} s are shorter than {LIVES:g} times what a request takes ({life_s:.1f} s): "
        f"what they show by themselves is the way to a steady state; {stage_length_s(observed, slo):.0f} s would show it"
    ]


def stage_length_s(observed: Observed, slo: Slo | None) -> float:
    """How long stages of such a run should be, in tens of seconds: for its mean rate, and the median E2E of all requests."""
    life_s = float(observed.table["e2e_s"].median())
    rate_rps = len(observed.table) / max(float(observed.table["due_s"].max()), 1.0)
    return float(math.ceil(max(stage_needed_s(life_s, rate_rps, slo), 20.0) / 10) * 10)


def _widened(capacity: Capacity, life_s: float) -> Capacity:
    """The stages' own answer, as wide as stages of their length allow."""
    shortest_s = min((w.end_s - w.start_s for w in capacity.windows if w.usable), default=math.inf)
    error = min(SHORT_ERROR * life_s / shortest_s, 1.0) if shortest_s < LIVES * life_s else 0.0

    def wide(estimate: Estimate) -> Estimate:
        return replace(estimate, low=estimate.low * (1 - error / 2), high=estimate.high * (1 + error))

    return replace(
        capacity,
        saturated=wide(capacity.saturated),
        knee=wide(capacity.knee),
        capacity=wide(capacity.capacity),
        per_term={name: wide(estimate) for name, estimate in capacity.per_term.items()},
    )


def _against_stages(
    found: Estimate, capacity: Capacity, observed: Observed, model: ReplicaModel, life_s: float, slo: Slo
) -> tuple[Estimate, list[str]]:
    """The estimate, grown where a stage contradicts it, and the sentences that say so."""
    notes: list[str] = []
    # Without a bound on waiting those who are served say nothing of a queue that grows
    waits = any(term.metric in ("ttft", "e2e") for term in slo.terms)
    rates_rps = capacity.points.set_index("stage")["rate_rps"]
    for window in capacity.windows:
        if not window.usable or window.end_s - window.start_s < LIVES * life_s:
            continue
        rate = float(rates_rps[window.stage])
        held, broken = _verdict(observed, window, slo)
        if held and (window.state == "steady" or waits) and rate > found.high:
            notes.append(
                f"stage {window.stage} held the SLO at {rate:.3g} req/s, more than the run as a whole says: the interval "
                "reaches that far"
            )
            found = replace(found, high=rate)
        if broken and rate < found.low and not _slowed(model, window):
            notes.append(
                f"stage {window.stage} broke the SLO at {rate:.3g} req/s, less than the run as a whole says: the interval "
                "reaches that far"
            )
            found = replace(found, low=rate)
    return found, notes


def _verdict(observed: Observed, window: StageWindow, slo: Slo) -> tuple[bool, bool]:
    """Whether the stage surely held every term, and whether it surely broke one; by the counts of its requests."""
    rows = observed.rows(window.stage)
    rows = rows[rows["sent_s"].notna() & rows["due_s"].between(window.from_s, window.to_s)]
    held, broken = True, False
    for term in slo.terms:
        asked = slo.goodput if term.percentile is None else term.percentile / 100
        if asked is None or term.metric == "itl" or rows.empty:
            held = False
            continue
        one = replace(slo, terms=(term,))
        late = int((~meets(one, rows["ok"], rows["ttft_s"], rows["tpot_s"], rows["e2e_s"])).sum())
        count = len(rows)
        held &= bool(stats.binom.cdf(late, count, 1 - asked) < 1 - SURE) or late == 0
        broken |= bool(stats.binom.sf(late - 1, count, 1 - asked) < 1 - SURE)
    return held, broken


def _slowed(model: ReplicaModel, window: StageWindow) -> bool:
    return any(s.from_s < window.end_s and s.to_s > window.start_s for s in model.usual.slowed)


def _lowest(capacity: Capacity) -> float:
    rates_rps: pd.Series[float] = capacity.points["rate_rps"].dropna()
    return float(rates_rps.min()) if len(rates_rps) else np.inf
