"""From a scenario to an answer: autoscale, do not autoscale, infeasible, or need more data; with reasons and intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.slo import Verdict
from autoscale.profiles.signals import SIGNALS
from autoscale.recommend.candidates import Behavior, Candidate, behaviors, quantity
from autoscale.recommend.scenario import Scenario
from autoscale.recommend.search import (
    COST_SLACK,
    Judged,
    Line,
    Space,
    Trial,
    confirm,
    loosest,
    search,
    static_fleet,
    tighter,
)
from autoscale.sim.engine import EngineParams
from loadgen import lengths, rates
from loadgen.lengths import Lengths
from loadgen.traffic import LoadPlan, parse_arrivals

WAITING_TARGETS = (0.2, 0.5, 1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112, 160)
STEP = 1.12  # between targets of a line: the HPA's tolerance of 10 % hides finer ones
FLEET_LIMIT = 256  # replicas that a search for the needed fleet goes up to
TRIALS = 150  # about what a search takes
WORTH_A_POOL_S = 15.0  # worker processes take some seconds to start
FIGURES = (
    "attainment",
    "replica_hours",
    "accelerator_hours",
    "ttft_p99_s",
    "tpot_p99_s",
    "wasted_scale_outs",
    "flaps",
    "longest_breach_s",
)
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Reason:
    """Why, as a code for machines and a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Point:
    """One replica at the highest steady rate that holds the SLO, by the model: rate and mean signals there."""

    rate_rps: float
    waiting: float
    running: float
    kv_usage: float
    binding: str  # the SLO's term with the smallest margin there


@dataclass(frozen=True)
class Decision:
    """The answer and everything it rests on.

    answer      autoscale | do_not_autoscale | infeasible
    chosen      the recommended setting over the confirming seeds; None when the answer is infeasible
    interval    per signal of the chosen setting the targets that are not distinguishable from it (low, high)
    static      the fewest standing replicas that hold the SLO, with their trials; None when no number does
    """

    answer: str
    reasons: tuple[Reason, ...]
    capacity: Point | None
    chosen: Judged | None = None
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    static: Judged | None = None
    tutorial: Judged | None = None
    current: Judged | None = None
    tried: tuple[tuple[Candidate, Trial], ...] = ()


