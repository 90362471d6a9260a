"""The user's own prompts as request bodies, in turn; only the named file is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.errors import BadInput
from analysis.files import json_value
from loadgen.plan.lengths import MOST
from loadgen.plan.request_template import RequestTemplate, encoded
from loadgen.plan.text_files import lines


@dataclass(frozen=True, eq=False)
class OwnPrompts:
    """Bodies from the user's prompts, in turn; `rows` are (encoded prompt field, asked output tokens or 0)."""

    template: RequestTemplate
    rows: tuple[tuple[bytes, int], ...]
    exact: bool = False  # how many tokens a prompt has is known from the server's usage only

    @classmethod
    def of_text(cls, template: RequestTemplate, text: str) -> OwnPrompts:
        """One prompt, the user's message on the chat endpoint."""
        chat = template.endpoint == "chat"
        value = [{"role": "user", "content": text}] if chat else text
        return cls(template, ((encoded(template, "messages" if chat else "prompt", value), 0),))

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


def by_jsonl(template: RequestTemplate, path: Path | str) -> OwnPrompts:
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
        rows.append((encoded(template, name, value), output))
    return OwnPrompts(template, tuple(rows))


def read_prompts(path: Path | str) -> list[tuple[int, str, Any, int]]:
    """(line number, "prompt" or "messages", its value, output tokens or 0) of each line. Raises BadInput."""
    rows = [
        (number, *_own_prompt(f"{path} line {number}", line)) for number, line in lines(path, "the prompts")
    ]
    if not rows:
        raise BadInput("no prompts in", value=str(path), expected='lines such as {"prompt": "..."}')
    return rows


def _own_prompt(where: str, line: str) -> tuple[str, Any, int]:
    try:
        row = json_value(line)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from None
    for name, kind in (("prompt", str), ("messages", list)):
        if isinstance(row, dict) and isinstance(row.get(name), kind):
            output = row.get("output_tokens", 0)
            if type(output) is not int or not 0 <= output <= MOST:
                raise BadInput(
                    f"{where}, output_tokens",
                    value=str(output)[:40],
                    expected=f"a whole number of tokens up to {MOST:,}",
                )
            return name, row[name], output
    raise BadInput(where, value=line[:80], expected='{"prompt": "text"} or {"messages": [...]}')
