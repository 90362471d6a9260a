"""What a scaler's query answers, as far as its text tells: a total over the replicas or a level of each.

| shape | what one more replica under the same load does to it | examples |
|---|---|---|
| total | nothing: it is shared out | sum, count, a rate of them, a total divided by a number |
| level | it falls: it is a value per replica already | avg, max, quantile, histogram_quantile, a total by another |
| many | an answer of several series | a bare selector, sum by (pod) |
| number, scalar | no series at all | 5, vector(0); scalar(x) has a shape of its own in the API's JSON |
| unknown | cannot be told | max(total), products of unlike things |
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from autoscale.kube.promql import (
    AGGREGATES,
    LISTS,
    MEANS,
    TOTALS,
    Selector,
    Token,
    closing,
    mistyped,
    selectors_of,
    tokens_of,
    top_level,
)
from autoscale.kube.vllm_names import type_of

Shape = Literal["total", "level", "many", "number", "scalar", "unknown"]

_LOOSEST = (
    ("or",),
    ("and", "unless"),
    ("==", "!=", ">", "<", ">=", "<="),
    ("+", "-"),
    ("*", "/", "%"),
    ("^",),
)
# names that say: a value per replica, or a share
_LEVEL_NAME = re.compile(
    r"(perc|percent|ratio|utilization|saturation|usage|average_\w+|latency|seconds|avg_\w+)$"
)
# functions that leave the unit of a gauge as it is
_SAME_UNIT = {
    "sum",
    "avg",
    "max",
    "min",
    "quantile",
    "clamp",
    "clamp_min",
    "clamp_max",
    "ceil",
    "floor",
    "round",
    "abs",
}
_SAME_UNIT |= {f"{each}_over_time" for each in ("avg", "max", "min", "last", "quantile")} | {"scalar", "sort"}
_WANTED_NAME = re.compile(
    r"desired"
)  # a number of replicas, already decided: aggregates only unite duplicates


@dataclass(frozen=True)
class Query:
    """A query with its shape; `selectors` in the order in which they are written.

    `factor`: the answer is a gauge in its own unit, so many times over; None where it is something else. `mistyped`: why
    Prometheus refuses it, None where nothing tells.
    """

    text: str
    shape: Shape
    selectors: tuple[Selector, ...] = field(default_factory=tuple)
    factor: float | None = None
    mistyped: str | None = None


def read_query(text: str) -> Query:
    """A query as far as it can be followed; one that cannot has the shape "unknown"."""
    tokens = list(tokens_of(text))
    shape = _shape(tokens) if tokens else "unknown"
    return Query(text, shape, tuple(selectors_of(tokens)), _factor(tokens), mistyped(tokens))


# --- unit --------------------------------------------------------------------------------------------------------------


def _factor(tokens: list[Token]) -> float | None:
    """How many times over the answer is the gauge that is read: 100 for `avg(x) * 100`; None where it is no such thing."""
    tokens = _bare(tokens)
    if parted := _parted(tokens):
        operator, left, right = parted
        if operator in ("*", "/"):
            return _multiplied(operator, left, right)
        if operator == "or":
            first, second = _factor(left), _factor(right)
            return first if second == first or _constant(right) is not None else None
        counted = bool(right) and right[0][1].lower() == "bool"
        return _factor(left) if operator in (*_LOOSEST[1], *_LOOSEST[2]) and not counted else None
    if not tokens or tokens[0][0] not in ("name", "labels"):
        return None
    if len(tokens) > 1 and (tokens[1][1] == "(" or tokens[1][1].lower() in ("by", "without")):
        found = [_factor(each) for each in _arguments(_called(tokens)[0])]
        return (
            next((one for one in found if one is not None), None)
            if tokens[0][1].lower() in _SAME_UNIT
            else None
        )
    return 1.0


def _multiplied(operator: str, left: list[Token], right: list[Token]) -> float | None:
    by, of = _constant(right), _factor(left)
    if operator == "*" and by is None:
        by, of = _constant(left), _factor(right)
    if not by or of is None:
        return None
    return of * by if operator == "*" else of / by


def _constant(tokens: list[Token]) -> float | None:
    """A number, also as vector(...) or scalar(vector(...))."""
    tokens = _bare(tokens)
    if len(tokens) == 1 and tokens[0][0] == "number":
        try:
            return float(tokens[0][1])
        except ValueError:  # a duration
            return None
    if (
        len(tokens) > 3
        and tokens[0][1].lower() in ("vector", "scalar")
        and closing(tokens, 1) == len(tokens) - 1
    ):
        return _constant(tokens[2:-1])
    return None


# --- shape -----------------------------------------------------------------------------------------------------------


def _shape(tokens: list[Token]) -> Shape:
    tokens = _bare(tokens)
    if not tokens:
        return "unknown"
    if parted := _parted(tokens):
        operator, left, right = parted
        return _combined(operator, _shape(left), _shape(_without_matching(right)))
    if tokens[0][1] in "+-":
        return _shape(tokens[1:])
    if len(tokens) == 1 and tokens[0][0] == "number":
        return "number"
    if (
        len(tokens) > 1
        and tokens[0][0] == "name"
        and (tokens[1][1] == "(" or tokens[1][1].lower() in ("by", "without"))
    ):
        return _of_call(tokens)
    return "many" if tokens[0][0] in ("name", "labels") else "unknown"


def _bare(tokens: list[Token]) -> list[Token]:
    """Without the parentheses around the whole."""
    while len(tokens) > 1 and tokens[0][1] == "(" and closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _parted(tokens: list[Token]) -> tuple[str, list[Token], list[Token]] | None:
    """The operator that binds loosest, with what stands left and right of it; None without one."""
    for operators in _LOOSEST:
        places = [i for i in top_level(tokens) if tokens[i][1].lower() in operators and i > 0]
        if places:
            place = places[-1]
            return tokens[place][1].lower(), tokens[:place], tokens[place + 1 :]
    return None


def _called(tokens: list[Token]) -> tuple[list[Token], int]:
    """What stands in the parentheses of a call, and where they end."""
    opened = next(
        (i for i in range(1, len(tokens)) if tokens[i][1] == "(" and tokens[i - 1][1].lower() not in LISTS),
        0,
    )
    closed = closing(tokens, opened)
    return tokens[opened + 1 : closed], closed


def _of_call(tokens: list[Token]) -> Shape:
    name = tokens[0][1].lower()
    inner, closed = _called(tokens)
    if name == "scalar":
        return "scalar"
    if name in ("vector", "time", "pi"):
        return "number"
    if name not in AGGREGATES:
        if name == "histogram_quantile":  # it takes the label le away
            left = _last_argument([token for token in inner if token != ("name", "le")])
            return "many" if left == "many" else "level"
        return _last_argument(inner) if name != "label_replace" else _shape(_arguments(inner)[0])
    if _grouped(tokens, closed, list(selectors_of(inner))) or name in (
        "topk",
        "bottomk",
        "count_values",
    ):
        return "many"
    names = [selector.name for selector in selectors_of(inner)]
    if any(_WANTED_NAME.search(each) for each in names):
        return "total"
    if name in TOTALS:
        return "total"
    levels = [each for each in names if type_of(each) is not None or _LEVEL_NAME.search(each)]
    if name in MEANS or levels:
        return "level"
    return "unknown"


def _last_argument(inner: list[Token]) -> Shape:
    parts = _arguments(inner)
    shapes = [_shape(part) for part in parts if part]
    return next((shape for shape in shapes if shape != "number"), "number" if shapes else "unknown")


def _arguments(inner: list[Token]) -> list[list[Token]]:
    commas = [i for i in top_level(inner) if inner[i][1] == ","]
    edges = [-1, *commas, len(inner)]
    return [inner[a + 1 : b] for a, b in pairwise(edges)]


def _grouped(tokens: list[Token], closed: int, selectors: list[Selector]) -> bool:
    """Whether an aggregate leaves several series: grouped by a label that its selectors do not pin to one value."""
    for start in (1, closed + 1):
        if start < len(tokens) and tokens[start][1].lower() in ("by", "without"):
            labels = [word for kind, word in tokens[start + 2 : closing(tokens, start + 1)] if kind == "name"]
            if tokens[start][1].lower() == "without":
                return True
            return any(not selector.pins(label) for label in labels for selector in selectors)
    return False


def _combined(operator: str, left: Shape, right: Shape) -> Shape:
    """The shape of two expressions with an operator between them."""
    pair = {left, right}
    if operator == "or":
        return left if right in ("number", left) else ("unknown" if left != "many" else "many")
    if operator in ("and", "unless") or operator in _LOOSEST[2]:
        return left
    if "many" in pair:
        return "many" if pair <= {"many", "number", "scalar"} else "unknown"
    rest = pair - {"number", "scalar"}
    if len(rest) < 2:
        if rest == {"total"} and operator == "/" and left == right:
            return "level"
        if left in ("number", "scalar") and operator == "/" and rest:
            return "unknown"
        return (
            rest.pop()
            if rest and not (left == right and operator in ("*", "/", "%", "^"))
            else ("unknown" if rest else left)
        )
    return "total" if rest == {"total", "level"} and operator == "*" else "unknown"


def _without_matching(tokens: list[Token]) -> list[Token]:
    """What stands right of an operator, without bool, on (...) and group_left (...)."""
    while tokens and tokens[0][1].lower() in LISTS | {"bool"}:
        listed = len(tokens) > 1 and tokens[1][1] == "("
        tokens = tokens[closing(tokens, 1) + 1 :] if listed else tokens[1:]
    return tokens
