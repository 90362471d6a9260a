"""How errors that no handler answers reach the client."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from autoscale.sim.http.openai_request import Refusal

BODY_S = 60.0  # the largest one at 1.1 Mbit/s


def none_ready() -> Refusal:
    """What is said while no replica takes traffic."""
    return Refusal(503, "No replica is ready.", "Service Unavailable")


async def body_of(request: web.Request) -> bytes:
    """The body of a request. Raises Refusal where it is not whole within BODY_S."""
    try:
        async with asyncio.timeout(BODY_S):
            return await request.read()
    except TimeoutError:
        raise Refusal(408, f"The body was not whole within {BODY_S:g} s.", "Request Timeout") from None


@web.middleware
async def plain_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """Unknown paths and methods answer as vLLM's framework does; a connection that breaks off ends without an answer.

    It breaks off when the client goes away, or when the replica does: neither is an error of this server.
    """
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        if error.status in (404, 405):
            return web.json_response({"detail": error.reason}, status=error.status)
        if error.status == 413:
            refusal = Refusal(413, f"{str(error.text).rstrip('.')}.", "Request Entity Too Large")
            return web.json_response(refusal.body, status=413)
        raise
    except RequestPayloadError:
        refusal = Refusal(
            400, "The body is not of the encoding that Content-Encoding or Transfer-Encoding says."
        )
        return web.json_response(refusal.body, status=400)
    except ConnectionResetError:
        if request.transport is not None:
            request.transport.close()
        return web.Response()  # which nobody reads
    return response
