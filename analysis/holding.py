"""The highest rate at which one replica holds a term of an SLO.

Requests measured below saturation, moved to another rate by the fitted slowdown, wait in the fitted queue; the rate is
where the share that breaks its bound reaches what the term allows. Without a queued stage, and for gaps, it is the
bracket between the last stage that holds and the first that does not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.latency import gaps_within
from analysis.queueing import ReplicaQueue
from analysis.saturation import DRAWS, Estimate, FittedServer, quantiles
from analysis.slo import Slo, Term, meets
from analysis.steady import Observed, StageWindow

UNMEASURED = "no stage below saturation was measured"
_SAMPLE = 600  # requests that stand for all in the SLO's curve
_TAIL_SPREAD = 0.15  # spread (log) of the queue's decay around its formula: 2 sigma = 0.74 to 1.35 times
_LOAD = np.concatenate([np.linspace(0.05, 0.6, 8), np.linspace(0.65, 0.995, 24)])  # shares of saturation


def holds(
    observed: Observed,
    spans: tuple[StageWindow, ...],
    usable: pd.DataFrame,
    slo: Slo,
    server: FittedServer | None,
    rng: np.random.Generator,
    goodput: bool = False,
) -> Estimate:
    """The highest rate that holds one percentile term, or goodput."""
    term = slo.terms[0]
    asked = slo.goodput if goodput else (term.percentile or np.nan) / 100
    assert asked is not None
    if not goodput and term.metric != "itl" and observed.table[f"{term.metric}_s"].isna().all():
        return Estimate(np.nan, 0.0, np.inf, f"not measured: the run has no {term.metric.upper()}")
    if term.metric == "itl" and not goodput:
        return _bracket(usable, _gap_breaches(observed, spans, term), asked, server)
    broken = {w.stage: _breaches(observed, w, slo) for w in spans if w.usable}
    if server is None or not server.measured:
        return _bracket(usable, broken, asked, server)
    return _from_queue(observed, spans, usable, slo, broken, asked, server, rng)


def _from_queue(
    observed: Observed,
    spans: tuple[StageWindow, ...],
    usable: pd.DataFrame,
    slo: Slo,
    broken: dict[int, tuple[float, float]],
    asked: float,
    server: FittedServer,
    rng: np.random.Generator,
) -> Estimate:
    """Crossing of the breach curve with the allowed share: measured requests plus the wait of the fitted queue."""
    replica = server.replica
    service_s = np.array([replica.service_at(rate) for rate in _LOAD * replica.saturated_rps])
    waits = np.array([replica.wait_probability(rate) for rate in _LOAD * replica.saturated_rps])
    base = _requests_without_wait(observed, spans, usable, replica, rng)
    nearness = _nearness(base["rate_rps"], _LOAD * replica.saturated_rps)
    steady = usable[usable["state"] == "steady"]
    spread = float(base["spent"].var() / base["spent"].mean() ** 2)
    decay = 2 / (1 + spread) * np.exp(_TAIL_SPREAD * rng.standard_normal(DRAWS))
    speed = np.exp(server.wander / np.sqrt(max(len(steady), 1)) * rng.standard_normal(DRAWS))
    evidence = [
        (
            rate,
            np.array(broken[int(stage)])
            * min(1.0, _independent(rate, duration_s, replica) / broken[int(stage)][1]),
        )
        for stage, rate, duration_s in steady[["stage", "rate_rps", "duration_s"]].to_numpy(dtype=float)
    ]
    crossings, weights = np.empty(DRAWS), np.zeros(DRAWS)
    for draw in range(DRAWS):
        slack_s = _slack(base, slo, service_s * speed[draw])
        drain_rps = server.saturated[draw] * (1 - _LOAD) * decay[draw]
        late = np.where(
            slack_s < 0, 1.0, waits[:, None] * np.exp(-drain_rps[:, None] * np.maximum(slack_s, 0))
        )
        curve = np.asarray(optimize.isotonic_regression((late * nearness).sum(axis=1)).x)
        at_rps = _LOAD * server.saturated[draw]
        crossings[draw] = _crossing(at_rps, curve, 1 - asked, server.saturated[draw])
        for rate, (late_count, count) in evidence:
            share = float(np.clip(np.interp(rate, at_rps, curve), 5e-3, 1 - 5e-3))
            weights[draw] += late_count * np.log(share) + (count - late_count) * np.log1p(-share)
    weights = np.exp(weights - weights.max())
    low, value, high = _weighted(crossings, weights, (0.025, 0.5, 0.975))
    how = "measured latencies plus the wait in the fitted queue"
    if value <= 0 and steady.empty:
        return Estimate(np.nan, 0.0, float(np.quantile(server.saturated, 0.975)), UNMEASURED)
    if value <= 0:
        lowest = max(high, float(_LOAD[0] * replica.saturated_rps))
        return Estimate(np.nan, 0.0, lowest, "not held even by a nearly idle replica")
    return Estimate(value, low, high, how)


def _independent(rate_rps: float, duration_s: float, replica: ReplicaQueue) -> float:
    """How often the queue forgets its past in a stage: its relaxation time is 2 / (saturated rate (1 - sqrt(load))^2).

    That many observations of waiting a stage is worth; at 85 % load and 5 req/s a minute is worth one (Newell's
    relaxation time of the M/M/1 queue; service of many seats forgets no faster once the batch is full).
    """
    load = min(rate_rps / replica.saturated_rps, 1.0)
    return duration_s * replica.saturated_rps * (1 - np.sqrt(load)) ** 2 / 2


def _requests_without_wait(
    observed: Observed,
    spans: tuple[StageWindow, ...],
    usable: pd.DataFrame,
    replica: ReplicaQueue,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Latencies of measured requests less their wait, relative to the fitted service time at their stage's rate.

    From the stages below saturation, an equal number of each; from the saturated ones when there is no other. Keys:
    rate_rps (of the stage), first (TTFT in s, not relative), spent (E2E), tpot.
    """
    states = set(usable["state"])
    chosen = [w for w in spans if w.usable and w.state == ("steady" if "steady" in states else "queued")]
    rates = usable.set_index("stage")["rate_rps"].to_dict()
    parts = []
    for window in chosen:
        rows = observed.rows(window.stage)
        rows = rows[rows["e2e_s"].notna() & rows["due_s"].between(window.from_s, window.to_s)]
        if window.stage not in rates or rows.empty:
            continue
        if len(rows) > (most := max(_SAMPLE // len(chosen), 1)):
            rows = rows.iloc[np.sort(rng.choice(len(rows), most, replace=False))]
        wait = np.maximum(observed.service_start_s[rows.index] - rows["due_s"], 0.0)
        scale = replica.service_at(rates[window.stage])
        columns = {
            "first": rows["ttft_s"] - wait,
            "spent": (rows["e2e_s"] - wait) / scale,
            "tpot": rows["tpot_s"] / scale,
        }
        parts.append(pd.DataFrame({"rate_rps": rates[window.stage], **columns}))
    table = pd.concat(parts, ignore_index=True)
    return {str(name): values.to_numpy(dtype=float) for name, values in table.items()}


def _nearness(measured_rps: NDArray[np.float64], wanted_rps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (wanted, measured) that sum to 1 per wanted rate: the two stages around it by linear interpolation."""
    stages, which, sizes = np.unique(measured_rps, return_inverse=True, return_counts=True)
    position = np.interp(wanted_rps, stages, np.arange(stages.size))
    weight = np.clip(1 - np.abs(position[:, None] - np.arange(stages.size)[None, :]), 0, None)
    return (weight / sizes)[:, which]


def _slack(
    base: dict[str, NDArray[np.float64]], slo: Slo, service_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How long each request may wait in the queue and keep its bounds, at each load: shape (loads, requests)."""
    slack = np.full((service_s.size, base["spent"].size), np.inf)
    for metric, bound_s in slo.bounds_s().items():
        if metric == "ttft":
            slack = np.fmin(slack, bound_s - base["first"][None, :])  # not streamed: no bound to break
        elif metric == "e2e":
            slack = np.minimum(slack, bound_s - base["spent"][None, :] * service_s[:, None])
        else:
            slack[base["tpot"][None, :] * service_s[:, None] > bound_s] = -np.inf
    return slack


def _breaches(observed: Observed, window: StageWindow, slo: Slo) -> tuple[float, float]:
    """Breaches and requests of a window, both divided by how much neighbours in time share their fate."""
    rows = observed.rows(window.stage)
    rows = rows[rows["due_s"].between(window.from_s, window.to_s)]
    broken = ~meets(slo, rows["ok"], rows["ttft_s"], rows["tpot_s"], rows["e2e_s"])
    count, share = len(rows), float(broken.mean())
    if not 0 < share < 1 or count < 40:
        return float(broken.sum()), float(count)
    blocks = np.array_split(broken, min(count // 10, 30))
    means = np.array([block.mean() for block in blocks])
    effect = max(float(means.var(ddof=1) * (count / len(blocks)) / (share * (1 - share))), 1.0)
    return float(broken.sum()) / effect, count / effect


def _gap_breaches(
    observed: Observed, spans: tuple[StageWindow, ...], term: Term
) -> dict[int, tuple[float, float]]:
    if observed.itl is None:
        return {}
    found = {}
    for window in spans:
        share, count = gaps_within(observed.itl[observed.itl["stage"] == window.stage], term.bound_s)
        if window.usable and count:
            found[window.stage] = ((1 - share) * count, float(count))
    return found


def _bracket(
    usable: pd.DataFrame, counted: dict[int, tuple[float, float]], asked: float, server: FittedServer | None
) -> Estimate:
    """Between the last stage that holds and the first that does not; the middle by the shares' normal scores."""
    stages = usable[usable["stage"].isin(list(counted))].sort_values("rate_rps")
    if stages.empty:
        return Estimate(np.nan, 0.0, np.inf, "not measured: the run has no streamed gaps")
    broken, count = np.array([counted[stage] for stage in stages["stage"]]).T
    share = np.asarray(optimize.isotonic_regression(broken / count, weights=count).x)
    rates = stages["rate_rps"].to_numpy()
    ceiling = server.replica.saturated_rps if server and server.measured else np.inf
    held = share <= 1 - asked
    if not held[0]:
        return Estimate(np.nan, 0.0, float(rates[0]), "not held at the lowest measured rate")
    last = int(np.flatnonzero(held)[-1])
    if last == len(rates) - 1:
        top = float(min(rates[last], ceiling))
        if np.isfinite(ceiling):
            return Estimate(
                ceiling,
                top,
                float(quantiles(server.saturated)[1]) if server else np.inf,
                "held up to saturation",
            )
        return Estimate(np.nan, top, np.inf, "held at the highest measured rate")
    score = stats.norm.ppf(np.clip(share[[last, last + 1]], 1e-4, 1 - 1e-4))
    position = (stats.norm.ppf(1 - asked) - score[0]) / (score[1] - score[0])
    low, high = float(rates[last]), float(min(rates[last + 1], ceiling))
    return Estimate(low + float(np.clip(position, 0, 1)) * (high - low), low, high, "between two stages")


def _crossing(
    rates: NDArray[np.float64], curve: NDArray[np.float64], allowed: float, ceiling: float
) -> float:
    """The rate at which a rising curve reaches `allowed`; 0 when it starts above, the ceiling when it stays below."""
    above = np.flatnonzero(curve > allowed)
    if not above.size:
        return ceiling
    k = int(above[0])
    if k == 0:
        return 0.0
    return float(np.interp(allowed, curve[k - 1 : k + 1], rates[k - 1 : k + 1]))


def _weighted(
    values: NDArray[np.float64], weights: NDArray[np.float64], at: tuple[float, ...]
) -> list[float]:
    order = np.argsort(values)
    cumulative = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return [float(np.interp(q, cumulative, values[order])) for q in at]
