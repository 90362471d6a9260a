"""Kubernetes quantities: text or number -> exact value, and back to the form in which an API server stores it.

Source: k8s.io/apimachinery/pkg/api/resource/quantity.go; the stored forms were observed on a real API server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from analysis.errors import BadInput
from analysis.numbers import known

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i|)")
_NANO = -9
_MOST_MILLI = 2**63 - 1
_INT64_DIGITS = 18  # up to here the server keeps an int64; beyond, an arbitrary decimal


@dataclass(frozen=True)
class Quantity:
    """An exact value, the text that an API server stores for it, and the float that controllers read from it."""

    value: Fraction
    stored: str

    @property
    def milli(self) -> int:
        """The value in milli-units, rounded away from zero as controllers do; at most what their 64 bits hold."""
        scaled = self.value * 1000
        size = -(-abs(scaled.numerator) // scaled.denominator)
        return min(size, _MOST_MILLI) * (1 if scaled > 0 else -1)

    @property
    def approximate(self) -> float:
        """The float64 that a controller computes from the stored text: digits times a power of ten."""
        _, digits, exponent, _ = _split(self.stored)
        sign = -1 if self.stored.startswith("-") else 1
        if self.stored.endswith("i"):
            return float(self.value)
        return sign * float(digits) * 10.0**exponent if exponent else sign * float(digits)


def parse(given: object) -> Quantity:
    """The quantity of a manifest's field. Raises BadInput when an API server would not decode it."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise _refused(given)
    text = _number_text(given) if isinstance(given, int | float) else given.strip()
    sign, digits, exponent, base_two = _split(text)
    value = Fraction(int(digits)) * Fraction(10) ** exponent
    value = value * 2**base_two if base_two else value
    value = _at_least_nano(value)
    if sign == "-":
        value = -value
    return Quantity(value, _stored(text, value, digits, exponent, base_two))


def milli(given: object) -> int:
    """A quantity in milli-units, rounded away from zero ("5500m" 5500, "34.972" 34972, "1k" 1000000). Raises BadInput."""
    return _milli_of_text(given) if isinstance(given, str) else parse(given).milli


@lru_cache(maxsize=4096)  # a watch reads the same few texts thousands of times
def _milli_of_text(text: str) -> int:
    return parse(text).milli


def whole_of(given: object) -> int:
    """A quantity of things that come in ones, such as chips; 0 for what is none."""
    return max(0, milli_or_none(given) or 0) // 1000


def milli_or_none(given: object) -> int | None:
    """The same, None for what is no quantity."""
    try:
        return parse(given).milli
    except BadInput:
        return None


def format_milli(milli: int) -> str:
    """How a controller prints a value in milli-units: 5501 -> "5501m", 5000 -> "5", 1000000 -> "1k"."""
    return _canonical(Fraction(milli, 1000), exponent_form=False)


def _split(text: str) -> tuple[str, str, int, int]:
    """Sign, digits without leading zeros, decimal exponent and binary exponent."""
    match = _SHAPE.fullmatch(text)
    if match is None or not text:
        raise _refused(text)
    sign, whole, fraction, suffix = match[1], match[2].lstrip("0"), match[3] or "", match[4]
    if not (match[2] or match[3] is not None):
        raise _refused(text)
    base_two = _BINARY.get(suffix, 0)
    exponent = 0 if base_two else _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    if abs(exponent) > 400:
        raise _refused(text)
    return sign, (whole or "0") + fraction, exponent - len(fraction), base_two


def _stored(text: str, value: Fraction, digits: str, exponent: int, base_two: int) -> str:
    """The text is kept when it already looks canonical (this is why 34.972 stays 34.972), otherwise rewritten."""
    if value == 0:
        return "0"
    small = len(digits) <= _INT64_DIGITS and exponent >= _NANO
    if base_two and "." not in text and len(digits) + base_two * 3 // 10 + 1 <= 15:
        if int(digits) % 8:
            return text
    elif not base_two and small and exponent % 3 == 0 and not digits.endswith("000") and digits[0] != "0":
        return text
    if base_two and value.denominator == 1 and abs(value) >= 1024:
        return _canonical_binary(int(value))
    suffix = _SHAPE.fullmatch(text)
    assert suffix is not None
    return _canonical(
        value, exponent_form=suffix[4][:1] in ("e", "E") and len(suffix[4]) > 1 and not base_two
    )


def _canonical(value: Fraction, exponent_form: bool) -> str:
    """Fewest digits with an exponent that is a multiple of three and no fraction."""
    if value == 0:
        return "0"
    exponent = _NANO
    mantissa = value * 10**9
    assert mantissa.denominator == 1, "values are multiples of 1n"
    number = mantissa.numerator
    while number % 1000 == 0 and (exponent_form or exponent < 18):
        number //= 1000
        exponent += 3
    if exponent_form:
        return f"{number}e{exponent}" if exponent else str(number)
    return f"{number}{_DECIMAL_SUFFIX[exponent]}"


def _canonical_binary(number: int) -> str:
    exponent = 0
    while number % 1024 == 0 and exponent < 60:
        number //= 1024
        exponent += 10
    suffix = next((s for s, e in _BINARY.items() if e == exponent), "")
    return f"{number}{suffix}"


def _at_least_nano(value: Fraction) -> Fraction:
    """Digits below 1n are rounded up: asking for a little gives a little, never nothing."""
    scaled = value * 10**9
    return Fraction(-((-scaled.numerator) // scaled.denominator), 10**9)


def _number_text(number: float) -> str:
    """A JSON number as its text: 5.5 -> "5.5", 5.0 -> "5", 1000 -> "1000"."""
    if isinstance(number, int) or not known(number) or number in (float("inf"), float("-inf")):
        return str(number)
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


def _refused(given: object) -> BadInput:
    return BadInput(
        "not a quantity",
        value=given,
        expected="a number with an optional suffix (n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or an exponent)",
        next_step='write it like "5", "850m" or "1.5"',
    )
