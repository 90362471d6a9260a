"""The known name that a mistyped one means: one rule for options, values and fields everywhere."""

from __future__ import annotations

from collections.abc import Iterable

WORTH_COMPLETING = 4  # letters from which a beginning of a name, or its letters with gaps, means the name


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `given` most likely means; None where none is near, or it is one of them.

    Near is what a third of the letters, at least one, turn into the other (a letter more, less, other, or two swapped), and
    what a longer name begins with. Case, and dash or underscore, do not count.
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
        for fits in (str.startswith, _has_in_order):
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
