"""Offered rate as arithmetic: rate(t), its closed-form integral and the inverse of that integral. Pure.

A programme is a row of pieces without gaps; on a piece the rate is a straight line, and waves may lie on top:

    rate(t)     = level_i + slope_i (t - edge_i) + sum_w A_w sin(2 pi (t - start_w) / P_w + phase_w)       requests/s
    integral(t) = cum_i + level_i d + slope_i d^2 / 2                                   with d = t - edge_i, requests
                + sum_w A_w P_w / (2 pi) (cos phase_w - cos(2 pi (t - start_w) / P_w + phase_w))
    inverse(u)  = edge_i + 2 v / (level_i + sqrt(level_i^2 + 2 slope_i v))              with v = u - cum_i, seconds

    requests/s        spike         sine
        |            ____          . .
        |   ramp    |    |       .     .     .
        |     /-----+    +-----.         . .         integral(t) = area to the left of t = requests due by then
        |____/ steps                                 inverse(u)  = when request number u is due
        +------------------------------------- t, s

t in seconds since the start, rates in requests/s, slopes in requests/s^2, A in requests/s, P in s, phase in rad. Steps,
ramps, spikes, the diurnal curve and sums of them have no waves: their inverse is the closed form. With waves the inverse
is a Newton iteration held inside a bracket (bisection when it would leave it), to 1e-9 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import BadInput

Floats = NDArray[np.float64]

# Rate by hour of day (UTC): mean of the five working days of the Azure 2024 conversation week, stretched so that its
# peak and trough stand at 1.66 and 0.47 as those of the whole week do (of the week's mean; this day's mean is 1.03).
DAY_SHAPE = (
    *(0.83, 0.98, 0.95, 0.65, 0.67, 0.80, 1.05, 1.19, 1.23, 1.19, 0.99, 1.09),
    *(1.32, 1.54, 1.66, 1.48, 1.28, 1.19, 1.18, 1.06, 0.89, 0.61, 0.47, 0.52),
)
MOST_S = 5 * 366 * 86_400.0  # of a programme
MOST_RPS = 1e7  # of a piece, or of a wave
MOST_PIECES = 2_000_000  # of a programme: about 100 MB
MOST_WAVES, LEAST_PERIOD_S = 200, 1e-3  # every wave is looked at for every request
WAVE_NODES = 128  # table nodes per period: the first guess is then within 1e-4 of a period


@dataclass(frozen=True)
class Wave:
    """amplitude_rps * sin(2 pi (t - start_s) / period_s + phase_rad) on [start_s, end_s)."""

    amplitude_rps: float
    period_s: float
    phase_rad: float
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Rate:
    """A rate programme: k pieces between the k + 1 `edges_s` (the first is 0), and waves over them."""

    edges_s: Floats
    level_rps: Floats
    slope_rps_s: Floats
    waves: tuple[Wave, ...] = ()

    def __post_init__(self) -> None:
        """Raises BadInput for what no run can last or offer."""
        if not 0 < self.edges_s[-1] <= MOST_S:
            raise BadInput(
                "duration of the load in s",
                value=float(self.edges_s[-1]),
                expected=f"above 0, and at most {MOST_S:.0f}, which is 5 years",
            )
        ends = self.level_rps + self.slope_rps_s * np.diff(self.edges_s)
        top = max(self.level_rps.max(), ends.max(), *(w.amplitude_rps for w in self.waves), 0.0)
        if not top <= MOST_RPS:
            raise BadInput("rate in requests/s", value=float(top), expected=f"at most {MOST_RPS:,.0f}")

    @property
    def duration_s(self) -> float:
        """Length of the programme in s."""
        return float(self.edges_s[-1])

    @property
    def requests(self) -> float:
        """Expected requests over the whole programme."""
        return float(self.integral(self.duration_s))

    def rate(self, t_s: ArrayLike) -> Floats:
        """Requests/s at each time; 0 outside the programme."""
        t = np.asarray(t_s, dtype=np.float64)
        rate = self._area_and_rate(t, self._piece(t))[1]
        return np.where((t >= 0) & (t < self.duration_s), rate, 0.0)

    def integral(self, t_s: ArrayLike) -> Floats:
        """Requests due in [0, t) at each time; constant outside the programme."""
        t = np.clip(np.asarray(t_s, dtype=np.float64), 0.0, self.duration_s)
        return self._area_and_rate(t, self._piece(t))[0]

    def inverse(self, requests: ArrayLike) -> Floats:
        """The earliest time in s after which the integral exceeds each number; the end for numbers beyond it."""
        u = np.asarray(requests, dtype=np.float64)
        return self._newton(u) if self.waves else self._closed_form(u)

    def until(self, end_s: float) -> Rate:
        """The programme cut at `end_s`."""
        keep = self.edges_s[:-1] < end_s
        edges = np.append(self.edges_s[:-1][keep], min(end_s, self.duration_s))
        waves = tuple(replace(w, end_s=min(w.end_s, end_s)) for w in self.waves if w.start_s < end_s)
        return Rate(edges, self.level_rps[keep], self.slope_rps_s[keep], waves)

    def means(self) -> Floats:
        """Mean requests/s of each piece, shape (k,)."""
        return np.diff(self.integral(self.edges_s)) / np.diff(self.edges_s)

    def _piece(self, t: Floats) -> NDArray[np.intp]:
        return np.clip(np.searchsorted(self.edges_s, t, side="right") - 1, 0, len(self.level_rps) - 1)

    def _area_and_rate(self, t: Floats, piece: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """The integral and the rate at times that lie in these pieces."""
        d, level, slope = t - self.edges_s[piece], self.level_rps[piece], self.slope_rps_s[piece]
        area = self._line_area[piece] + d * (level + 0.5 * slope * d)
        rate = level + slope * d
        for w in self.waves:
            angle = 2 * np.pi / w.period_s * (np.clip(t, w.start_s, w.end_s) - w.start_s) + w.phase_rad
            area = area + w.amplitude_rps * w.period_s / (2 * np.pi) * (np.cos(w.phase_rad) - np.cos(angle))
            rate = rate + (t >= w.start_s) * (t < w.end_s) * w.amplitude_rps * np.sin(angle)
        return area, np.maximum(rate, 0.0)

    @cached_property
    def _line_area(self) -> Floats:
        d = np.diff(self.edges_s)
        return np.concatenate(([0.0], np.cumsum(d * (self.level_rps + 0.5 * self.slope_rps_s * d))))

    @cached_property
    def _nodes(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Times and integrals between which the inverse is bracketed, about two million at most, and the rate
        just after each time and just before the next."""
        times = [self.edges_s]
        for w in self.waves:
            step = max(w.period_s / WAVE_NODES, (w.end_s - w.start_s) * max(len(self.waves), 2) / 2e6)
            times.append(np.append(np.arange(w.start_s, w.end_s, step), w.end_s))
        nodes = np.unique(np.concatenate(times))
        inset = 1e-6 * np.diff(nodes)
        after, before = self.rate(nodes[:-1] + inset), self.rate(nodes[1:] - inset)
        return nodes, np.maximum.accumulate(self.integral(nodes)), after, before

    def _closed_form(self, u: Floats) -> Floats:
        area = self._line_area
        piece = np.minimum(np.searchsorted(area[1:], u, side="right"), len(self.level_rps) - 1)
        level, slope = self.level_rps[piece], self.slope_rps_s[piece]
        v = np.maximum(u - area[piece], 0.0)
        root = level + np.sqrt(np.maximum(level * level + 2 * slope * v, 0.0))
        d = np.divide(2 * v, root, out=np.zeros_like(v), where=root > 0)
        return np.where(
            u >= area[-1], self.duration_s, np.minimum(self.edges_s[piece] + d, self.edges_s[piece + 1])
        )

    def _newton(self, u: Floats) -> Floats:
        times, areas, after, before = self._nodes
        flat = np.atleast_1d(u).ravel()
        node = np.clip(np.searchsorted(areas, flat, side="right") - 1, 0, len(times) - 2)
        low, high = times[node], times[node + 1]
        rise = areas[node + 1] - areas[node]
        x = np.clip(np.divide(flat - areas[node], rise, out=np.ones_like(flat), where=rise > 0), 0.0, 1.0)
        # First guess: the cubic through both nodes with slopes 1 / rate, or the chord where a rate is near 0.
        width = high - low
        steep = rise > 20 * width * np.minimum(after[node], before[node])
        start = np.where(steep, width, rise / np.maximum(after[node], 1e-300))
        end = np.where(steep, width, rise / np.maximum(before[node], 1e-300))
        cubic = x * (start + x * (3 * width - 2 * start - end + x * (start + end - 2 * width)))
        t = low + np.clip(cubic, 0.0, width)
        bend = float(np.abs(self.slope_rps_s).max()) + sum(
            abs(w.amplitude_rps) * 2 * np.pi / w.period_s for w in self.waves
        )
        piece = self._piece(low)  # of the whole bracket: every edge is a node
        todo: Any = slice(None)
        for _ in range(60):
            now = t[todo]
            area, rate = self._area_and_rate(now, piece[todo])
            excess = area - flat[todo]
            low[todo] = np.where(excess <= 0, now, low[todo])
            high[todo] = np.where(excess > 0, now, high[todo])
            step = np.divide(-excess, rate, out=np.full_like(now, np.inf), where=rate > 0)
            newton = (now + step >= low[todo]) & (now + step <= high[todo])
            t[todo] = np.where(newton, now + step, 0.5 * (low[todo] + high[todo]))
            # Newton leaves an error of at most step^2 |rate'| / (2 rate); bisection half the bracket.
            far = 0.5 * bend * np.where(newton, step, 0.0) ** 2 > 1e-9 * rate
            again = np.flatnonzero(np.where(newton, far, high[todo] - low[todo] > 1e-9))
            todo = again if isinstance(todo, slice) else todo[again]
            if len(todo) == 0:
                break
        return np.where(flat >= areas[-1], self.duration_s, t).reshape(u.shape)


def points(times_s: Sequence[float] | Floats, rates_rps: Sequence[float] | Floats) -> Rate:
    """Straight lines between (time, rate) points; times start at 0 and rise strictly."""
    t, r = np.asarray(times_s, dtype=np.float64), np.asarray(rates_rps, dtype=np.float64)
    if len(t) < 2 or len(t) != len(r) or t[0] != 0 or not (np.diff(t) > 0).all():
        raise BadInput(
            "times of a rate curve", value=t.tolist()[:6], expected="rising seconds that start with 0"
        )
    _not_negative(*r)
    return Rate(t, r[:-1], np.diff(r) / np.diff(t))


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
            rate, duration_s = float(rate_text), float(duration_text)
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
    shape: Sequence[float] = DAY_SHAPE,
) -> Rate:
    """A daily curve whose highest hour is `peak_rps`; straight lines between the middles of the hours.

    `day_s` other than 86400 compresses the day; `shape` holds equally long parts of a day, of any number, relative to
    each other only. The default's mean is 0.62 of its peak and its trough 0.28.
    """
    _positive("length of a day in s", day_s)
    _positive("duration of a diurnal curve in s", duration_s)
    relative = np.asarray(shape, dtype=np.float64) / max(shape)
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
