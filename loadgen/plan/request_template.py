"""A request's body around its prompt: the fields that all requests share, and those that bound the answer. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RequestTemplate:
    """The request around the prompt. `endpoint` is completions | chat; `extra` is merged into every body.

    With `ignore_eos` the answer has exactly the asked tokens: `limit_field` and min_tokens are both sent. An answer length
    of 0 or less leaves the limit to the server. `usage` asks for the server's count at the end of a stream.
    """

    model: str
    endpoint: str = "completions"
    stream: bool = True
    ignore_eos: bool = True
    extra: dict[str, object] = field(default_factory=dict)
    limit_field: str = "max_tokens"
    usage: bool = True

    def fields(self) -> dict[str, object]:
        """The fields that do not depend on the request."""
        options: dict[str, object] = {"model": self.model, "stream": self.stream}
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


def encoded(template: RequestTemplate, name: str, value: Any) -> bytes:
    """A body up to the fields that bound the answer."""
    before = json.dumps(template.fields(), separators=(",", ":"))[:-1]
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return f'{before},"{name}":{text}'.encode("utf-8", "replace")
