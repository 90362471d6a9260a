"""vLLM's OpenAI-compatible API as pure functions: a request body in, an Ask or a refusal out; tokens in, bytes out.

What is accepted, refused and sent back follows recorded answers of a vLLM 0.32 server. Tokens are words of a small
vocabulary: the fleet serves no model, only its timing.
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from dataclasses import dataclass
from typing import Any

_WORDS = (  # noqa: SIM905  # a sentence is easier to read than a list of its words
    " the server must wait while a queue of requests drains and every token that leaves takes one more step of the engine"
    " so capacity follows load with delay when replicas start cold or targets sit too high for bursts in traffic"
).split()
TEXTS = [json.dumps(" " + word)[1:-1] for word in _WORDS]  # JSON-escaped, leading space as tokenizers have it
DEFAULT_COMPLETION_TOKENS = 16
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
        """The prompt that a text is."""
        pieces = _PIECE.findall(text)
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


def token_ids(text: str) -> list[int]:
    """Stable token ids of a text, for /tokenize."""
    return [zlib.crc32(piece.encode()) % 32_000 for piece in _PIECE.findall(text)]


def tokenized(raw: bytes) -> list[int]:
    """The answer's tokens for a /tokenize body: a prompt, or messages with what the chat template adds."""
    body = _json_object(raw)
    if isinstance(body.get("prompt"), str):
        return token_ids(body["prompt"])
    return [(k * 31) % 32_000 for k in range(_chat_prompt(body, 1 << 30).tokens)]


def parse(
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
    stream = bool(body.get("stream", False))
    options = body.get("stream_options")
    if options is not None and not stream:
        raise _wrong("Stream options can only be defined when `stream=True`.", "stream_options")
    for name in ("temperature", "top_p"):
        if isinstance(body.get(name), str | list | dict):
            raise _invalid(
                f"{{'loc': 'body.{name}', 'msg': 'Input should be a valid number'}}", f"body.{name}"
            )
    prompts = (_chat_prompt(body, block_size),) if chat else _prompts(body, block_size)
    n = _integer(body, "n", 1)
    return Ask(
        chat=chat,
        model=model,
        prompts=prompts,
        output_tokens=_output_tokens(body, max(p.tokens for p in prompts), max_model_len, chat),
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
        token_ids=bool(body.get("return_token_ids")),
        n=max(1, n),
    )


def _output_tokens(body: dict[str, Any], prompt: int, max_model_len: int, chat: bool) -> int:
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
        raise _invalid(
            "{'loc': 'body.max_tokens', 'msg': 'Input should be a valid integer'}", "body.max_tokens"
        )
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


def _prompts(body: dict[str, Any], block_size: int) -> tuple[Prompt, ...]:
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
        if all(isinstance(one, str) or _is_ids(one) for one in prompt):
            return tuple(
                Prompt.of_text(p, block_size) if isinstance(p, str) else Prompt.of_ids(p, block_size)
                for p in prompt
            )
    raise _invalid("{'loc': 'body.prompt', 'msg': 'Input should be a valid string'}", "body.prompt")


def _is_ids(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, int) and 0 <= t < 1 << 31 for t in value)
    )


def _chat_prompt(body: dict[str, Any], block_size: int) -> Prompt:
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
    for message in messages:
        content = message.get("content", "") if isinstance(message, dict) else ""
        parts = content if isinstance(content, list) else [{"text": content or ""}]
        texts += ["< | | >", *(str(part.get("text", "")) for part in parts if isinstance(part, dict))]
    return Prompt.of_text(" ".join([*texts, "begin of text now answer it ."]), block_size)


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        at = getattr(error, "pos", 0)
        raise _invalid(
            f"{{'type': 'json_invalid', 'loc': 'body.{at}', 'msg': 'JSON decode error'}}", f"body.{at}"
        ) from None
    if not isinstance(body, dict):
        raise _invalid("{'loc': 'body', 'msg': 'Input should be a valid dictionary'}", "body")
    return body


