"""Reads a query's text into an expression of `queries`, or says which shape would do."""

from __future__ import annotations

import re
from collections.abc import Sequence

from autoscale.keda.queries import (
    AGGREGATIONS,
    CLAMPS,
    COMPARED,
    OVER_TIME,
    POD_LABELS,
    RANGE_FUNCTIONS,
    ROUNDINGS,
    SHARED_LABELS,
    Aggregation,
    Applied,
    Expression,
    FirstOf,
    HistogramQuantile,
    Instant,
    Number,
    Operation,
    OrElse,
    OverWindow,
    QueryMatcher,
    Scalar,
    counts_up,
    is_scalar,
    labels_of,
    one_element,
    origin_of,
    pinned_labels,
)
from autoscale.keda.refusal import KedaRefusal
from autoscale.kube.promql import Token, selector_of, tokens_of

_LOOSEST = (("or",), COMPARED, ("+", "-"), ("*", "/", "%"), ("^",))
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = re.compile(r"([0-9]+)(ms|[smhdwy])")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_END: Token = ("end", "")
_SAMPLE = "vllm:num_requests_waiting"
_SHAPE = f"sum({_SAMPLE}{{...}})"


def parse_query(text: str, field: str = "query") -> Expression:
    """The expression of a query that KEDA can read, a vector. Raises KedaRefusal with a shape that would do."""
    parser = _Parser([token for token in tokens_of(text) if token[1]], text, field)
    found = parser.level(0)
    if parser.token is not _END:
        raise parser.refused(f"stops making sense at {parser.token[1]!r}", _SHAPE)
    if is_scalar(found):
        raise parser.refused("answers a scalar, which KEDA cannot decode", f"{_SHAPE}, vector(0)")
    return found


