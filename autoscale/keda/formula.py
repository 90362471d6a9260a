"""The formula of scalingModifiers: the arithmetic part of expr-lang that guides use; the rest is refused by name.

    formula  :=  let NAME = formula; formula  |  formula ? formula : formula  |  operators below, loosest first
    or ||    and &&    == != < <= > >=    + -    * / %    not ! (unary)    + - (unary)    ** ^    ??
    max(..) min(..) ceil(x) floor(x) abs(x) round(x) int(x) float(x)    numbers, true, false, nil, names of triggers

Source: github.com/expr-lang/expr v1.17.8 (parser, checker), as kedacore/keda v2.20.2 compiles it: names are float64, the
result must be a number, and the formula must run with -1 for every trigger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from autoscale.keda.formula_parser import COMPARISONS, FormulaError, FormulaParser, Node

Value = float | bool | None  # an int is a float here, but where % asks for whole numbers
Kind = Literal["int", "float", "bool", "nil", "any"]
Values = Mapping[str, Value]


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: _divided(a, b),
    "%": lambda a, b: math.fmod(a, b) if b else _raise("integer divide by zero"),
    "**": lambda a, b: _power(a, b),
    "^": lambda a, b: _power(a, b),
}
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "max": lambda *given: max(given), "min": lambda *given: min(given),
    "ceil": lambda x: _whole(math.ceil, x), "floor": lambda x: _whole(math.floor, x),
    "abs": abs, "round": lambda x: _whole(lambda y: math.copysign(math.floor(abs(y) + 0.5), y), x),
    "int": lambda x: _whole(math.trunc, x), "float": float,
}  # fmt: skip


@dataclass(frozen=True)
class Formula:
    """A compiled formula; `names` are the triggers that it reads."""

    text: str
    names: tuple[str, ...]
    _root: Node = field(repr=False, compare=False)

    def result(self, values: Values) -> float | None:
        """The composite metric, None for nil. Raises FormulaError for values that it cannot take (a nil in a sum)."""
        found = _evaluated(self._root, values)
        if isinstance(found, bool):
            raise FormulaError("invalid argument for float (type bool)")
        return None if found is None else float(found)


def compile_formula(text: str, names: Sequence[str]) -> Formula:
    """The formula over triggers of these names. Raises FormulaError naming what it cannot be."""
    parser = FormulaParser(text, names, _FUNCTIONS)
    root = parser.sequence()
    if parser.token[0] != "end":
        raise parser.unexpected()
    if _kind(root, {}) == "bool":
        raise FormulaError("invalid argument for float (type bool)")
    formula = Formula(text, tuple(dict.fromkeys(parser.used)), root)
    formula.result(dict.fromkeys(names, -1.0))
    return formula


def _kind(node: Node, local: Mapping[str, Kind]) -> Kind:
    """What a node gives. Raises FormulaError where operands cannot be joined."""
    match node:
        case ("number", _, whole):
            return "int" if whole else "float"
        case ("constant", value):
            return "nil" if value is None else "bool"
        case ("name", name):
            return local.get(name, "float")
        case ("let", name, value, body):
            return _kind(body, {**local, name: _kind(value, local)})
        case ("if", condition, yes, no):
            if _kind(condition, local) not in ("bool", "any"):
                raise FormulaError(
                    f"non-bool expression (type {_go(_kind(condition, local))}) used as condition"
                )
            kinds = {_kind(yes, local), _kind(no, local)}
            return kinds.pop() if len(kinds) == 1 else "any"
        case ("unary", word, operand):
            kind = _kind(operand, local)
            if kind not in (("bool", "any") if word == "not" else ("int", "float", "any")):
                raise FormulaError(f"invalid operation: {word} (mismatched type {_go(kind)})")
            return kind
        case ("call", name, given):
            return _kind_of_call(name, [_kind(each, local) for each in given])
        case _:
            return _kind_of_pair(node[1], _kind(node[2], local), _kind(node[3], local))


def _kind_of_call(name: str, kinds: Sequence[Kind]) -> Kind:
    for kind in kinds:
        if kind in ("bool", "nil"):
            raise FormulaError(f"invalid argument for {name} (type {_go(kind)})")
    if name in ("ceil", "floor", "round", "float"):
        return "float"
    return "int" if name == "int" else kinds[0] if len(set(kinds)) == 1 else "any"


def _kind_of_pair(word: str, left: Kind, right: Kind) -> Kind:
    pair = {left, right} - {"any"}
    if word == "??":
        return right if left == "nil" else left if left == right else "any"
    if word in ("==", "!="):
        allowed = len({"number" if k in ("int", "float") else k for k in pair} - {"nil"}) < 2
    elif word in ("and", "or"):
        allowed = pair <= {"bool"}
    else:
        allowed = pair <= ({"int"} if word == "%" else {"int", "float"})
    if not allowed:
        raise FormulaError(f"invalid operation: {word} (mismatched types {_go(left)} and {_go(right)})")
    if word in ("and", "or") or word in COMPARISONS:
        return "bool"
    if word in ("/", "**", "^"):
        return "float"
    return "int" if pair == {"int"} else "float" if "float" in pair else "any"


def _go(kind: Kind) -> str:
    return {"float": "float64", "any": "unknown"}.get(kind, kind)


def _evaluated(node: Node, values: Values) -> Value:
    match node:
        case ("number", value, _) | ("constant", value):
            return value
        case ("name", name):
            return values.get(name)
        case ("let", name, value, body):
            return _evaluated(body, {**values, name: _evaluated(value, values)})
        case ("if", condition, yes, no):
            return _evaluated(yes if _evaluated(condition, values) else no, values)
        case ("unary", word, operand):
            if word == "not":
                return not _evaluated(operand, values)
            return _number(_evaluated(operand, values), word) * (-1 if word == "-" else 1)
        case ("call", name, given):
            return _FUNCTIONS[name](*(_number(_evaluated(each, values), name) for each in given))
    _, word, first, second = node
    left = _evaluated(first, values)
    if word == "??":
        return _evaluated(second, values) if left is None else left
    if word in ("and", "or"):
        return bool(left) if bool(left) is (word == "or") else bool(_evaluated(second, values))
    right = _evaluated(second, values)
    if word in ("==", "!="):
        return _COMPARISONS[word](left, right)
    a, b = _number(left, word), _number(right, word)
    return _COMPARISONS[word](a, b) if word in COMPARISONS else _ARITHMETIC[word](a, b)


def _number(value: Value, where: str) -> float:
    if value is None or isinstance(value, bool):
        raise FormulaError(f"invalid operation: {where} on {'<nil>' if value is None else 'bool'}")
    return value


def _divided(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _power(a: float, b: float) -> float:
    try:
        found = a**b
    except (OverflowError, ZeroDivisionError):
        return math.inf
    return math.nan if isinstance(found, complex) else found


def _whole(rounded: Callable[[float], float], value: float) -> float:
    return float(rounded(value)) if math.isfinite(value) else value


def _raise(problem: str) -> float:
    raise FormulaError(problem)
