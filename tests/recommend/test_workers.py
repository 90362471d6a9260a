"""Trials side by side, from whatever program asks for them."""

import subprocess
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path

from autoscale.recommend.choice.workers import workers

PROGRAM = """
print("begun")
from autoscale.recommend.choice.workers import workers
with workers((), 2) as each:
    print(list(each(abs, [-1, -2, -3])))
"""


def test_a_program_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("begun\n[1, 2, 3]\n", 0), done.stderr


def test_an_interrupt_that_ends_the_workers_too_leaves_no_traceback(monkeypatch) -> None:
    """Ctrl-C and `timeout` reach the whole group: the workers are gone, and what was not begun is cancelled."""
    unhandled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    with workers((), 2) as each:
        results = each(time.sleep, [0.0] + [30.0] * 30)
        next(results)
        for worker in active_children():
            worker.terminate()
        results.close()
    assert not unhandled
