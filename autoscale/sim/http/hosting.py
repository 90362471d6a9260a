"""Where a ServedFleet runs: in the foreground until a signal comes, or in a thread beside a test or a demo."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

from autoscale.sim.http.served_fleet import ServedFleet

LOOK_S = 0.5  # how often it is looked whether the parent process still lives


def serve_fleet(
    server: ServedFleet,
    *,
    on_started: Callable[[ServedFleet], None] | None = None,
    with_parent: bool = False,
) -> None:
    """Serve until SIGINT, SIGTERM or, unless nohup ignores it, SIGHUP; `with_parent` ends with the process that started this one (no orphan).

    For the main thread. Raises what ServedFleet.start raises.
    """

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, stopped.set)
        parent = os.getppid()
        await server.start()
        if on_started:
            on_started(server)
        serving = asyncio.create_task(server.until(stopped))
        while not serving.done():
            if with_parent and os.getppid() != parent:
                stopped.set()
            await asyncio.wait({serving}, timeout=LOOK_S)
        serving.result()

    asyncio.run(main())


class FleetThread:
    """A ServedFleet in a thread of its own: `with FleetThread(server) as server: ... server.url`."""

    def __init__(self, server: ServedFleet) -> None:
        self.server = server
        self._error: BaseException | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="fleet", daemon=True)

    def __enter__(self) -> ServedFleet:
        self._thread.start()
        self._started.wait()
        if self._error:
            raise self._error
        return self.server

    def __exit__(self, *_: object) -> None:
        with suppress(RuntimeError):  # the fleet has ended by itself
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        if self._error:
            raise self._error

    def _main(self) -> None:
        async def main() -> None:
            self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
            await self.server.start()
            self._started.set()
            await self.server.until(self._stopped)

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._error = error
        finally:
            self._started.set()
