"""A server of known truth: sends tokens on an exact schedule and logs when it really did.

    python benchmarks/truth_server.py --port 8901 --ttft 0.05 --gap 0.005 --log truth.jsonl [--core 1] [--tls cert key]

Every request gets its first token `ttft` seconds after its last byte was read and one each `gap` seconds, as many as
max_tokens asks (non-streamed requests: the whole answer after `ttft`). `--stall-every 10 --stall 1` sends nothing during
the first `stall` seconds of each period; `--seats N` serves so many at once, others queue. One thread, one epoll loop,
chunks made before they are due; it polls without sleeping while streams are open, so give it a core of its own.
The log has a line per request: id (X-Request-Id), received_s, first_s, last_s, tokens, planned first and last; times are
CLOCK_MONOTONIC seconds, which all processes of a machine share. GET /v1/models and /health answer; SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import re
import select
import signal
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass, field

now_s = time.perf_counter
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
DONE = b"data: [DONE]\n\n"
MAX_TOKENS = re.compile(rb'"max_(?:completion_)?tokens":\s*(\d+)')
REQUEST_ID = re.compile(rb"x-request-id:\s*([^\r]*)", re.IGNORECASE)
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class Peer:
    socket: socket.socket
    inbox: bytes = b""
    outbox: bytes = b""
    tls: ssl.SSLObject | None = None
    incoming: ssl.MemoryBIO | None = None
    outgoing: ssl.MemoryBIO | None = None
    greeted: bool = True
    gone: bool = False


@dataclass(slots=True, eq=False)
class Job:
    peer: Peer
    request_id: str
    received_s: float
    tokens: int
    streamed: bool
    chat: bool
    next_s: float = 0.0
    sent: int = 0
    times: list[float] = field(default_factory=list)
    first_due_s: float = 0.0
    prompt_tokens: int = 0


class TruthServer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.listener = socket.create_server((options.host, options.port), backlog=2048)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.peers: dict[int, Peer] = {}
        self.due: list[tuple[float, int, Job]] = []
        self.order = 0
        self.seated = 0
        self.queue: deque[Job] = deque()
        self.log = open(options.log, "w", buffering=1, encoding="utf-8") if options.log else None  # noqa: SIM115 -- closed in serve
        self.running = True
        self.context = None
        if options.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*options.tls)
        identity = '"id":"cmpl-b9521c966a56da53","created":1795194751,"model":"truth"'
        self.text = _chunk(
            b'data: {%s,"object":"text_completion","choices":[{"index":0,"text":" word","logprobs":null,'
            b'"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
            % identity.encode()
        )
        self.delta = _chunk(
            b'data: {%s,"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"},'
            b'"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n' % identity.encode()
        )
        self.role = _chunk(
            b'data: {%s,"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant",'
            b'"content":""},"logprobs":null,"finish_reason":null}]}\n\n' % identity.encode()
        )

    def serve(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        due = self.due
        while self.running:
            wait_s = 0.2
            if due:
                wait_s = due[0][0] - now_s() - 0.0015  # epoll sleeps whole milliseconds: poll the last one
                wait_s = 0 if wait_s < 0.001 else wait_s
            for fd, event in self.epoll.poll(wait_s):
                if fd == self.listener.fileno():
                    self._accept()
                else:
                    self._event(self.peers[fd], event)
            while due and due[0][0] <= now_s():
                self._token(due[0][2])
        if self.log:
            self.log.close()

    def _stop(self, *_: object) -> None:
        self.running = False

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(connection)
            if self.context:
                peer.incoming, peer.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                peer.tls = self.context.wrap_bio(peer.incoming, peer.outgoing, server_side=True)
                peer.greeted = False
            self.peers[connection.fileno()] = peer
            self.epoll.register(connection.fileno(), select.EPOLLIN)

    def _event(self, peer: Peer, event: int) -> None:
        if event & select.EPOLLOUT:
            data, peer.outbox = peer.outbox, b""
            self.epoll.modify(peer.socket.fileno(), select.EPOLLIN)
            self._transmit(peer, data)
        if not event & ~select.EPOLLOUT:
            return
        try:
            data = peer.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        if peer.tls is not None:
            data = self._decrypt(peer, data)
        peer.inbox += data
        while (end := peer.inbox.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(peer.inbox, 0, end)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(peer.inbox) < total:
                return
            request, peer.inbox = peer.inbox[:total], peer.inbox[total:]
            self._request(peer, request[: end + 4], request[end + 4 :])

    def _decrypt(self, peer: Peer, data: bytes) -> bytes:
        assert peer.tls is not None
        assert peer.incoming is not None
        assert peer.outgoing is not None
        peer.incoming.write(data)
        plain = b""
        try:
            if not peer.greeted:
                peer.tls.do_handshake()
                peer.greeted = True
            while True:
                plain += peer.tls.read(1 << 18)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self._drop(peer)
        if pending := peer.outgoing.read():
            self._transmit(peer, pending)
        return plain

    def _request(self, peer: Peer, head: bytes, body: bytes) -> None:
        received_s = now_s()
        if head.startswith(b"GET"):
            models = {"object": "list", "data": [{"id": "truth", "object": "model"}]}
            content = json.dumps(models if b"/v1/models" in head.split(b"\r\n")[0] else {}).encode()
            status = b"200 OK" if b"/v1/models" in head or b"/health" in head else b"404 Not Found"
            self._send(peer, b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(content)) + content)
            return
        asked = MAX_TOKENS.search(body)
        identity = REQUEST_ID.search(head)
        job = Job(
            peer,
            identity[1].decode() if identity else "",
            received_s,
            int(asked[1]) if asked else 16,
            b'"stream":true' in body or b'"stream": true' in body,
            b"/chat/" in head.split(b"\r\n")[0],
            prompt_tokens=body.partition(b'"prompt":[')[2].partition(b"]")[0].count(b",") + 1,
        )
        if job.streamed:
            self._send(peer, STREAM_HEAD + (self.role if job.chat else b""))
        if self.options.seats and self.seated >= self.options.seats:
            self.queue.append(job)
        else:
            self._seat(job, received_s)

    def _seat(self, job: Job, at_s: float) -> None:
        self.seated += 1
        job.first_due_s = self._allowed(at_s + self.options.ttft)
        self._schedule(job, job.first_due_s)

    def _allowed(self, at_s: float) -> float:
        """The instant itself, or the end of the stall that it falls into."""
        if self.options.stall_every:
            phase = at_s % self.options.stall_every
            if phase < self.options.stall:
                return at_s - phase + self.options.stall
        return at_s

    def _schedule(self, job: Job, at_s: float) -> None:
        job.next_s = at_s
        self.order += 1
        entry = (at_s, self.order, job)
        if self.due and self.due[0][2] is job:
            heapq.heapreplace(self.due, entry)
        else:
            heapq.heappush(self.due, entry)

    def _token(self, job: Job) -> None:
        peer = job.peer
        if peer.gone:
            heapq.heappop(self.due)
            self._unseat()
            return
        if not job.streamed:
            heapq.heappop(self.due)
            self._whole(job)
            return
        job.sent += 1
        last = job.sent >= job.tokens
        data = self.delta if job.chat else self.text
        if last:
            data = data.replace(b'"finish_reason":null', b'"finish_reason":""  ') + self._usage(job)
            data += _chunk(DONE) + b"0\r\n\r\n"
        job.times.append(now_s())
        self._send(peer, data)
        if last:
            heapq.heappop(self.due)
            self._write(job)
            self._unseat()
        else:
            # from the plan, not from the last one sent: lateness does not accumulate
            self._schedule(job, self._allowed(job.first_due_s + job.sent * self.options.gap))

    def _usage(self, job: Job) -> bytes:
        usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
            job.prompt_tokens,
            job.prompt_tokens + job.tokens,
            job.tokens,
        )
        return _chunk(b'data: {"id":"x","object":"text_completion","choices":[],%s}\n\n' % usage)

    def _whole(self, job: Job) -> None:
        message = b'"message":{"role":"assistant","content":"word"}' if job.chat else b'"text":"word"'
        content = (
            b'{"id":"x","choices":[{"index":0,%s,"finish_reason":"length"}],'
            b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}'
            % (message, job.prompt_tokens, job.prompt_tokens + job.tokens, job.tokens)
        )
        job.times.append(now_s())
        self._send(
            job.peer,
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
            + content,
        )
        self._write(job)
        self._unseat()

    def _unseat(self) -> None:
        self.seated -= 1
        if self.queue:
            self._seat(self.queue.popleft(), now_s())

    def _write(self, job: Job) -> None:
        if self.log:
            line = {
                "id": job.request_id,
                "received_s": job.received_s,
                "first_s": job.times[0],
                "last_s": job.times[-1],
                "tokens": job.tokens,
                "planned_first_s": job.first_due_s,
                "late_max_s": max(
                    (t - job.first_due_s - i * self.options.gap for i, t in enumerate(job.times)), default=0.0
                ),
            }
            if self.options.gaps:
                line["gaps_s"] = [round(b - a, 7) for a, b in zip(job.times, job.times[1:], strict=False)]
            self.log.write(json.dumps(line) + "\n")

    def _send(self, peer: Peer, data: bytes) -> None:
        if peer.tls is not None:
            assert peer.outgoing is not None
            try:
                peer.tls.write(data)
            except ssl.SSLError:
                self._drop(peer)
                return
            data = peer.outgoing.read()
        self._transmit(peer, data)

    def _transmit(self, peer: Peer, data: bytes) -> None:
        if peer.gone:
            return
        if peer.outbox:
            peer.outbox += data
            return
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if sent < len(data):
            peer.outbox = data[sent:]
            self.epoll.modify(peer.socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _drop(self, peer: Peer) -> None:
        if not peer.gone:
            peer.gone = True
            fd = peer.socket.fileno()
            self.epoll.unregister(fd)
            del self.peers[fd]
            peer.socket.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ttft", type=float, default=0.05)
    parser.add_argument("--gap", type=float, default=0.005)
    parser.add_argument("--seats", type=int, default=0)
    parser.add_argument("--stall", type=float, default=0.0)
    parser.add_argument("--stall-every", type=float, default=0.0)
    parser.add_argument("--log")
    parser.add_argument("--gaps", action="store_true", help="log every gap")
    parser.add_argument("--core", type=int)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    TruthServer(options).serve()


if __name__ == "__main__":
    main()
