"""Label selectors: the object of a manifest or the text of a list call, as one list of terms, and what they match.

Source: k8s.io/apimachinery/pkg/labels; an empty selector matches everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

Labels = Mapping[str, str | None]  # None: the label is there, with a value that is not known


class Requirement(NamedTuple):
    """One condition on one label: operator Equals, NotEquals, In, NotIn, Exists or DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """As list calls take it."""
        joined = ",".join(self.values)
        match self.operator:
            case "Equals":
                return f"{self.key}={joined}"
            case "NotEquals":
                return f"{self.key}!={joined}"
            case "In":
                return f"{self.key} in ({joined})"
            case "NotIn":
                return f"{self.key} notin ({joined})"
            case "DoesNotExist":
                return f"!{self.key}"
            case _:
                return self.key

    def holds(self, labels: Labels) -> bool:
        """Whether labels satisfy the term; a value that is not known satisfies In, and NotIn too."""
        there, have = self.key in labels, labels.get(self.key)
        match self.operator:
            case "Equals" | "In":
                return there and (have is None or have in self.values)
            case "NotEquals" | "NotIn":
                return not there or have is None or have not in self.values
            case "Exists":
                return there
            case _:
                return not there


def terms_of(selector: object) -> list[Requirement]:
    """The terms of a LabelSelector object (matchLabels by key, then matchExpressions); none for anything else."""
    if not isinstance(selector, Mapping):
        return []
    labels, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
    found = [
        Requirement(str(key), "Equals", (str(value),))
        for key, value in (
            sorted(labels.items(), key=lambda item: str(item[0])) if isinstance(labels, Mapping) else []
        )
    ]
    for part in expressions if isinstance(expressions, list) else []:
        if isinstance(part, Mapping):
            values = part.get("values")
            texts = tuple(map(str, values)) if isinstance(values, list) else ()
            found.append(Requirement(str(part.get("key")), str(part.get("operator")), texts))
    return found


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector object as the text that list calls take; "" for an absent or empty one."""
    return ",".join(term.text for term in terms_of(selector))


_TERM = re.compile(
    r"\s*(!?)\s*([^\s,=!()]+)\s*(?:(==|=|!=)\s*([^,\s]*)|\s(in|notin)\s*\(([^)]*)\))?\s*(?:,|$)"
)


def parse_selector(text: str) -> list[Requirement]:
    """The terms of a selector text. Raises ValueError naming the place that cannot be read."""
    found, position = [], 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise ValueError(f"cannot read the label selector {text!r} at {text[position:]!r}")
        position = term.end()
        negated, key, operator, value, sets, members = term.groups()
        if sets:
            names = tuple(member.strip() for member in members.split(","))
            found.append(Requirement(key, "In" if sets == "in" else "NotIn", names))
        elif operator:
            found.append(Requirement(key, "NotEquals" if operator == "!=" else "Equals", (value,)))
        else:
            found.append(Requirement(key, "DoesNotExist" if negated else "Exists"))
    return found


def object_selects(selector: object, labels: Labels | None) -> bool:
    """Whether a LabelSelector object matches labels; what is no object selects everything, as an empty one does."""
    return all(term.holds(labels or {}) for term in terms_of(selector))


def selects(selector: object, labels: Labels | None) -> bool:
    """Whether a LabelSelector object, or a selector text, matches labels. Raises ValueError for a text that is none."""
    if not isinstance(selector, str):
        return object_selects(selector, labels)
    return all(term.holds(labels or {}) for term in parse_selector(selector))
