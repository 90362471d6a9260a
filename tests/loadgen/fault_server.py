"""A small OpenAI-like server that does what the first part of the path says: /FAULT/v1/completions. Runs in a thread.

An answer has three tokens, 5 ms apart. `mix-` before a fault: one odd answer in ten, the others are good; `mix-all`: one
in five, of every kind in turn. What follows an @ only tells load tests apart.
"""

import asyncio
import json
import re
import threading
from contextlib import suppress
from typing import Any

TOKEN = b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DEEP = "[" * 200_000


def usage(value: str) -> str:
    return f'{{"choices":[],"usage":{{"prompt_tokens":8,"completion_tokens":{value}}}}}'


# what is sent in the place of the second token
EVENTS = {
    "choices-null": '{"choices":[null]}',
    "choices-int": '{"choices":[1]}',
    "choices-str": '{"choices":"abc"}',
    "choices-num": '{"choices":7}',
    "choices-dict": '{"choices":{"a":1}}',
    "delta-str": '{"choices":[{"delta":"hi"}]}',
    "delta-list": '{"choices":[{"delta":["hi"]}]}',
    "usage-str": usage('"7"'),
    "usage-list": usage("[1]"),
    "usage-huge": usage("99999999999999999999999"),
    "usage-1e999": usage("1e999"),
    "usage-neg": usage("-7"),
    "usage-bool": usage("true"),
    "deep": DEEP,
    "deep-choices": f'{{"choices":{DEEP}',
    "error-surrogate": '{"error":{"message":"half a pair \\ud800 \\u001b[31m"}}',
}


class FaultServer:
    """`url` while the context lasts; `asked` counts the requests of each fault."""

    def __enter__(self) -> "FaultServer":
        self.asked: dict[str, int] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = re.search(rb"(?i)content-length: (\d+)", head)
                body = await reader.readexactly(int(size[1])) if size else b""
                _, fault, path = head.split(b" ", 2)[1].decode().split("/", 2)
                if not await self._answer(fault, path, body, writer):
                    break
        writer.close()

    async def _answer(self, fault: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if path == "v1/models":
            _json(writer, 200, {"data": [{"id": "m"}]})
        elif path == "version" and fault.startswith("count0"):
            _json(writer, 200, {"version": "0.11.0"})
        elif path == "tokenize":
            _json(writer, 200, {"count": 0})
        elif not path.startswith("v1/"):
            _json(writer, 404, {"detail": "Not Found"})
        else:
            self.asked[fault] = number = self.asked.get(fault, 0) + 1
            fault = fault.partition("@")[0]
            if fault == "mix-all":
                fault = list(EVENTS)[number // 5 % len(EVENTS)] if number % 5 == 0 else "good"
            elif fault.startswith("mix-"):
                fault = fault.removeprefix("mix-") if number % 10 == 0 else "good"
            return await self._complete(fault, json.loads(body), writer)
        return True

    async def _complete(self, fault: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault == "fin":
            return False
        if fault == "503":
            _json(writer, 503, {"error": {"message": "busy"}})
            return True
        if fault == "429":
            _json(writer, 429, {"error": {"message": "slower"}}, b"retry-after: 1\r\n")
            return True
        if not asked["stream"]:
            event = EVENTS.get(
                fault, '{"choices":[{"text":"aaa"}],"usage":{"prompt_tokens":8,"completion_tokens":3}}'
            )
            _send(writer, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(event), event.encode()))
            return True
        _send(writer, STREAM)
        odd = EVENTS.get(fault)
        second = TOKEN if odd is None else f"data: {odd}\n\n".encode()
        for event in (TOKEN, second, TOKEN, USAGE, DONE):
            await asyncio.sleep(0.005 if event is TOKEN else 0)
            _send(writer, b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        _send(writer, b"0\r\n\r\n")
        return True


def _json(writer: asyncio.StreamWriter, status: int, content: Any, header: bytes = b"") -> None:
    body = json.dumps(content).encode()
    _send(writer, b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), header, body))


def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    if writer.is_closing():
        raise ConnectionResetError
    writer.write(data)
