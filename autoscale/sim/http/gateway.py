"""The gateway: HTTP requests in, engine requests out, tokens streamed back as the engine's steps end.

A stream's bytes are written straight to its connection when a step ends, all streams of a replica in one go: no task is
woken per token. When the loop comes late, several tokens travel in one event, as in vLLM.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from analysis.run import STATUSES
from autoscale.profiles.profile import Profile
from autoscale.sim.http import openai_answer
from autoscale.sim.http.errors import body_of, none_ready, plain_errors
from autoscale.sim.http.exposition import ReplicaMetrics
from autoscale.sim.http.flow_gate import FlowGate
from autoscale.sim.http.live_replicas import LiveReplicas
from autoscale.sim.http.openai_answer import Chunks
from autoscale.sim.http.openai_request import Ask, Refusal, parse_ask, tokenized

OK = STATUSES.index("ok")


@dataclass(eq=False)
class Completion:
    """One HTTP request in progress; it has one engine request per prompt and n."""

    ask: Ask
    done: asyncio.Future[bool]  # True: complete, False: cut
    answer_id: str
    created: int  # unix s
    transport: asyncio.Transport | None = None  # where a stream is written
    slot: int = -1
    left: int = 0  # engine requests that did not finish
    choices: dict[int, Choice] = field(default_factory=dict)  # engine request id -> choice


@dataclass(eq=False)
class Choice:
    """One engine request of a completion."""

    completion: Completion
    number: int  # seeds the text
    chunks: Chunks
    sent: int = 0
    last_s: float = 0.0


class Gateway:
    """Routes requests to replicas and answers them; `now` gives the engines' time."""

    def __init__(
        self,
        profile: Profile,
        replicas: LiveReplicas,
        now: Callable[[], float],
        *,
        wait: bool,
        gate: FlowGate | None = None,
    ) -> None:
        self.profile, self.replicas, self.now, self.wait, self.gate = profile, replicas, now, wait, gate
        self.wake = asyncio.Event()  # set when something new is to be done
        self.model = profile.model.id
        self.waiting: dict[Completion, Any] = {}  # with its connection, oldest first: nobody is ready
        self.choices: dict[int, dict[int, Choice]] = {}  # slot -> engine request -> choice
        self.metrics: dict[int, ReplicaMetrics] = {}
        self.first: dict[int, Callable[[float], None]] = {}
        self._numbers = 0

    def routes(self, app: web.Application) -> None:
        """Add vLLM's endpoints, and its answers to unknown paths and methods."""
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.post("/tokenize", self._tokenize),
                web.get("/v1/models", self._models),
                web.get("/version", self._version),
                web.get("/health", self._health),
                web.get("/ping", self._health),
            ]
        )
        app.middlewares.append(plain_errors)

    # --- replicas come and go ---------------------------------------------------------------------------------------

    def opened(self, slot: int, metrics: ReplicaMetrics, first: Callable[[float], None]) -> None:
        """The slot takes traffic now; `first` is told when its first request comes."""
        self.choices[slot] = {}
        self.metrics[slot] = metrics
        self.first[slot] = first
        self.wake.set()

    def send_waiting(self, now_s: float) -> None:
        """Send on what waited for a replica."""
        if self.gate:
            self.gate.turn()
        while self.waiting and self.replicas.opened:
            completion = next(iter(self.waiting))
            self._send(completion, self.waiting.pop(completion), now_s)

    def cut_all(self) -> None:
        """Reset every connection that has a request in flight."""
        for choices in self.choices.values():
            for choice in list(choices.values()):
                self._cut(choice.completion)
        for completion in self.waiting:
            self._cut(completion)

    # --- tokens -----------------------------------------------------------------------------------------------------

    def hand_out(self, slot: int, now_s: float) -> None:
        """Send what replica `slot` has produced since the last time, and end what is finished."""
        engine, choices, metrics = self.replicas.engines[slot], self.choices.get(slot), self.metrics.get(slot)
        if choices is None or metrics is None:
            engine.finished()
            return
        progress = engine.progress()
        for request, tokens in zip(
            progress["request_id"].tolist(), progress["tokens_out"].tolist(), strict=True
        ):
            choice = choices.get(request)
            if choice is not None and tokens > choice.sent:
                self._tokens(choice, tokens, now_s, metrics, final=False)
        for done in engine.finished():
            choice = choices.pop(int(done["request_id"]), None)
            metrics.finished(done)
            if choice is None:
                continue
            completion = choice.completion
            if done["status"] != OK:
                self._cut(completion)
                continue
            self._tokens(choice, completion.ask.output_tokens, now_s, metrics, final=True)
            completion.left -= 1
            if completion.left == 0 and not completion.done.done():
                completion.done.set_result(True)

    def _tokens(
        self, choice: Choice, tokens: int, now_s: float, metrics: ReplicaMetrics, *, final: bool
    ) -> None:
        new = tokens - choice.sent
        if choice.sent == 0:
            metrics.first_token(now_s - choice.last_s)
            new -= 1
        if new > 0:
            metrics.gap(now_s - choice.last_s, new)
        choice.last_s = now_s
        transport = choice.completion.transport
        if transport is not None and not transport.is_closing():
            data = choice.chunks.event(choice.number, choice.sent, tokens, final=final)
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        choice.sent = tokens

    def _cut(self, completion: Completion) -> None:
        """The replica went away with the request: its connection breaks."""
        if not completion.done.done():
            completion.done.set_result(False)
        if completion.transport is not None:
            completion.transport.abort()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _send(self, completion: Completion, connection: Any, now_s: float) -> None:
        slot = self.replicas.pick(connection)
        assert slot is not None
        completion.slot = slot
        self.first[slot](now_s)
        ask = completion.ask
        index = 0
        for prompt in ask.prompts:
            for _ in range(ask.n):
                request = self.replicas.submit(slot, prompt, ask.output_tokens, now_s)
                self._numbers += 1
                chunks = Chunks.of(ask, completion.answer_id, completion.created, index)
                choice = Choice(completion, self._numbers, chunks, last_s=now_s)
                completion.choices[request] = self.choices[slot][request] = choice
                index += 1
        completion.left = index
        self.wake.set()

    def _drop(self, completion: Completion) -> None:
        """The client went away: free everything at once."""
        self.waiting.pop(completion, None)
        choices = self.choices.get(completion.slot, {})
        mine = [request for request, choice in completion.choices.items() if choices.get(request) is choice]
        for request in mine:
            del choices[request]
        if mine:
            self.replicas.abort(completion.slot, mine, self.now())
            self.wake.set()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            ask = parse_ask(
                await body_of(request),
                request.headers.get("Content-Type", ""),
                chat=chat,
                model=self.model,
                max_model_len=self.profile.engine.max_model_len,
                block_size=self.replicas.params.block_size,
            )
            if self.gate:
                await self.gate.admission(self.wake)
            elif not self.replicas.opened and not self.wait:
                raise none_ready()
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        completion = Completion(
            ask,
            asyncio.get_running_loop().create_future(),
            f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}",
            int(time.time()),
        )
        try:
            if ask.stream:
                return await self._streamed(request, completion)
            return await self._whole(request, completion)
        finally:
            if self.gate:
                self.gate.ended()
                self.wake.set()
            if not completion.done.done() or completion.done.cancelled():
                self._drop(completion)

    async def _served(self, request: web.Request, completion: Completion) -> bool:
        """Whether the request was answered to its end, once it is over."""
        if self.replicas.opened:
            self._send(completion, request.transport, self.now())
        else:
            self.waiting[completion] = request.transport
        return await completion.done

    async def _streamed(self, request: web.Request, completion: Completion) -> web.StreamResponse:
        ask, answer_id, created = completion.ask, completion.answer_id, completion.created
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)  # the headers go out at once, while the request queues
        if ask.chat:
            await response.write(openai_answer.role_event(ask, answer_id, created))
        completion.transport = request.transport
        if not await self._served(request, completion):
            raise ConnectionResetError("the replica went away")
        if ask.include_usage:
            await response.write(openai_answer.usage_event(ask, answer_id, created))
        await response.write(openai_answer.DONE)
        await response.write_eof()
        return response

    async def _whole(self, request: web.Request, completion: Completion) -> web.Response:
        if not await self._served(request, completion):
            failed = Refusal(500, "EngineCore encountered an issue.", "InternalServerError")
            return web.json_response(failed.body, status=failed.status)
        numbers = [choice.number for choice in completion.choices.values()]
        return web.json_response(
            openai_answer.answer_body(completion.ask, completion.answer_id, completion.created, numbers)
        )

    async def _tokenize(self, request: web.Request) -> web.Response:
        try:
            tokens = tokenized(await body_of(request))
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        return web.json_response(
            {"count": len(tokens), "max_model_len": self.profile.engine.max_model_len, "tokens": tokens}
        )

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(openai_answer.models_body(self.model, self.profile.engine.max_model_len))

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.profile.engine.vllm_version})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.replicas.opened else 503)
