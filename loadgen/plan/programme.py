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

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import BadInput

Floats = NDArray[np.float64]
MOST_S = 5 * 366 * 86_400.0  # of a programme
MOST_RPS = 1e7  # of a piece, or of a wave
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

    def times(self, factor: float) -> Rate:
        """The programme at so many times its rates."""
        waves = tuple(replace(w, amplitude_rps=w.amplitude_rps * factor) for w in self.waves)
        return Rate(self.edges_s, self.level_rps * factor, self.slope_rps_s * factor, waves)

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
