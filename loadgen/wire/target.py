"""Where requests go: the address in `--host`, the bytes of a request to it, and the TLS rules. Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from analysis.access import Access
from analysis.errors import BadInput
from analysis.redact import remember

NOBODY = Access()
EXPECTED = "http://HOST:PORT or https://HOST, with a path and a query if the server wants them"


@dataclass(frozen=True)
class HttpTarget:
    """Where requests go, from `--host`, and what goes with each of them. Neither query nor access are ever shown."""

    scheme: str
    host: str
    port: int
    path: str  # before the endpoint's own path, without trailing slash and /v1
    query: str = field(default="", repr=False)
    access: Access = field(default=NOBODY, repr=False)

    @classmethod
    def from_url(cls, url: str, access: Access = NOBODY) -> HttpTarget:
        """The target of `url`, user info sent as basic authorization, the query with every request.

        Raises BadInput when `url` is not http(s)://[user:password@]host[:port][/path][?query].
        """
        plain, access = access.of_url(url if "://" in url else f"http://{url}")
        parts, host, port = _split(plain)
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        query = quote(parts.query, safe="%:@!$&'()*+,;=~/?")
        return cls(parts.scheme, host, port, path.removesuffix("/v1"), query, access)

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def message(self) -> dict[str, object]:
        """Plain values for a worker."""
        places = {name: getattr(self, name) for name in ("scheme", "host", "port", "path", "query")}
        return {**places, "access": self.access.message()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> HttpTarget:
        """What `message` said."""
        return cls(**{**message, "access": Access.from_message(message["access"])})

    def at_root(self) -> HttpTarget:
        """The same server without the base path."""
        return replace(self, path="")

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
        """The bytes of a request; `headers` are further lines, each with its line end."""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        query = f"?{self.query}" if self.query else ""
        head = f"{method} {self.path}{path}{query} HTTP/1.1\r\n{self._fixed}"
        return (head + kind + headers + "\r\n").encode("latin-1") + body

    @cached_property
    def _fixed(self) -> str:
        """The header lines of every request; a header that the user names replaces ours."""
        headers = self.access.headers
        named = {name.lower() for name in headers}
        usual = {"Host": self.authority, "User-Agent": "llm-autoscale", "Accept": "*/*"}
        sent = {**{name: value for name, value in usual.items() if name.lower() not in named}, **headers}
        return "".join(f"{name}: {value}\r\n" for name, value in sent.items())


def _split(url: str) -> tuple[SplitResult, str, int]:
    """The parts of an address, its host as the network spells it, and its port. Raises BadInput."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:%-]+", host) or port == 0:
        user, _, rest = url.rpartition("@")
        remember(
            user.partition("://")[2], user.rpartition(":")[2]
        )  # a password with / or # splits the address
        raise BadInput(
            "--host is not a URL",
            value=rest,
            expected=EXPECTED + ("; a user's password percent-encoded" if user else ""),
        )
    if parts.fragment:
        raise BadInput("--host has a part after #, which is never sent", expected=EXPECTED)
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def tls_context(access: Access = NOBODY) -> ssl.SSLContext:
    """Client side TLS: trusts the access's certificates, else the system's, or any. Raises BadInput."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif pem := access.certificates():
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError):
            raise BadInput(
                "--ca-file holds no certificate", value=access.ca_file, expected="certificates in PEM format"
            ) from None
    else:
        context.load_default_certs()
    return context