def _integer(body: dict[str, Any], name: str, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise _invalid(f"{{'loc': 'body.{name}', 'msg': 'Input should be a valid integer'}}", f"body.{name}")
    return value


def _wrong(message: str, param: str, value: object = None) -> Refusal:
    facts = f"parameter={param}" if value is None else f"parameter={param}, value={value}"
    return Refusal(400, f"{message} ({facts})", param=param)


def _invalid(detail: str, param: str | None) -> Refusal:
    return Refusal(400, f"1 validation error:\n  {detail}", "Bad Request", param)


# --- answers ---------------------------------------------------------------------------------------------------------


def text_at(request: int, token: int) -> str:
    """The JSON-escaped text of one generated token; a few are empty, as real ones are (bytes of a split character)."""
    at = request * 7919 + token
    return "" if at % 17 == 16 else TEXTS[at % len(TEXTS)]


def usage(prompts: int, completion_tokens: int) -> dict[str, int]:
    """The usage object."""
    return {
        "prompt_tokens": prompts,
        "total_tokens": prompts + completion_tokens,
        "completion_tokens": completion_tokens,
    }


@dataclass(frozen=True)
class Chunks:
    """The server-sent events of one streamed choice: bytes before and after the text are made once."""

    before: str
    after: str
    last: str
    ids: bool

    @classmethod
    def of(cls, ask: Ask, answer_id: str, created: int, index: int) -> Chunks:
        """For choice number `index` of an answer."""
        kind = "chat.completion.chunk" if ask.chat else "text_completion"
        before = (
            f'data: {{"id":"{answer_id}","object":"{kind}","created":{created},"model":{json.dumps(ask.model)},'
            f'"choices":[{{"index":{index},' + ('"delta":{"content":"' if ask.chat else '"text":"')
        )
        end = '"},' if ask.chat else '",'
        ids = '"token_ids":%s' if ask.token_ids else '"token_ids":null'
        more = "" if ask.chat else '"stop_reason":null,"prompt_token_ids":null,'
        after = f'{end}"logprobs":null,"finish_reason":null,{more}{ids}}}]}}\n\n'
        last = f'{end}"logprobs":null,"finish_reason":"length",{more or chr(34) + "stop_reason" + chr(34) + ":null,"}{ids}}}]}}\n\n'
        return cls(before, after, last, ask.token_ids)

    def event(self, request: int, first: int, until: int, *, final: bool) -> bytes:
        """One event with the tokens first..until-1; several when the API side lags behind the engine."""
        text = "".join([text_at(request, k) for k in range(first, until)])
        tail = self.last if final else self.after
        if self.ids:
            tail = tail % json.dumps([(request * 31 + k) % 32_000 for k in range(first, until)])
        return (self.before + text + tail).encode()


def role_event(ask: Ask, answer_id: str, created: int) -> bytes:
    """The first event of a chat stream: the role, no token."""
    return _event(
        {
            "id": answer_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": ask.model,
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
        }
    )


def usage_event(ask: Ask, answer_id: str, created: int, prompt_tokens: int, completion_tokens: int) -> bytes:
    """The last event before [DONE] when usage was asked for: no choices."""
    return _event(
        {
            "id": answer_id,
            "object": "chat.completion.chunk" if ask.chat else "text_completion",
            "created": created,
            "model": ask.model,
            "choices": [],
            "usage": usage(prompt_tokens, completion_tokens),
        }
    )


DONE = b"data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def answer(ask: Ask, answer_id: str, created: int, requests: list[int]) -> dict[str, Any]:
    """The body of an answer that was not streamed."""
    choices: list[dict[str, Any]] = []
    for index, request in enumerate(requests):
        escaped = "".join([text_at(request, k) for k in range(ask.output_tokens)])
        text = json.loads(f'"{escaped}"')
        content = {"message": {"role": "assistant", "content": text}} if ask.chat else {"text": text}
        choices.append(
            {"index": index, **content, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        )
    total = len(requests) * ask.output_tokens
    return {
        "id": answer_id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": created,
        "model": ask.model,
        "choices": choices,
        "usage": usage(sum(p.tokens for p in ask.prompts), total),
    }
