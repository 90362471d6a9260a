"""Where one replica saturates: its operating points fitted by a queue, with draws of all that is uncertain about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from analysis.queueing import ReplicaQueue

DRAWS = 400
_FULL = 0.8  # of the fullest batch: less is a batch that was still filling when its short stage ended
_TRANSIENT = (
    0.1  # error of a throughput while the batch fills for the first time; it falls as the stage gets longer
)
_SETTLED = 0.2  # of a stage: a full batch turned over five times in it
# A server's speed between stages, before anything is known: 2 %, as sure as four stages beyond a line's two would make it
_PRIOR_WANDER, _PRIOR_FREEDOM = 0.02, 4
_KNEE_MODEL = 0.004  # relative error of the knee's formula on simulated queues with sizes of cv 0.15 to 0.8


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
class FittedServer:
    """The replica as a queue with draws of what is uncertain about it."""

    replica: ReplicaQueue
    saturated: NDArray[np.float64]  # draws of the saturated throughput
    knee_share: NDArray[np.float64]  # draws of knee / saturated throughput
    wander: float
    measured: bool  # False = extrapolated from below
    settled: bool  # queued stages lasted several times as long as a request is served
    how: str


def fit_server(usable: pd.DataFrame, header: dict[str, Any], rng: np.random.Generator) -> FittedServer | None:
    """The queue that fits the operating points; None when nothing tells where it saturates."""
    full = usable[usable["state"] == "queued"]
    full = full[full["busy"] >= _FULL * full["busy"].max()]
    fit = usable.dropna(subset=["busy", "service_s"])
    if fit.empty:
        return None
    slowdown = _fit_slowdown(fit)
    wander, wander_freedom = _wander(fit)
    if len(full):
        seats = max(float(np.average(full["busy"], weights=full["duration_s"])), 1.0)
        counted = full["throughput_error"].to_numpy() ** 2
        variance = counted + wander**2
        rates = full["throughput_rps"].to_numpy()
        if len(full) > 1:  # stages that differ by more than their errors: the server wandered
            between = max(np.var(np.log(rates), ddof=1) - np.mean(variance), 0.0)
            variance = variance + between
        weight = 1 / variance
        rate = float(np.exp(np.average(np.log(rates), weights=weight)))
        error = float(1 / np.sqrt(weight.sum()))
        turnover = float((full["service_s"] / full["duration_s"]).clip(upper=1).mean())
        # Satterthwaite: of the error's variance one share is the requests', known well, the rest the server's wander
        share = float((weight**2 @ counted) / weight.sum())
        freedom = 1 / (
            share**2 / max(int(full["freedom"].sum()), 2)
            + (1 - share) ** 2 / (wander_freedom + len(full) - 1)
        )
        error = float(np.hypot(error, _TRANSIENT * turnover))
        how = f"from {len(full)} stage{'s' * (len(full) > 1)} with a queue"
    else:
        extrapolated = _extrapolated_seats(fit, header)
        if extrapolated is None or len(fit) < 2:
            return None
        seats, how = extrapolated
        rate = seats / (slowdown[0] + slowdown[1] * seats)
        error, freedom, turnover = 0.15 + wander, 5.0, np.inf
    whole = max(round(seats), 1)
    replica = ReplicaQueue(whole, rate, _stretch(slowdown, whole))
    shares = _knee_shares(fit, whole, wander, rng)
    draws = rate * np.exp(error * rng.standard_t(max(freedom, 2), DRAWS))
    shares = rng.choice(shares, DRAWS) * np.exp(_KNEE_MODEL * rng.standard_normal(DRAWS))
    return FittedServer(replica, draws, shares, wander, bool(len(full)), turnover <= _SETTLED, how)


def knee_and_saturation(usable: pd.DataFrame, server: FittedServer | None) -> tuple[Estimate, Estimate]:
    """Knee and saturated throughput. What a stage showed directly always lies inside the interval's reach."""
    steady = usable.loc[usable["state"] == "steady", "throughput_rps"]
    held = float(steady.max()) if len(steady) else 0.0
    if server is None:
        open_above = Estimate(np.nan, held, np.inf, "no stage had a queue")
        return open_above, open_above
    replica = server.replica
    low, high = quantiles(server.saturated)
    knee_low, knee_high = quantiles(server.saturated * server.knee_share)
    if not server.measured:
        how = f"no stage had a queue; extrapolated {server.how}"
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


def _fit_slowdown(fit: pd.DataFrame) -> tuple[float, float]:
    """Time in service = a + b * busy, both >= 0, by least squares of the relative errors."""
    service, busy = fit["service_s"].to_numpy(), fit["busy"].to_numpy()
    if len(fit) < 2 or np.ptp(busy) < 1:
        return float(service.mean()), 0.0
    (a, b), _ = optimize.nnls(np.column_stack([1 / service, busy / service]), np.ones(len(fit)))
    return float(a), float(b)


def _wander(fit: pd.DataFrame) -> tuple[float, int]:
    """Relative standard deviation of the server's speed between stages, beyond what requests' own lengths explain, and
    its degrees of freedom.

    Half the median absolute residual (as a standard deviation) of the service times of the stages below saturation
    around their line of least absolute residuals: medians, so that one odd stage does not set it; half, because light
    load feels every hiccup that a full batch averages out. Few stages prove nothing: pooled with what servers usually do.
    """
    steady = fit[fit["state"] == "steady"]
    if len(steady) < 4:
        return _PRIOR_WANDER, _PRIOR_FREEDOM
    busy, service = steady["busy"].to_numpy(), np.log(steady["service_s"].to_numpy())
    start = [float(np.median(service)), 0.0]
    line = optimize.minimize(
        lambda c: np.abs(service - c[0] - c[1] * busy).sum(), start, method="Nelder-Mead"
    ).x
    freedom = len(steady) - 2
    spread = 1.4826 * float(np.median(np.abs(service - line[0] - line[1] * busy)))
    beyond = max(spread**2 - float((steady["service_error"] ** 2).mean()), 0.0) / 4 * len(steady) / freedom
    pooled = (_PRIOR_FREEDOM * _PRIOR_WANDER**2 + freedom * beyond) / (_PRIOR_FREEDOM + freedom)
    return float(np.sqrt(pooled)), _PRIOR_FREEDOM + freedom


_REFITS = 40  # each fits a slowdown: a tenth of DRAWS is enough for its spread


def _knee_shares(
    fit: pd.DataFrame, seats: int, wander: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Knee over saturated throughput, for slowdowns refitted to stages moved by their errors."""
    noise = np.sqrt(fit["service_error"].fillna(0.0) ** 2 + wander**2)
    shares = []
    for _ in range(_REFITS):
        moved = fit.assign(service_s=fit["service_s"] * np.exp(noise * rng.standard_normal(len(fit))))
        jitter = max(1, round(seats * (1 + 0.02 * rng.standard_normal())))
        shares.append(ReplicaQueue(jitter, 1.0, _stretch(_fit_slowdown(moved), jitter)).knee_rps)
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


def quantiles(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
