"""How many tokens the server makes of words: by its /tokenize, else by the usage of two answers. Pure.

A server is asked, never believed: counts of texts of known, different lengths have to be whole numbers that grow with the
text, or it has not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from loadgen.plan.words import UNCOUNTED, WORDS, Counted, text_of

FEW, MANY = 16, 144  # words of two texts whose tokens are compared
LEAST_PER_WORD, MOST_PER_WORD = 0.2, 12.0  # tokens that a word of four letters can have
STEADY = 0.25  # by which tokens per word may differ between texts
MOST_OVERHEAD = 8192  # tokens that a template can add
MOST_CALLS = 200  # to look for words of one token

Count = Callable[[str], int]


class Uncountable(ValueError):
    """What a server counted is no count; the text says why."""


def by_usage(few: int | None, many: int | None) -> Counted:
    """From the prompt tokens of answers to FEW and MANY words. Raises Uncountable."""
    if few is None or many is None:
        raise Uncountable("its answers carry no usage")
    per_word = (many - few) / (MANY - FEW)
    if not LEAST_PER_WORD <= per_word <= MOST_PER_WORD:
        raise Uncountable(f"its usage says {few} tokens for {FEW} words and {many} for {MANY}")
    overhead = round(few - FEW * per_word)
    if not -FEW / 4 <= overhead <= MOST_OVERHEAD:
        raise Uncountable(f"its usage says {few} tokens for {FEW} words and {many} for {MANY}")
    return Counted("words", UNCOUNTED.words, max(overhead, 0), per_word)


def by_tokenize(count: Count) -> Counted:
    """Words of one token where there are enough, else the tokens per word. `count` may raise Uncountable."""
    calls = 0

    def tokens(words: Sequence[str]) -> int:
        nonlocal calls
        calls += 1
        return count(text_of(words))

    # Doubling a list of words adds its tokens once more; what the single list has beyond that is added by the server.
    def net(words: Sequence[str]) -> int:
        return tokens([*words, *words]) - tokens(words)

    def single(words: list[str]) -> list[str]:
        if calls > MOST_CALLS:
            return []
        if net(words) == len(words):
            return words
        if len(words) == 1:
            return []
        middle = len(words) // 2
        return single(words[:middle]) + single(words[middle:])

    _check(tokens)
    probe = WORDS[:64]
    words = (
        WORDS if net(probe) >= 2 * len(probe) else single(WORDS)
    )  # none is a single token: do not ask for each
    if len(words) < 16 or calls > MOST_CALLS:
        words = WORDS
    added = net(words)
    return Counted("tokenize", tuple(words), max(tokens(words) - added, 0), added / len(words))


def _check(tokens: Callable[[Sequence[str]], int]) -> None:
    """Raises Uncountable unless the counts grow with the text, evenly."""
    lengths = (FEW, (FEW + MANY) // 2, MANY)
    counts = [tokens(WORDS[:n]) for n in lengths]
    per_word = [(counts[k + 1] - counts[k]) / (lengths[k + 1] - lengths[k]) for k in range(2)]
    said = ", ".join(f"{count} for {n}" for count, n in zip(counts, lengths, strict=True))
    even = math.isclose(*per_word, rel_tol=STEADY)
    within = all(LEAST_PER_WORD <= x <= MOST_PER_WORD for x in per_word)
    if not (even and within and -FEW / 4 <= counts[0] - FEW * per_word[0] <= MOST_OVERHEAD):
        raise Uncountable(f"words do not add tokens evenly: {said} words")
