"""The error tree of the whole project.

    AutoscaleError                    exit 1   anything we raise on purpose
    ├── BadInput                      exit 2   the user gave something that cannot be used
    │   ├── BadRun                    exit 2   a run directory is missing, unreadable or lacks a table
    │   └── TooLittleData             exit 2   the run is sound but does not hold enough to answer
    ├── SourceUnavailable             exit 3   Prometheus, the server, the cluster could not be reached
    └── NotAchieved                   exit 1   the answer is no: a check failed, the SLO cannot be met

Only `autoscale.cli` and the locust entry files turn an error into an exit code. The sentence of an error gives the
offending value, what was expected and the next step; the same facts are attributes for callers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from analysis.redact import redact


class AutoscaleError(Exception):
    """Base of every error we raise on purpose.

    `value` is the offending value, `expected` what would have been accepted, `next_step` what to do now; each is
    woven into the sentence when given: "unknown profile 'lama': expected one of a, b; did you mean 'llama'?".
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        value: object = None,
        expected: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.what, self.value, self.expected, self.next_step = what, value, expected, next_step
        sentence = what if value is None else f"{what}: {_short(repr(value))}"
        if expected:
            sentence += f"; expected {expected}"
        if next_step:
            sentence += f". {next_step[:1].upper()}{next_step[1:]}"
        super().__init__(_cut(redact(_one_line(sentence))))


LONGEST_SENTENCE = 3000  # characters: what is longer is a name or a list without end
LONGEST_VALUE = 400  # characters: a sentence is read by eye
LONGEST_TOLD = 500  # characters of what a server said that are kept
LONGEST_NAME = 200  # characters of a name that it gave


def _short(text: str) -> str:
    """The text, or its beginning when it is long."""
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _cut(sentence: str) -> str:
    """The sentence or, of a very long one, its begin and its end, which holds what was expected and the next step."""
    if len(sentence) <= LONGEST_SENTENCE:
        return sentence
    return f"{sentence[: LONGEST_SENTENCE * 2 // 3]} ... {sentence[-LONGEST_SENTENCE // 3 :]}"


# Markup of the error pages that servers and proxies send. A placeholder such as <run-dir> or <name> is none.
_MARKUP = re.compile(
    r"<!.*?>|<(script|style)\b.*?</\1\s*>|</[A-Za-z][^<>]*>"
    r"|<(?:html|head|title|meta|link|body|center|div|span|table|tr|td|th|h[1-6]|p|a|b|i|em|strong|code|pre|ul|ol|li|hr|br|img)"
    r"(?:\s[^<>]*|/)?>",
    re.IGNORECASE | re.DOTALL,
)


def _one_line(text: str) -> str:
    """Text without line breaks and markup: what a server answered is often a page."""
    return escaped(" ".join(_MARKUP.sub(" ", text.replace("\\n", " ")).split()))


def printable(text: str, most: int = LONGEST_TOLD) -> str:
    """What somebody else said as one line of at most so many characters that can be written and printed anywhere: what cannot
    is escaped, what is long is cut."""
    shown = escaped(" ".join(text[: 4 * most].split()))
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def escaped(text: str) -> str:
    """The text, with an escape for each character that moves a terminal's cursor or that no file can hold."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class BadInput(AutoscaleError):
    """The user gave something that cannot be used."""

    exit_code = 2


def check_utf8(text: str, what: str, shown: str) -> None:
    """Raises BadInput where bytes of a name or a text are not UTF-8, so that nothing that is written can hold it; `shown` is
    what of it may be said."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(
            f"{what} holds bytes that are not UTF-8",
            value=shown,
            next_step="write it in UTF-8, or give another",
        ) from None


class BadRun(BadInput):
    """A run directory is missing, unreadable, or lacks a table that is needed."""


class TooLittleData(BadInput):
    """The input is sound but does not hold enough to answer."""


class SourceUnavailable(AutoscaleError):
    """A server, Prometheus or a cluster could not be reached or does not speak the expected protocol."""

    exit_code = 3


class NotAchieved(AutoscaleError):
    """The work was done and the answer is no."""

    exit_code = 1


WORTH_COMPLETING = 4  # letters from which a beginning of a name, or its letters with gaps, means the name


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `given` most likely means; None where none is near, or it is one of them.

    Near is what changing a third of the letters, at least one, makes of it (a letter more, less, another, or two swapped),
    a longer name that holds its letters in order, and one that begins alike. Case, and dash or underscore, do not count.
    """
    asked = _folded(given)
    names = list(dict.fromkeys(known))
    if given in names or not asked:
        return None
    ranked = sorted((_distance(asked, _folded(name)), name) for name in names)
    allowed = max(1, len(asked) // 3)
    if ranked and ranked[0][0] <= allowed and len(asked) > 1:
        return ranked[0][1]
    if len(asked) >= WORTH_COMPLETING:
        for fits in (str.startswith, _has_in_order, _begin_alike):
            if longer := [name for _, name in ranked if fits(_folded(name), asked)]:
                return longer[0]
    return None


def did_you_mean(given: str, known: Iterable[str]) -> str | None:
    """The next step of a sentence about an unknown name; None where nothing is near."""
    name = nearest(given, known)
    return f"did you mean {name}?" if name else None


def _folded(name: str) -> str:
    return name.lower().strip("-").replace("_", "-")


def _has_in_order(name: str, letters: str) -> bool:
    rest = iter(name)
    return name[:1] == letters[:1] and all(letter in rest for letter in letters)


def _begin_alike(name: str, asked: str) -> bool:
    return name.startswith(asked[: max(WORTH_COMPLETING, -(-2 * len(asked) // 3))])


def _distance(one: str, other: str) -> int:
    """Letters to change, add, leave out or swap with their neighbour: optimal string alignment."""
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one) + 1):
        rows[i][0] = i
    rows[0] = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            rows[i][j] = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]
