"""Words, units and number formats of everything that people see: tables on the terminal and pages say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis.slo import Term
from autoscale.check.phases import Span
from autoscale.kube.scaling_signals import SCALING_SIGNALS
from autoscale.recommendation import Answer, AskedSlo, Forecast, KubernetesObject, Recommendation, Tried
from autoscale.signal_target import SignalTarget

DASH = "–"  # in a page where there is no figure; the terminal has a hyphen

HEADLINES: dict[Answer, str] = {
    "autoscale": "Autoscale",
    "do_not_autoscale": "Do not autoscale",
    "infeasible": "This SLO cannot be met",
    "need_more_data": "More data is needed",
}
UNITS = {name: signal.unit for name, signal in SCALING_SIGNALS.items()}
COEFFICIENTS = {
    "base_s": "every step",
    "per_sequence_s": "per running request",
    "per_kv_token_s": "per token in the KV cache",
    "per_prefill_token_s": "per prompt token processed",
    "request_overhead_s": "per request, outside the step",
}
QUANTITIES = {
    "throughput_rps": "throughput (requests/s)",
    "ttft_p50_s": "TTFT p50 (s)",
    "ttft_p95_s": "TTFT p95 (s)",
    "tpot_p50_s": "TPOT p50 (s)",
    "tpot_p95_s": "TPOT p95 (s)",
    "running": "running (requests)",
    "waiting": "waiting (requests)",
    "kv_usage": "KV used (share)",
    "preemptions": "preemptions (per stage)",
}


def unit(target: SignalTarget) -> str:
    """What a target counts: per replica, but for a value that does not grow with the fleet."""
    return UNITS[target.signal] + ("" if target.metric_type else " per replica")


def settings(made: Recommendation) -> dict[str, Forecast]:
    """What the recommendation was compared with, itself included, each under its name; what there is none of is absent."""
    roles: dict[str, Forecast | None] = {
        "recommended": made.predicted,
        "standing fleet": made.static_fleet,
        "tutorial default": made.tutorial_default,
        **made.guides,
        "best HPA": made.best_hpa,
        "current HPA": made.current,
    }
    return {name: forecast for name, forecast in roles.items() if forecast is not None}


def zero(made: Recommendation) -> str:
    """When KEDA goes to zero: ", to zero 900 s after the last activity"; nothing where it does not."""
    spec = (made.scaled_object or {}).get("spec") or {}
    return f", to zero {spec['cooldownPeriod']} s after the last activity" if "cooldownPeriod" in spec else ""


def cold_start(slo: AskedSlo) -> str:
    """What a request may wait for a start from zero, where it was asked."""
    return f" (TTFT {span(slo.cold_start_s)} for who waits on a start from zero)" if slo.cold_start_s else ""


def promised(made: Recommendation) -> str:
    """What is asked of periods: "SLO kept in 95% of days, no longer than 10 min over it"."""
    slo = made.slo
    if slo.days_kept is None:
        return ""
    longest = "" if slo.longest_breach_s is None else f", over it for {span(slo.longest_breach_s)} at most"
    return f"kept in {100 * slo.days_kept:.3g}% of {periods(made)}{longest}"


def periods(made: Recommendation) -> str:
    """What a promise is about: days, or the whole traffic where that is shorter."""
    period_s = made.slo.period_s
    return "days" if period_s is None or period_s >= 86_400 else f"simulations of {span(period_s)}"


def horizon(made: Recommendation) -> str:
    """What a simulation is of: the whole traffic, or a mean day of several."""
    days = made.traffic.get("days")
    hours = f"{number(made.traffic['duration_s'] / 3600, ',.1f')} h"
    return f"{hours}, a mean one of the traffic's {days} days" if days else f"{hours} of traffic"


def robust(made: Recommendation) -> str:
    """How far things may move until the recommended setting breaks: "robust to +10% traffic, to a start of 52 min"."""
    found = made.robust
    if found is None:
        return ""
    parts = [f"+{100 * found.traffic:.3g}% traffic"] if found.traffic else []
    parts += [f"to a start of {span(found.start_s)}"] if found.start else []
    return f"robust to {', '.join(parts)}" if parts else "a little more traffic, or longer starts, break it"


def careful(made: Recommendation) -> str:
    """Of what replicas the figures are, where not as fitted: "3.2% slower than fitted, as slow as the run allows"."""
    if not made.slower_than_fitted:
        return ""
    slower = f"{made.slower_than_fitted:.1%} slower than"
    if made.model_error.replay_median_error is None:
        return f"{slower} predicted, as slow as the prediction's error allows"
    return f"{slower} fitted, as slow as {made.model_error.source.removeprefix('calibrated on ')} allows"


def judged_over(made: Recommendation) -> str:
    """How many periods the recommended setting was judged over, and what they show."""
    if made.predicted is None or not made.predicted.periods:
        return ""
    kept = made.predicted.days_kept
    return (
        f"days kept: of {made.predicted.periods:,} {periods(made)}, all on the same seeds; the recommended setting keeps "
        f"{100 * kept.low:.1f}% at least, with 95% confidence"
    )


def term_name(term: Term) -> str:
    """What a term of an SLO bounds: TTFT p95."""
    percentile = "" if term.percentile is None else f" p{term.percentile:g}"
    return f"{term.metric.upper()}{percentile}"


def kept(forecast: Forecast) -> str:
    """What became of the SLO: kept, broken, kept with replicas started in vain, or not shown by so few simulations."""
    if forecast.holds:
        return "kept"
    if not forecast.periods or forecast.days_kept.value < 1:
        return "broken"
    return "kept, wasteful" if forecast.wasted_scale_outs.value > 0 else "not shown"


def latency_name(name: str) -> str:
    """A percentile of an SLO's term as a heading: TTFT p95 of ttft_p95."""
    metric, _, percentile = name.partition("_")
    return f"{metric.upper()} {percentile}"