def decide(
    scenario: Scenario,
    *,
    max_replicas: int | None = None,
    current: dict[str, Any] | None = None,
    step_scale: float = 0.0,
    seeds: int = 4,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Decision:
    """The cheapest setting that holds the SLO under the scenario, or why there is none.

    `step_scale` is the relative half-width of the step time (Calibration.scale): the target's interval covers it.
    `max_replicas` None: as many as the traffic needs and a quarter more. Same arguments, same answer.
    """
    report = progress or (lambda _fraction, _text: None)
    report(0.0, "one replica")
    if (idle := idle_verdict(scenario)) is not None:
        return Decision("infeasible", (idle,), None)
    point = capacity(scenario)
    start = max(1, math.ceil(_peak_rps(scenario.plan) / point.rate_rps))
    with _pool(scenario.plan, jobs) as executor:
        report(0.05, "static fleets")
        count, tried = static_fleet(scenario, start, max_replicas or FLEET_LIMIT)
        if count is None:
            return Decision("infeasible", (_too_few(scenario, max_replicas, start, tried),), point)
        cap = max_replicas or count + max(1, math.ceil(count / 4))
        space = build_space(scenario, point, count, cap)
        found = search(
            scenario,
            space,
            tried[count].accelerator_hours,
            executor,
            lambda f, text: report(0.1 + 0.55 * f, f"searching {text}"),
        )
        report(0.65, "confirming over seeds")
        fresh = list(range(1, seeds + 1))
        chosen = _confirmed(scenario, found, space, fresh, executor)
        tutorial = tutorial_setting(scenario, cap)
        others = confirm(scenario, [count, tutorial], fresh, executor)
        now = confirm(scenario, [current], fresh, executor)[0] if current else None  # type: ignore[list-item]  # a manifest
        static = others[0]
        if not static.holds:
            static = confirm(scenario, [count + 1], fresh, executor)[0]
        report(0.85, "interval of the target")
        interval = {}
        worth = chosen is not None and chosen.cost < static.cost * (1 - 2 * COST_SLACK)
        if chosen is not None and worth:
            interval = target_interval(scenario, chosen, space, step_scale, executor)
        report(1.0, "done")
    base = Decision(
        "autoscale" if worth else "do_not_autoscale",
        (),
        point,
        chosen if worth else static,
        interval,
        static,
        others[1],
        now,
        tuple(found),
    )
    return replace(base, reasons=tuple(_reasons(scenario, base, chosen)))


# --- one replica -----------------------------------------------------------------------------------------------------


def idle_verdict(scenario: Scenario) -> Reason | None:
    """Why an idle replica misses the SLO already (then nothing can help), or None when it holds."""
    prompt, output = _shape(scenario.plan)
    step = scenario.engine.step_s(1, prompt.mean())
    spacing = 4 * output.mean() * step + 2 * scenario.engine.request_overhead_s
    verdicts = _steady(scenario, 1 / spacing, requests=200, poisson=False).verdicts
    for verdict in verdicts:
        if not verdict.holds:
            return Reason(
                "slo_idle",
                f"an idle replica misses {verdict.name}: {_value(verdict)} with one request at a time, so no number of "
                "replicas can keep the SLO; relax it, shorten the prompts, or use a faster replica",
            )
    return None


def capacity(scenario: Scenario) -> Point:
    """The highest steady Poisson rate that one replica serves within the SLO, by bisection to 2 %, and its signals."""
    step = scenario.engine.step_s(scenario.engine.max_num_seqs, scenario.engine.kv_tokens / 2)
    low, high = 0.0, scenario.engine.max_num_seqs / (_shape(scenario.plan)[1].mean() * step)
    while _holds(scenario, high) and high < 1e5:
        low, high = high, 2 * high
    floor = high / 1000  # below this an SLO that an idle replica keeps is broken by two requests meeting
    while high - low > 0.02 * high and high > floor:
        middle = (low + high) / 2
        low, high = (middle, high) if _holds(scenario, middle) else (low, middle)
    rate = max(low, 0.5 * high)
    outcome = _steady(scenario, rate, keep=True)
    rows = np.concatenate([rows for _, rows, *_ in outcome.samples[len(outcome.samples) // 5 :]])
    binding = min(outcome.verdicts, key=lambda v: v.share_within - v.asked)
    signals = {name: float(rows[name].mean()) for name in SIGNALS}
    return Point(rate_rps=rate, **signals, binding=binding.name)


def _holds(scenario: Scenario, rate: float) -> bool:
    outcome = _steady(scenario, rate)
    return outcome.holds if scenario.attainment is None else outcome.attainment >= scenario.attainment


def _steady(
    scenario: Scenario, rate: float, *, requests: int = 2000, poisson: bool = True, keep: bool = False
) -> Any:
    """One standing replica under a constant rate for about `requests` requests (at least ten minutes)."""
    duration_s = max(600.0, requests / rate)
    prompt, output = _shape(scenario.plan)
    plan = LoadPlan(
        programme=rates.constant(rate, duration_s),
        process=parse_arrivals("poisson" if poisson else "constant"),
        prompt=prompt,
        output=output,
        shared_prefix_tokens=scenario.plan.shared_prefix_tokens,
    )
    return replace(scenario, plan=plan).outcome(1, 0, keep=keep)


# --- what may be chosen ----------------------------------------------------------------------------------------------


def build_space(scenario: Scenario, point: Point, static: int, cap: int) -> Space:
    """Targets around one replica's signals at capacity, behaviours for its cold start, bounds up to the static fleet."""
    engines = scenario.engine.data_parallel
    seats = scenario.engine.max_num_seqs * engines
    cold_s = scenario.profile.cold_start.median_s(scenario.profile.model.weight_bytes)
    fractions = STEP ** np.arange(-14, 4)
    running = sorted({_rounded(point.running * f) for f in fractions if 0 < point.running * f < 0.98 * seats})
    kv = sorted(
        {round(point.kv_usage * f, 2) for f in fractions if 0.01 <= point.kv_usage * f < 0.98 * engines}
    )
    targets: dict[str, tuple[float, ...]] = {"waiting": WAITING_TARGETS}
    if running:
        targets["running"] = tuple(running)
    if kv:
        targets["kv_usage"] = tuple(kv)
    minima = sorted({1, *(max(1, round(static * share)) for share in (0.25, 0.5, 0.75))})
    return Space(targets, tuple(behaviors(cold_s)), tuple(minima), cap, waiting_in_pairs=(2, 10))


def tutorial_setting(scenario: Scenario, cap: int) -> Candidate:
    """The tutorial's HPA: its queue target, no behaviour block, one replica at least."""
    deploy = scenario.profile.deploy
    return Candidate((("waiting", deploy.tutorial_target),), Behavior(), deploy.min_replicas, cap)


def _confirmed(
    scenario: Scenario,
    found: Sequence[tuple[Candidate, Trial]],
    space: Space,
    seeds: Sequence[int],
    executor: Executor | None,
) -> Judged | None:
    """The cheapest setting that holds over the seeds with confidence: finalists first, then tighter ones."""
    finalists = [setting for setting, trial in found if trial.holds][:6]
    for _ in range(3):
        judged = confirm(scenario, finalists, seeds, executor)
        holding = [j for j in judged if j.holds]
        if holding:
            return min(holding, key=lambda j: j.cost)
        finalists = [t for s in finalists if (t := tighter(s, space)) is not None]
        if not finalists:
            break
    return None


def target_interval(
    scenario: Scenario, chosen: Judged, space: Space, step_scale: float, executor: Executor | None
) -> dict[str, tuple[float, float]]:
    """Per signal (low, high): targets of the chosen line that hold at no more than 2 % extra cost, over all engines.

    The engines are the fitted one and the two ends of its step time's 95 % interval: a replica that is slower than
    thought wants a tighter target, a faster one allows a looser one. Targets fixed beside the line keep one value.
    """
    setting = chosen.setting
    assert isinstance(setting, Candidate)
    *fixed, (signal, value) = setting.targets
    line = space.line((tuple(fixed), signal), setting.behavior, setting.min_replicas)
    engines = [scenario.engine]
    if step_scale > 0:
        engines += [scaled(scenario.engine, 1 + step_scale), scaled(scenario.engine, 1 - step_scale)]
    at = min(range(len(line.settings)), key=lambda i: abs(line.settings[i].targets[-1][1] - value))
    judges = [(replace(scenario, engine=engine), line, seed, at) for engine in engines for seed in (1, 2)]
    ends = list(executor.map(_end, judges) if executor else map(_end, judges))
    values = [end.targets[-1][1] for end in ends if end is not None] + [value]
    cheap = [
        s.targets[-1][1]
        for s, t in ((j.setting, j) for j in confirm(scenario, _near(line.settings, value), (1, 2), executor))
        if isinstance(s, Candidate) and t.holds and t.cost <= chosen.cost * (1 + 2 * COST_SLACK)
    ]
    low, high = min(values + cheap), max(values + cheap)
    return {**{name: (v, v) for name, v in fixed}, signal: (low, high)}


def _end(job: tuple[Scenario, Line, int, int]) -> Candidate | None:
    judge, line, seed, start = job
    return loosest(judge, line, math.inf, seed, start)[0]


def _near(settings: Sequence[Candidate], value: float) -> list[Candidate | int]:
    at = min(range(len(settings)), key=lambda i: abs(settings[i].targets[-1][1] - value))
    return [settings[i] for i in range(max(0, at - 2), min(len(settings), at + 3)) if i != at]


def scaled(engine: EngineParams, factor: float) -> EngineParams:
    """The engine with all its step times multiplied."""
    names = ("base_s", "per_sequence_s", "per_kv_token_s", "per_prefill_token_s")
    return replace(engine, **{name: getattr(engine, name) * factor for name in names})


# --- reasons ---------------------------------------------------------------------------------------------------------


def _reasons(scenario: Scenario, decision: Decision, best: Judged | None) -> Iterator[Reason]:
    static, point = decision.static, decision.capacity
    assert static is not None
    assert point is not None
    cold_min = scenario.profile.cold_start.median_s(scenario.profile.model.weight_bytes) / 60
    yield Reason(
        "slo_binding",
        f"{point.binding} binds first: one replica holds the SLO up to {point.rate_rps:.2f} requests/s, with "
        f"{point.waiting:.1f} waiting, {point.running:.1f} running and {point.kv_usage:.0%} of the KV cache in use",
    )
    if decision.answer == "do_not_autoscale":
        yield _why_not(scenario, static, best, cold_min)
        return
    assert decision.chosen is not None
    setting = decision.chosen.setting
    assert isinstance(setting, Candidate)
    yield from _signal_choice(decision, setting, point)
    if setting.behavior.down_window_s is not None:
        yield Reason(
            "behavior",
            f"a scale-down window of {setting.behavior.down_window_s // 60} min, because a replica needs "
            f"{cold_min:.0f} min to start: capacity that goes too early is not back in time",
        )
    if setting.min_replicas > 1:
        yield Reason(
            "min_replicas",
            f"{setting.min_replicas} replicas at least: bursts are served by what is there, a start takes {cold_min:.0f} min",
        )
    yield Reason("saving", _saving(decision.chosen, static, f"{static.setting} standing replicas"))
    if decision.tutorial is not None:
        yield Reason("tutorial", _against(decision.chosen, decision.tutorial, "the tutorial's default"))
    if decision.current is not None:
        yield Reason("current", _against(decision.chosen, decision.current, "the current HPA"))


def _signal_choice(decision: Decision, setting: Candidate, point: Point) -> Iterator[Reason]:
    best: dict[str, float] = {}
    for candidate, trial in decision.tried:
        if trial.holds:
            best[candidate.family] = min(best.get(candidate.family, math.inf), trial.accelerator_hours)
    others = ", ".join(
        f"{f} {_hours(h)} h" for f, h in sorted(best.items(), key=lambda i: i[1]) if f != setting.family
    )
    if setting.family == "waiting":
        text = (
            "the queue is the signal: the SLO still holds with a full batch, so throughput and cost come first and "
            "requests that wait are the first sign of too few replicas"
        )
        code = "queue"
    elif "waiting" in setting.family:
        text = (
            "two signals under the maximum rule: the queue raises the alarm, the other one holds scale-in back while "
            "the queue reads empty"
        )
        code = "queue_and_load"
    else:
        text = (
            f"{setting.family} leads: latency breaks at {point.waiting:.1f} waiting requests per replica, so a queue "
            "reacts only when users wait already"
        )
        code = "load"
    yield Reason(
        code, text + (f" (cheapest holding alternatives: {others})" if others else " (no other family held)")
    )


def _why_not(scenario: Scenario, static: Judged, best: Judged | None, cold_min: float) -> Reason:
    count = static.setting
    if best is None:
        return Reason(
            "no_setting_holds",
            f"no target kept the SLO without starting replicas in vain: a start takes {cold_min:.0f} min and load comes "
            f"faster; keep {count} replicas standing ({static.cost:,.0f} accelerator-hours over "
            f"{scenario.plan.duration_s / 3600:.1f} h)",
        )
    return Reason(
        "standing_is_cheaper",
        f"{count} standing replicas take {static.cost:,.1f} accelerator-hours, the best HPA {best.cost:,.1f}: not worth "
        f"the risk; set minReplicas to {count}",
    )


def _saving(chosen: Judged, static: Judged, what: str) -> str:
    saved = static.cost - chosen.cost
    return f"{chosen.cost:,.0f} accelerator-hours against {static.cost:,.0f} for {what}: {saved / static.cost:.0%} less"


def _against(chosen: Judged, other: Judged, what: str) -> str:
    held = "keeps" if other.holds else "does not keep"
    return (
        f"{what} {held} the SLO: {other.mean('attainment'):.2%} of the requests within every bound against "
        f"{chosen.mean('attainment'):.2%}, {_hours(other.cost)} accelerator-hours against {_hours(chosen.cost)}"
    )


def _too_few(scenario: Scenario, limit: int | None, start: int, tried: dict[int, Trial]) -> Reason:
    if limit is None:
        return Reason(
            "no_fleet", f"even {FLEET_LIMIT} standing replicas do not hold the SLO under this traffic"
        )
    needed, _ = static_fleet(scenario, max(start, limit + 1), FLEET_LIMIT)
    best = max(tried.values(), key=lambda t: t.margin)
    return Reason(
        "max_too_few",
        f"maxReplicas {limit} is too few: all of them standing leave {best.attainment:.2%} of the requests within the "
        f"bounds; "
        + (f"{needed} replicas are needed at the peak" if needed else f"not even {FLEET_LIMIT} are enough"),
    )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}"


def _value(verdict: Verdict) -> str:
    return f"{verdict.value:.3g} s" if verdict.name != "goodput" else f"{verdict.value:.1%}"


# --- small parts -----------------------------------------------------------------------------------------------------


def _peak_rps(plan: LoadPlan) -> float:
    """The highest rate of the plan, as a mean over minutes."""
    times = np.linspace(0, plan.duration_s, max(2, min(20_000, int(plan.duration_s / 60) + 1)))
    return float(np.max(plan.rate(times)))


def _rounded(value: float) -> float:
    return float(round(value)) if value >= 10 else round(value * 2) / 2


def _shape(plan: LoadPlan) -> tuple[Lengths, Lengths]:
    """Prompt and output lengths to draw from; those of a trace as a log-normal with their median and spread."""
    if "trace" not in (plan.prompt.kind, plan.output.kind):
        return plan.prompt, plan.output
    chunks = list(islice(plan.arrivals(), 4))
    return (
        _lognormal([c.prompt_tokens for c in chunks]) if plan.prompt.kind == "trace" else plan.prompt,
        _lognormal([c.output_tokens for c in chunks]) if plan.output.kind == "trace" else plan.output,
    )


def _lognormal(tokens: Sequence[NDArray[np.int32]]) -> Lengths:
    sample = np.log(np.concatenate(tokens))
    return lengths.parse(
        f"lognormal:{math.exp(float(np.median(sample))):.0f},{max(float(sample.std()), 0.01):.3f}"
    )


@contextmanager
def _pool(plan: LoadPlan, jobs: int | None) -> Iterator[Executor | None]:
    jobs = jobs or os.cpu_count() or 1
    trial_s = 1e-6 * plan.expected_requests + 5e-6 * plan.duration_s  # measured: requests, and 15 s ticks
    if jobs == 1 or trial_s * TRIALS < WORTH_A_POOL_S:
        yield None
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as executor:
        yield executor


__all__ = ["Decision", "Point", "Reason", "decide", "quantity"]
