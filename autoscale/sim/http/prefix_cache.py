"""What a replica still knows of earlier prompts."""

from __future__ import annotations

from collections import OrderedDict

from autoscale.sim.engine.params import EngineParams
from autoscale.sim.http.openai_request import Prompt


class PrefixCache:
    """Which whole blocks of earlier prompts a replica still knows, least recently used first to go.

    As large as the KV cache; that running requests hold blocks of it, and that a block is known only once it was
    computed, is left out.
    """

    def __init__(self, params: EngineParams) -> None:
        self.block_size, self.most = params.block_size, params.num_blocks - 1
        self.queries = self.hits = 0  # tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look_up(self, prompt: Prompt) -> int:
        """Tokens at the beginning of the prompt that need no prefill; remembers the prompt's blocks."""
        known = 0
        for block in prompt.blocks:
            if block not in self._blocks:
                break
            known += 1
        for block in reversed(prompt.blocks):  # a prefix outlives what follows it
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self.most:
            self._blocks.popitem(last=False)
        tokens = min(known * self.block_size, prompt.tokens - 1)  # the last token is always computed
        self.queries += prompt.tokens
        self.hits += tokens
        return tokens
