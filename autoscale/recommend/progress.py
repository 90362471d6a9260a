"""How far something has come, as a fraction and a text, and notes on the way, for whoever shows them."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[float, str], None]
Tell = Callable[[str], None]  # hears a note: one sentence about what was read


def silent(_fraction: float, _text: str) -> None:
    """Nobody looks."""


def unheard(_note: str) -> None:
    """Nobody listens to notes."""


def part(whole: Progress, start: float, share: float, text: str = "{}") -> Progress:
    """The progress of a part that begins at `start` of the whole and takes `share` of it; its texts put into `text`."""
    return lambda fraction, said: whole(start + share * fraction, text.format(said))
