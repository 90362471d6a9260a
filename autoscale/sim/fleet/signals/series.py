"""A Prometheus beside a simulated fleet: samples by series, as old as scrapes and ingestion make them.

A series that its target no longer exports ends with a stale marker at the next scrape: an instant query leaves it out at
once, a window still sees the samples before it. Source: prometheus promql/engine.go (lookback 5 minutes, windows open to
the left).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from analysis.numbers import known

LOOKBACK_S = 300.0
Labels = tuple[tuple[str, str], ...]
Rows = Iterable[tuple[Labels, float]]


@dataclass(slots=True)
class Track:
    """The samples of one series, oldest first; a NaN is a stale marker."""

    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def window(self, after_s: float, until_s: float) -> tuple[list[float], list[float]]:
        """Times and values after `after_s` up to `until_s`, markers left out."""
        first, last = bisect_right(self.times_s, after_s), bisect_right(self.times_s, until_s)
        pairs = [
            (t, v) for t, v in zip(self.times_s[first:last], self.values[first:last], strict=True) if known(v)
        ]
        return [t for t, _ in pairs], [v for _, v in pairs]

    def newest(self, after_s: float, until_s: float) -> float:
        """The newest value after `after_s` up to `until_s`; NaN when there is none, or the series had ended."""
        last = bisect_right(self.times_s, until_s) - 1
        return self.values[last] if last >= 0 and self.times_s[last] > after_s else math.nan


class Samples:
    """Samples of the series that somebody asks for. `delay_s` passes between a scrape and its being seen."""

    def __init__(self, names: Iterable[str], delay_s: float, longest_s: float) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.delay_s, self.kept_s = delay_s, max(longest_s, LOOKBACK_S) + delay_s
        self.tracks: dict[str, dict[Labels, Track]] = {name: {} for name in self.names}

    def scrape(self, now_s: float, rows: Mapping[str, Rows]) -> None:
        """What was exported at `now_s`; series that are missing have ended."""
        for name, tracks in self.tracks.items():
            exported = dict(rows[name])
            for labels, value in exported.items():
                track = tracks.get(labels)
                if track is None:
                    track = tracks[labels] = Track()
                track.times_s.append(now_s)
                track.values.append(value)
            for labels in [labels for labels in tracks if labels not in exported]:
                track = tracks[labels]
                if known(track.values[-1]):
                    track.times_s.append(now_s)
                    track.values.append(math.nan)
                elif track.times_s[-1] < now_s - self.kept_s:
                    del tracks[labels]
            self._forget(tracks, now_s - self.kept_s)

    def _forget(self, tracks: Mapping[Labels, Track], before_s: float) -> None:
        for track in tracks.values():
            old = bisect_right(track.times_s, before_s)
            if old > len(track.times_s) // 2:
                del track.times_s[: old - 1], track.values[: old - 1]
