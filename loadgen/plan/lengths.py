"""How many tokens a prompt or an answer has: seeded draws from a named distribution. Pure.

    fixed:512 or 512     always 512                    uniform:100,900      whole numbers from 100 to 900, both included
    normal:500,100       mean 500, deviation 100       lognormal:1020,1.0   median 1020, deviation of the log 1.0
    quantiles:1,90,400,7000   three equally likely ranges between these: any measured distribution, at its quantiles
    trace                the lengths of the trace

`normal` and `lognormal` take a third number as an upper limit (`lognormal:1020,1.0,8000`): a lognormal:1020,1.0 exceeds
8,000 tokens twice in a hundred, and a server answers 400 beyond its --max-model-len. Draws are rounded and at least 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput, nearest
from analysis.numbers import Z99, read_number

FORMS = {
    "fixed": "fixed:N",
    "uniform": "uniform:A,B",
    "normal": "normal:M,S",
    "lognormal": "lognormal:M,S",
    "quantiles": "quantiles:A,B,...",
    "trace": "trace",
}
READABLE = 8  # quantiles
MOST = 2**30  # tokens; keeps sums of a prompt and its answer inside int32


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts; `kind` as in FORMS, `a`, `b` its numbers, `limit` the most it yields.

    `knots` are those of `quantiles`: the lengths at equally spaced probabilities from 0 to 1.
    """

    kind: str
    a: float = 0.0
    b: float = 0.0
    limit: float = MOST
    knots: tuple[float, ...] = ()

    def __str__(self) -> str:
        if self.kind == "quantiles":
            return "quantiles:" + ",".join(f"{x:g}" for x in self.knots)
        numbers = {"fixed": [self.a], "trace": []}.get(self.kind, [self.a, self.b])
        numbers = numbers if self.limit == MOST or self.kind == "trace" else [*numbers, self.limit]
        return self.kind + (":" + ",".join(f"{x:g}" for x in numbers) if numbers else "")

    @property
    def in_words(self) -> str:
        """As one reads it: of many quantiles mean and p99."""
        if self.kind == "quantiles" and len(self.knots) > READABLE:
            return f"mean {self.mean():,.0f}, p99 {self.p99():,.0f}"
        return str(self)

    def draw(self, rng: np.random.Generator, n: int) -> NDArray[np.int32]:
        """`n` token counts, int32[n], each from 1 to `limit`. Raises ValueError for `trace`, which draws nothing."""
        if self.kind == "fixed":
            return np.full(n, int(self.a), dtype=np.int32)
        if self.kind == "uniform":
            return rng.integers(int(self.a), int(self.b), size=n, dtype=np.int32, endpoint=True)
        if self.kind == "trace":
            raise ValueError("lengths of a trace come with its arrivals")
        if self.kind == "quantiles":
            at = np.linspace(0.0, 1.0, len(self.knots))
            return np.maximum(np.rint(np.interp(rng.random(n), at, self.knots)), 1).astype(np.int32)
        z = rng.standard_normal(n, dtype=np.float32)
        if self.kind == "normal":
            tokens = np.float32(self.a) + np.float32(self.b) * z
        else:
            tokens = np.float32(self.a) * np.exp(np.float32(self.b) * z)
        return np.clip(np.rint(tokens), 1, self.limit).astype(np.int32)

    def mean(self) -> float:
        """Expected tokens of a draw, limits included, rounding not (within 0.5 token); NaN for `trace`."""
        if self.kind == "trace":
            return math.nan
        if self.kind == "fixed":
            return self.a
        if self.kind == "uniform":
            return (self.a + self.b) / 2
        if self.kind == "quantiles":
            return sum(low + high for low, high in pairwise(self.knots)) / 2 / (len(self.knots) - 1)
        if self.b == 0:
            return min(max(self.a, 1.0), self.limit)
        low, high = self._score(1.0), self._score(self.limit)
        if self.kind == "normal":
            between = self.a * (_below(high) - _below(low)) - self.b * (_density(high) - _density(low))
        else:  # the part of exp(N(log a, b^2)) between the limits
            whole = self.a * math.exp(self.b**2 / 2)
            between = whole * (_below(high - self.b) - _below(low - self.b))
        return _below(low) + between + self.limit * _below(-high)

    def p99(self) -> float:
        """Tokens that one draw in a hundred exceeds; NaN for `trace`."""
        if self.kind == "trace":
            return math.nan
        if self.kind == "fixed":
            return self.a
        if self.kind == "uniform":
            return self.a + 0.99 * (self.b - self.a)
        if self.kind == "quantiles":
            return float(np.interp(0.99, np.linspace(0.0, 1.0, len(self.knots)), self.knots))
        raw = self.a + self.b * Z99 if self.kind == "normal" else self.a * math.exp(self.b * Z99)
        return min(max(raw, 1.0), self.limit)

    def _score(self, tokens: float) -> float:
        """How many deviations `tokens` lies above the middle of the underlying normal distribution."""
        return (tokens - self.a if self.kind == "normal" else math.log(tokens / self.a)) / self.b


def _below(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _density(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def parse_lengths(text: str) -> Lengths:
    """The distribution that `text` names, in the syntax of the module's docstring.

    Raises BadInput with the nearest name, or with the form that was expected.
    """
    text = str(text).strip()
    kind, _, rest = (f"fixed:{text}" if text.isascii() and text.isdecimal() else text).partition(
        ":"
    )  # a number alone is that number
    if kind not in FORMS:
        near = nearest(kind, FORMS)
        raise BadInput(
            "unknown length distribution",
            value=text,
            expected=" | ".join(FORMS.values()),
            next_step=f"did you mean {FORMS[near]}?" if near else None,
        )
    try:
        numbers = [read_number(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = [math.nan]
    if not all(math.isfinite(x) and x <= MOST for x in numbers) or not _fits(kind, numbers):
        most = f", each at most {MOST:,}" if any(x > MOST for x in numbers) else ""
        raise BadInput("lengths", value=text, expected=_WANTED[kind] + most)
    if kind == "quantiles":
        return Lengths(kind, knots=tuple(numbers))
    a, b, limit = (*numbers, *(0.0, 0.0, float(MOST))[len(numbers) :])
    return Lengths(kind, a, b, limit)


_WANTED = {
    "fixed": "fixed:N with a whole number of tokens of at least 1",
    "uniform": "uniform:A,B with whole numbers 1 <= A <= B",
    "normal": "normal:MEAN,DEVIATION with mean >= 1 and deviation >= 0 tokens, and optionally a limit >= 1",
    "lognormal": "lognormal:MEDIAN,SIGMA with median >= 1 token and 0 <= sigma of the log <= 5, and optionally a limit >= 1",
    "quantiles": "quantiles:A,B,... with at least two lengths of at least 1 token, none below the one before",
    "trace": "trace alone: the lengths come from the trace",
}


def _fits(kind: str, x: list[float]) -> bool:
    if kind == "trace":
        return not x
    if kind == "quantiles":
        return len(x) >= 2 and x[0] >= 1 and all(low <= high for low, high in pairwise(x))
    if kind == "fixed":
        return len(x) == 1 and x[0] >= 1 and x[0].is_integer()
    if kind == "uniform":
        return len(x) == 2 and 1 <= x[0] <= x[1] and x[0].is_integer() and x[1].is_integer()
    limited = len(x) in (2, 3) and x[0] >= 1 and x[1] >= 0 and (len(x) == 2 or x[2] >= 1)
    return limited and (kind == "normal" or x[1] <= 5)
