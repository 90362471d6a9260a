"""How a server is asked: model, path and fields of the requests, and what their prompts are made of. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loadgen.plan.own_prompts import OwnPrompts, by_jsonl
from loadgen.plan.prompts import PromptSource, by_ids, by_words
from loadgen.plan.request_template import RequestTemplate
from loadgen.plan.traffic import LoadPlan
from loadgen.plan.words import UNCOUNTED, Counted
from loadgen.run.options import LoadOptions

SUFFIXES = {"completions": "/completions", "chat": "/chat/completions"}


@dataclass(frozen=True)
class Manner:
    """How a server is asked; travels to workers as plain values."""

    model: str
    path: str  # of the requests, after the base path
    limit_field: str = "max_tokens"
    usage: bool = True  # whether a stream is asked for its usage
    counted: Counted = UNCOUNTED

    def message(self) -> dict[str, object]:
        """Plain values for a worker."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Manner:
        """What `message` said."""
        counted = {**message["counted"], "words": tuple(message["counted"]["words"])}
        return cls(**{**message, "counted": Counted(**counted)})


def prompt_kind(options: LoadOptions, endpoint: str) -> str:
    """What prompts are made of: ids, words, or the path of the user's own."""
    return options.prompts or ("ids" if endpoint == "completions" else "words")


def bodies(
    options: LoadOptions, plan: LoadPlan, endpoint: str, manner: Manner, salt: int
) -> PromptSource | OwnPrompts:
    """The source of request bodies; `salt` keeps runs out of each other's prefix cache."""
    template = request_template(options, endpoint, manner)
    how = prompt_kind(options, endpoint)
    shape: dict[str, Any] = plan.prompt_options()
    if how == "ids":
        return by_ids(template, plan.seed, salt, **shape)
    if how == "words":
        return by_words(template, plan.seed, salt, manner.counted, **shape)
    return by_jsonl(template, how)


def request_template(options: LoadOptions, endpoint: str, manner: Manner) -> RequestTemplate:
    return RequestTemplate(
        manner.model,
        endpoint,
        options.stream,
        options.ignore_eos,
        limit_field=manner.limit_field,
        usage=manner.usage,
    )
