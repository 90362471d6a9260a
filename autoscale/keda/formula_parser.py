"""A formula of scalingModifiers as a tree: its tokens, and precedence climbing over them.

A node is a tuple that begins with what it is: number, constant, name, let, if, unary, call, binary.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

Node = tuple[Any, ...]
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")


class FormulaError(ValueError):
    """A formula that does not compile, or values that it cannot take; `at` is where in the text, if anywhere."""

    def __init__(self, problem: str, said: str = "", at: int | None = None) -> None:
        super().__init__(problem)
        self._said, self._at = said or problem, at

    def said(self, formula: str) -> str:
        """expr-lang's sentence, which points into the formula as KEDA wraps it."""
        head = "" if formula.startswith("float(") else "float("
        source = f"{head}{formula}{')' if head else ''}"
        column = 0 if self._at is None else len(head) + self._at
        return f"{self._said} (1:{column + 1})\n | {source}\n | {'.' * column}^"


_TOKEN = re.compile(
    r"\s*(?:(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z_$][\w$]*)"
    r"|(?P<sign>\?\?|\|\||&&|==|!=|<=|>=|\*\*|[-+*/%^<>!?:;,()=])|(?P<other>\S))"
)
_BINARY = {
    "or": 10, "||": 10, "and": 15, "&&": 15, "==": 20, "!=": 20, "<": 20, "<=": 20, ">": 20, ">=": 20, "+": 30,
    "-": 30, "*": 60, "/": 60, "%": 60, "**": 100, "^": 100, "??": 500,
}  # fmt: skip
_UNARY = {"not": 50, "!": 50, "-": 90, "+": 90}
_WORDS = {"true": True, "false": False, "nil": None}


class FormulaParser:
    """Precedence climbing over the tokens; nodes are tuples that begin with what they are."""

    def __init__(self, text: str, names: Sequence[str], functions: Collection[str]) -> None:
        self.tokens, self.starts = _tokens(text)
        self.functions = functions
        self.place, self.names, self.used, self.local = 0, set(names), list[str](), list[str]()

    @property
    def token(self) -> tuple[str, str]:
        return self.tokens[self.place]

    def take(self, sign: str | None = None) -> str:
        kind, word = self.token
        if sign is not None and word != sign:
            raise self.unexpected(f", expected {sign!r}")
        self.place += kind != "end"
        return word

    def unexpected(self, more: str = "") -> FormulaError:
        """The error of a token that may not stand there; after the last one comes the bracket of KEDA's wrapper."""
        kind, word = self.token
        named = {"number": "Number", "name": "Identifier", "sign": "Operator", "end": "Bracket"}[kind]
        if word in _BINARY or word in ("(", ")"):
            named = "Operator" if word in _BINARY else "Bracket"
        said = f'unexpected token {named}("{word or ")"}")'
        return FormulaError(f"unexpected {word or 'end of formula'!r}{more}", said, self.starts[self.place])

    def sequence(self) -> Node:
        if self.token != ("name", "let"):
            return self.expression(0)
        self.take()
        name = self.take()
        self.take("=")
        value = self.expression(0)
        self.take(";")
        self.local.append(name)
        body = self.sequence()
        self.local.pop()
        return "let", name, value, body

    def expression(self, least: int) -> Node:
        left, before = self.unary(), ""
        while (word := self.token[1]) in _BINARY and _BINARY[word] >= least:
            if before == "??" != word:
                raise FormulaError(
                    f"Operator ({word}) and coalesce expressions (??) cannot be mixed. Wrap either by parentheses."
                )
            self.take()
            right = self.expression(_BINARY[word] + (word not in ("**", "^")))
            left, before = _joined(word, left, right), word
        return self.conditional(left) if least == 0 else left

    def conditional(self, condition: Node) -> Node:
        if self.token[1] != "?":
            return condition
        self.take()
        if self.token[1] == ":":
            raise FormulaError("the short form ?: is not simulated: write a ? b : c")
        yes = self.sequence()
        self.take(":")
        return "if", condition, yes, self.sequence()

    def unary(self) -> Node:
        word = self.token[1]
        if word in _UNARY:
            self.take()
            return "unary", "not" if word == "!" else word, self.expression(_UNARY[word])
        return self.primary()

    def primary(self) -> Node:
        kind, word = self.token
        if word == "(":
            self.take()
            inner = self.sequence()
            self.take(")")
            return inner
        if kind == "number":
            self.take()
            plain = word.replace("_", "")
            hexadecimal = plain[:2].lower() == "0x"
            try:
                value = float(int(plain, 16) if hexadecimal else plain)
            except OverflowError:
                raise FormulaError(f"{word} is out of range") from None
            return "number", value, hexadecimal or plain.isdigit()
        if kind == "name":
            return self.named(self.take())
        raise self.unexpected()

    def named(self, word: str) -> Node:
        if self.token[1] == "(":
            if word not in self.functions:
                raise FormulaError(f"function {word} is not simulated: {', '.join(self.functions)} are")
            self.take()
            given = [self.sequence()]
            while self.token[1] == ",":
                self.take()
                given.append(self.sequence())
            self.take(")")
            if word not in ("max", "min") and len(given) != 1:
                raise FormulaError(f"{word} takes one argument, not {len(given)}")
            return "call", word, tuple(given)
        if word in _WORDS:
            return "constant", _WORDS[word]
        if word not in self.local:
            if word not in self.names:
                raise FormulaError(f"unknown name {word}", at=self.starts[self.place - 1])
            self.used.append(word)
        return "name", word


def _tokens(text: str) -> tuple[list[tuple[str, str]], list[int]]:
    """(kind, word) and where each begins; the last is the end."""
    found, starts, place, body = list[tuple[str, str]](), list[int](), 0, text.rstrip()
    while place < len(body):
        match = _TOKEN.match(body, place)
        assert match is not None, "the last alternative takes any character"
        kind, place = str(match.lastgroup), match.end()
        if kind == "other":
            raise FormulaError(
                f"{match[kind]!r} is not simulated: only arithmetic on the triggers' values is"
            )
        found.append((kind, match[kind]))
        starts.append(match.start(kind))
    return [*found, ("end", "")], [*starts, len(text)]


def _joined(word: str, left: Node, right: Node) -> Node:
    """Two operands; a chain of comparisons `a < b < c` is `a < b and b < c`."""
    word = {"||": "or", "&&": "and"}.get(word, word)
    if word in COMPARISONS and left[0] == "binary" and left[1] in COMPARISONS:
        return "binary", "and", left, ("binary", word, left[3], right)
    return "binary", word, left, right
