"""What a server's refusal means, and what to do about it, in sentences. Pure."""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

GIVE_A_KEY = (
    "give one with --api-key-file FILE, with OPENAI_API_KEY or VLLM_API_KEY in the environment, or with "
    "--header 'Name: value'"
)
_RETRY_AFTER = re.compile(r"\(Retry-After: (\d+)\)$")
LONGEST_WAIT_S = 86_400.0  # a Retry-After beyond it is none
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
    if status == 403:  # a key may be missing, or a rule of a gateway or a firewall be in the way
        what = f"the server, or a gateway before it, forbids the request; if it is for a key, {sent} (403)"
        return what, f"{GIVE_A_KEY}; or ask who runs it whether this machine and path are allowed"
    return f"the server wants a key and {sent} ({status})", GIVE_A_KEY


def redirected(status: int, location: str) -> tuple[str, str]:
    """(what happened, next step) after a redirection, which the load does not follow."""
    place, _, _ = location.partition("?")
    return (
        f"answered {status}: it sends to {place[:200]}",
        "give that address as --host, without the path of the API",
    )


def rate_limited(http_status: ArrayLike, error: ArrayLike) -> dict[str, int | list[float] | None] | None:
    """How many requests were answered 429, and the shortest and longest Retry-After in s (None: no
    number up to LONGEST_WAIT_S was sent); None when there were none."""
    limited = np.asarray(http_status, dtype=float) == 429
    if not limited.any():
        return None
    errors = np.asarray(error, dtype=object)[limited]
    told = [float(found[1]) for found in (_RETRY_AFTER.search(str(error)) for error in errors) if found]
    waits = [wait_s for wait_s in told if wait_s <= LONGEST_WAIT_S]
    return {"requests": int(limited.sum()), "retry_after_s": [min(waits), max(waits)] if waits else None}


def retry_after(message: str, value: str) -> str:
    """An error's text with the server's Retry-After, as `rate_limited` reads it."""
    return f"{message} (Retry-After: {value})"


def rate_limit_sentence(limited: Mapping[str, Any]) -> str:
    """What `rate_limited` found, in a sentence."""
    waits = limited["retry_after_s"]
    asked = f", Retry-After {' to '.join(dict.fromkeys(f'{s:g}' for s in waits))} s" if waits else ""
    return f"{limited['requests']} requests were answered 429, too many requests{asked}; none was sent again"


def tls_step(error: object) -> str | None:
    """What to do about a failed TLS handshake; None when it was something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "name the authority's certificates with --ca-file FILE, or accept any with --insecure"
    if isinstance(error, ssl.SSLError):
        return "is it a plain http:// server, or does it want a client certificate or another TLS version?"
    return None


def errno_name(code: int) -> str:
    """The system's name of an error, such as ECONNREFUSED."""
    return errno.errorcode.get(code, str(code))


def connection_reason(error: object) -> str:
    """Why a connection failed, in the words of TLS or of the system."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(getattr(error, "strerror", None) or error)


def connection_sentence(error: Exception, target: object) -> str:
    """Why a connection to `target` failed."""
    return f"{target}: {connection_reason(error)}"
