"""Capacity of one replica from a load sweep: saturated throughput, knee, and the highest rate that holds an SLO.

Saturated throughput is what was completed per second while requests were queued. The knee is the rate at which every
second request finds the batch full (`analysis.queueing`): below it the median TTFT is that of an idle server. The rate
that holds an SLO comes from requests measured below saturation, to which the queue of that replica adds its wait.

Intervals are 95 % and come from draws of all that is uncertain: the measured throughput, how far the server's speed
wandered between stages, the slowdown with the batch, and the burstiness of the queue, each draw weighted by how well
it explains the breaches that were counted. What was not measured leaves its side of the interval open.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.errors import TooLittleData
from analysis.latency import gaps_within, samples_needed
from analysis.points import operating_points
from analysis.queueing import Replica
from analysis.run import Run
from analysis.signals import SIGNALS, LeadTime, lead_times
from analysis.slo import Slo, Term, breaches, meets
from analysis.steady import Observed, StageWindow, observe, windows

_DRAWS = 400
_SAMPLE = 600  # requests that stand for all in the SLO's curve
_TAIL_SPREAD = 0.15  # spread (log) of the queue's decay around its formula: 2 sigma = 0.74 to 1.35 times
_KNEE_MODEL = 0.004  # relative error of the knee's formula on simulated queues with sizes of cv 0.15 to 0.8
_LOAD = np.concatenate([np.linspace(0.05, 0.6, 8), np.linspace(0.65, 0.995, 24)])  # shares of saturation


@dataclass(frozen=True)
class Estimate:
    """A rate per replica in requests/s with its 95 % interval and how it was found; inf = open to that side, NaN value
    = only the interval is known."""

    value: float
    low: float
    high: float
    how: str

    @property
    def known(self) -> bool:
        """Whether anything is known: a value, or an interval that excludes some rate."""
        return not np.isnan(self.value) or self.low > 0 or bool(np.isfinite(self.high))

    def __str__(self) -> str:
        if not self.known:
            return f"unknown ({self.how})"
        if np.isnan(self.value) and np.isinf(self.high):
            return f"at least {self.low:.3g} req/s ({self.how})"
        if np.isnan(self.value):
            return f"between {self.low:.3g} and {self.high:.3g} req/s ({self.how})"
        high = "open" if np.isinf(self.high) else f"{self.high:.3g}"
        return f"{self.value:.3g} req/s ({self.low:.3g} to {high}; {self.how})"


@dataclass(frozen=True)
class Capacity:
    """What a run says about one replica; all rates are per replica.

    `points` is `analysis.points.operating_points`; `per_term` the highest rate that holds each term of the SLO alone;
    `capacity` the rate that holds them all, or the knee without an SLO; `binds` the term that sets it ("saturation"
    when all would hold up to there); `wander` how far the server's speed moved between stages (relative standard
    deviation); `notes` sentences on what was set aside and what disagrees; `next_command` is a sweep that would close
    an open interval, None when nothing is open.
    """

    windows: tuple[StageWindow, ...]
    points: pd.DataFrame
    saturated: Estimate
    knee: Estimate
    slo: Slo | None
    per_term: dict[str, Estimate]
    capacity: Estimate
    binds: str | None
    wander: float
    replica: Replica | None
    notes: tuple[str, ...]
    next_command: str | None


@dataclass(frozen=True)
class _Server:
    """The replica as a queue with draws of what is uncertain about it."""

    replica: Replica
    saturated: NDArray[np.float64]  # draws of the saturated throughput
    knee_share: NDArray[np.float64]  # draws of knee / saturated throughput
    wander: float
    measured: bool  # False = extrapolated from below
    how: str


def analyse(run: Run | Observed, slo: Slo | None = None, seed: int = 0) -> Capacity:
    """The capacity of one replica from a run (or from `observe(run)`), with an SLO or without.

    Raises BadRun without requests, TooLittleData when no stage can be used, with the command to run next.
    """
    observed = run if isinstance(run, Observed) else observe(run)
    spans = windows(observed)
    points = operating_points(observed, spans)
    usable = points[points["usable"] & points["throughput_rps"].notna()]
    if usable.empty:
        raise TooLittleData(
            "no stage of the run can be used: " + "; ".join(str(w) for w in spans),
            next_step=f"measure again: {_command(observed.header, _spread(1.0, 8.0))}",
        )
    rng = np.random.default_rng(seed)
    server = _server(usable, observed.header, rng)
    knee, saturated = _knee(usable, server)
    per_term: dict[str, Estimate] = {}
    capacity, binds = knee, None
    if slo is not None:
        per_term = {
            t.name: _holds(observed, spans, usable, Slo((t,)), server, rng) for t in slo.terms if t.percentile
        }
        if slo.goodput is not None:
            per_term["goodput"] = _holds(observed, spans, usable, slo, server, rng, goodput=True)
        judged = [name for name, estimate in per_term.items() if estimate.known] or list(per_term)
        binds = min(judged, key=lambda name: (_at(per_term[name]), per_term[name].high))
        capacity = per_term[binds]
        if server and server.measured and _at(capacity) > 0.99 * server.replica.saturated_rps:
            binds = "saturation"
    return Capacity(
        spans,
        points,
        saturated,
        knee,
        slo,
        per_term,
        capacity,
        binds,
        server.wander if server else np.nan,
        server.replica if server else None,
        (*_notes(observed, spans, usable), *_weak(per_term, slo, usable)),
        _next(observed.header, usable, server),
    )


def signal_leads(observed: Observed, spans: tuple[StageWindow, ...], slo: Slo) -> list[LeadTime]:
    """How long before the SLO broke each signal had left its calm range; NaN leads when that cannot be seen.

    Calm is the time until the last stage in which the SLO held throughout; the break is the first broken window of
    15 s after it that is part of a broken span of at least two windows (or the last one of the run).
    """
    if observed.series is None:
        return [LeadTime(signal, np.nan, np.nan) for signal in SIGNALS]
    broken = [(a, b) for a, b in breaches(slo, observed.table) if b - a >= 30] or breaches(
        slo, observed.table
    )[-1:]
    steady = [w for w in spans if w.state == "steady"]
    calm = [w for w in steady if not any(a < w.end_s and b > w.start_s for a, b in broken)]
    calm_until_s = max((w.end_s for w in calm), default=-np.inf)
    breach_s = min((a for a, _ in broken if a >= calm_until_s - 15), default=np.nan)
    return lead_times(observed.series, breach_s, calm_until_s)


def _server(usable: pd.DataFrame, header: dict[str, Any], rng: np.random.Generator) -> _Server | None:
    """The queue that fits the operating points; None when nothing tells where it saturates."""
    full = usable[usable["state"] == "saturated"]
    fit = usable.dropna(subset=["busy", "service_s"])
    slowdown = _fit_slowdown(fit)
    wander = _wander(fit)
    if len(full):
        seats = max(float(np.average(full["busy"], weights=full["duration_s"])), 1.0)
        variance = full["throughput_error"].to_numpy() ** 2 + wander**2
        rates = full["throughput_rps"].to_numpy()
        if len(full) > 1:  # stages that differ by more than their errors: the server wandered
            between = max(np.var(np.log(rates), ddof=1) - np.mean(variance), 0.0)
            variance = variance + between
        weight = 1 / variance
        rate = float(np.exp(np.average(np.log(rates), weights=weight)))
        error = float(1 / np.sqrt(weight.sum()))
        freedom = int(full["freedom"].sum())
        how = f"from {len(full)} saturated stage{'s' * (len(full) > 1)}"
    else:
        extrapolated = _extrapolated_seats(fit, header)
        if extrapolated is None or len(fit) < 2:
            return None
        seats, how = extrapolated
        rate = seats / (slowdown[0] + slowdown[1] * seats)
        error, freedom = 0.15 + wander, 5
    whole = max(round(seats), 1)
    replica = Replica(whole, rate, _stretch(slowdown, whole))
    shares = _knee_shares(fit, whole, wander, rng)
    draws = rate * np.exp(error * rng.standard_t(max(freedom, 2), _DRAWS))
    shares = rng.choice(shares, _DRAWS) * np.exp(_KNEE_MODEL * rng.standard_normal(_DRAWS))
    return _Server(replica, draws, shares, wander, bool(len(full)), how)


def _knee(usable: pd.DataFrame, server: _Server | None) -> tuple[Estimate, Estimate]:
    """Knee and saturated throughput. What a stage showed directly always lies inside the interval's reach."""
    steady = usable.loc[usable["state"] == "steady", "throughput_rps"]
    held = float(steady.max()) if len(steady) else 0.0
    if server is None:
        open_above = Estimate(np.nan, held, np.inf, "no stage was saturated")
        return open_above, open_above
    replica = server.replica
    low, high = _quantiles(server.saturated)
    knee_low, knee_high = _quantiles(server.saturated * server.knee_share)
    if not server.measured:
        how = f"no stage was saturated; extrapolated {server.how}"
        knee = max(replica.knee_rps, held)
        return (
            Estimate(knee, min(held, knee), np.inf, how),
            Estimate(max(replica.saturated_rps, held), held, np.inf, how),
        )
    how = server.how if len(steady) else f"{server.how}; no stage below saturation to compare with"
    return (
        Estimate(replica.knee_rps, knee_low, knee_high, how),
        Estimate(replica.saturated_rps, low, high, how),
    )


