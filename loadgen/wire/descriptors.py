"""How many files this process may have open: every connection is one, and what a run writes needs some as well."""

from __future__ import annotations

import errno
import os

try:
    import resource
except ImportError:  # not on Unix: no limit is known
    resource = None  # type: ignore[assignment]

KEPT = 64  # for what is not a connection: the run's tables, events, Locust, timers
FIRST = 64  # numbers that are taken already when the first connection is opened, about


def limit() -> float:
    """How many files this process may have open."""
    if resource is None:
        return float("inf")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def provide(connections: int) -> str | None:
    """Raise the limit as far as it goes when it is too low for so many connections; a sentence when it stays too low."""
    before, needed = limit(), connections + FIRST + KEPT
    if resource is None or before >= needed:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        wanted = int(before)
    if wanted >= needed:
        return None
    return (
        f"only {wanted} files may be open and {connections} requests in flight need {needed}: beyond about "
        f"{max(wanted - FIRST - KEPT, 0)} in flight, requests fail with connection_error. Raise the limit "
        "(ulimit -n) or lower --max-in-flight"
    )


def check_descriptor(number: int) -> None:
    """Raises the system's own error when a connection's descriptor is one of those that are kept for other files."""
    if number >= limit() - KEPT:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
