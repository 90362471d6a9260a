"""How many tokens the server makes of words: by its /tokenize, else by the usage of two answers. Pure.

A server is asked, never believed: counts of texts of known, different lengths have to be whole numbers that grow with the
text, or it has not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WORDS = """
    able area army away back ball band bank base bear beat bill bird blue boat body bone book born boss both
    call calm camp card care case cash cast cell chip city club coal coat code cold come cook cool copy core
    cost crew crop dark data date dead deal deep desk door down draw drop dust duty each east easy edge face
    fact fair fall farm fast fear feed feel file fill film find fine fire firm fish five flat flow food foot
    form four free full fund game gate gift girl give glad goal gold good gray grow hair half hall hand hard
    head hear heat help high hill hold hole home hope hour huge idea iron item join jump keep kind king lake
    land last late lead left less life lift like line list live long look lose loss love luck mail main make
    mark mass meal meet mile milk mind mine mode moon more move much must name near neck need news next nice
    nine node none note open pack page paid pain pair park part pass past path plan play pool port post pull
    pure push race rail rain rank rate read real rest rice rich ride ring rise risk road rock role roof room
    root rule safe sale salt same sand save seat seed seem self sell send ship shop show side sign site size
    skin slow snow soft soil song soon sort soul spot star stay step stop such suit sure take talk tall team
    tell term test text than them then they thin this time tiny tone tool tour town tree trip true turn type
    unit upon user vary vast very view vote wait walk wall want warm wash wave weak wear week well west what
    when wide wife wild will wind wine wing wire wise wish with wood word work yard year zero zone
""".split()  # noqa: SIM905 -- a list would be 300 lines
FEW, MANY = 16, 144  # words of two texts whose tokens are compared
LEAST_PER_WORD, MOST_PER_WORD = 0.2, 12.0  # tokens that a word of four letters can have
STEADY = 0.25  # by which tokens per word may differ between texts
MOST_OVERHEAD = 8192  # tokens that a template can add
MOST_CALLS = 200  # to look for words of one token

Count = Callable[[str], int]


@dataclass(frozen=True)
class Counted:
    """`by`: ids (nothing to count), tokenize, or words (by usage, or uncounted: a word stands for a token)."""

    by: str = "words"
    words: tuple[str, ...] = tuple(WORDS)
    overhead_tokens: int = 0  # that the server adds to every prompt
    tokens_per_word: float = 1.0


UNCOUNTED = Counted()
EXACT = Counted("ids")


class Uncountable(ValueError):
    """What a server counted is no count; the text says why."""


def text_of(words: Sequence[str]) -> str:
    """The words as prompts spell them."""
    return "".join(f" {word}" for word in words)


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