def _holds(
    observed: Observed,
    spans: tuple[StageWindow, ...],
    usable: pd.DataFrame,
    slo: Slo,
    server: _Server | None,
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
    server: _Server,
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
    decay = 2 / (1 + spread) * np.exp(_TAIL_SPREAD * rng.standard_normal(_DRAWS))
    speed = np.exp(server.wander / np.sqrt(max(len(steady), 1)) * rng.standard_normal(_DRAWS))
    evidence = [
        (
            rate,
            np.array(broken[int(stage)])
            * min(1.0, _independent(rate, duration_s, replica) / broken[int(stage)][1]),
        )
        for stage, rate, duration_s in steady[["stage", "rate_rps", "duration_s"]].to_numpy(dtype=float)
    ]
    crossings, weights = np.empty(_DRAWS), np.zeros(_DRAWS)
    for draw in range(_DRAWS):
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
    if value <= 0:
        lowest = max(high, float(_LOAD[0] * replica.saturated_rps))
        return Estimate(np.nan, 0.0, lowest, "not held even by a nearly idle replica")
    return Estimate(value, low, high, how)


def _independent(rate_rps: float, duration_s: float, replica: Replica) -> float:
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
    replica: Replica,
    rng: np.random.Generator,
) -> dict[str, NDArray[np.float64]]:
    """Latencies of measured requests less their wait, relative to the fitted service time at their stage's rate.

    From the stages below saturation, an equal number of each; from the saturated ones when there is no other. Keys:
    rate_rps (of the stage), first (TTFT in s, not relative), spent (E2E), tpot.
    """
    states = set(usable["state"])
    chosen = [w for w in spans if w.usable and w.state == ("steady" if "steady" in states else "saturated")]
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
    usable: pd.DataFrame, counted: dict[int, tuple[float, float]], asked: float, server: _Server | None
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
                float(_quantiles(server.saturated)[1]) if server else np.inf,
                "held up to saturation",
            )
        return Estimate(np.nan, top, np.inf, "held at the highest measured rate")
    score = stats.norm.ppf(np.clip(share[[last, last + 1]], 1e-4, 1 - 1e-4))
    position = (stats.norm.ppf(1 - asked) - score[0]) / (score[1] - score[0])
    low, high = float(rates[last]), float(min(rates[last + 1], ceiling))
    return Estimate(low + float(np.clip(position, 0, 1)) * (high - low), low, high, "between two stages")


