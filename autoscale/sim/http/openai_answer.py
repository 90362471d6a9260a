"""vLLM's answers as pure functions: tokens in, bytes out; streamed events, and bodies of whole answers.

What is sent follows recorded answers of a vLLM 0.32 server. Tokens are words of a small vocabulary: the fleet serves no
model, only its timing.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from autoscale.sim.http.openai_request import Ask

_WORDS = (  # noqa: SIM905  # a sentence is easier to read than a list of its words
    " the server must wait while a queue of requests drains and every token that leaves takes one more step of the engine"
    " so capacity follows load with delay when replicas start cold or targets sit too high for bursts in traffic"
).split()
TEXTS = [json.dumps(" " + word)[1:-1] for word in _WORDS]  # JSON-escaped, leading space as tokenizers have it
DONE = b"data: [DONE]\n\n"


def text_at(request: int, token: int) -> str:
    """The JSON-escaped text of one generated token; a few are empty, as real ones are (bytes of a split character)."""
    at = request * 7919 + token
    return "" if at % 17 == 16 else TEXTS[at % len(TEXTS)]


def _usage(ask: Ask) -> dict[str, int]:
    prompt, completion = sum(p.tokens for p in ask.prompts), len(ask.prompts) * ask.n * ask.output_tokens
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
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


def usage_event(ask: Ask, answer_id: str, created: int) -> bytes:
    """The last event before [DONE] when usage was asked for: no choices."""
    return _event(
        {
            "id": answer_id,
            "object": "chat.completion.chunk" if ask.chat else "text_completion",
            "created": created,
            "model": ask.model,
            "choices": [],
            "usage": _usage(ask),
        }
    )


def _event(content: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def answer_body(ask: Ask, answer_id: str, created: int, requests: list[int]) -> dict[str, object]:
    """The body of an answer that was not streamed."""
    choices: list[dict[str, object]] = []
    for index, request in enumerate(requests):
        escaped = "".join([text_at(request, k) for k in range(ask.output_tokens)])
        text = json.loads(f'"{escaped}"')
        content = {"message": {"role": "assistant", "content": text}} if ask.chat else {"text": text}
        choices.append(
            {"index": index, **content, "logprobs": None, "finish_reason": "length", "stop_reason": None}
        )
    return {
        "id": answer_id,
        "object": "chat.completion" if ask.chat else "text_completion",
        "created": created,
        "model": ask.model,
        "choices": choices,
        "usage": _usage(ask),
    }


def models_body(model: str, max_model_len: int) -> dict[str, object]:
    """The answer to /v1/models."""
    card = {
        "id": model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "vllm",
        "root": model,
        "parent": None,
        "max_model_len": max_model_len,
    }
    return {"object": "list", "data": [card]}
