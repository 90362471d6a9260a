"""Runs a program until the input of this one ends: `python keeper.py PROGRAM ARGS...`.

So a server, and whatever it started itself, goes when the process that asked for it goes, however that one ended.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 20.0  # that a server gets to end in good order


def main(words: list[str]) -> int:
    """The program's exit status."""
    for number in (signal.SIGINT, signal.SIGHUP):  # meant for the process that holds our input
        signal.signal(number, lambda *_: None)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True) as program:

        def send(number: int) -> None:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, number)

        def until_told() -> None:
            while os.read(0, 1):  # not sys.stdin: its lock would be held at our end
                pass
            send(signal.SIGTERM)
            last = threading.Timer(GRACE_S, send, [signal.SIGKILL])
            last.daemon = True
            last.start()

        signal.signal(signal.SIGTERM, lambda *_: send(signal.SIGTERM))
        threading.Thread(target=until_told, daemon=True).start()
        status = program.wait()
        send(signal.SIGKILL)  # what it left behind
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