def _fit_slowdown(fit: pd.DataFrame) -> tuple[float, float]:
    """Time in service = a + b * busy, both >= 0, by least squares of the relative errors."""
    service, busy = fit["service_s"].to_numpy(), fit["busy"].to_numpy()
    if len(fit) < 2 or np.ptp(busy) < 1:
        return float(service.mean()), 0.0
    (a, b), _ = optimize.nnls(np.column_stack([1 / service, busy / service]), np.ones(len(fit)))
    return float(a), float(b)


def _wander(fit: pd.DataFrame) -> float:
    """Relative standard deviation of the server's speed between stages, beyond what requests' own lengths explain.

    Half the median absolute residual (as a standard deviation) of the service times of the stages below saturation
    around their line of least absolute residuals: medians, so that one odd stage does not set it; half, because light
    load feels every hiccup that a full batch averages out. 0 with fewer than four such stages.
    """
    steady = fit[fit["state"] == "steady"]
    if len(steady) < 4:
        return 0.0
    busy, service = steady["busy"].to_numpy(), np.log(steady["service_s"].to_numpy())
    start = [float(np.median(service)), 0.0]
    line = optimize.minimize(
        lambda c: np.abs(service - c[0] - c[1] * busy).sum(), start, method="Nelder-Mead"
    ).x
    spread = 1.4826 * float(np.median(np.abs(service - line[0] - line[1] * busy)))
    return float(np.sqrt(max(spread**2 - float((steady["service_error"] ** 2).mean()), 0.0))) / 2


def _knee_shares(
    fit: pd.DataFrame, seats: int, wander: float, rng: np.random.Generator, draws: int = 40
) -> NDArray[np.float64]:
    """Knee over saturated throughput, for slowdowns refitted to stages moved by their errors."""
    noise = np.sqrt(fit["service_error"].fillna(0.0) ** 2 + wander**2)
    shares = []
    for _ in range(draws):
        moved = fit.assign(service_s=fit["service_s"] * np.exp(noise * rng.standard_normal(len(fit))))
        jitter = max(1, round(seats * (1 + 0.02 * rng.standard_normal())))
        shares.append(Replica(jitter, 1.0, _stretch(_fit_slowdown(moved), jitter)).knee_rps)
    return np.array(shares)


