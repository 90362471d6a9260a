"""Whether a load fits the longest request that the server takes, before it is sent. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.errors import BadInput
from loadgen.plan.traffic import LoadPlan
from loadgen.run.options import LoadOptions

LOOKED_AT = 200_000  # requests of a plan, at most: a hundredth of a second


def fitting(options: LoadOptions, max_model_len: int | None) -> LoadOptions:
    """The options, with --clamp-lengths such that every request fits `max_model_len` tokens (None: unknown).

    Raises BadInput with the largest request when one does not fit and none is to be cut.
    """
    if max_model_len is None:
        return options
    if options.clamp_lengths:
        return replace(options, most_tokens=max_model_len)
    own_prompts = options.prompts not in (None, "ids", "words")  # whose tokens only the server knows
    _check(options.plan(), max_model_len, prompts=not own_prompts)
    return options


def _check(plan: LoadPlan, max_model_len: int, prompts: bool) -> None:
    looked = beyond = 0
    largest = (0, 0)
    for chunk in plan.arrivals(LOOKED_AT):
        prompt = (
            chunk.prompt_tokens.astype(np.int64) if prompts else np.ones(len(chunk.due_s), dtype=np.int64)
        )
        total = prompt + chunk.output_tokens
        looked, beyond = looked + len(total), beyond + int((total > max_model_len).sum())
        at = int(total.argmax())
        if total[at] > sum(largest):
            largest = int(prompt[at]), int(chunk.output_tokens[at])
        if looked >= LOOKED_AT:
            break
    if beyond:
        prompt_said = (
            f"{largest[0]} tokens of prompt and {largest[1]} of answer"
            if prompts
            else f"{largest[1]} tokens of answer"
        )
        raise BadInput(
            f"{beyond} of the first {looked} requests do not fit the server's max_model_len of {max_model_len}; "
            f"the largest asks {prompt_said}",
            next_step=f"give lengths a limit (lognormal:1020,1.0,{max(max_model_len - largest[1], 1)}), or cut them with --clamp-lengths",
        )
