"""vLLM's OpenAI-compatible API as pure functions: a request body in, an Ask or a refusal out.

What is accepted and refused follows recorded answers of a vLLM 0.32 server, and everything that costs this server time or
memory is bounded: it has one thread for all replicas.
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from dataclasses import dataclass

DEFAULT_COMPLETION_TOKENS = 16
MOST_N = 128  # choices per prompt, as OpenAI allows
MOST_CHOICES = 1024  # of one request: prompts x n
_PIECE = re.compile(r"\w{1,6}|[^\w\s]")


class Refusal(Exception):
    """An HTTP error answer with vLLM's body."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Prompt:
    """A prompt's length and the chained checksums of its whole blocks, by which a prefix cache knows it again."""

    tokens: int
    blocks: tuple[int, ...] = ()

    @classmethod
    def of_text(cls, text: str, block_size: int) -> Prompt:
        """The prompt that a text is. Raises Refusal when it is no Unicode text."""
        pieces = _pieces(text)
        coded = [" ".join(pieces[i : i + block_size]).encode() for i in range(0, len(pieces), block_size)]
        return cls(max(1, len(pieces)), _chain(coded, len(pieces) // block_size))

    @classmethod
    def of_ids(cls, ids: list[int], block_size: int) -> Prompt:
        """The prompt that token ids are."""
        width = block_size * 8
        data = array("q", ids).tobytes()
        coded = [data[i : i + width] for i in range(0, len(data), width)]
        return cls(len(ids), _chain(coded, len(ids) // block_size))


def _chain(coded: list[bytes], whole: int) -> tuple[int, ...]:
    seen, blocks = 0, []
    for block in coded[:whole]:
        seen = zlib.crc32(block, seen)
        blocks.append(seen)
    return tuple(blocks)


@dataclass(frozen=True)
class Ask:
    """One accepted request; it has one choice per prompt and n (chat has one prompt)."""

    chat: bool
    model: str
    prompts: tuple[Prompt, ...]
    output_tokens: int
    stream: bool
    include_usage: bool
    token_ids: bool
    n: int


def _pieces(text: str) -> list[str]:
    """The text in tokens."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        lone = f"\\u{ord(text[error.start]):04x}"
        raise Refusal(400, f"The text holds {lone} alone, half of a character: send valid Unicode.") from None
    return _PIECE.findall(text)


def token_ids(text: str) -> list[int]:
    """Stable token ids of a text, for /tokenize."""
    return [zlib.crc32(piece.encode()) % 32_000 for piece in _pieces(text)]


def tokenized(raw: bytes) -> list[int]:
    """The answer's tokens for a /tokenize body: a prompt, or messages with what the chat template adds."""
    body = _json_object(raw)
    if isinstance(prompt := body.get("prompt"), str):
        return token_ids(prompt)
    return [(k * 31) % 32_000 for k in range(_chat_prompt(body, 1 << 30).tokens)]


def parse_ask(
    raw: bytes, content_type: str, *, chat: bool, model: str, max_model_len: int, block_size: int
) -> Ask:
    """The request in `raw`. Raises Refusal with the status and body that vLLM gives."""
    if content_type.split(";")[0].strip() != "application/json":
        raise _invalid("Unsupported Media Type: Only 'application/json' is allowed", None)
    body = _json_object(raw)
    asked_model = body.get("model") or model
    if asked_model != model:
        message = f"The model `{asked_model}` does not exist. Valid aliases: {model}."
        raise Refusal(404, message, "NotFoundError", "model")
    stream = _flag(body, "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _mistyped("stream_options", "dictionary")
    if options is not None and not stream:
        raise _wrong("Stream options can only be defined when `stream=True`.", "stream_options")
    for name in ("temperature", "top_p"):
        if isinstance(body.get(name), str | list | dict):
            raise _mistyped(name, "number")
    prompts = (_chat_prompt(body, block_size),) if chat else _prompts(body, block_size)
    return Ask(
        chat=chat,
        model=model,
        prompts=prompts,
        output_tokens=_output_tokens(body, max(p.tokens for p in prompts), max_model_len, chat),
        stream=stream,
        include_usage=_flag(options or {}, "include_usage", "stream_options."),
        token_ids=_flag(body, "return_token_ids"),
        n=_choices(body, len(prompts)),
    )


def _choices(body: dict[str, object], prompts: int) -> int:
    """How many answers each prompt gets."""
    n = _integer(body, "n", 1)
    if n < 1:
        raise _wrong(f"n must be at least 1, got {n}.", "n", n)
    if n > MOST_N:
        raise _wrong(f"n must be at most {MOST_N}, got {n}.", "n", n)
    if n * prompts > MOST_CHOICES:
        raise _wrong(
            f"{prompts} prompts x n={n} are {n * prompts} choices, this server answers at most {MOST_CHOICES} in one request.",
            "n",
            n,
        )
    return n


def _output_tokens(body: dict[str, object], prompt: int, max_model_len: int, chat: bool) -> int:
    """How many tokens will be generated: max_tokens, or fewer when the (simulated) model stops of itself.

    The fleet's model never stops by itself: `ignore_eos` gives exactly max_tokens as in vLLM, and so does its absence.
    """
    asked = body.get("max_completion_tokens") if chat else None
    asked = body.get("max_tokens") if asked is None else asked
    room = max_model_len - prompt
    if asked is None:
        if room <= 0:
            raise _wrong(
                f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains {prompt} "
                "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of "
                "the input prompt.",
                "input_tokens",
                prompt,
            )
        asked = room if chat else min(DEFAULT_COMPLETION_TOKENS, room)
    if not isinstance(asked, int) or isinstance(asked, bool):
        raise _mistyped("max_tokens", "integer")
    if asked > max_model_len:
        raise _wrong(
            f"max_tokens={asked} cannot be greater than max_model_len={max_model_len}. "
            "Please request fewer output tokens.",
            "max_tokens",
            asked,
        )
    tokens = min(asked, max(room, 0))
    if tokens < 1:
        raise _wrong(f"max_tokens must be at least 1, got {tokens}.", "max_tokens", tokens)
    if (least := _integer(body, "min_tokens", 0)) > asked:
        raise Refusal(400, f"min_tokens must be less than or equal to max_tokens={asked}, got {least}.")
    return tokens


def _prompts(body: dict[str, object], block_size: int) -> tuple[Prompt, ...]:
    prompt = body.get("prompt")
    if prompt is None or prompt == "":
        raise _wrong("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if isinstance(prompt, str):
        return (Prompt.of_text(prompt, block_size),)
    if isinstance(prompt, list):
        if not prompt:
            raise Refusal(400, "You must pass at least one prompt")
        if _is_ids(prompt):
            return (Prompt.of_ids(prompt, block_size),)
        if len(prompt) > MOST_CHOICES:
            raise _wrong(
                f"This server answers at most {MOST_CHOICES} prompts in one request.", "prompt", len(prompt)
            )
        if all(isinstance(one, str) or _is_ids(one) for one in prompt):
            return tuple(
                Prompt.of_text(p, block_size) if isinstance(p, str) else Prompt.of_ids(p, block_size)
                for p in prompt
            )
    raise _mistyped("prompt", "string")


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, int) and 0 <= t < 1 << 31 for t in value)
    )


def _chat_prompt(body: dict[str, object], block_size: int) -> Prompt:
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise _invalid(
            "{'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required'}", "body.messages"
        )
    if not messages:
        raise Refusal(
            400, "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    texts = []
    for k, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _mistyped(f"messages.{k}", "dictionary")
        content = message.get("content") or ""
        if not isinstance(content, str | list):
            raise _mistyped(f"messages.{k}.content", "string")
        parts = content if isinstance(content, list) else [{"text": content}]
        if not all(isinstance(part, dict) and isinstance(part.get("text", ""), str) for part in parts):
            raise _mistyped(f"messages.{k}.content", "list of parts with a text")
        texts += ["< | | >", *(part.get("text", "") for part in parts)]
    return Prompt.of_text(" ".join([*texts, "begin of text now answer it ."]), block_size)


def _json_object(raw: bytes) -> dict[str, object]:
    try:
        body = json.loads(raw)
    except RecursionError:
        raise _invalid(
            "{'type': 'json_invalid', 'loc': 'body', 'msg': 'JSON is nested too deep'}", "body"
        ) from None
    except ValueError as error:
        at = getattr(error, "pos", 0)
        raise _invalid(
            f"{{'type': 'json_invalid', 'loc': 'body.{at}', 'msg': 'JSON decode error'}}", f"body.{at}"
        ) from None
    if not isinstance(body, dict):
        raise _mistyped("", "dictionary")
    return body


def _integer(body: dict[str, object], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise _mistyped(name, "integer")
    return value


def _flag(body: dict[str, object], name: str, within: str = "") -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise _mistyped(within + name, "boolean")
    return bool(value)


def _wrong(message: str, param: str, value: object = None) -> Refusal:
    facts = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return Refusal(400, f"{message} ({facts})", param=param)


def _mistyped(name: str, expected: str) -> Refusal:
    where = f"body.{name}" if name else "body"
    return _invalid(f"{{'loc': '{where}', 'msg': 'Input should be a valid {expected}'}}", where)


def _invalid(detail: str, param: str | None) -> Refusal:
    return Refusal(400, f"1 validation error:\n  {detail}", "Bad Request", param)
