"""Prompts of an exact number of tokens, as ready request bodies, without downloading a tokenizer. Pure.

    ids     /v1/completions takes a list of token ids: exact by construction, no BOS is added (vLLM)
    words   common four-letter words, one token each in the usual BPE vocabularies; with a `count` callable (the
            server's /tokenize, or a local tokenizer) the vocabulary is checked word by word and the tokens that the
            server adds (BOS, chat template) are subtracted
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.errors import BadInput

POOL = 1 << 17  # symbols in the pool; a longer prompt runs through it more than once
MASK = (1 << 64) - 1
ODD = 0x9E3779B97F4A7C15  # multiplication by an odd number permutes the 64-bit integers: no two ids share a head
IDS = (100, 1000)  # ordinary tokens in every vocabulary of at least 1,000; equally many digits each
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

Count = Callable[[str], int]


@dataclass(frozen=True)
class Template:
    """The request around the prompt. `endpoint` is completions | chat; `extra` is merged into every body.

    With `ignore_eos` the answer has exactly the asked tokens: max_tokens and min_tokens are both sent. An answer length
    of 0 or less leaves the limit to the server.
    """

    model: str
    endpoint: str = "completions"
    stream: bool = True
    ignore_eos: bool = True
    extra: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        """The fields that do not depend on the request."""
        options: dict[str, Any] = {"model": self.model, "stream": self.stream}
        if self.stream:
            options["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            options["ignore_eos"] = True
        return {**options, **self.extra}

    def tail(self, output_tokens: int) -> bytes:
        """The fields that bound the answer, as they follow the prompt."""
        if output_tokens <= 0:
            return b"}"
        if self.ignore_eos:
            return b',"max_tokens":%d,"min_tokens":%d}' % (output_tokens, output_tokens)
        return b',"max_tokens":%d}' % output_tokens


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
        """The request body for one row of loadgen.traffic.Arrivals.

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
    template: Template, seed: int = 0, salt: int = 0, count: Count | None = None, **options: Any
) -> PromptSource:
    """Prompts as text. `count(text)` is the tokens of a prompt as the server counts them, template and BOS included.

    Without `count` a word is taken for a token and nothing is subtracted: completions of a Llama come out 1 token
    longer (BOS), chat by its template. With it, words of several tokens are left out; where none is a single token
    (byte-level toy tokenizers) the measured tokens per word are used and `exact` is False.
    """
    words, overhead, per_word = (WORDS, 0, 1.0) if count is None else _checked(count)
    symbols = tuple(b" " + word.encode() for word in words)
    return _source(
        template,
        symbols,
        _key(seed, salt),
        ids=False,
        overhead_tokens=overhead,
        tokens_per_symbol=per_word,
        **options,
    )


def by_jsonl(template: Template, path: Path | str) -> OwnPrompts:
    """The prompts of a JSONL file: each line {"prompt": text} or {"messages": [...]}, optionally "output_tokens".

    A text prompt becomes the user's message on the chat endpoint; messages need the chat endpoint.
    Raises BadInput with the file and line.
    """
    rows = []
    before = json.dumps(template.fields(), separators=(",", ":"))[:-1].encode()
    chat = template.endpoint == "chat"
    for number, name, value, output in read_prompts(path):
        if name == "messages" and not chat:
            raise BadInput(f"{path} line {number} holds messages", next_step="use loadgen/chat.py for them")
        if name == "prompt" and chat:
            name, value = "messages", [{"role": "user", "content": value}]
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        rows.append((before + b',"%s":' % name.encode() + text.encode(), output))
    return OwnPrompts(template, tuple(rows))


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


def _checked(count: Count) -> tuple[list[str], int, float]:
    """Words of one token, tokens added to every prompt, and tokens per word."""

    def tokens(words: Sequence[str]) -> int:
        return count("".join(f" {word}" for word in words))

    # Doubling a list of words adds its tokens once more; what the single list has beyond that is added by the server.
    def net(words: Sequence[str]) -> int:
        return tokens([*words, *words]) - tokens(words)

    def single(words: list[str]) -> list[str]:
        if net(words) == len(words):
            return words
        if len(words) == 1:
            return []
        middle = len(words) // 2
        return single(words[:middle]) + single(words[middle:])

    probe = WORDS[:64]
    if net(probe) >= 2 * len(probe):  # no word is a single token: do not ask for each
        return WORDS, tokens(WORDS) - net(WORDS), net(WORDS) / len(WORDS)
    words = single(WORDS)
    if len(words) < 16:
        return WORDS, tokens(WORDS) - net(WORDS), net(WORDS) / len(WORDS)
    return words, tokens(words) - len(words), 1.0


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