class _Parser:
    """Recursive descent over PromQL's tokens."""

    def __init__(self, tokens: Sequence[Token], text: str, field: str) -> None:
        self.tokens, self.text, self.field = tokens, text, field
        self.place = self.inside = 0  # inside: aggregations around the place

    def refused(self, problem: str, shape: str) -> KedaRefusal:
        return KedaRefusal(
            self.field, f"the query {problem}", value=self.text, expected=f"a shape such as {shape}"
        )

    @property
    def token(self) -> Token:
        return self.tokens[self.place] if self.place < len(self.tokens) else _END

    @property
    def word(self) -> str:
        return self.token[1].lower()

    def take(self, word: str | None = None) -> str:
        if word is not None and self.word != word:
            raise self.refused(f"lacks {word!r} before {self.token[1] or 'its end'!r}", _SHAPE)
        taken = self.token[1]
        self.place += 1
        return taken

    def level(self, depth: int) -> Expression:
        """One level of precedence, the loosest first; all are left to right but ^."""
        if depth == len(_LOOSEST):
            return self.unary()
        left = self.level(depth + 1)
        while self.token[0] in ("sign", "name") and self.word in _LOOSEST[depth]:
            operator = self.take().lower()
            as_bool = self.word == "bool" and bool(self.take())
            on = self.matching()
            right = self.level(depth if operator == "^" else depth + 1)
            left = self.joined(operator, left, right, as_bool, on)
        if self.word in ("and", "unless", "offset", "@"):
            raise self.refused(f"uses {self.word}", f"{_SHAPE} or vector(0)")
        return left

    def matching(self) -> bool:
        """Whether on (...) or ignoring (...) says which labels count; none that tell pods apart may."""
        if self.word not in ("on", "ignoring"):
            return False
        self.take()
        labels = self.labels()
        if set(labels) - SHARED_LABELS or self.word.startswith("group_"):
            raise self.refused("matches elements one by one", "sum(...) / sum(...)")
        return True

    def joined(
        self, operator: str, left: Expression, right: Expression, as_bool: bool, on: bool
    ) -> Expression:
        if operator == "or":
            if isinstance(right, Number) and right.vector:
                return OrElse(left, right.value, on)
            labels = labels_of(left)
            if labels is None or labels != labels_of(right) or is_scalar(right):
                raise self.refused(
                    "joins series with other labels by or", "sum(...) or sum(...), or vector(0)"
                )
            return FirstOf(left, right)
        if not is_scalar(left) and not is_scalar(right):
            if not (one_element(left) and one_element(right)):
                shape = f"sum(...) {operator} sum(...)"
                raise self.refused(f"puts {operator} between series of several elements", shape)
            if not on and (labels_of(left) is None or labels_of(left) != labels_of(right)):
                shape = f"sum(...) {operator} sum(...), or {operator} on ()"
                raise self.refused(f"puts {operator} between elements with other labels", shape)
        return Operation(operator, left, right, as_bool)

    def unary(self) -> Expression:
        if self.word in ("-", "+"):
            sign = -1.0 if self.take() == "-" else 1.0
            operand = self.level(len(_LOOSEST) - 1)
            if isinstance(operand, Number):
                return Number(sign * operand.value, operand.vector)
            return operand if sign > 0 else Operation("*", Number(-1.0), operand)
        return self.primary()

    def primary(self) -> Expression:
        kind, text = self.token
        if text == "(":
            self.take()
            inner = self.level(0)
            self.take(")")
            return self.plain(inner)
        if kind == "number" or (kind == "name" and self.word in ("inf", "nan")):
            self.take()
            return Number(float(text) if kind == "name" or _NUMBER.fullmatch(text) else self.duration_s(text))
        if kind == "labels":
            return self.series("")
        if kind != "name":
            raise self.refused(f"stops making sense at {text or 'its end'!r}", _SHAPE)
        following = self.tokens[self.place + 1] if self.place + 1 < len(self.tokens) else _END
        if self.word in AGGREGATIONS and following[1].lower() in ("(", "by", "without"):
            return self.aggregation()
        return self.call() if following[1] == "(" else self.series(self.take())

    def plain(self, expression: Expression) -> Expression:
        """What stands in parentheses or a call: no window may follow it (that is a subquery)."""
        if self.token[0] == "range":
            raise self.refused("takes a window of an expression", "avg_over_time(series[1m])")
        return expression

    def aggregation(self) -> Expression:
        function = self.take().lower()
        labels = self.grouping()
        self.take("(")
        quantile = 0.0
        if function == "quantile":
            quantile = self.number()
            self.take(",")
        self.inside += 1
        of = self.level(0)
        self.inside -= 1
        self.take(")")
        labels += self.grouping()
        loose = [label for label in labels if label not in SHARED_LABELS | pinned_labels(of)]
        each = bool(loose) and self.inside > 0 and set(loose) <= POD_LABELS
        if loose and not each:
            shape = f"{function}(...) without by ({', '.join(loose)})"
            raise self.refused(f"has an element per {', '.join(loose)}, and KEDA takes one", shape)
        return self.plain(Aggregation(function, of, quantile, frozenset(labels), each))

    def grouping(self) -> list[str]:
        if self.word == "without":
            raise self.refused("groups with without", _SHAPE)
        if self.word != "by":
            return []
        self.take()
        return self.labels()

    def labels(self) -> list[str]:
        self.take("(")
        found = []
        while self.word != ")":
            if self.token is _END:
                raise self.refused("ends within a list of labels", "sum by (le) (...)")
            if (label := self.take()) != ",":
                found.append(label)
        self.take(")")
        return found

    def call(self) -> Expression:
        function = self.take().lower()
        self.take("(")
        if function in RANGE_FUNCTIONS or function in OVER_TIME:
            found: Expression = self.over_window(function)
        elif function == "histogram_quantile":
            found = self.histogram_quantile()
        elif function in CLAMPS or function in ROUNDINGS:
            found = self.applied(function)
        elif function in ("vector", "scalar"):
            found = self.level(0)
            if not one_element(found) or (function == "vector" and not isinstance(found, Number)):
                raise self.refused(
                    f"takes {function}() of that",
                    f"{function}({'0' if function == 'vector' else 'sum(...)'})",
                )
            found = Number(found.value, vector=True) if isinstance(found, Number) else Scalar(found)
        else:
            known = ", ".join((*AGGREGATIONS, *RANGE_FUNCTIONS, "histogram_quantile", *CLAMPS))
            raise self.refused(f"uses {function}(), which is not simulated", f"one of {known}")
        self.take(")")
        return self.plain(found)

    def applied(self, function: str) -> Expression:
        of = self.level(0)
        bounds = []
        while self.word == ",":
            self.take()
            bounds.append(self.number())
        wanted = 2 if function == "clamp" else 1 if function in CLAMPS else 0
        if len(bounds) != wanted:
            shape = f"{function}({', '.join(['sum(...)', '0', '1'][: wanted + 1])})"
            raise self.refused(f"gives {function}() {len(bounds)} bounds", shape)
        low = bounds[0] if function in ("clamp", "clamp_min") else float("-inf")
        high = bounds[-1] if function in ("clamp", "clamp_max") else float("inf")
        return Applied("clamp" if function in CLAMPS else function, of, low, high)

    def histogram_quantile(self) -> Expression:
        quantile = self.number()
        self.take(",")
        shape = "histogram_quantile(0.95, sum by (le) (rate(vllm:time_to_first_token_seconds_bucket[5m])))"
        pooled = self.word == "sum"
        labels: list[str] = []
        if pooled:
            self.take()
            labels = self.grouping()
            self.take("(")
        buckets = self.level(0)
        if pooled:
            self.take(")")
            labels += self.grouping()
        if not isinstance(buckets, Instant | OverWindow) or not buckets.name.endswith("_bucket"):
            raise self.refused("takes a histogram_quantile of something else than buckets", shape)
        if pooled and ("le" not in labels or set(labels) - {"le"} - SHARED_LABELS - pinned_labels(buckets)):
            raise self.refused("must sum the buckets by le alone", shape)
        return HistogramQuantile(quantile, buckets, pooled, frozenset(labels) - {"le"})

    def over_window(self, function: str) -> OverWindow:
        following = self.tokens[self.place + 1][1].lower() if self.place + 1 < len(self.tokens) else ""
        if following in ("(", "by", "without") or self.word == "(":
            raise self.refused("takes a window of an expression", f"{function}(series[1m])")
        selected = self.series(self.take() if self.token[0] == "name" else "")
        if self.token[0] != "range" or ":" in self.token[1]:
            raise self.refused(f"needs a window in {function}()", f"{function}({selected.name}[1m])")
        window_s = self.duration_s(self.take().strip("[] "))
        if function in RANGE_FUNCTIONS and not counts_up(selected.name):
            raise self.refused(f"takes the {function} of a gauge", f"avg_over_time({selected.name}[1m])")
        if function in OVER_TIME and counts_up(selected.name):
            raise self.refused(f"takes {function} of a counter", f"rate({selected.name}[1m])")
        return OverWindow(function, selected.name, selected.matchers, window_s)

    def series(self, name: str) -> Instant:
        labels = self.take() if self.token[0] == "labels" else ""
        selector = selector_of(name, labels)
        if origin_of(selector.name) is None:
            with_colon = selector.colon_name if origin_of(selector.colon_name) else ""
            raise self.refused(
                f"reads {selector.name or 'a series without a name'}, which is not simulated",
                with_colon
                or f"{_SAMPLE}, llm_d_epp_flow_control_queue_size or kube_deployment_status_replicas",
            )
        return Instant(selector.name, tuple(QueryMatcher(*matcher) for matcher in selector.matchers))

    def number(self) -> float:
        if not isinstance(found := self.level(2), Number):
            raise self.refused("needs a number there", "quantile(0.95, ...), clamp_max(..., 10)")
        return found.value

    def duration_s(self, text: str) -> float:
        pieces = _DURATION.findall(text)
        found_s = sum(float(n) * _UNIT_S[unit] for n, unit in pieces)
        if "".join(f"{n}{unit}" for n, unit in pieces) != text or not 0 < found_s < float("inf"):
            raise self.refused(f"has a window or number {text!r}", "[1m], [90s], 0.95")
        return found_s
