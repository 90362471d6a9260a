"""One chunk of arrivals, and how arrivals scatter around their rate. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput, nearest
from analysis.numbers import read_number
from loadgen.plan.programme import Rate


class Arrivals(NamedTuple):
    """A chunk of requests as equally long arrays, ordered by `due_s`."""

    due_s: NDArray[np.float64]  # seconds since the start
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]  # leading tokens of the prompt that a prefix cache can serve
    request_id: NDArray[np.int64]  # 0, 1, 2, ... over the whole plan, whatever the slice
    blocks: NDArray[np.object_] | None = (
        None  # per request a tuple of prefix block ids, when the trace has them
    )

    def take(self, which: slice | NDArray[Any]) -> Arrivals:
        """The chosen rows."""
        return Arrivals._make(None if column is None else column[which] for column in self)


@dataclass(frozen=True)
class Process:
    """How arrivals scatter around the rate: `kind` constant | poisson | gamma, `cv` of the gaps in operational time."""

    kind: str
    cv: float

    def __str__(self) -> str:
        return f"gamma:{self.cv:g}" if self.kind == "gamma" else self.kind

    def first(self, rng: np.random.Generator) -> float:
        """Operational time of the first arrival."""
        if self.kind == "constant":
            return 0.0
        shape = 1 / self.cv**2  # the residual of a stationary renewal process: U times a length-biased gap
        return float(rng.random() * rng.standard_gamma(shape + 1) / shape)

    def gaps(self, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
        """`n` gaps of mean 1 in operational time."""
        if self.kind == "constant":
            return np.ones(n)
        if self.kind == "poisson":
            return rng.standard_exponential(n)
        return rng.standard_gamma(1 / self.cv**2, n) * self.cv**2

    def due_times(self, programme: Rate, rng: np.random.Generator, n: int) -> Iterator[NDArray[np.float64]]:
        """When requests are due under this programme, in rising s, in chunks of at most `n`."""
        total = programme.requests
        total -= 1e-9 * max(1.0, total)  # rounding of the integral must not add a request at the very end
        u, latest = self.first(rng), 0.0
        while u < total:
            ahead = total - u
            size = min(n, int(ahead + 8 * (1 + self.cv) * math.sqrt(ahead + 1)) + 8)
            times = np.cumsum(np.concatenate(([u], self.gaps(rng, size))))
            u = float(times[-1])
            times = times[: int(np.searchsorted(times[:-1], total))]
            due = np.maximum(np.maximum.accumulate(programme.inverse(times)), latest)  # rounding keeps order
            latest = float(due[-1])
            yield due


def parse_arrivals(text: str) -> Process:
    """The process that `constant | poisson | gamma:CV` names. Raises BadInput with the nearest name."""
    kind, _, rest = str(text).strip().partition(":")
    if kind in ("constant", "poisson") and not rest:
        return Process(kind, 0.0 if kind == "constant" else 1.0)
    forms = {"constant": "constant", "poisson": "poisson", "gamma": "gamma:CV"}
    if kind != "gamma":
        near = nearest(kind, forms)
        raise BadInput(
            "unknown arrival process",
            value=text,
            expected=" | ".join(forms.values()),
            next_step=f"did you mean {forms[near]}?" if near else None,
        )
    try:
        cv = read_number(rest)
    except ValueError:
        cv = math.nan
    if not 0.01 <= cv <= 30:
        raise BadInput(
            "arrivals", value=text, expected="gamma:CV with a CV from 0.01 to 30, for example gamma:3"
        )
    return Process(kind, cv)
