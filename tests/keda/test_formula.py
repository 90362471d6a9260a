"""The formula of scalingModifiers: expr-lang's arithmetic, and what of it is refused by name."""

import math

import pytest

from autoscale.keda.formula import FormulaError, Value, compile_formula

NAMES = ("a", "b")
# llm-d's guard against overshoot, and the law that scales on a latency's share of its SLO, as their guides give them
GUARD = "let d = max(queue / 1, running / 16); d <= n ? d : max(d - (pending ?? 0), n)"
LAW = "let c = ready > 0 && ready < n ? ready / n : 1; s > 0.55 ? n + ceil(n * (s * c / 0.55 - 1)) : s < 0.40 ? n - floor(n * (1 - s / 0.40)) : n"


@pytest.mark.parametrize(
    ("text", "a", "b", "result"),
    [
        ("a + b * 2", 1, 2, 5),
        ("(a + b) * 2", 1, 2, 6),
        ("a - b - 1", 5, 2, 2),
        ("-a ** 2", 3, 0, -9),  # a power binds tighter than a sign
        ("2 ^ 3 ^ 2", 0, 0, 512),  # and to the right
        ("a / b", 7, 2, 3.5),
        ("1 / 2", 0, 0, 0.5),  # two whole numbers too
        ("7 % 4 + -7 % 4", 0, 0, 0),
        ("max(a, b, 3)", 1, 2, 3),
        ("min(a, b) + abs(-a)", 4, 2, 6),
        ("ceil(a) + floor(a) + round(a)", 2.5, 0, 3 + 2 + 3),
        ("int(a) % 2", 5.9, 0, 1),
        ("a > b ? a : b", 1, 2, 2),
        ("a > 1 ? b > 1 ? 3 : 2 : 1", 2, 0, 2),
        ("1 < a < 3 ? 1 : 0", 2, 0, 1),
        ("a > 1 and not (b > 1) || a == b ? 1 : 0", 2, 0, 1),
        ("a ?? b", None, 3, 3),
        ("(a ?? 0) + 1", None, 0, 1),
        ("a ?? b", None, None, None),
        ("a == nil ? 9 : a", None, 0, 9),
        ("let x = a * 2; let y = x + b; y / 2", 2, 4, 4),
        ("1_000 + .5 + 0x10 + 1e1", 0, 0, 1026.5),
        ("a / b", 1, 0, math.inf),
        ("min(round(2 ** 3)) + max(a)", 2, 0, 10),
    ],
)
def test_what_a_formula_gives(text: str, a: Value, b: Value, result: float | None) -> None:
    assert compile_formula(text, NAMES).result({"a": a, "b": b}) == result


@pytest.mark.parametrize(
    ("queue", "running", "pending", "n", "wanted"),
    [
        (3.0, 16.0, 0.0, 4.0, 3.0),  # demand below n: it may fall
        (9.0, 16.0, 2.0, 4.0, 7.0),  # 9 less the 2 that come
        (5.0, 0.0, 3.0, 4.0, 4.0),  # never below n on the way up
        (9.0, 16.0, None, 4.0, 9.0),
    ],
)
def test_the_guard_of_a_guide(queue: float, running: float, pending: Value, n: float, wanted: float) -> None:
    formula = compile_formula(GUARD, ("queue", "running", "pending", "n"))
    assert formula.result({"queue": queue, "running": running, "pending": pending, "n": n}) == wanted


@pytest.mark.parametrize(
    ("s", "ready", "wanted"), [(1.1, 4, 8), (1.1, 2, 4), (0.5, 4, 4), (0.2, 4, 2), (0.0, 4, 0)]
)
def test_the_latency_law_of_a_guide(s: float, ready: float, wanted: float) -> None:
    # n 4: 4 + ceil(4 (1.1 c / 0.55 - 1)) is 8 with c 1 and 4 with c 0.5; 4 - floor(4 (1 - 0.2 / 0.4)) = 2; at 0 none
    assert compile_formula(LAW, ("s", "n", "ready")).result({"s": s, "n": 4.0, "ready": ready}) == wanted


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a +", "unexpected 'end of formula'"),
        ("a b", "unexpected 'b'"),
        ("(a", r"expected '\)'"),
        ("c", "unknown name c"),
        ("a > b", r"invalid argument for float \(type bool\)"),
        ("a % 2", r"mismatched types float64 and int"),
        ("a + true", "mismatched types float64 and bool"),
        ("a ? 1 : 2", "non-bool expression"),
        ("not a", "mismatched type float64"),
        ("nil + 1", "mismatched types nil and int"),
        ("a ?? 1 + b", "cannot be mixed"),
        ("a ?: b", "write a [?] b : c"),
        ("count([a > 1], {#})", "is not simulated"),
        ("sum(a)", "function sum is not simulated"),
        ("'x'", "is not simulated"),
        ("ceil(a, b)", "ceil takes one argument, not 2"),
        (f"a + 0x{'f' * 400}", "is out of range"),
        ("let a = 1", "expected ';'"),
    ],
)
def test_a_formula_that_keda_or_the_simulation_refuses(text: str, problem: str) -> None:
    with pytest.raises(FormulaError, match=problem):
        compile_formula(text, NAMES)


def test_a_nil_in_a_sum_cannot_be_computed() -> None:
    with pytest.raises(FormulaError, match="<nil>"):
        compile_formula("max(a, b)", NAMES).result({"a": None, "b": 1.0})
