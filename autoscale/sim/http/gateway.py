"""The gateway: HTTP requests in, engine requests out, tokens streamed back as the engine's steps end.

A stream's bytes are written straight to its connection when a step ends, all streams of a replica in one go: no task is
woken per token. When the loop comes late, several tokens travel in one event, as in vLLM.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from analysis.run import STATUSES
from autoscale.profiles.profile import Profile
from autoscale.sim.http import openai_api as api
from autoscale.sim.http.exposition import ReplicaMetrics
from autoscale.sim.http.openai_api import Ask, Chunks, Refusal
from autoscale.sim.http.realtime import Rack

OK = STATUSES.index("ok")


@dataclass(eq=False)
class Answer:
    """One HTTP request in progress; it has one engine request per prompt and n."""

    ask: Ask
    done: asyncio.Future[bool]  # True: complete, False: cut
    answer_id: str
    created: int
    transport: asyncio.Transport | None = None  # where a stream is written
    slot: int = -1
    left: int = 0  # engine requests that did not finish
    choices: dict[int, Choice] = field(default_factory=dict)  # engine request id -> choice


@dataclass(eq=False)
class Choice:
    """One engine request of an answer."""

    answer: Answer
    number: int  # seeds the text
    chunks: Chunks
    sent: int = 0
    last_s: float = 0.0


class Gateway:
    """Routes requests to replicas of `rack` and answers them; `now` gives the engines' time."""

    def __init__(self, profile: Profile, rack: Rack, now: Callable[[], float], *, wait: bool) -> None:
        self.profile, self.rack, self.now, self.wait = profile, rack, now, wait
        self.wake = asyncio.Event()  # set when something new is to be done
        self.model = profile.model.id
        self.waiting: deque[tuple[Answer, Any]] = deque()  # nobody is ready
        self.live: dict[int, dict[int, Choice]] = {}  # slot -> engine request -> choice
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
        app.middlewares.append(_plain_errors)

    # --- replicas come and go ---------------------------------------------------------------------------------------

    def opened(self, slot: int, metrics: ReplicaMetrics, first: Callable[[float], None]) -> None:
        """The slot takes traffic now; `first` is told when its first request comes."""
        self.live[slot] = {}
        self.metrics[slot] = metrics
        self.first[slot] = first
        self.wake.set()

    def send_waiting(self, now_s: float) -> None:
        """Send on what waited for a replica."""
        while self.waiting and self.rack.opened:
            answer, connection = self.waiting.popleft()
            if not answer.done.done():
                self._send(answer, connection, now_s)

    def cut_all(self) -> None:
        """Reset every connection that has a request in flight."""
        for choices in self.live.values():
            for choice in list(choices.values()):
                self._cut(choice.answer)
        for answer, _ in self.waiting:
            self._cut(answer)

    # --- tokens -----------------------------------------------------------------------------------------------------

    def hand_out(self, slot: int, now_s: float) -> None:
        """Send what replica `slot` has produced since the last time, and end what is finished."""
        engine, choices, metrics = self.rack.engines[slot], self.live.get(slot), self.metrics.get(slot)
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
            answer = choice.answer
            if done["status"] != OK:
                self._cut(answer)
                continue
            self._tokens(choice, answer.ask.output_tokens, now_s, metrics, final=True)
            answer.left -= 1
            if answer.left == 0 and not answer.done.done():
                answer.done.set_result(True)

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
        transport = choice.answer.transport
        if transport is not None and not transport.is_closing():
            data = choice.chunks.event(choice.number, choice.sent, tokens, final=final)
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        choice.sent = tokens

    def _cut(self, answer: Answer) -> None:
        """The replica went away with the request: its connection breaks."""
        if not answer.done.done():
            answer.done.set_result(False)
        if answer.transport is not None:
            answer.transport.abort()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _send(self, answer: Answer, connection: Any, now_s: float) -> None:
        slot = self.rack.pick(connection)
        assert slot is not None
        answer.slot = slot
        self.first[slot](now_s)
        ask = answer.ask
        index = 0
        for prompt in ask.prompts:
            for _ in range(ask.n):
                request = self.rack.submit(slot, prompt, ask.output_tokens, now_s)
                self._numbers += 1
                chunks = Chunks.of(ask, answer.answer_id, answer.created, index)
                choice = Choice(answer, self._numbers, chunks, last_s=now_s)
                answer.choices[request] = self.live[slot][request] = choice
                index += 1
        answer.left = index
        self.wake.set()

    def _drop(self, answer: Answer) -> None:
        """The client went away: free everything at once."""
        choices = self.live.get(answer.slot)
        for request, choice in answer.choices.items():
            if choices is not None and choices.get(request) is choice:
                del choices[request]
                engine = self.rack.engines[answer.slot]
                engine.advance(max(self.now(), engine.now_s))
                engine.abort(request)
                self.rack.next_s[answer.slot] = engine.next_event_s()

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        raw = await request.read()
        try:
            ask = api.parse(
                raw,
                request.headers.get("Content-Type", ""),
                chat=chat,
                model=self.model,
                max_model_len=self.profile.engine.max_model_len,
                block_size=self.rack.params.block_size,
            )
            if not self.rack.opened and not self.wait:
                raise Refusal(503, "No replica is ready.", "Service Unavailable")
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        answer = Answer(
            ask,
            asyncio.get_running_loop().create_future(),
            f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}",
            int(time.time()),
        )
        response: web.StreamResponse | None = None
        try:
            if ask.stream:
                response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
                response.enable_chunked_encoding()
                await response.prepare(request)  # the headers go out at once, while the request queues
                if chat:
                    await response.write(api.role_event(ask, answer.answer_id, answer.created))
                answer.transport = request.transport
            connection = request.transport
            if self.rack.opened:
                self._send(answer, connection, self.now())
            else:
                self.waiting.append((answer, connection))
            complete = await answer.done
        finally:
            if not answer.done.done() or answer.done.cancelled():
                self._drop(answer)
        if response is None:
            if not complete:
                return web.json_response(
                    {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": 500}},
                    status=500,
                )  # fmt: skip
            return web.json_response(
                api.answer(ask, answer.answer_id, answer.created, [c.number for c in answer.choices.values()])
            )
        if not complete:
            raise ConnectionResetError("the replica went away")
        if ask.include_usage:
            total = ask.output_tokens * len(answer.choices)
            await response.write(
                api.usage_event(
                    ask, answer.answer_id, answer.created, sum(p.tokens for p in ask.prompts), total
                )
            )
        await response.write(api.DONE)
        await response.write_eof()
        return response

    async def _tokenize(self, request: web.Request) -> web.Response:
        try:
            tokens = api.tokenized(await request.read())
        except Refusal as refusal:
            return web.json_response(refusal.body, status=refusal.status)
        return web.json_response(
            {"count": len(tokens), "max_model_len": self.profile.engine.max_model_len, "tokens": tokens}
        )

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "object": "list",
                "data": [
                    {
                        "id": self.model,
                        "object": "model",
                        "created": int(time.time()),
                        "owned_by": "vllm",
                        "root": self.model,
                        "parent": None,
                        "max_model_len": self.profile.engine.max_model_len,
                    }
                ],
            }
        )

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.profile.engine.vllm_version})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.rack.opened else 503)


@web.middleware
async def _plain_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Unknown paths and methods answer as vLLM's framework does; a connection that breaks off ends without an answer.

    It breaks off when the client goes away, or when the replica does: neither is an error of this server.
    """
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        if error.status in (404, 405):
            return web.json_response({"detail": error.reason}, status=error.status)
        raise
    except ConnectionResetError:
        if request.transport is not None:
            request.transport.close()
        return web.Response()  # which nobody reads
    return response
