"""What the body of an OpenAI-compatible answer says: its token events, its usage, its errors, and what is odd in it. Pure.

What a vLLM server does and why it matters here: several events share a read; a token may have empty text; the chat role
chunk carries no token; the usage event has no choices; a dying engine sends an error event and then [DONE].
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.wire import scan

MOST_TOKENS = 2**31 - 1  # of one request; a count beyond it is no count
FIELDS = (b"data:", b"event:", b":")  # with which an event stream begins
BOM = b"\xef\xbb\xbf"
_JSON = json.JSONDecoder(strict=False)  # a control character in a text is odd and harmless


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text, np.uint8)


DATA = _bytes(b"data:")
# without and with a space after colons: the keys of a token's text, and of the reason why a choice ended
KEYS = [
    [_bytes(b'"%s":%s"' % (key, gap)) for key in (b"text", b"content", b"finish_reason")]
    for gap in (b"", b" ")
]
ERROR_EVENT = re.compile(rb"(?m)^event: ?error\r?$")
FAILED = ("error", "abort")  # finish reasons of a choice that the server gave up
MARKS = [_bytes(b'"role"'), _bytes(b'"error"')]


def error_message(body: bytes) -> str | None:
    """The sentence in an error body (`error.message`, or FastAPI's `detail`); None when there is none."""
    content = json_or_none(body)
    if not isinstance(content, dict):
        return None
    error = content.get("error") or content.get("detail") or content.get("message")
    if isinstance(error, dict):
        error = error.get("message")
    return None if error is None else error if isinstance(error, str) else brief(error)


def json_or_none(text: bytes) -> Any:
    """The JSON value in this text; None where it is none, or one that is nested too deeply to be read."""
    try:
        return _JSON.decode(text.removeprefix(BOM).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


@dataclass(slots=True)
class BodyFacts:
    """What a body says besides tokens. `done`: it came to its proper end; `odd`: what in it is not as OpenAI's."""

    done: bool = False
    error: str | None = None
    odd: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    reasoned: bool = False  # reasoning was streamed

    def take_usage(self, content: Mapping[str, object]) -> None:
        """A count is taken when it is one; anything else stays null, and the answer is odd."""
        usage = content.get("usage")
        if usage is None:
            return
        if not isinstance(usage, dict):
            self.odd = f"usage is {brief(usage)}; expected an object"
            return
        self.prompt_tokens = self._count(usage, "prompt_tokens", self.prompt_tokens)
        self.output_tokens = self._count(usage, "completion_tokens", self.output_tokens)
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict):
            self.reasoning_tokens = self._count(details, "reasoning_tokens", self.reasoning_tokens) or 0

    def hidden_tokens(self) -> int:
        """Tokens of the usage that no event carried: reasoning that the server keeps to itself."""
        return 0 if self.reasoned else min(self.reasoning_tokens, self.output_tokens or 0)

    def _count(self, usage: Mapping[str, object], name: str, before: int | None) -> int | None:
        value = usage.get(name)
        if value is None:
            return before
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS:
            whole = int(value)
            if whole == value:
                return whole
        self.odd = (
            f"usage.{name} is {brief(value)}; expected a whole number of tokens from 0 to {MOST_TOKENS}"
        )
        return None

    def take_ends(self, choices: Sequence[Mapping[str, object]]) -> None:
        """A choice that ended because the server failed or gave it up is no answer."""
        for choice in choices:
            if choice.get("finish_reason") in FAILED:
                self.error = f"the server ended its answer with finish_reason {choice['finish_reason']}"

    def take_late(self, payloads: Iterable[bytes]) -> None:
        """Nothing counts that follows [DONE], but a server that says more is odd."""
        late = next((payload for payload in payloads if payload not in (b"", b"[DONE]")), None)
        if late is not None:
            self.odd = self.odd or f"the server went on after [DONE]: {brief(late)}"

    def take_error(self, where: str, payload: bytes) -> None:
        self.error = f"error in the {where}: {error_message(payload) or brief(payload) or 'without a word'}"


def stream_facts(body: bytes) -> tuple[NDArray[np.int64], BodyFacts]:
    """(where each event that carries a token ends, facts) of an event stream.

    Most events are one plain token each. They are recognised by byte patterns that cannot occur inside a JSON string,
    where quotes are escaped; the others are decoded.
    """
    if b"\n" not in body:
        body = body.replace(b"\r", b"\n")  # the third end of a line that event streams may have
    starts, ends, plain = scan.events(body, DATA, *KEYS[b'": ' in body[:2000]], *MARKS)
    facts = BodyFacts()
    closing: list[int] = []  # events without text, which may only end a choice
    plain[np.flatnonzero(plain)[-1:]] = (
        False  # where each event repeats the usage, the last one holds all of it
    )
    for number in np.flatnonzero(~plain).tolist():
        payload = _data(body[starts[number] : ends[number]])
        if payload == b"[DONE]":
            facts.done = True
            facts.take_late(_data(body[a:b]) for a, b in zip(starts[number:], ends[number:], strict=True))
            plain[number:] = False
            break
        content = json_or_none(payload)
        told = content if isinstance(content, dict) else {}
        if _is_error(told) or ERROR_EVENT.search(body[starts[number] : ends[number]]):
            facts.take_error("stream", payload)
            continue
        if not isinstance(content, dict):
            if (
                payload[:1] in (b"{", b"[") and number < len(ends) - 1
            ):  # the last one may be cut in the middle
                facts.odd = f"an event of the stream is {brief(payload)}; expected an object in JSON"
            continue
        facts.take_usage(content)
        choices = _objects(content.get("choices"))
        facts.take_ends(choices)
        facts.reasoned = facts.reasoned or any(_reasons(choice) for choice in choices)
        if any(_carries_token(choice) for choice in choices):
            plain[number] = True
            if not any(_has_text(choice) for choice in choices):
                closing.append(number)
        elif not _is_understood(content.get("choices")):
            facts.odd = f"an event of the stream is {brief(payload)}; expected choices with text or delta"
    # A server may end a choice with an event of its own that holds no token; only its usage can tell.
    surplus = 0 if facts.output_tokens is None else int(plain.sum()) - facts.output_tokens
    if surplus > 0:
        plain[closing[-surplus:]] = False
    return ends[plain], facts


def is_stream(body: bytes) -> bool:
    """Whether a body is an event stream, whatever its content type says."""
    return body[:100].removeprefix(BOM).lstrip().startswith(FIELDS)


def _is_error(content: Mapping[str, object]) -> bool:
    """Whether an answer or an event says that the request failed; an empty error beside choices says that it did not."""
    error = content.get("error")
    if error or content.get("object") == "error":
        return True
    return error is not None and "choices" not in content


def _data(event: bytes) -> bytes:
    """The payload of an event: its data lines joined, comments and other fields left out."""
    event = event.removeprefix(BOM)
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line.rstrip(b"\r") for line in event.split(b"\n")]
    return b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))


