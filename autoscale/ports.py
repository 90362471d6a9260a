"""Ports of this machine for servers that must be told theirs before they start (Prometheus, a Locust master).

A port that the system picked (port 0) and that was closed again is in the range from which the system serves outgoing
connections: any of them may take it before the server binds it. So these come from below that range.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from socket import socket

# Below Linux' own range (32768 and up) and Kubernetes' node ports (30000 to 32767).
_FIRST, _END = 20_000, 30_000
_GIVEN: set[int] = set()  # never twice by one process: what was given may not be bound yet


def free_ports(count: int) -> int:
    """The first of so many ports in a row on which nobody listens, on any interface.

    Raises OSError where a hundred tries found none.
    """
    for _ in range(100):
        first = random.randrange(_FIRST, _END - count)
        row = range(first, first + count)
        if not _GIVEN.isdisjoint(row):
            continue
        with ExitStack() as held:
            try:
                for port in row:
                    held.enter_context(socket()).bind(("", port))
            except OSError:
                continue
            _GIVEN.update(row)
            return first
    raise OSError(f"no {count} free port(s) in a row between {_FIRST} and {_END}")
