"""One replica as its runs show it: an immutable model that answers what it can serve, each answer with its interval.

    learn(runs) or calibrate(runs) -> ReplicaModel
    full_batch_at(requests), latency_at(rate_rps, requests), capacity_at(scenario, requests), spread_at(lengths)

Intervals come from engines that explain the runs about as well as the fitted one (uncertainty.py): where the asked
lengths lean on a coefficient that the runs hardly show, they are wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.capacity import Capacity
from analysis.queueing import ReplicaQueue
from analysis.saturation import Estimate
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, capacity_ratios, drawn
from autoscale.recommend.model.one_replica import capacity, idle_verdict
from autoscale.recommend.model.replaying import FIGURES, Offered, full_batch
from autoscale.sim.engine.replicas import EngineParams, replay
from loadgen.plan.lengths import Lengths

REPLAY = ("run", "stage", "figure", "measured", "modelled", "error")  # columns
METRICS = ("ttft", "tpot", "e2e")
TRUSTED_ERROR = {"tpot_p50_s": 0.15, "running": 0.20, "throughput_rps": 0.10}  # medians over the stages
TOLD_APART = (
    0.02  # standard deviation of the capacity's logarithm, below which no coefficient is worth naming
)


@dataclass(frozen=True)
class DrawnRequests:
    """Requests of some lengths, as they are simulated: sizes in tokens, and gaps of mean 1 for Poisson arrivals."""

    prompt: NDArray[np.int32]
    output: NDArray[np.int32]
    gaps: NDArray[np.float64]

    @staticmethod
    def drawn(prompt: Lengths, output: Lengths) -> DrawnRequests:
        """`DOUBTING.requests` of these lengths; the same ones every time."""
        rng, count = np.random.default_rng(0), DOUBTING.requests
        return DrawnRequests(prompt.draw(rng, count), output.draw(rng, count), rng.exponential(1.0, count))

    @property
    def mean(self) -> tuple[float, float]:
        """Mean prompt and output tokens."""
        return float(self.prompt.mean()), float(self.output.mean())


@dataclass(frozen=True)
class FullBatch:
    """A replica that always has a queue: its throughput, the rate at which every second request finds the batch full
    (both requests/s), and the mean number in the batch."""

    saturated: Estimate
    knee: Estimate
    seats: float


@dataclass(frozen=True, eq=False)
class ReplicaModel:
    """A replica's engine, and what it is worth; without a run the profile's prior, whose intervals are points.

    engine        the parameters, ready to simulate
    factors       multiples of the engine's FACTORS that explain the runs as well, shape (draws, 5): uncertainty.py
    shape         mean prompt and output tokens of the requests that were measured
    intervals     coefficient -> (low, high), 95 %, of the draws
    confounded    pairs of coefficients that the runs could not tell apart
    replay        one row per run, stage and figure: run, stage, figure, measured, modelled, error (relative)
    stages_used   stage numbers that the fit rests on; none without a run
    capacities    what the runs themselves say, one per run
    """

    engine: EngineParams
    factors: NDArray[np.float64] = field(default_factory=lambda: np.ones((1, len(FACTORS))))
    shape: tuple[float, float] = (math.nan, math.nan)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    confounded: tuple[tuple[str, str], ...] = ()
    replay: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=REPLAY).astype({"error": float})
    )
    stages_used: tuple[int, ...] = ()
    capacities: tuple[Capacity, ...] = ()

    # --- what it is worth ---

    @property
    def fitted(self) -> bool:
        """Whether it rests on a run."""
        return bool(self.stages_used)

    def median_error(self) -> dict[str, float]:
        """Median absolute relative error over the stages, per figure; NaN where nothing was measured."""
        of = self.replay["figure"]
        return {f: float(self.replay.loc[of == f, "error"].abs().median()) for f in FIGURES}

    def untrusted(self) -> list[str]:
        """Why the model must not be used to extrapolate, one sentence each; empty when it reproduces its run."""
        errors = self.median_error()
        return [
            f"the replay misses {figure} by {errors[figure]:.0%} (median over the stages; at most {limit:.0%} is trusted)"
            for figure, limit in TRUSTED_ERROR.items()
            if errors[figure] > limit
        ]

    # --- questions ---

    def spread_at(self, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """95 % interval of the capacity at these mean lengths, relative to what the engine gives; (1, 1) without a run.

        That of the draws, and never narrower than what was measured at the run's own lengths (in stages that were
        long enough for that): a server that wandered between stages will do so again.
        """
        if not self.fitted:
            return 1.0, 1.0
        low, high = self._fitted_spread(prompt_tokens, output_tokens)
        own = self._fitted_spread(*self.shape)
        found = [
            c.saturated
            for c in self.capacities
            if c.settled and math.isfinite(c.saturated.high) and c.saturated.low > 0
        ]
        below = max(((1 - f.low / f.value) ** 2 - (1 - own[0]) ** 2 for f in found), default=0.0)
        above = max(((f.high / f.value - 1) ** 2 - (own[1] - 1) ** 2 for f in found), default=0.0)
        return (
            1 - math.hypot(1 - low, max(below, 0.0) ** 0.5),
            1 + math.hypot(high - 1, max(above, 0.0) ** 0.5),
        )

    def full_batch_at(self, requests: DrawnRequests) -> FullBatch:
        """What the replica does with these requests when it always has a queue."""
        spread = self.spread_at(*requests.mean)
        saturated_rps, seats = full_batch(self.engine, requests.prompt, requests.output)
        prompt, output = requests.mean
        alone_s = (output - 1) * self.engine.step_s(1, prompt + output / 2)
        whole = max(round(seats), 1)
        # the queue that `analysis` would fit to the engine: seats, and how much slower a full batch is than one request
        queue = ReplicaQueue(whole, saturated_rps, max(whole / saturated_rps / alone_s, 1.0))
        return FullBatch(
            _estimate(saturated_rps, spread, "a full batch of the calibrated engine"),
            _estimate(queue.knee_rps, spread, "every second request finds the batch full"),
            seats,
        )

    def latency_at(self, rate_rps: float, requests: DrawnRequests) -> dict[str, float]:
        """Figures at a Poisson rate: METRIC_pP_s with METRIC_pP_low and _high (TTFT, TPOT, E2E in s at p50 and p95), and
        means of running, waiting, kv_usage."""
        due_s = np.cumsum(requests.gaps) / rate_rps
        engines = [np.ones(len(FACTORS)), *self._some(DOUBTING.engines)]
        return _between([_figures(drawn(self.engine, f), due_s, requests) for f in engines])

    def capacity_at(self, scenario: Scenario, requests: DrawnRequests) -> tuple[Estimate | None, str]:
        """The highest steady rate that holds the scenario's SLO at its lengths, by simulation, and the term that binds
        first; None, and why, when an idle replica breaks it. `requests` are of the same lengths.

        As uncertain as the throughput, or more where a bound on the step time itself binds.
        """
        fitted = replace(scenario, engine=self.engine)
        if (verdict := idle_verdict(fitted)) is not None:
            return None, verdict.sentence
        point = capacity(fitted)
        rates = [point.rate_rps]
        for factors in self._some(DOUBTING.slo_engines) if self.fitted else ():
            other = replace(scenario, engine=drawn(self.engine, factors))
            rates.append(0.0 if idle_verdict(other) is not None else capacity(other).rate_rps)
        spread = self.spread_at(*requests.mean)
        low = min(min(rates), point.rate_rps * spread[0])
        high = max(max(rates), point.rate_rps * spread[1])
        return Estimate(point.rate_rps, low, high, "simulated with the calibrated engine"), point.binding

    def doubt_at(self, requests: DrawnRequests) -> tuple[str, float] | None:
        """The coefficient whose draws explain most of the capacity's variance at these lengths, and the share it
        explains; None when none explains half."""
        log_capacity = np.log(capacity_ratios(self.engine, self.factors, *requests.mean))
        if len(self.factors) < 3 or log_capacity.std() < TOLD_APART:
            return None
        shares = [
            float(np.corrcoef(np.log(column), log_capacity)[0, 1] ** 2) for column in self.factors.T[:4]
        ]
        best = int(np.nanargmax(shares))
        return (FACTORS[best], shares[best]) if shares[best] > 0.5 else None

    def _fitted_spread(self, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        ratios = capacity_ratios(self.engine, self.factors, prompt_tokens, output_tokens)
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(low), float(high)

    def _some(self, count: int) -> NDArray[np.float64]:
        """So many of the drawn engines' factors, spread over all of them."""
        return self.factors[:: max(len(self.factors) // count, 1)][:count]


def _estimate(value: float, spread: tuple[float, float], how: str) -> Estimate:
    return Estimate(value, value * spread[0], value * spread[1], how)


def _figures(engine: EngineParams, due_s: NDArray[np.float64], requests: DrawnRequests) -> dict[str, float]:
    """Percentiles and mean signals of one simulated rate, after a tenth of the requests."""
    times = np.linspace(due_s[len(due_s) // 10], due_s[-1], 400)
    done, series = replay(engine, Offered.at(due_s, requests.prompt, requests.output), times)
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
