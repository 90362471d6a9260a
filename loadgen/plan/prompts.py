"""Prompts of an exact number of tokens, as ready request bodies, without downloading a tokenizer. Pure.

    ids     /v1/completions takes a list of token ids: exact by construction, no BOS is added (vLLM)
    words   common four-letter words, one token each in the usual BPE vocabularies; loadgen.plan.words.Counted says how many tokens
            the server makes of them, and how many it adds (BOS, chat template)
    jsonl   the user's own prompts: loadgen.plan.own_prompts

A prompt is [shared prefix] [head] [filler]. The filler is a window of one seeded pool, so a body costs a few memory
copies; the head spells (salt, seed, request_id) in the first tokens, so that no two requests, and no two runs with
different salts, share a prefix-cache block (a block's hash covers everything before it). Prefix block ids of a trace
become fixed token blocks instead: requests that name the same leading ids get the same leading tokens.

Conversations: with `turns` T and `conversations` C, requests i, i + C, i + 2C, ... (T of them) are turns of one
conversation: windows of one text that begin alike, so a later, longer prompt contains the earlier one.

`seed` never travels to the server: on some builds it stops the engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.errors import BadInput
from loadgen.plan.request_template import RequestTemplate
from loadgen.plan.words import UNCOUNTED, Counted

POOL = 1 << 17  # symbols in the pool; a longer prompt runs through it more than once
MASK = (1 << 64) - 1
ODD = 0x9E3779B97F4A7C15  # multiplication by an odd number permutes the 64-bit integers: no two ids share a head
IDS = (100, 1000)  # ordinary tokens in every vocabulary of at least 1,000; equally many digits each


@dataclass(frozen=True, eq=False)
class PromptSource:
    """Bodies by request id; made by `by_ids`, `by_words` or `by_jsonl`."""

    template: RequestTemplate
    symbols: tuple[bytes, ...]  # equally long encoded tokens
    key: int  # 64 bits from (seed, salt)
    overhead_tokens: int = 0  # tokens that the server adds to every prompt
    tokens_per_symbol: float = 1.0
    block_tokens: int = 512  # tokens of a trace's prefix block
    turns: int = 1
    conversations: int = 1
    ids: bool = True
    _pool: bytes = field(default=b"", repr=False)
    _before: bytes = b""
    _after: bytes = b""

    @property
    def exact(self) -> bool:
        """Whether a prompt has exactly the asked tokens (as far as it was checked)."""
        return self.tokens_per_symbol == 1.0

    def body(
        self,
        request_id: int,
        prompt_tokens: int,
        output_tokens: int,
        prefix_tokens: int = 0,
        blocks: Sequence[int] | None = None,
    ) -> bytes:
        """The request body for one row of loadgen.plan.traffic.Arrivals.

        `prefix_tokens` leading tokens are those of the run's shared prefix; `blocks`, when given, decide all tokens,
        and conversations (`turns` > 1) begin alike by themselves.
        At least one token is sent, whatever is asked.
        """
        wanted = max(prompt_tokens - self.overhead_tokens, 1)
        n = wanted if self.exact else max(1, round(wanted / self.tokens_per_symbol))
        if blocks is not None:
            text = self._from_blocks(n, blocks)
        else:
            shared = min(prefix_tokens, n - 1) if prefix_tokens > 0 and self.turns == 1 else 0
            if self.turns > 1:
                group, place = divmod(request_id, self.conversations * self.turns)
                request_id = group * self.conversations + place % self.conversations
            text = self._unique(self.key + request_id, n - shared)
            if shared:
                text = self._unique(self.key ^ MASK, shared) + text
        if self.ids:
            text = text[:-1]  # the comma after the last id
        return self._before + text + self._after + self.template.tail(output_tokens)

    def prompt(self, request_id: int, prompt_tokens: int, **how: Any) -> str | list[int]:
        """The prompt alone, as the server will read it: token ids, or text."""
        request = json.loads(self.body(request_id, prompt_tokens, 0, **how))
        return request["prompt"] if "prompt" in request else request["messages"][-1]["content"]

    def _unique(self, key: int, n: int) -> bytes:
        """`n` symbols that begin with one that neighbouring keys do not share and then spell the key."""
        rest = mixed = key * ODD & MASK
        count = len(self.symbols)
        head = [self.symbols[key % count]]
        for _ in range(min(n - 1, math.ceil(64 / math.log2(count)))):
            rest, digit = divmod(rest, count)
            head.append(self.symbols[digit])
        return b"".join(head) + self._window(mixed ^ mixed >> 29, n - len(head))

    def _window(self, where: int, n: int) -> bytes:
        """`n` symbols of the pool, read as a ring from a place that `where` alone decides."""
        width = len(self.symbols[0])
        start, wanted = where % POOL * width, n * width
        text = self._pool[start : start + wanted]
        while len(text) < wanted:
            text += self._pool[: wanted - len(text)]
        return text

    def _from_blocks(self, n: int, blocks: Sequence[int]) -> bytes:
        parts = [self._unique(self.key - 1 - int(block), self.block_tokens) for block in blocks]
        missing = n - len(parts) * self.block_tokens
        if missing > 0:  # a trace may leave the last, partial block unnamed
            parts.append(self._unique(self.key ^ sum(int(b) for b in blocks) << 20, missing))
        return b"".join(parts)[: n * len(self.symbols[0])]


def by_ids(
    template: RequestTemplate, seed: int = 0, salt: int = 0, vocabulary: tuple[int, int] = IDS, **options: Any
) -> PromptSource:
    """Prompts as token ids from `vocabulary` = [first, after the last), for /v1/completions.

    `salt` separates runs: the same seed and salt give the same bytes, and a second run of them against the same server
    finds its prefixes cached. `options`: block_tokens, turns, conversations.
    Raises BadInput when the ids are not equally many digits long or the endpoint takes no ids.
    """
    low, high = vocabulary
    if not 0 <= low < high - 1 or len(str(low)) != len(str(high - 1)):
        raise BadInput(
            "token ids from a vocabulary",
            value=vocabulary,
            expected="first < last, with equally many digits, for example (1000, 10000)",
        )
    if template.endpoint != "completions":
        raise BadInput("token ids as prompt", value=template.endpoint, expected="the completions endpoint")
    symbols = tuple(b"%d," % i for i in range(low, high))
    return _source(template, symbols, _key(seed, salt), ids=True, **options)


def by_words(
    template: RequestTemplate, seed: int = 0, salt: int = 0, counted: Counted = UNCOUNTED, **options: Any
) -> PromptSource:
    """Prompts as text, whose tokens the server counts as `counted` says, template and BOS included.

    Uncounted, a word is taken for a token and nothing is subtracted: completions of a Llama come out 1 token longer
    (BOS), chat by its template. Where a word is not one token the tokens per word are used and `exact` is False.
    """
    return _source(
        template,
        tuple(b" " + word.encode() for word in counted.words),
        _key(seed, salt),
        ids=False,
        overhead_tokens=counted.overhead_tokens,
        tokens_per_symbol=counted.tokens_per_word,
        **options,
    )


def _source(
    template: RequestTemplate, symbols: tuple[bytes, ...], key: int, ids: bool, **rest: Any
) -> PromptSource:
    if template.endpoint not in ("completions", "chat"):
        raise BadInput("endpoint", value=template.endpoint, expected="completions or chat")
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
    table = np.frombuffer(b"".join(symbols), dtype=np.uint8).reshape(len(symbols), -1)
    pool = table[rng.integers(0, len(symbols), size=POOL)].tobytes()
    before = json.dumps(template.fields(), separators=(",", ":"))[:-1].encode()
    if ids:
        opening, closing = b',"prompt":[', b"]"
    elif template.endpoint == "completions":
        opening, closing = b',"prompt":"', b'"'
    else:
        opening, closing = b',"messages":[{"role":"user","content":"', b'"}]'
    return PromptSource(
        template, symbols, key, ids=ids, _pool=pool, _before=before + opening, _after=closing, **rest
    )


def _key(seed: int, salt: int) -> int:
    """64 bits in which every bit of (seed, salt) has a say."""
    return int(np.random.SeedSequence((seed & MASK, salt & MASK)).generate_state(1, np.uint64)[0])
