"""The server before the load: whether it lets us in, its model, its facts, and how it is asked."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.errors import LONGEST_NAME, SourceUnavailable, printable
from analysis.sound import MOST, told_count
from loadgen.plan.words import Counted
from loadgen.run.endpoint import served_models
from loadgen.run.endpoint.counting import Uncountable, by_tokenize
from loadgen.run.endpoint.manner import SUFFIXES, Manner, prompt_kind
from loadgen.run.endpoint.served_models import ServedModel
from loadgen.run.endpoint.trial import OneTokenTrial
from loadgen.run.options import LoadOptions
from loadgen.wire.client import Client, Limits
from loadgen.wire.fetch import Reply, fetch
from loadgen.wire.refusals import UNAUTHORIZED, redirected, unauthorized
from loadgen.wire.target import HttpTarget

ENDPOINTS = {endpoint: f"/v1{suffix}" for endpoint, suffix in SUFFIXES.items()}
PROBE_S = 10.0  # for an answer about the server
TEST_S = 30.0  # for an answer of one token; longer is a matter of the load


@dataclass(frozen=True)
class ServerFacts:
    """What was found out about the server before the load."""

    target: HttpTarget
    manner: Manner
    # vllm_version, block_size, num_blocks, kv_tokens, max_model_len where the server says so
    engine: Mapping[str, str | int]
    metrics_model: str | None  # whose name its metrics carry
    max_model_len: int | None  # tokens of prompt and answer
    test_requests: int  # that were sent before the load and are counted nowhere
    notes: tuple[str, ...]  # what a reader of the results has to know


def inspect_server(options: LoadOptions, target: HttpTarget, endpoint: str) -> ServerFacts:
    """Connect, find the model, the engine's facts and how the server is asked (in a greenlet).

    Raises BadInput for a model or an option that cannot be, SourceUnavailable when nothing answers, a key is wanted, or
    the answer is not that of an OpenAI-compatible server.
    """
    client = Client(target, Limits(max_connections=4, timeout_s=PROBE_S))
    try:
        client.warm(1)
        look = _Look(client)
        prefixes, models = look.models(options.model)
        model, note = served_models.choose_model(models, options.model)
        look.note(note)
        engine, on_page = look.facts()
        metrics_model, note = served_models.metrics_name(model, models, on_page)
        look.note(note)
        words = prompt_kind(options, endpoint) == "words"
        counted = look.counted(endpoint, model.id) if words else None
    finally:
        client.close()
    seconds = min(TEST_S, options.timeout or TEST_S)
    client = Client(target, Limits(max_connections=4, timeout_s=seconds, idle_timeout_s=seconds))
    try:
        trial = OneTokenTrial(client, options, endpoint, model.id, look.notes)
        manner = trial.manner(prefixes, counted)
    finally:
        client.close()
    longest = served_models.longest(model, models)
    engine |= {} if longest is None else {"max_model_len": longest}
    return ServerFacts(target, manner, engine, metrics_model, longest, trial.requests, tuple(look.notes))


class _Look:
    """Looks at a server and collects what has to be said about it."""

    def __init__(self, client: Client) -> None:
        self.client, self.target = client, client.target
        self.notes: list[str] = []
        self.note(_unused_proxy(client.target))

    def note(self, sentence: str | None) -> None:
        """Say so, once."""
        if sentence is not None and sentence not in self.notes:
            self.notes.append(sentence)

    def models(self, asked: str | None) -> tuple[tuple[str, ...], list[ServedModel]]:
        """(prefixes of the API's paths, the likely one first; the models listed). Raises SourceUnavailable."""
        prefixes = ("/v1", "") if self.target.path else ("/v1",)
        reply = fetch(self.client, "GET", "/v1/models")
        models, why = self._listed(reply)
        if models is None and len(prefixes) > 1:  # a base address that does not end with /v1
            there, _ = self._listed(fetch(self.client, "GET", "/models"))
            if there is not None:
                self.note(f"the server's API lies at {self.target} itself, without /v1")
                return ("", "/v1"), there
        if not models and asked is None:
            raise served_models.no_model(self.target, "/v1/models", reply.status, models is not None, why)
        return prefixes, models or []

    def _listed(self, reply: Reply) -> tuple[list[ServedModel] | None, str]:
        if reply.status in UNAUTHORIZED:
            what, next_step = unauthorized(reply.status, self.target.access.described())
            raise SourceUnavailable(f"{self.target}: {what}", next_step=next_step)
        if (location := reply.header("location")) and 300 <= reply.status < 400:
            what, next_step = redirected(reply.status, location)
            raise SourceUnavailable(f"{self.target} {what}", next_step=next_step)
        return served_models.listed_models(reply.body) if reply.status == 200 else (None, "")

    def either(self, method: str, path: str, body: bytes, take: Callable[[bytes], Any]) -> Any:
        """What `take` makes of the answer below the base path or, where that is none, at the root; None: of neither."""
        for target in (self.target, self.target.at_root()) if self.target.path else (self.target,):
            try:
                reply = fetch(self.client, method, path, body, target=target)
            except SourceUnavailable:
                continue
            if reply.status == 200 and (found := take(reply.body)) is not None:
                if target != self.target:
                    self.note(f"{path} lies at {target}, not below the base path")
                return found
        return None

    def facts(self) -> tuple[dict[str, str | int], list[str]]:
        """(what /version and /metrics say, the models named in /metrics); what the server does not offer is absent."""
        version = self.either("GET", "/version", b"", _version)
        page = self.either("GET", "/metrics", b"", _page)
        names = dict.fromkeys(re.findall(r'^vllm:[^\n]*\bmodel_name="([^"\n]*)"', page or "", re.MULTILINE))
        return {**(version or {}), **_cache_config(page or "")}, list(names)

    def counted(self, endpoint: str, model: str) -> Counted | None:
        """Tokens of words by the server's /tokenize; None where it has none, or one that does not count."""

        def count(text: str) -> int:
            message = {"messages": [{"role": "user", "content": text}]}
            asked = message if endpoint == "chat" else {"prompt": text}
            body = json.dumps({"model": model, **asked}).encode()
            number = self.either("POST", "/tokenize", body, _count)
            if number is None:
                raise Uncountable("")
            if not isinstance(number, int) or isinstance(number, bool) or number > MOST:
                raise Uncountable(f"it counts {str(number)[:40]!r}")
            return number

        try:
            return by_tokenize(count)
        except Uncountable as reason:
            self.note(f"the server's /tokenize does not count ({reason})" if str(reason) else None)
            return None


def _version(body: bytes) -> dict[str, str | int] | None:
    content = served_models.json_of_body(body)
    version = content.get("version") if isinstance(content, dict) else None
    return {"vllm_version": printable(version, LONGEST_NAME)} if isinstance(version, str) else None


def _page(body: bytes) -> str | None:
    text = body.decode("utf-8", "replace")
    return text if re.search(r"^(# (HELP|TYPE) |\w[\w:]*(\{|\s+[\d.+-]))", text, re.MULTILINE) else None


def _count(body: bytes) -> Any:
    content = served_models.json_of_body(body)
    return content.get("count") if isinstance(content, dict) else None


def _cache_config(page: str) -> dict[str, str | int]:
    line = re.search(r"^vllm:cache_config_info\{(.*)\}", page, re.MULTILINE)
    labels = dict(re.findall(r'\b(\w+)="([^"]*)"', line[1])) if line else {}
    names = {"block_size": "block_size", "num_gpu_blocks": "num_blocks", "kv_cache_size_tokens": "kv_tokens"}
    told = {ours: told_count(labels.get(theirs, "")) for theirs, ours in names.items()}
    return {name: count for name, count in told.items() if count is not None}


def _unused_proxy(target: HttpTarget) -> str | None:
    proxies = urllib.request.getproxies_environment()
    if target.scheme not in proxies or urllib.request.proxy_bypass(target.host):
        return None
    return f"{target.scheme}_proxy is set and not used: the load goes straight to {target}"
