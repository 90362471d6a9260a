"""The words that prompts are made of, and how many tokens a server makes of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Counted:
    """`by`: ids (nothing to count), tokenize, or words (by usage, or uncounted: a word stands for a token)."""

    by: str = "words"
    words: tuple[str, ...] = tuple(WORDS)
    overhead_tokens: int = 0  # that the server adds to every prompt
    tokens_per_word: float = 1.0


UNCOUNTED = Counted()
EXACT = Counted("ids")


def text_of(words: Sequence[str]) -> str:
    """The words as prompts spell them."""
    return "".join(f" {word}" for word in words)
