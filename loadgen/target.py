"""Where requests go: the address in `--host`, the bytes of a request to it, and the TLS rules. Pure."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from analysis.errors import BadInput


@dataclass(frozen=True)
class Target:
    """Where requests go, from `--host`."""

    scheme: str
    host: str
    port: int
    path: str  # before the endpoint's own path, without trailing slash

    @classmethod
    def from_url(cls, url: str) -> Target:
        """Raises BadInput when `url` is not http(s)://host[:port][/path]."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput("--host is not a URL", value=url, expected="http://HOST:PORT or https://HOST")
        path = parts.path.rstrip("/")
        return cls(parts.scheme, parts.hostname, port, path.removesuffix("/v1"))

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
        """The bytes of a request; `headers` are further lines, each with its line end."""
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {self.path}{path} HTTP/1.1\r\nHost: {self.authority}\r\nUser-Agent: llm-autoscale\r\nAccept: */*\r\n"
        return (head + kind + headers + "\r\n").encode("latin-1") + body


def tls_context(verify: bool = True) -> ssl.SSLContext:
    """Client side TLS with the system's certificates; `verify` False accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
