"""Trials side by side, from whatever program asks for them."""

import subprocess
import sys
from pathlib import Path

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
