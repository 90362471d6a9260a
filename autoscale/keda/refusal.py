"""What KEDA or the API server refuses, in their own words."""

from __future__ import annotations

from analysis.errors import BadInput


class KedaRefusal(BadInput):
    """A field that is refused, and why; `said` is the sentence of KEDA 2.20.2 or of the API server, "" where it is ours alone."""

    def __init__(
        self,
        field: str,
        problem: str,
        *,
        said: str = "",
        value: object = None,
        expected: str | None = None,
        next_step: str | None = None,
    ) -> None:
        self.field, self.problem, self.said = field, problem, said
        super().__init__(f"{field}: {problem}", value=value, expected=expected, next_step=next_step)


def refused(field: str, said: str) -> KedaRefusal:
    """The refusal of a field in the words of the one who refuses it."""
    return KedaRefusal(field, said, said=said)