def _stretch(slowdown: tuple[float, float], seats: int) -> float:
    a, b = slowdown
    return (a + b * seats) / (a + b) if a + b > 0 else 1.0


def _extrapolated_seats(fit: pd.DataFrame, header: dict[str, Any]) -> tuple[float, str] | None:
    """Seats of the batch that nobody filled: where KV usage would reach 1, or the engine's own limit if that is less."""
    limits = []
    known = fit[(fit["kv_usage"] > 0.05) & (fit["busy"] > 0)]
    if len(known):
        top = known.sort_values("busy").iloc[-1]
        limits.append((float(top["busy"] / top["kv_usage"]), "from KV usage"))
    if seats := (header.get("engine") or {}).get("max_num_seqs"):
        limits.append((float(seats), "from the engine's max_num_seqs"))
    return min(limits) if limits else None


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


def _quantiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _weighted(
    values: NDArray[np.float64], weights: NDArray[np.float64], at: tuple[float, ...]
) -> list[float]:
    order = np.argsort(values)
    cumulative = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum()
    return [float(np.interp(q, cumulative, values[order])) for q in at]


def _at(estimate: Estimate) -> float:
    return estimate.low if np.isnan(estimate.value) else estimate.value


def _notes(observed: Observed, spans: tuple[StageWindow, ...], usable: pd.DataFrame) -> list[str]:
    notes = []
    for window in spans:
        if window.client:
            name = (
                f"{window.planned_rps:g}" if np.isfinite(window.planned_rps) else f"{window.offered_rps:.2f}"
            )
            notes.append(
                f"the {name} req/s step was limited by the client and set aside: {'; '.join(window.client)}"
            )
        elif window.state == "unusable":
            notes.append(f"stage {window.stage} ({window.offered_rps:.2f} req/s) has no window: {window.why}")
    if observed.clock.offset_s:
        notes.append(str(observed.clock))
    odd = [w for w in spans if not 0.7 <= (1.0 if np.isnan(w.little_ratio) else w.little_ratio) <= 1.4]
    if len(odd) > len(spans) / 2:
        ratio = float(np.median([w.little_ratio for w in odd]))
        notes.append(
            f"the server reports {ratio:.1f} times the requests that this client has in flight: metrics of other"
            " models or other clients' load are mixed in"
        )
    replicas = sorted(set(usable["replicas"]))
    if replicas != [1.0]:
        notes.append(
            f"rates are per replica; {' and '.join(f'{r:g}' for r in replicas)} replicas served the load"
        )
    return notes


def _weak(per_term: dict[str, Estimate], slo: Slo | None, usable: pd.DataFrame) -> list[str]:
    """Sentences on terms that could not be judged, or whose percentile has too few samples in every stage."""
    notes = [f"{name} could not be judged: {e.how}" for name, e in per_term.items() if not e.known]
    most = int(usable["count"].max())
    for term in slo.terms if slo else ():
        if term.metric == "itl" or term.percentile is None or not per_term[term.name].known:
            continue
        if most < (needed := samples_needed(term.percentile)):
            notes.append(
                f"{term.name} rests on at most {most} requests per stage, {needed} are needed to see it: its rate is a"
                " guess from the queue's model; lengthen the stages"
            )
    return notes


def _next(header: dict[str, Any], usable: pd.DataFrame, server: _Server | None) -> str | None:
    """The sweep that would close what is open, as a command; None when both sides of the knee were measured."""
    states = set(usable["state"])
    if states == {"steady", "saturated"}:
        return None
    replicas = float(usable["replicas"].max())
    if "saturated" in states:
        top = float(usable["throughput_rps"].max()) * replicas
        return _command(header, _spread(0.3 * top, 1.2 * top))
    top = float(usable["throughput_rps"].max()) * replicas
    guess = server.replica.saturated_rps * replicas if server else 2 * top
    return _command(header, _spread(0.5 * guess, max(1.5 * guess, 2 * top)))


def _spread(low: float, high: float, steps: int = 6) -> list[float]:
    return [float(f"{rate:.2g}") for rate in np.linspace(low, high, steps)]


def _command(header: dict[str, Any], rates: list[float]) -> str:
    host = shlex.quote(str(header.get("target") or "URL"))
    stages = ",".join(f"{rate:g}:60" for rate in rates)
    return f"locust -f loadgen/completions.py --headless --host {host} --stages {stages}"
