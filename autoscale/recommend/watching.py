"""What tunes how a replica is learned from production: one more table like those of effort.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Watching:
    """How a replica is learned from what production did with it (model/production.py)."""

    # Of the figures of a stretch, beside its own speed and what draws of its lengths and moments differ by
    noise: tuple[float, ...] = (0.005, 0.02, 0.05)
    # Draws that tell the latter, of which so many are replayed in every round
    draws: int = 12
    kept: int = 2
    # Stretches that are replayed at most, from the quietest to the busiest
    stretches: int = 14
    # Of a stretch's speed: what is expected before the stretches show it, and what it is at least
    start_wander: float = 0.03
    least_wander: float = 0.01
    # Rounds of the fit; how far a coefficient is moved to see what it does, and is moved at once (logarithms)
    rounds: int = 4
    move: float = 0.15
    longest: float = 0.7
    # Logarithm beyond which an error counts no more; standard deviations from which it counts linearly
    largest_error: float = 1.0
    robust: float = 2.0
    # Mean squared error, in variances, from which on a line is tried in place of the data sheet's bends
    poor: float = 2.0
    # Median ratio of a pod's ITL to the others' at the same load, from which on it is another speed; in so many stretches
    other_speed: float = 0.10
    fewest: int = 2
    # Stages of the load test that is proposed: shares of the capacity, s each
    stages: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 1.1)
    stage_s: float = 120.0


WATCHING = Watching()
