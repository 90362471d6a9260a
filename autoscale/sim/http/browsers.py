"""What a web page may ask of a fleet on its visitor's machine: nothing. Browsers are told apart by Host and Origin.

A page of somewhere else can post to a loopback port, and after DNS rebinding its own name leads there, so that even the
answers are its own to read. The first is known by its Origin, the second by a Host that is no name of this machine.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

READS = ("GET", "HEAD", "OPTIONS")  # no page of elsewhere can read their answers: there is no CORS header
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?")


def only_from_here(host: str, address: str) -> Middleware:
    """A middleware that answers 403 to pages of elsewhere; `host` is what was asked to listen on, `address` its IP address.

    On another address than a loopback one any Host is good: who opens the fleet to a network names it there.
    """
    local = ip_address(address).is_loopback

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = request.headers.get("Host")
        if local and named is not None and not _is_here(named, host):
            return _refused(
                f"the Host {named[:200]!r} is no name of this machine: ask for 127.0.0.1 or localhost, "
                "or let the fleet listen on an address of the network with --host"
            )
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in READS and _origin(origin) != named:
            return _refused(
                f"a page of {origin[:200]!r} may not post to this fleet: send the request without Origin"
            )
        return await handler(request)

    return check


def _is_here(named: str, host: str) -> bool:
    """Whether a Host header names this machine."""
    match = _HOST.fullmatch(named)
    name = match[1].strip("[]").lower() if match else ""
    if name in ("localhost", host.lower()):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _origin(origin: str) -> str:
    """The host and port of an Origin; "" for null and for what is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _refused(sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=403)
