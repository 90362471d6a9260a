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
        super().__init__(redact(_one_line(sentence)))


LONGEST_VALUE = 400  # characters: a sentence is read by eye


def _short(text: str) -> str:
    """The text, or its beginning when it is long."""
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


# Markup of the error pages that servers and proxies send. A placeholder such as <run-dir> or <name> is none.
_MARKUP = re.compile(
    r"<!.*?>|<(script|style)\b.*?</\1\s*>|</[A-Za-z][^<>]*>"
    r"|<(?:html|head|title|meta|link|body|center|div|span|table|tr|td|th|h[1-6]|p|a|b|i|em|strong|code|pre|ul|ol|li|hr|br|img)"
    r"(?:\s[^<>]*|/)?>",
    re.IGNORECASE | re.DOTALL,
)


def _one_line(text: str) -> str:
    """Text without line breaks and markup: what a server answered is often a page."""
    return " ".join(_MARKUP.sub(" ", text.replace("\\n", " ")).split())


class BadInput(AutoscaleError):
    """The user gave something that cannot be used."""

    exit_code = 2


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
