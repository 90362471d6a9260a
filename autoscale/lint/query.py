"""PromQL as far as a scaler's query tells: which series it selects, and whether its answer is a total or a level.

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
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from autoscale.lint import metrics

Shape = Literal["total", "level", "many", "number", "scalar", "unknown"]

TOTALS, MEANS, EXTREMES = {"sum", "count"}, {"avg", "quantile", "stddev", "stdvar"}, {"max", "min"}
AGGREGATES = TOTALS | MEANS | EXTREMES | {"group", "topk", "bottomk", "count_values"}
RATES = {
    "rate",
    "irate",
    "increase",
    "delta",
    "idelta",
    "deriv",
    "resets",
    "changes",
    "absent",
    "present_over_time",
}
_WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset", "and", "or", "unless", "inf", "nan"}  # fmt: skip
_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|(?P<range>\[[^\]]*\])
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:ms|[smhdwy]\w*)?)|(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^<>=(){},@])|(?P<other>.)""",
    re.X | re.S,
)
_MATCHER = re.compile(r"""([\w.]+|"[^"]+")\s*(=~|!~|!=|=)\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')""")
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
_WANTED_NAME = re.compile(
    r"desired"
)  # a number of replicas, already decided: aggregates only unite duplicates


@dataclass(frozen=True)
class Selector:
    """A series that a query asks for: its name, its label matchers, the functions around it from the outside in."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    inside: tuple[str, ...]

    def pins(self, label: str) -> bool:
        """Whether the label may have one value only."""
        return any(key == label and operator == "=" for key, operator, _ in self.matchers)

    @property
    def counts_up(self) -> bool:
        """Whether it is a counter, or a part of a histogram, whose growth nothing here takes."""
        if set(self.inside) & RATES or self.inside[-1:] == ("count",) or metrics.of_router(self.name):
            return False
        known = metrics.kind_of(self.name)
        part = self.name.endswith(("_bucket", "_sum", "_count"))
        if known is not None:
            return known == "counter" or (known == "histogram" and part)
        return self.name.endswith(("_total", "_bucket"))

    @property
    def of_engine(self) -> bool:
        """Whether vLLM's pods export it themselves, under its name or with an underscore for the colon."""
        plain = "vllm:" + self.name.removeprefix("vllm_") if self.name.startswith("vllm_") else self.name
        return plain.startswith("vllm:") and not metrics.of_router(plain)


@dataclass(frozen=True)
class Query:
    """A query with its shape; `selectors` in the order in which they are written."""

    text: str
    shape: Shape
    selectors: tuple[Selector, ...] = field(default_factory=tuple)


def read(text: str) -> Query:
    """A query as far as it can be followed; one that cannot has the shape "unknown"."""
    tokens = list(_tokens(text))
    selectors = tuple(_selectors(tokens))
    return Query(text, _shape(tokens) if tokens else "unknown", selectors)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(kind, text) without blanks and comments; a brace's content is one token of kind "labels"."""
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:  # the pattern takes any character: only for the type checker
            return
        position = found.end()
        kind, word = found.lastgroup, found[0]
        if kind == "sign" and word == "{":
            end = position
            while end < len(text) and text[end] != "}":
                step = _TOKEN.match(text, end)
                end = step.end() if step else end + 1
            yield "labels", text[position:end]
            position = end + 1
        elif kind:
            yield kind, word


def _selectors(tokens: list[tuple[str, str]]) -> Iterator[Selector]:
    stack: list[str] = []
    skip_to = -1  # the depth above which the names are labels of a by, on or without
    for index, (kind, word) in enumerate(tokens):
        after = tokens[index + 1] if index + 1 < len(tokens) else ("", "")
        before = tokens[index - 1] if index else ("", "")
        if word == "(" and kind == "sign":
            name = before[1].lower() if before[0] == "name" else ""
            if skip_to < 0 and name in _LISTS:
                skip_to = len(stack)
            if not name and _after_grouping(tokens, index):
                name = _after_grouping(tokens, index)
            stack.append(name)
        elif word == ")" and kind == "sign":
            if stack:
                stack.pop()
            if len(stack) <= skip_to:
                skip_to = -1
        elif skip_to >= 0:
            continue
        elif kind == "name" and after != ("sign", "(") and word.lower() not in _WORDS | AGGREGATES:
            labels = after[1] if after[0] == "labels" else ""
            yield _selector(word, labels, tuple(stack))
        elif kind == "labels" and before[0] != "name":
            yield _selector("", word, tuple(stack))


