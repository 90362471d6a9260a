"""One standing replica by the model: whether it keeps the SLO at all, and the highest rate at which it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from analysis.run import SIGNALS
from analysis.slo import Verdict
from autoscale.recommend.answer import Point
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Standing
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.coefficients import FACTORS, drawn, full_batch_shares
from autoscale.recommend.model.replaying import full_batch
from autoscale.recommendation import Reason
from autoscale.sim.engine.params import COEFFICIENTS
from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.outcome import Outcome
from loadgen.plan import lengths, rates
from loadgen.plan.lengths import Lengths
from loadgen.plan.traffic import LoadPlan, parse_arrivals

REQUESTS, MANY_REQUESTS = 2000, 20_000  # of one steady rate
MOVED = 0.03  # by which a coefficient is moved to see what it does to a figure
MOVED_TOGETHER = ([0], [1, 2], [3])  # of COEFFICIENTS: base, a sequence with its KV tokens, prompts


def idle_verdict(scenario: Scenario) -> Reason | None:
    """Why an idle replica misses the SLO already (then nothing can help), or None when it holds."""
    prompt, output = shape(scenario.plan)
    step = scenario.engine.step_s(1, prompt.mean())
    spacing = 4 * output.mean() * step + 2 * scenario.engine.request_overhead_s
    outcome = _steady(scenario, 1 / spacing, requests=200, poisson=False)
    if outcome.rejected == outcome.offered:
        limit = scenario.profile.engine.max_model_len
        return Reason(
            "too_long",
            f"every request is longer than max_model_len {limit:,} or the KV cache of {scenario.engine.kv_tokens:,} "
            "tokens, so vLLM refuses it (HTTP 400): shorten the prompts or serve the model with a longer context",
        )
    for verdict in outcome.verdicts:
        if not verdict.holds:
            return Reason(
                "slo_idle",
                f"an idle replica misses {verdict.name}: {_value(verdict)} with one request at a time, so no number of "
                "replicas can keep the SLO; relax it, shorten the prompts, or use a faster replica",
            )
    return None


def capacity(scenario: Scenario) -> Point:
    """The highest steady Poisson rate that one replica serves within the SLO, to 0.5 %, and its signals there."""
    rate = _highest(scenario, MANY_REQUESTS)
    outcome = _steady(scenario, rate, keep=True)
    rows = np.concatenate([rows for _, rows, *_ in outcome.samples[len(outcome.samples) // 5 :]])
    binding = min(outcome.verdicts, key=lambda v: v.share_within - v.asked)
    signals = {name: float(rows[name].mean()) for name in SIGNALS}
    return Point(rate_rps=rate, **signals, binding=binding.name)


def weights_at(scenario: Scenario, rate: float) -> NDArray[np.float64]:
    """What each of COEFFICIENTS adds to the figure of the SLO that binds at this rate, as shares of what all of them add.

    A sequence and its KV tokens add in the proportion that they have in every batch of such requests: they are moved as one,
    since a run hardly parts them, and the noise of two derivatives would look like something that it leaves open. The full
    batch's shares where that figure does not follow the step time.
    """

    def figure(engine: EngineParams) -> list[float]:
        verdicts = _steady(replace(scenario, engine=engine), rate).verdicts
        return [v.share_within if v.name == "goodput" else math.log(max(v.value, 1e-9)) for v in verdicts]

    binding = [v.share_within - v.asked for v in _steady(scenario, rate).verdicts]
    which = int(np.argmin(binding))
    prompt, output = shape(scenario.plan)
    full = full_batch_shares(scenario.engine, prompt.mean(), output.mean())
    shares = np.zeros(len(COEFFICIENTS))
    for together in MOVED_TOGETHER:
        more, less = np.ones(len(FACTORS)), np.ones(len(FACTORS))
        more[together] += MOVED
        less[together] -= MOVED
        ends = [figure(drawn(scenario.engine, factors))[which] for factors in (more, less)]
        within = full[together] / max(float(full[together].sum()), 1e-12)
        shares[together] = abs(ends[0] - ends[1]) * within
    if not np.isfinite(shares).all() or shares.sum() <= 0:
        return full
    return shares / shares.sum()


def roughly_holding_rps(scenario: Scenario) -> float:
    """The same rate over fewer requests: good to compare engines, which all see the same ones."""
    return _highest(scenario, REQUESTS)


def _highest(scenario: Scenario, requests: int) -> float:
    low, high = 0.0, _saturated_rps(scenario)
    if _holds(scenario, high, requests):
        return high  # above it requests pile up, whatever the SLO says of those that are served
    floor = high / 1000  # below this an SLO that an idle replica keeps is broken by two requests meeting
    while high - low > 0.005 * high and high > floor:
        middle = (low + high) / 2
        low, high = (middle, high) if _holds(scenario, middle, requests) else (low, middle)
    return max(low, 0.5 * high)


def _saturated_rps(scenario: Scenario) -> float:
    """Requests/s that come, those among them that vLLM refuses as too long, when the others keep the batch full."""
    rng, count = np.random.default_rng(0), DOUBTING.full_batch_requests
    prompt, output = (lengths_.draw(rng, count) for lengths_ in shape(scenario.plan))
    limit = scenario.profile.engine.max_model_len or scenario.engine.kv_tokens
    output = np.minimum(output, np.maximum(limit - prompt, 1))
    taken = (prompt < limit) & (prompt + output <= scenario.engine.kv_tokens)
    if not taken.any():
        taken[:] = True
    prompt, output = prompt[taken], output[taken]
    prefix = np.minimum(scenario.plan.shared_prefix_tokens, prompt)
    return full_batch(scenario.engine, prompt, output, prefix)[0] / float(taken.mean())


def _holds(scenario: Scenario, rate: float, requests: int) -> bool:
    outcome = _steady(scenario, rate, requests=requests)
    return outcome.holds if scenario.attainment is None else outcome.attainment >= scenario.attainment


def _steady(
    scenario: Scenario, rate: float, *, requests: int = REQUESTS, poisson: bool = True, keep: bool = False
) -> Outcome:
    """One standing replica under a constant rate for about `requests` requests (at least ten minutes)."""
    duration_s = max(600.0, requests / rate)
    prompt, output = shape(scenario.plan)
    plan = LoadPlan(
        programme=rates.constant(rate, duration_s),
        process=parse_arrivals("poisson" if poisson else "constant"),
        prompt=prompt,
        output=output,
        shared_prefix_tokens=scenario.plan.shared_prefix_tokens,
    )
    return replace(scenario, plan=plan, kept=None).outcome(Standing(1), 0, keep=keep)


def _value(verdict: Verdict) -> str:
    return f"{verdict.value:.3g} s" if verdict.name != "goodput" else f"{verdict.value:.1%}"


def shape(plan: LoadPlan) -> tuple[Lengths, Lengths]:
    """Prompt and output lengths to draw from; those of a trace as a log-normal with their median and spread."""
    if "trace" not in (plan.prompt.kind, plan.output.kind):
        return plan.prompt, plan.output
    chunks = list(islice(plan.arrivals(), 4))
    return (
        fitted_lengths([c.prompt_tokens for c in chunks]) if plan.prompt.kind == "trace" else plan.prompt,
        fitted_lengths([c.output_tokens for c in chunks]) if plan.output.kind == "trace" else plan.output,
    )


def fitted_lengths(tokens: Sequence[NDArray[np.int32]]) -> Lengths:
    """The log-normal lengths with the median and the spread of these."""
    sample = np.log(np.concatenate(tokens))
    return lengths.parse_lengths(
        f"lognormal:{math.exp(float(np.median(sample))):.0f},{max(float(sample.std()), 0.01):.3f}"
    )
