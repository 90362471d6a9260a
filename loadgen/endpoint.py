"""The server before the load: reached with the access that was given, its model, its facts, and how to ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.errors import BadInput, SourceUnavailable
from loadgen.client import Client, Limits, fetch
from loadgen.options import Options
from loadgen.prompts import OwnPrompts, PromptSource, Template, by_ids, by_jsonl, by_words
from loadgen.refusals import UNAUTHORIZED, unauthorized
from loadgen.target import Target
from loadgen.traffic import LoadPlan

ENDPOINTS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True)
class Server:
    """What was found out about the server before the load."""

    target: Target
    model: str
    engine: Mapping[str, Any]  # vllm_version, block_size, num_blocks, kv_tokens where the server says so


def probe(options: Options, target: Target) -> Server:
    """Connect, find the model and the engine's facts (in a greenlet).

    Raises BadInput for an URL or model that cannot be, SourceUnavailable when nothing answers or the answer is not that
    of an OpenAI-compatible server.
    """
    client = Client(target, Limits(max_connections=4, timeout_s=10.0))
    try:
        client.warm(1)
        status, body = fetch(client, "GET", "/v1/models")
        if status in UNAUTHORIZED:
            what, next_step = unauthorized(status, target.access.described())
            raise SourceUnavailable(f"{client.target}: {what}", next_step=next_step)
        ids = _model_ids(body) if status == 200 else None
        if options.model is None and ids is None:
            raise SourceUnavailable(
                f"{client.target} is not an OpenAI-compatible server: GET /v1/models answered {status}"
                + ("" if status != 200 else " without a model list"),
                next_step="correct --host, or name the model with --model if the server lists none",
            )
        if ids and options.model is None and len(ids) > 1:
            raise BadInput(
                "the server has several models", value=", ".join(ids), next_step="choose one with --model"
            )
        if ids and options.model is not None and options.model not in ids:
            raise BadInput("unknown --model", value=options.model, expected=f"one of {', '.join(ids)}")
        model = options.model if options.model is not None else (ids or [""])[0]
        return Server(target, model, _engine_facts(client))
    finally:
        client.close()


def bodies(
    options: Options, plan: LoadPlan, endpoint: str, model: str, salt: int, tokenizer: Client | None = None
) -> PromptSource | OwnPrompts:
    """The source of request bodies that the options ask for; `salt` keeps runs out of each other's prefix cache.

    With `tokenizer`, a client of a server that has /tokenize, words are counted as that server counts them (in a
    greenlet); without it a word is taken for a token.
    """
    template = Template(model, endpoint, options.stream, options.ignore_eos)
    how = options.prompts or ("ids" if endpoint == "completions" else "words")
    shape: dict[str, Any] = {"turns": plan.turns, "conversations": plan.conversations}
    if (block_tokens := getattr(plan.trace, "block_tokens", None)) is not None:
        shape["block_tokens"] = block_tokens
    if how == "ids":
        return by_ids(template, plan.seed, salt, **shape)
    if how == "words":
        count = None if tokenizer is None else _counter(tokenizer, endpoint, model)
        return by_words(template, plan.seed, salt, count, **shape)
    return by_jsonl(template, how)


def _counter(client: Client, endpoint: str, model: str) -> Callable[[str], int]:
    """Tokens of a prompt by the server's /tokenize, template included."""

    def count(text: str) -> int:
        prompt = {"messages": [{"role": "user", "content": text}]} if endpoint == "chat" else {"prompt": text}
        status, body = fetch(client, "POST", "/tokenize", json.dumps({"model": model, **prompt}).encode())
        try:
            return int(json.loads(body)["count"])
        except (ValueError, KeyError, TypeError):
            raise SourceUnavailable(f"{client.target}/tokenize answered {status} without a count") from None

    return count


def _model_ids(body: bytes) -> list[str] | None:
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _engine_facts(client: Client) -> dict[str, Any]:
    """What /version and /metrics say; keys that the server does not offer are absent."""
    facts: dict[str, Any] = {}
    for path, take in (("/version", _version), ("/metrics", _cache_config)):
        try:
            status, body = fetch(client, "GET", path)
        except SourceUnavailable:
            continue
        if status == 200:
            facts.update(take(body))
    return facts


def _version(body: bytes) -> dict[str, Any]:
    try:
        return {"vllm_version": str(json.loads(body)["version"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _cache_config(body: bytes) -> dict[str, Any]:
    line = re.search(rb"^vllm:cache_config_info\{(.*)\}", body, re.MULTILINE)
    if line is None:
        return {}
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line[1].decode("utf-8", "replace")))
    names = {"block_size": "block_size", "num_gpu_blocks": "num_blocks", "kv_cache_size_tokens": "kv_tokens"}
    return {ours: int(labels[theirs]) for theirs, ours in names.items() if labels.get(theirs, "").isdigit()}
