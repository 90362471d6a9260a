"""How a process of a run ends: interrupted politely, within a time limit, and with its master."""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import signal
import sys
from collections.abc import Callable
from typing import Any

import gevent

PR_SET_PDEATHSIG = 1  # of linux/prctl.h
EXIT_INTERRUPTED = 130
EXIT_S = 20.0  # most time from the end of a run to the end of its process; Locust needs one or two


def end_with_the_master() -> None:
    """In a worker that --processes forked: SIGTERM when the master is gone, however it went (Linux).

    Locust's workers would wait a minute for its heartbeat, or five for its first answer.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def quit_within(environment: Any, settle: Callable[[], None], within_s: float) -> None:
    """Settle, then let Locust end the process. Past their time limits the process says where it stands and is no more
    (exit code 1), whatever it waits for: messages to a master that is gone, say, keep ZeroMQ waiting for ever."""
    faulthandler.dump_traceback_later(within_s, exit=True)
    settle()
    faulthandler.dump_traceback_later(EXIT_S + (environment.stop_timeout or 0.0), exit=True)


def interrupt_politely(begun: Callable[[], bool], again: Callable[[], None]) -> None:
    """Let the first Ctrl-C, or the end of the terminal (SIGHUP; nohup ignores it), reach the main greenlet only, so that no
    greenlet dies in the middle of a record; before Locust's main loop has begun it ends the process. The second one calls
    `again`, the third ends the process at once."""
    counted = itertools.count()

    def interrupted() -> None:
        if next(counted):
            for watcher in watchers:
                watcher.cancel()
            again()
        elif begun():
            gevent.get_hub().handle_system_error(KeyboardInterrupt, KeyboardInterrupt())
        else:
            sys.stderr.write("locust: interrupted before the load began\n")
            gevent.get_hub().handle_system_error(SystemExit, SystemExit(EXIT_INTERRUPTED))

    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    watchers = [
        gevent.signal_handler(number, interrupted)
        for number, default in usual.items()
        if signal.getsignal(number) is default
    ]
