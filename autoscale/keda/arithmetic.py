"""KEDA's arithmetic at one poll, on plain numbers: the scale loop runs it, the simulated fleet compiles it (`sim.fleet.ticks`).

Source: kedacore/keda v2.20.2 pkg/scalers/prometheus_scaler.go, pkg/scaling/executor/scale_scaledobjects.go.
"""

from __future__ import annotations

from analysis.numbers import known


def is_active(value: float, activation_threshold: float) -> bool:
    """Whether a value makes its trigger active: above the threshold, and no negative one whatever that is."""
    return value >= 0 and value > activation_threshold


def cooling(now_s: float, last_active_s: float, cooldown_s: float, first_s: float) -> bool:
    """Whether it is too early to go to rest; until `first_s` where nothing has been active yet (NaN)."""
    return now_s <= (last_active_s + cooldown_s if known(last_active_s) else first_s)
