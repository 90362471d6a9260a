"""What becomes of drawn lengths: prompts that contain their conversation so far, and requests cut to a limit. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadgen.plan import lengths
from loadgen.plan.arrivals import Arrivals


def cut_lengths(chunk: Arrivals, most_tokens: int) -> Arrivals:
    """Prompt and answer cut to `most_tokens` together: the prompt first, at least one token of each left."""
    output = np.minimum(chunk.output_tokens, max(most_tokens - 1, 1))
    prompt = np.minimum(chunk.prompt_tokens, np.maximum(most_tokens - output, 1))
    return chunk._replace(
        prompt_tokens=prompt, output_tokens=output, prefix_tokens=np.minimum(chunk.prefix_tokens, prompt - 1)
    )


def continued(
    prompt: NDArray[np.int32],
    output: NDArray[np.int32],
    first_id: int,
    turns: int,
    history: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Prompts that contain their conversation so far, and the tokens of that part; `history` is carried on.

    Requests first_id, first_id + 1, ... belong to the len(history) conversations in turn.
    """
    abreast = len(history)
    whole, said = np.empty_like(prompt), np.empty(len(prompt), dtype=np.int64)
    at = 0
    while at < len(prompt):
        turn, place = divmod((first_id + at) % (abreast * turns), abreast)
        rows = slice(at, min(len(prompt), at + abreast - place))
        seats = slice(place, place + rows.stop - rows.start)
        said[rows] = history[seats] if turn else 0
        whole[rows] = np.minimum(said[rows] + prompt[rows], lengths.MOST)
        history[seats] = whole[rows] + output[rows].astype(np.int64)
        at = rows.stop
    return whole, said
