"""Rate programmes by name: steps, ramps, spikes, sines, the day, and how programmes are joined, repeated and summed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from analysis.errors import BadInput
from analysis.numbers import read_number
from loadgen.plan.programme import MOST_S, Floats, Rate, Wave

# Rate by hour of day (UTC): mean of the five working days of the Azure 2024 conversation week, stretched so that its
# peak and trough stand at 1.66 and 0.47 as those of the whole week do (of the week's mean; this day's mean is 1.03).
DAY_SHAPE = (
    *(0.83, 0.98, 0.95, 0.65, 0.67, 0.80, 1.05, 1.19, 1.23, 1.19, 0.99, 1.09),
    *(1.32, 1.54, 1.66, 1.48, 1.28, 1.19, 1.18, 1.06, 0.89, 0.61, 0.47, 0.52),
)
MOST_PIECES = 2_000_000  # of a programme: about 100 MB
MOST_WAVES, LEAST_PERIOD_S = 200, 1e-3  # every wave is looked at for every request


def points(times_s: Sequence[float] | Floats, rates_rps: Sequence[float] | Floats) -> Rate:
    """Straight lines between (time, rate) points; times start at 0 and rise strictly."""
    t, r = np.asarray(times_s, dtype=np.float64), np.asarray(rates_rps, dtype=np.float64)
    gaps_s = np.diff(t)
    if len(t) < 2 or len(t) != len(r) or t[0] != 0 or not (gaps_s > 0).all():
        raise BadInput(
            "times of a rate curve", value=t.tolist()[:6], expected="rising seconds that start with 0"
        )
    _not_negative(*r)
    with np.errstate(over="ignore"):
        slope = np.diff(r) / gaps_s
    if not np.isfinite(slope).all():
        raise BadInput(
            "a rate changes within no time",
            value=f"{gaps_s[~np.isfinite(slope)][0]:g} s",
            expected="seconds between two rates",
            next_step="write a jump as two stages",
        )
    return Rate(t, r[:-1], slope)


def steps(stages: Sequence[tuple[float, float]]) -> Rate:
    """One constant piece per (rate in requests/s, duration in s)."""
    for rate_rps, duration_s in stages:
        _not_negative(rate_rps)
        _positive("duration of a stage in s", duration_s)
    edges = np.concatenate(([0.0], np.cumsum([duration_s for _, duration_s in stages], dtype=np.float64)))
    return Rate(edges, np.array([float(rate) for rate, _ in stages]), np.zeros(len(stages)))


def parse_stages(text: str, name: str = "--stages") -> Rate:
    """The steps that `1:60,2:60` (RATE:SECONDS) names. Raises BadInput naming the stage that is wrong."""
    stages: list[tuple[float, float]] = []
    for part in str(text).split(","):
        rate_text, _, duration_text = part.partition(":")
        try:
            rate, duration_s = read_number(rate_text), read_number(duration_text)
        except ValueError:
            rate = duration_s = np.nan
        if not (0 <= rate < np.inf and 0 < duration_s < np.inf):
            raise BadInput(
                f"stage {len(stages) + 1} of {name} {text}",
                value=part.strip(),
                expected="RATE:SECONDS with a rate of at least 0 requests/s and a duration above 0 s",
                next_step="write for example 1:60,2:60",
            )
        stages.append((rate, duration_s))
    return steps(stages)


def interleaved(stages: Rate, piece_s: float, seed: int) -> Rate:
    """The steps in pieces that take turns: each cut into equal pieces of at most `piece_s` seconds, and one piece of each
    in every round, in an order that `seed` draws anew for each round. A drift of the server then meets all rates alike.

    Raises BadInput when there is nothing to take turns.
    """
    if not 0 < piece_s < np.inf:
        raise BadInput(
            "--interleave", value=piece_s, expected="the length of a piece above 0 s, for example 20s"
        )
    lengths = np.diff(stages.edges_s)
    _few_enough(float(np.sum(np.ceil(lengths / piece_s))))
    counts = np.ceil(lengths / piece_s - 1e-9).astype(np.int64)
    if len(counts) < 2 or counts.max() < 2:
        raise BadInput(
            "stages that take turns: nothing is cut",
            value=f"{piece_s:g} s",
            expected="at least two stages, of which one is longer than a piece",
            next_step="name more stages or shorter pieces",
        )
    rng = np.random.default_rng((seed, 4))
    order = [k for turn in range(counts.max()) for k in rng.permutation(np.flatnonzero(counts > turn))]
    return steps([(float(stages.level_rps[k]), float(lengths[k] / counts[k])) for k in order])


def constant(rate_rps: float, duration_s: float) -> Rate:
    """The same rate throughout."""
    return steps([(rate_rps, duration_s)])


def ramp(from_rps: float, to_rps: float, duration_s: float) -> Rate:
    """A straight line from one rate to another."""
    _positive("duration of a ramp in s", duration_s)
    return points([0.0, duration_s], [from_rps, to_rps])


def spike(
    base_rps: float,
    peak_rps: float,
    at_s: float,
    hold_s: float,
    duration_s: float,
    rise_s: float = 0.0,
    fall_s: float = 0.0,
) -> Rate:
    """`base_rps`, from `at_s` a rise over `rise_s` to `peak_rps`, held for `hold_s`, a fall over `fall_s`, base again."""
    rest_s = duration_s - at_s - rise_s - hold_s - fall_s
    if min(at_s, hold_s, rise_s, fall_s, rest_s) < 0:
        raise BadInput(
            "a spike does not fit into its duration",
            value=f"at_s {at_s:g} + rise_s {rise_s:g} + hold_s {hold_s:g} + fall_s {fall_s:g}",
            expected=f"times of at least 0 that add up to at most duration_s {duration_s:g}",
        )
    parts = [
        (base_rps, base_rps, at_s),
        (base_rps, peak_rps, rise_s),
        (peak_rps, peak_rps, hold_s),
        (peak_rps, base_rps, fall_s),
        (base_rps, base_rps, rest_s),
    ]
    return joined([ramp(*part) for part in parts if part[2] > 0])


def sine(
    mean_rps: float, amplitude_rps: float, period_s: float, duration_s: float, phase_rad: float = 0.0
) -> Rate:
    """mean + amplitude sin(2 pi t / period + phase)."""
    if not LEAST_PERIOD_S <= period_s < np.inf:
        raise BadInput("period of a sine in s", value=period_s, expected=f"at least {LEAST_PERIOD_S:g}")
    if abs(amplitude_rps) > mean_rps:
        raise BadInput(
            "amplitude_rps of a sine",
            value=amplitude_rps,
            expected=f"at most mean_rps {mean_rps:g}: a rate cannot be negative",
        )
    line = constant(mean_rps, duration_s)
    wave = Wave(amplitude_rps, period_s, phase_rad, 0.0, duration_s)
    return Rate(line.edges_s, line.level_rps, line.slope_rps_s, (wave,))


def diurnal(
    peak_rps: float,
    duration_s: float,
    start_hour: float = 0.0,
    day_s: float = 86400.0,
) -> Rate:
    """A daily curve whose highest hour is `peak_rps`; straight lines between the middles of the hours.

    `day_s` other than 86400 compresses the day. The mean is 0.62 of its peak and its trough 0.28.
    """
    _positive("length of a day in s", day_s)
    _positive("duration of a diurnal curve in s", duration_s)
    relative = np.asarray(DAY_SHAPE, dtype=np.float64) / max(DAY_SHAPE)
    part_s = day_s / len(relative)
    _few_enough(np.ceil(duration_s / part_s))
    first = int(np.floor(start_hour / 24 * day_s / part_s - 0.5))
    count = int(np.ceil(duration_s / part_s)) + 2
    index = np.arange(first, first + count)
    middle_s = (index + 0.5) * part_s - start_hour / 24 * day_s
    curve = peak_rps * relative[index % len(relative)]
    inner = middle_s[(middle_s > 1e-9 * part_s) & (middle_s < duration_s * (1 - 1e-12))]
    times = np.concatenate(([0.0], inner, [duration_s]))
    return points(times, np.interp(times, middle_s, curve))


def joined(parts: Iterable[Rate]) -> Rate:
    """The programmes one after another, without gaps."""
    parts = _gathered(parts)
    starts = np.concatenate(([0.0], np.cumsum([p.duration_s for p in parts])))
    edges = [p.edges_s[:-1] + s for p, s in zip(parts, starts, strict=False)]
    waves = tuple(
        Wave(w.amplitude_rps, w.period_s, w.phase_rad, w.start_s + s, w.end_s + s)
        for p, s in zip(parts, starts, strict=False)
        for w in p.waves
    )
    return Rate(
        np.concatenate([*edges, starts[-1:]]),
        np.concatenate([p.level_rps for p in parts]),
        np.concatenate([p.slope_rps_s for p in parts]),
        waves,
    )


def repeated(part: Rate, times: int) -> Rate:
    """The programme so many times, without gaps. Raises BadInput when that is longer than anything that is run."""
    if times * part.duration_s > MOST_S:
        raise BadInput(
            f"repeat: {times} times {part.duration_s:g} s is {times * part.duration_s / (365.25 * 86_400):,.3g} years",
            expected="at most 5 years",
        )
    _few_enough(times * len(part.level_rps))
    return joined(part for _ in range(times))


def summed(parts: Iterable[Rate]) -> Rate:
    """The programmes at the same time, added; a shorter one adds nothing after its end."""
    parts = _gathered(parts)
    edges = np.unique(np.concatenate([p.edges_s for p in parts]))
    starts = edges[:-1]
    level, slope = np.zeros(len(starts)), np.zeros(len(starts))
    for p in parts:
        under = starts[: int(np.searchsorted(starts, p.duration_s))]
        piece = p._piece(under)
        level[: len(under)] += p.level_rps[piece] + p.slope_rps_s[piece] * (under - p.edges_s[piece])
        slope[: len(under)] += p.slope_rps_s[piece]
    return Rate(edges, level, slope, tuple(w for p in parts for w in p.waves))


def _gathered(parts: Iterable[Rate]) -> list[Rate]:
    """The parts, which are made one by one. Raises BadInput when they are too many together."""
    kept: list[Rate] = []
    pieces = waves = 0
    for part in parts:
        pieces, waves = pieces + len(part.level_rps), waves + len(part.waves)
        _few_enough(pieces)
        if waves > MOST_WAVES:
            raise BadInput("the load has too many sines", value=waves, expected=f"at most {MOST_WAVES}")
        kept.append(part)
    return kept


def _few_enough(pieces: float) -> None:
    if not pieces <= MOST_PIECES:
        raise BadInput(
            f"the load has {pieces:,.0f} pieces with a rate of their own",
            expected=f"at most {MOST_PIECES:,}",
            next_step="repeat less, or make the parts longer",
        )


def _not_negative(*rates_rps: float) -> None:
    for rate in rates_rps:
        if not 0 <= rate < np.inf:
            raise BadInput("rate in requests/s", value=float(rate), expected="a number of at least 0")


def _positive(what: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise BadInput(what, value=value, expected="a number above 0")
