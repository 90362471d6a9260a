"""Session rows: conversations whose later turns come a `delay` after the turn before. Pure; only the named file is read.

    {"session_id": "a", "timestamp": 0, "input_length": 100, "output_length": 40}
    {"session_id": "a", "delay": 500, "input_length": 150, "output_length": 50}

as AIPerf's and GenAI-Perf's session traces have them, rows of one conversation in the order of its turns. The load is
open: the first turn is due at its timestamp, every later one `delay` after the turn before was due. How long the answer
takes is not waited for, so a delay that was counted from the end of an answer has to be given with the answer's time
added. A row with a timestamp and no delay is due at its timestamp; one without a session is a conversation of its own.

`input_length` is what the turn adds (turn_tokens "added", as those tools read it): the prompt holds the earlier prompts
and answers, 100, then 100 + 40 + 150 tokens, of which the first 140 are the conversation so far. With "whole" it is the
whole prompt already. Both make later prompts begin as the earlier ones did; `hash_ids` are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from analysis.errors import BadInput
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.lengths import MOST

BLOCK_TOKENS = 512  # tokens of the blocks that a conversation's text is cut into
BLOCKS = 1 << 21  # block ids of one conversation: enough for MOST tokens
MOST_ROWS = 1 << 19  # that are put in order of time: block ids stay below 1 << 40 (reshaping.COPY)

Row = tuple[
    int, dict[str, object], Callable[[str, tuple[type, ...]], Any]
]  # line number, row, checked field of it


class _Turn(NamedTuple):
    """The latest turn of a conversation."""

    conversation: int
    number: float  # its `turn`, when the rows have one
    due: float  # in the file's unit
    history: int  # tokens of the conversation so far


def turns(path: str, rows: Iterable[Row], unit_s: float, turn_tokens: str) -> tuple[list[int], Arrivals]:
    """Line numbers and arrivals of all rows in order of time, due_s in seconds of the file's clock.

    Raises BadInput naming line and field.
    """
    latest: dict[Any, _Turn] = {}
    numbers: list[int] = []
    dues: list[float] = []
    tokens: list[tuple[int, int, int]] = []  # of the prompt, the answer, and the conversation so far
    texts: list[range] = []
    for count, (number, row, field) in enumerate(rows):
        if count >= MOST_ROWS:
            raise BadInput(
                f"{path} line {number}: more than {MOST_ROWS:,} session rows, which have to be put in order of time",
                next_step="split the file",
            )
        key = row.get("session_id")
        if isinstance(key, list | dict):
            raise BadInput(
                f"{path} line {number}, field session_id", value=str(key)[:60], expected="a name or a number"
            )
        before = None if key is None else latest.get(key)
        due = _due(path, number, row, field, before)
        added, output = field("input_length", (int,)), field("output_length", (int,))
        history = before.history if before else 0
        prompt = max(1, added + (history if turn_tokens == "added" else 0))
        turn = _Turn(
            before.conversation if before else count, _turn_number(path, number, row, before), due, 0
        )
        latest[(count,) if key is None else key] = turn._replace(history=prompt + max(1, output))
        if prompt + output > MOST:
            raise BadInput(
                f"{path} line {number}: the conversation has grown to {prompt + output:,} tokens",
                expected=f"at most {MOST:,}",
                next_step="say turn_tokens: whole when input_length is the whole prompt already",
            )
        start = turn.conversation * BLOCKS
        blocks = range(start, start + -(-prompt // BLOCK_TOKENS))
        numbers.append(number)
        dues.append(due)
        tokens.append((prompt, max(1, output), min(history, prompt - 1)))
        texts.append(blocks)
    due_s = np.array(dues, dtype=np.float64) * unit_s
    order = np.argsort(due_s, kind="stable")
    named = np.empty(len(numbers), dtype=object)
    named[:] = texts
    prompts, outputs, histories = np.array(tokens, dtype=np.int32).reshape(-1, 3).T
    whole = Arrivals(
        due_s=due_s,
        prompt_tokens=prompts,
        output_tokens=outputs,
        prefix_tokens=histories,
        request_id=np.zeros(len(numbers), dtype=np.int64),
        blocks=named,
    )
    return [numbers[i] for i in order], whole.take(order)


def _due(
    path: str, number: int, row: dict[str, object], field: Callable[..., Any], before: _Turn | None
) -> float:
    """When the turn is due, in the file's unit."""
    if before is not None and "delay" in row:
        return before.due + float(field("delay", (int, float)))
    if "timestamp" not in row and before is None:
        raise BadInput(
            f"{path} line {number}: the first turn of a conversation has no timestamp",
            expected="a timestamp in its first row, and in later rows a delay or a timestamp",
        )
    due = float(field("timestamp", (int, float)))
    if before is not None and due < before.due:
        raise BadInput(
            f"{path} line {number}: the turn lies before the one before it",
            value=row["timestamp"],
            next_step="sort the rows of a conversation by time",
        )
    return due


def _turn_number(path: str, number: int, row: dict[str, object], before: _Turn | None) -> float:
    given = row.get("turn")
    counts = isinstance(given, int | float) and not isinstance(given, bool) and abs(given) < MOST
    turn = float(given) if counts else math.nan  # type: ignore[arg-type]  # a number then
    if before is not None and turn <= before.number:
        raise BadInput(
            f"{path} line {number}: turn {turn:g} of a conversation comes after turn {before.number:g}",
            next_step="sort the rows of a conversation by turn",
        )
    return turn


def known_so_far(chunks: Iterable[Arrivals]) -> Iterator[Arrivals]:
    """`prefix_tokens` stand only where an earlier turn of the conversation is part of the load."""
    seen: set[int] = set()
    for chunk in chunks:
        assert chunk.blocks is not None
        firsts = [blocks[0] for blocks in chunk.blocks]
        prefix = chunk.prefix_tokens.copy()
        for i, first in enumerate(firsts):
            if first not in seen:
                prefix[i] = 0
                seen.add(first)
        yield chunk._replace(prefix_tokens=prefix)
