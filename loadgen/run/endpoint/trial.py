"""Test requests before the load: which path, fields and prompts the server takes.

The test request asks for one token and is counted nowhere. A server that refuses it is asked again without the fields
that not every server takes: all of them, then all but one, so that the culprit is found whatever the server says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from analysis.errors import BadInput, SourceUnavailable
from analysis.redact import redact
from loadgen.plan.own_prompts import OwnPrompts, by_jsonl
from loadgen.plan.prompts import PromptSource, by_ids
from loadgen.plan.words import EXACT, UNCOUNTED, Counted, text_of
from loadgen.run.endpoint.counting import FEW, MANY, Uncountable, by_usage
from loadgen.run.endpoint.manner import SUFFIXES, Manner, prompt_kind, request_template
from loadgen.run.options import LoadOptions
from loadgen.wire.client import Client
from loadgen.wire.fetch import ask_once
from loadgen.wire.refusals import UNAUTHORIZED, unauthorized
from loadgen.wire.stream import ParsedAnswer

REFUSED = (400, 413, 415, 422)  # the request as it is; other requests may pass
ABSENT = (404, 405, 501)
TEST_IDS = 16
SAID = 200  # characters of what a server said that a sentence repeats


@dataclass
class OneTokenTrial:
    """Asks a server for one token in the way of the load, and says how that went. Called from a greenlet."""

    client: Client
    options: LoadOptions
    endpoint: str
    model: str
    notes: list[str] = field(default_factory=list)
    requests: int = 0

    def manner(self, prefixes: tuple[str, ...], counted: Counted | None) -> Manner:
        """How the load is to ask; `prefixes` are those of the API, the likely one first, `counted` None: by usage.

        Raises BadInput naming the option without which the server refuses every request, SourceUnavailable when it has
        no such endpoint or wants a key.
        """
        how = prompt_kind(self.options, self.endpoint)
        manner = Manner(
            self.model,
            prefixes[0] + SUFFIXES[self.endpoint],
            counted=counted or (EXACT if how == "ids" else UNCOUNTED),
        )
        manner, answer = self._found(manner, prefixes[1:])
        if answer.http_status in REFUSED:
            manner, answer = self._healed(manner, answer)
        self._judge(answer)
        if how == "words" and counted is None:
            manner = replace(manner, counted=self._by_usage(manner))
        return manner

    def _found(self, manner: Manner, others: tuple[str, ...]) -> tuple[Manner, ParsedAnswer]:
        """The path that the server has, and its answer there."""
        answer = first = self.ask(manner)
        for prefix in others if first.http_status in ABSENT else ():
            there = replace(manner, path=prefix + SUFFIXES[self.endpoint])
            answer = self.ask(there)
            if answer.http_status not in ABSENT:
                return there, answer
        if first.http_status in ABSENT:
            other = "chat" if self.endpoint == "completions" else "completions"
            raise SourceUnavailable(
                f"POST {self.client.target}{manner.path} answered {first.http_status}{_said(first)}",
                next_step=f"correct --host or --model, or load the other endpoint with loadgen/{other}.py",
            )
        return manner, answer

    def ask(self, manner: Manner, without: frozenset[str] = frozenset(), words: int = FEW) -> ParsedAnswer:
        """One request for one token; `without` names the fields that are left out."""
        if "max_tokens" in without:
            manner = replace(manner, limit_field="max_completion_tokens")
        if "stream_options" in without:
            manner = replace(manner, usage=False)
        template = request_template(self.options, self.endpoint, manner)
        if "ignore_eos" in without:
            template = replace(template, ignore_eos=False)
        source: PromptSource | OwnPrompts
        how = prompt_kind(self.options, self.endpoint)
        if how == "ids" and "ids" not in without:
            source = by_ids(template)
        elif how in ("ids", "words"):
            source = OwnPrompts.of_text(template, text_of(UNCOUNTED.words[:words]))
        else:
            source = by_jsonl(template, how).first()
        body = source.body(0, TEST_IDS, 1)
        self.requests += 1
        answer = ask_once(self.client, self.client.target.request("POST", manner.path, body)).answer()
        return answer if answer.error is None else replace(answer, error=redact(answer.error))

    def _healed(self, manner: Manner, refused: ParsedAnswer) -> tuple[Manner, ParsedAnswer]:
        """Find out which field the server does not take. Raises BadInput when an option decides it."""
        told = _said(refused)
        fields = {
            "ids": prompt_kind(self.options, self.endpoint) == "ids",
            "ignore_eos": self.options.ignore_eos,
            "max_tokens": self.endpoint == "chat",
            "stream_options": self.options.stream,
        }
        optional = frozenset(name for name, used in fields.items() if used)
        answer = self.ask(manner, optional)
        if answer.http_status in REFUSED:
            return manner, refused  # for another reason
        culprits = {f for f in optional if self.ask(manner, optional - {f}).http_status in REFUSED}
        remedies = {
            "ids": ("token ids as prompt", "--prompts words"),
            "ignore_eos": ("ignore_eos with min_tokens", "--no-ignore-eos"),
        }
        named = [remedies[name] for name in remedies if name in culprits]
        if named:
            raise BadInput(
                f"the server does not take {' and '.join(what for what, _ in named)}: it answered {refused.http_status}{told}",
                next_step=f"add {' '.join(option for _, option in named)}",
            )
        if "max_tokens" in culprits:
            manner = replace(manner, limit_field="max_completion_tokens")
            self.notes.append("the server does not take max_tokens: max_completion_tokens is sent")
        if "stream_options" in culprits:
            manner = replace(manner, usage=False)
            self.notes.append(
                "the server does not take stream_options: no usage, tokens are counted by events"
            )
        return manner, self.ask(manner)

    def _judge(self, answer: ParsedAnswer) -> None:
        """Raises what makes a load pointless; notes what it will show anyway."""
        status = answer.http_status
        if status in UNAUTHORIZED:
            what, next_step = unauthorized(status, self.client.target.access.described())
            raise SourceUnavailable(f"{self.client.target}: {what}{_said(answer)}", next_step=next_step)
        if answer.status != "ok":
            how = f"answered {status}" if status not in (None, 200) else answer.status
            self.notes.append(f"a test request before the load failed, {how}{_said(answer)}")
        elif self.options.stream and not len(answer.token_times_s):
            self.notes.append("the server did not stream its answer: no TTFT, ITL and TPOT")

    def _by_usage(self, manner: Manner) -> Counted:
        """How many tokens a word is, by the usage of two answers."""
        try:
            few, many = (self.ask(manner, words=n).prompt_tokens for n in (FEW, MANY))
            counted = by_usage(few, many)
        except Uncountable as reason:
            self.notes.append(f"a word is taken for a token: {reason}")
            return UNCOUNTED
        self.notes.append(
            f"words stand for tokens: {counted.tokens_per_word:.3g} tokens per word and {counted.overhead_tokens} "
            "more in each prompt, by the usage of two answers"
        )
        return counted


def _said(answer: ParsedAnswer) -> str:
    return f" ({answer.error[:SAID]})" if answer.error else ""