def asked_latencies(compared: Iterable[Forecast]) -> list[str]:
    """The percentiles that the SLO asks about, as the forecasts hold them."""
    return list(dict.fromkeys(name for forecast in compared for name in forecast.latencies))


def became(tried: Tried) -> str:
    """What became of a setting that the search tried."""
    if tried.why_not:
        return f"held in the search; {tried.why_not}"
    return "holds" if tried.holds else f"stopped: {tried.stopped}" if tried.stopped else "breaks"


def in_order(made: Recommendation, shown: int) -> list[tuple[Tried, str]]:
    """What was tried with what became of it: the recommended setting first, then what held for less, `shown` in all."""
    best = made.predicted if made.metrics else None
    rest = [row for row in made.candidates if best is None or row.setting != best.setting]
    rows = [(row, became(row)) for row in sorted(rest, key=lambda row: not (row.holds and row.why_not))]
    if best is not None:
        kept = f"{round(best.days_kept.value * best.periods)} of {best.periods} {periods(made)}"
        searched = next((row for row in made.candidates if row.setting == best.setting), None)
        row = searched or Tried(best.setting, "", True, None, math.nan, best.accelerator_hours.value, 0)
        rows.insert(0, (row, f"recommended: kept the SLO in {kept} on seeds of its own"))
    return rows[:shown]


# Numbers


def number(value: float | None, form: str = ",.3g", none: str = DASH) -> str:
    """A number, in three digits unless `form` says otherwise; `none` when there is none."""
    return none if value is None or not math.isfinite(value) else format(value, form)


def share(value: float | None, digits: int = 1) -> str:
    """A share (0-1) as a percentage, kept within 0 and 100; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * min(max(value, 0.0), 1.0):.{digits}f}%"


def seconds(value: float | None, none: str = "-") -> str:
    """A duration to three digits: 45 ms, 1.23 s, 12 min; `none` when there is none."""
    if value is None or not math.isfinite(value):
        return none
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.3g} s" if value < 120 else f"{value / 60:.0f} min"


def span(value: float | None) -> str:
    """A duration in whole units: 0 s, 45 ms, 1.23 s, 40 s, 12 min, 3.0 h; a dash when there is none."""
    if value == 0:
        return "0 s"
    if value is not None and math.isfinite(value):
        if value >= 7200:
            return f"{value / 3600:.1f} h"
        if 10 <= value < 120:
            return f"{value:.0f} s"
    return seconds(value, DASH)


def small_time(value_s: float) -> str:
    """A time that may be nanoseconds: 20.5 ms, 17.4 µs, 0.115 µs."""
    return f"{value_s * 1e3:.3g} ms" if value_s >= 1e-3 else f"{value_s * 1e6:.3g} µs"


def money(value: float | None, none: str = DASH) -> str:
    """A cost in the unit of the price: two decimals below 100, none above; `none` when there is none."""
    return number(value, ",.2f" if value is not None and value < 100 else ",.0f", none)


def counted(count: int, noun: str) -> str:
    """1 replica, 2 replicas."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(time_s: float) -> str:
    """A moment of a run as hours, minutes and seconds: 1:16:05."""
    minutes, second = divmod(abs(round(time_s)), 60)
    return f"{'-' if time_s < 0 else ''}{minutes // 60}:{minutes % 60:02}:{second:02}"


def change(before: float, after: float) -> str:
    """How far `after` lies from `before`, relatively; a dash when either is not known or `before` is zero."""
    if not (math.isfinite(before) and math.isfinite(after)) or before == 0:
        return DASH
    return f"{after / before - 1:+.1%}"


def lasted(phase: Span) -> str:
    """How long a phase of a scale-out took, as far as that was seen; of one that had not ended, how long it was watched."""
    if phase.unseen:
        return "not seen"
    if phase.open:
        return f"open, {phase.so_far_s:,.1f} s so far"
    return f"{'at most ' if phase.at_most else ''}{phase.seconds:,.1f} s"


# An HPA's behavior


def pace(behavior: KubernetesObject | None) -> str:
    """The behaviour of a recommendation in half a line."""
    if not behavior:
        return "no behavior block"
    up, down = (behavior[key]["stabilizationWindowSeconds"] for key in ("scaleUp", "scaleDown"))
    later = f"scale-up after {up} s, " if up else ""
    return f"{later}scale-down window {down} s, one replica a minute"


def pace_each_way(behavior: KubernetesObject | None) -> Iterator[str]:
    """The behaviour in full, one sentence per direction."""
    for key, verb, side in (("scaleUp", "up", "above"), ("scaleDown", "down", "below")):
        if behavior is None:
            return
        rules = behavior.get(key) or {}
        window = rules.get("stabilizationWindowSeconds")
        steps = _steps(rules.get("policies") or [])
        waits = "at once" if window == 0 else "" if window is None else f"after {span(float(window))} {side}"
        larger = (
            ", whichever is more" if " or " in steps and rules.get("selectPolicy", "Max") == "Max" else ""
        )
        yield f"{verb}: " + ", ".join(part for part in (waits, f"{steps}{larger}" if steps else "") if part)


def _steps(policies: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(
        f"{p['value']}{'%' if p['type'] == 'Percent' else ' replica' + 's' * (p['value'] != 1)} in {p['periodSeconds']} s"
        for p in policies
    )