def _objects(value: object) -> list[dict[str, object]]:
    """The objects in what should be a list of them, or one."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]


def _is_understood(choices: Any) -> bool:
    """Whether the choices of an event without token are such as servers send: a list of objects whose delta is one, or
    nothing."""
    if choices is None:
        return True
    found = _objects(choices)
    if not isinstance(choices, list) or len(found) < len(choices):
        return False
    return all(choice.get("delta") is None or _objects(choice["delta"]) for choice in found)


def _has_text(choice: Mapping[str, object]) -> bool:
    if choice.get("text"):
        return True
    return any(v for delta in _objects(choice.get("delta")) for k, v in delta.items() if k != "role")


def _reasons(choice: Mapping[str, object]) -> bool:
    return any(d.get("reasoning_content") or d.get("reasoning") for d in _objects(choice.get("delta")))


def _carries_token(choice: Mapping[str, object]) -> bool:
    if choice.get("text") is not None:
        return True
    deltas = _objects(choice.get("delta"))
    if any("role" in delta for delta in deltas):
        return _has_text(choice)
    return any(value is not None for delta in deltas for value in delta.values())


def whole_facts(body: bytes) -> BodyFacts:
    """The facts of an answer that was not streamed."""
    facts = BodyFacts()
    content = json_or_none(body)
    if isinstance(content, dict):
        facts.take_usage(content)
        choices = content.get("choices")
        facts.done = isinstance(choices, list)
        facts.take_ends(_objects(choices))
        if not _is_understood(choices) or choices == []:
            facts.odd = f"choices are {brief(choices)}; expected objects with text or message"
        if _is_error(content):
            facts.take_error("answer", body)
    return facts


def brief(value: Any) -> str:
    """The beginning of a value of any kind and size, for a sentence."""
    try:
        text = value[:80].decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
