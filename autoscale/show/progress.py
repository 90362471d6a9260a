"""What is said on stderr while something takes time: a bar, a live view, a word about the engine's compilation."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from types import FrameType
from typing import Any

Report = Callable[[float, str], None]
PLAIN_LINE_S = 30  # a check that is not watched on a terminal says at least this often how it stands
NOTICE_S = 3.0  # reading the compiled engine from the cache takes less


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def note(sentence: str) -> None:
    """A line that stays: what was read, or what to know of the answer."""
    _say(f"note: {sentence}")


@contextmanager
def bar() -> Iterator[Report]:
    """A progress bar; without a terminal a line whenever the text before its first comma changes."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        last = [""]

        def line(_fraction: float, text: str) -> None:
            head = text.split(",")[0]
            if head != last[0]:
                last[0] = head
                _say(f"  {text}")

        yield line
        return
    columns = (TextColumn("{task.description:<44.44}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=1.0)
        yield lambda fraction, text: shown.update(task, completed=fraction, description=text)


@contextmanager
def live() -> Iterator[Callable[[Any], None]]:
    """A live view of a check; without a terminal a plain line per change."""
    from rich.console import Console
    from rich.live import Live

    from autoscale.show.terminal.check import live_view, state_line

    console = Console(stderr=True)
    if not console.is_terminal:
        last: list[tuple[object, ...]] = [()]

        def line(state: Any) -> None:
            seen = (state.desired, state.ready, len(state.past.scale_outs), state.elapsed_s // PLAIN_LINE_S)
            if seen != last[0]:
                last[0] = seen
                _say(state_line(state))

        yield line
        return
    with Live(console=console, refresh_per_second=2, transient=True) as view:
        yield lambda state: view.update(live_view(state))


def compiled_engine() -> None:
    """Compile the simulator, or read what was compiled before; says so when it takes a while.

    The first time after an installation it takes about a minute of one core, in which nothing else would be heard of.
    """
    from dataclasses import replace

    from autoscale.profiles import load
    from autoscale.recommend import scenario_of
    from autoscale.recommend.choice.settings import Behavior, Candidate
    from loadgen.plan.traffic import LoadPlan

    notice = Timer(NOTICE_S, _say, ["compiling the simulator, once after installation: about a minute"])
    notice.daemon = True
    notice.start()
    try:
        with _interrupts_heard():
            scenario = scenario_of(load("llama-3.1-8b-1xl4"), peak_rps=1.0)
            plan = LoadPlan.from_options(
                rate=0.2, duration_s=60.0, prompt_tokens="fixed:8", output_tokens="fixed:2"
            )
            replace(scenario, plan=plan).outcome(Candidate((("waiting", 5.0),), Behavior(), 1, 2), 0)
    finally:
        notice.cancel()


@contextmanager
def _interrupts_heard() -> Iterator[None]:
    """A signal that a callback of the compiler swallows, and what breaks for it, is the interrupt that it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    try:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, hear)
        yield
    except Exception:
        if not heard:
            raise
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt
