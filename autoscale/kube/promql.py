"""PromQL's tokens, and the series that a query selects: name, matchers, and the functions around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from autoscale.kube.vllm_names import of_router, type_of

Token = tuple[str, str]  # kind, text

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
LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)|(?P<range>\[[^\]]*\])
    |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?:ms|[smhdwy]\w*)?)|(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^<>=(){},@])|(?P<other>.)""",
    re.X | re.S,
)
_MATCHER = re.compile(r"""([\w.]+|"[^"]+")\s*(=~|!~|!=|=)\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)')""")


def one_value(operator: str, value: str) -> bool:
    """Whether a label that is matched so may have one value only: =, or =~ without anything that a pattern is made of."""
    return operator == "=" or (operator == "=~" and not set(value) & set(r"\.^$*+?()[]{}|"))


@dataclass(frozen=True)
class Selector:
    """A series that a query asks for: its name, its label matchers, the functions around it from the outside in."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    inside: tuple[str, ...]

    def pins(self, label: str) -> bool:
        """Whether the label may have one value only."""
        return any(key == label and one_value(operator, value) for key, operator, value in self.matchers)

    def asks(self, label: str) -> bool:
        """Whether it only takes series that have the label with some value."""
        return any(key == label and operator[0] == "=" and value for key, operator, value in self.matchers)

    @property
    def counts_up(self) -> bool:
        """Whether it is a counter, or a part of a histogram, whose growth nothing here takes."""
        if set(self.inside) & RATES or self.inside[-1:] == ("count",) or of_router(self.name):
            return False
        known = type_of(self.name)
        part = self.name.endswith(("_bucket", "_sum", "_count"))
        if known is not None:
            return known == "counter" or (known == "histogram" and part)
        return self.name.endswith(("_total", "_bucket"))

    @property
    def of_engine(self) -> bool:
        """Whether vLLM's pods export it themselves, under its name or with an underscore for the colon."""
        return self.colon_name.startswith("vllm:") and not of_router(self.colon_name)

    @property
    def colon_name(self) -> str:
        """The name with vLLM's colon, where a relabelling put an underscore."""
        return "vllm:" + self.name.removeprefix("vllm_") if self.name.startswith("vllm_") else self.name


def tokens_of(text: str) -> Iterator[Token]:
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


def selectors_of(tokens: list[Token]) -> Iterator[Selector]:
    """The series that the tokens select, in the order in which they are written."""
    stack: list[str] = []
    skip_to = -1  # the depth above which the names are labels of a by, on or without
    for index, (kind, word) in enumerate(tokens):
        after = tokens[index + 1] if index + 1 < len(tokens) else ("", "")
        before = tokens[index - 1] if index else ("", "")
        if word == "(" and kind == "sign":
            name = before[1].lower() if before[0] == "name" else ""
            if skip_to < 0 and name in LISTS:
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
            yield selector_of(word, labels, tuple(stack))
        elif kind == "labels" and before[0] != "name":
            yield selector_of("", word, tuple(stack))


def _after_grouping(tokens: list[Token], index: int) -> str:
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


def selector_of(name: str, labels: str, inside: tuple[str, ...] = ()) -> Selector:
    """The series of a name and the content of its braces; `{__name__="..."}` names it too."""
    found = tuple(
        (m[1].strip('"'), m[2], m[3] if m[3] is not None else m[4]) for m in _MATCHER.finditer(labels)
    )
    for label, operator, value in found:
        if label == "__name__" and not name:
            name = value if operator == "=" else re.sub(r"^\^|\$$", "", value)
    return Selector(name, tuple(m for m in found if m[0] != "__name__"), inside)


def top_level(tokens: list[Token]) -> Iterator[int]:
    """The places outside every parenthesis."""
    depth = 0
    for index, (kind, word) in enumerate(tokens):
        if kind == "sign" and word in "()":
            depth += 1 if word == "(" else -1
        elif depth == 0:
            yield index


def closing(tokens: list[Token], opened: int) -> int:
    """Where the parenthesis at `opened` ends; the last token when it never does."""
    depth = 0
    for index in range(opened, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index][1], 0) if tokens[index][0] == "sign" else 0
        if depth == 0:
            return index
    return len(tokens) - 1


def mistyped(tokens: list[Token]) -> str | None:
    """Why Prometheus refuses a query, as far as parentheses and windows tell; None where they are right."""
    opened, closed = (sum(token == ("sign", sign) for token in tokens) for sign in "()")
    if opened != closed:
        return f"{opened} parentheses open and {closed} close"
    calls: list[tuple[str, list[str]]] = []  # the functions that are open, and the windows in each
    for index, (kind, word) in enumerate(tokens):
        if (kind, word) == ("sign", "("):
            before = tokens[index - 1] if index else ("", "")
            calls.append((before[1].lower() if before[0] == "name" else _after_grouping(tokens, index), []))
        elif kind == "range":
            name, windows = next((call for call in reversed(calls) if call[0]), ("", []))
            if not _takes_window(name):
                return f"the window {word} stands in no function that takes one"
            windows.append(word)
        elif (kind, word) == ("sign", ")") and calls:
            name, windows = calls.pop()
            if _takes_window(name) and not windows:
                return f"{name}() has no window such as [2m]"
    return None


def _takes_window(function: str) -> bool:
    return function.endswith("_over_time") or function in RATES - {"absent"} | {
        "predict_linear",
        "holt_winters",
    }
