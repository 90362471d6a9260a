"""Small HTTP servers of the standard library, each in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

POLL_S = 0.02  # how soon it notices that it is to end


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    """The server answers meanwhile; its thread and socket are gone afterwards."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