def _after_grouping(tokens: list[tuple[str, str]], index: int) -> str:
    """The aggregate of `sum by (x) (`: its name stands before the list of labels that ends just before `index`."""
    if index == 0 or tokens[index - 1][1] != ")":
        return ""
    depth, place = 0, index - 1
    while place >= 0:
        depth += {")": 1, "(": -1}.get(tokens[place][1], 0)
        if depth == 0:
            break
        place -= 1
    grouping = place >= 2 and tokens[place - 1][1].lower() in ("by", "without")
    return tokens[place - 2][1].lower() if grouping else ""


def _selector(name: str, labels: str, inside: tuple[str, ...]) -> Selector:
    found = tuple(
        (m[1].strip('"'), m[2], m[3] if m[3] is not None else m[4]) for m in _MATCHER.finditer(labels)
    )
    for label, operator, value in found:
        if label == "__name__" and not name:
            name = value if operator == "=" else re.sub(r"^\^|\$$", "", value)
    return Selector(name, tuple(m for m in found if m[0] != "__name__"), inside)


# --- shape -----------------------------------------------------------------------------------------------------------


def _shape(tokens: list[tuple[str, str]]) -> Shape:
    while len(tokens) > 1 and tokens[0][1] == "(" and _closing(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    if not tokens:
        return "unknown"
    for operators in _LOOSEST:
        places = [i for i in _top_level(tokens) if tokens[i][1].lower() in operators and i > 0]
        if places:
            place = places[-1]
            return _combined(
                tokens[place][1].lower(),
                _shape(tokens[:place]),
                _shape(_without_matching(tokens[place + 1 :])),
            )
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


def _of_call(tokens: list[tuple[str, str]]) -> Shape:
    name = tokens[0][1].lower()
    opened = next(
        (i for i in range(1, len(tokens)) if tokens[i][1] == "(" and tokens[i - 1][1].lower() not in _LISTS),
        0,
    )
    closed = _closing(tokens, opened)
    inner = tokens[opened + 1 : closed]
    if name == "scalar":
        return "scalar"
    if name in ("vector", "time", "pi"):
        return "number"
    if name not in AGGREGATES:
        if name == "histogram_quantile":  # it takes the label le away
            left = _last_argument([token for token in inner if token != ("name", "le")])
            return "many" if left == "many" else "level"
        return _last_argument(inner) if name != "label_replace" else _shape(_arguments(inner)[0])
    if _grouped(tokens, closed, list(_selectors(inner))) or name in (
        "topk",
        "bottomk",
        "count_values",
    ):
        return "many"
    names = [selector.name for selector in _selectors(inner)]
    if any(_WANTED_NAME.search(each) for each in names):
        return "total"
    if name in TOTALS:
        return "total"
    levels = [each for each in names if metrics.kind_of(each) is not None or _LEVEL_NAME.search(each)]
    if name in MEANS or levels:
        return "level"
    return "unknown"


def _last_argument(inner: list[tuple[str, str]]) -> Shape:
    parts = _arguments(inner)
    shapes = [_shape(part) for part in parts if part]
    return next((shape for shape in shapes if shape != "number"), "number" if shapes else "unknown")


def _arguments(inner: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    commas = [i for i in _top_level(inner) if inner[i][1] == ","]
    edges = [-1, *commas, len(inner)]
    return [inner[a + 1 : b] for a, b in pairwise(edges)]


def _grouped(tokens: list[tuple[str, str]], closed: int, selectors: list[Selector]) -> bool:
    """Whether an aggregate leaves several series: grouped by a label that its selectors do not pin to one value."""
    for start in (1, closed + 1):
        if start < len(tokens) and tokens[start][1].lower() in ("by", "without"):
            labels = [
                word for kind, word in tokens[start + 2 : _closing(tokens, start + 1)] if kind == "name"
            ]
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


def _without_matching(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What stands right of an operator, without bool, on (...) and group_left (...)."""
    while tokens and tokens[0][1].lower() in _LISTS | {"bool"}:
        listed = len(tokens) > 1 and tokens[1][1] == "("
        tokens = tokens[_closing(tokens, 1) + 1 :] if listed else tokens[1:]
    return tokens


def _top_level(tokens: list[tuple[str, str]]) -> Iterator[int]:
    depth = 0
    for index, (kind, word) in enumerate(tokens):
        if kind == "sign" and word in "()":
            depth += 1 if word == "(" else -1
        elif depth == 0:
            yield index


def _closing(tokens: list[tuple[str, str]], opened: int) -> int:
    """Where the parenthesis at `opened` ends; the last token when it never does."""
    depth = 0
    for index in range(opened, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index][1], 0) if tokens[index][0] == "sign" else 0
        if depth == 0:
            return index
    return len(tokens) - 1
