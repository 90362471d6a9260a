"""What a server's refusal means, and what to do about it, in sentences. Pure."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

GIVE_A_KEY = (
    "give one with --api-key-file FILE, with OPENAI_API_KEY or VLLM_API_KEY in the environment, or with "
    "--header 'Name: value'"
)
UNAUTHORIZED = (401, 403, 407)


def unauthorized(status: int, access: Mapping[str, Any]) -> tuple[str, str]:
    """(what happened, next step) after a 401 or 403; `access` is Access.described() of what was sent."""
    if status == 407:
        return "a proxy on the way wants an authorization of its own (407)", "send the load past it"
    if access.get("key"):
        what = f"the server refused {access['key']} ({status})"
        return what, (
            "check it" if status == 401 else "ask whether it may use this model"
        ) + f", or {GIVE_A_KEY.replace('give one', 'give another')}"
    others = ", ".join(access.get("headers", ()))
    sent = f"of the headers {others} it takes none for one" if others else "none was sent"
    return f"the server wants a key and {sent} ({status})", GIVE_A_KEY


def tls_step(error: object) -> str | None:
    """What to do about a failed TLS handshake; None when it was something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the authority's certificates with --ca-file FILE, or accept any with --insecure"
    if isinstance(error, ssl.SSLError):
        return "is it a plain http:// server, or does it want a client certificate or another TLS version?"
    return None
