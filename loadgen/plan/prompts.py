"""Prompts of an exact number of tokens, as ready request bodies, without downloading a tokenizer. Pure.

    ids     /v1/completions takes a list of token ids: exact by construction, no BOS is added (vLLM)
    words   common four-letter words, one token each in the usual BPE vocabularies; loadgen.run.counting says how many tokens
            the server makes of them, and how many it adds (BOS, chat template)
    jsonl   the user's own prompts, in turn

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import BadInput
from loadgen.run.counting import UNCOUNTED, Counted

POOL = 1 << 17  # symbols in the pool; a longer prompt runs through it more than once
MASK = (1 << 64) - 1
ODD = 0x9E3779B97F4A7C15  # multiplication by an odd number permutes the 64-bit integers: no two ids share a head
IDS = (100, 1000)  # ordinary tokens in every vocabulary of at least 1,000; equally many digits each


@dataclass(frozen=True)
class Template:
    """The request around the prompt. `endpoint` is completions | chat; `extra` is merged into every body.

    With `ignore_eos` the answer has exactly the asked tokens: `limit_field` and min_tokens are both sent. An answer length
    of 0 or less leaves the limit to the server. `usage` asks for the server's count at the end of a stream.
    """

    model: str
    endpoint: str = "completions"
    stream: bool = True
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    limit_field: str = "max_tokens"
    usage: bool = True

    def fields(self) -> dict[str, Any]:
        """The fields that do not depend on the request."""
        options: dict[str, Any] = {"model": self.model, "stream": self.stream}
        if self.stream and self.usage:
            options["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            options["ignore_eos"] = True
        return {**options, **self.extra}

    def tail(self, output_tokens: int) -> bytes:
        """The fields that bound the answer, as they follow the prompt."""
        if output_tokens <= 0:
            return b"}"
        least = b',"min_tokens":%d' % output_tokens if self.ignore_eos else b""
        return b',"%s":%d%s}' % (self.limit_field.encode(), output_tokens, least)


@dataclass(frozen=True, eq=False)
class PromptSource:
    """Bodies by request id; made by `by_ids`, `by_words` or `by_jsonl`."""

    template: Template
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


@dataclass(frozen=True, eq=False)
class OwnPrompts:
    """Bodies from the user's prompts, in turn; `rows` are (encoded prompt field, asked output tokens or 0)."""

    template: Template
    rows: tuple[tuple[bytes, int], ...]
    exact: bool = False  # how many tokens a prompt has is known from the server's usage only

    @classmethod
    def of_text(cls, template: Template, text: str) -> OwnPrompts:
        """One prompt, the user's message on the chat endpoint."""
        chat = template.endpoint == "chat"
        value = [{"role": "user", "content": text}] if chat else text
        return cls(template, ((_encoded(template, "messages" if chat else "prompt", value), 0),))

    def first(self) -> OwnPrompts:
        """The first prompt alone, without an output length of its own."""
        return replace(self, rows=((self.rows[0][0], 0),))

    def body(
        self,
        request_id: int,
        prompt_tokens: int,  # noqa: ARG002 -- one face for both sources; own prompts have their own length
        output_tokens: int,
        prefix_tokens: int = 0,  # noqa: ARG002
        blocks: Sequence[int] | None = None,  # noqa: ARG002
    ) -> bytes:
        """The body with prompt number `request_id` modulo their number; a row's own output length wins."""
        text, own = self.rows[request_id % len(self.rows)]
        return text + self.template.tail(own or output_tokens)


def by_ids(
    template: Template, seed: int = 0, salt: int = 0, vocabulary: tuple[int, int] = IDS, **options: Any
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
    template: Template, seed: int = 0, salt: int = 0, counted: Counted = UNCOUNTED, **options: Any
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


def by_jsonl(template: Template, path: Path | str) -> OwnPrompts:
    """The prompts of a JSONL file: each line {"prompt": text} or {"messages": [...]}, optionally "output_tokens".

    A text prompt becomes the user's message on the chat endpoint; messages need the chat endpoint.
    Raises BadInput with the file and line.
    """
    rows = []
    chat = template.endpoint == "chat"
    for number, name, value, output in read_prompts(path):
        if name == "messages" and not chat:
            raise BadInput(f"{path} line {number} holds messages", next_step="use loadgen/chat.py for them")
        if name == "prompt" and chat:
            name, value = "messages", [{"role": "user", "content": value}]
        rows.append((_encoded(template, name, value), output))
    return OwnPrompts(template, tuple(rows))


def _encoded(template: Template, name: str, value: Any) -> bytes:
    """A body up to the fields that bound the answer."""
    before = json.dumps(template.fields(), separators=(",", ":"))[:-1]
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f'{before},"{name}":{text}'.encode("utf-8", "replace")


def read_prompts(path: Path | str) -> list[tuple[int, str, Any, int]]:
    """(line number, "prompt" or "messages", its value, output tokens or 0) of each line. Raises BadInput."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the prompts: {error}") from None
    rows = [
        (number, *_own_prompt(f"{path} line {number}", line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise BadInput("no prompts in", value=str(path), expected='lines such as {"prompt": "..."}')
    return rows


def _own_prompt(where: str, line: str) -> tuple[str, Any, int]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from None
    for name, kind in (("prompt", str), ("messages", list)):
        if isinstance(row, dict) and isinstance(row.get(name), kind):
            output = row.get("output_tokens", 0)
            if not isinstance(output, int) or output < 0:
                raise BadInput(f"{where}, output_tokens", value=output, expected="a whole number of tokens")
            return name, row[name], output
    raise BadInput(where, value=line[:80], expected='{"prompt": "text"} or {"messages": [...]}')


def _source(template: Template, symbols: tuple[bytes, ...], key: int, ids: bool, **rest: Any) -> PromptSource:
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
