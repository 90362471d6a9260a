"""A connection whose answer begins in time, however slowly its head comes; of urllib, http.client and urllib3 alike."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from socket import SHUT_RDWR
from typing import Any

NO_LIMIT_S = 120.0  # of a connection that has no timeout of its own


class InTime(http.client.HTTPConnection):
    """Whose answer's head is there within its timeout: a socket's own counts anew from every byte."""

    def getresponse(self) -> Any:
        """As http.client's. Raises TimeoutError."""
        late = threading.Event()
        timer = threading.Timer(self.timeout or NO_LIMIT_S, _give_up, (self.sock, late))
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()
            if late.is_set():
                raise TimeoutError("timed out")


def _give_up(sock: Any, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):  # a read of it ends now
        sock.shutdown(SHUT_RDWR)
