"""Whether two checkouts give the same answers: `python -m benchmarks.same_answers OTHER_CHECKOUT [--runs DIR ...]`.

Both run the same verbs, each with its own .venv, on three simulated days and on the run directories
of --runs (recordings of real servers, say). What is printed with --json, and the exit codes, are compared value by
value; every difference is listed. Ends with 1 when there is one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
HPA = ROOT / "manifests" / "llama-3.1-8b-1xl4" / "hpa.yaml"
SIMULATED = {
    "steady": ("--peak", "6"),
    "busy": ("--peak", "20"),
    "other": ("--peak", "12", "--slo", "ttft_p95=2s"),
}


def answer(tree: Path, *words: str) -> tuple[int, Any]:
    """Exit code and what a verb prints as JSON (its text where it prints none)."""
    done = subprocess.run(
        [tree / ".venv" / "bin" / "autoscale", *words], cwd=tree, capture_output=True, text=True
    )
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        return done.returncode, done.stdout + done.stderr


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Every place where two documents differ; paths and what the command was are no difference."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if key not in ("command", "runs", "files", "versions", "traffic"):
                yield from differences(old.get(key), new.get(key), f"{at}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{at}[{number}]")
    elif old != new and str(old) != str(new):  # NaN is no difference
        yield f"{at}: {str(old)[:120]!r} -> {str(new)[:120]!r}"


def questions(folder: Path, runs: list[Path]) -> Iterator[tuple[str, list[str]]]:
    """(name, words) of every question, on runs that are in `folder` or given."""
    for name, words in SIMULATED.items():
        yield (
            f"simulate {name}",
            ["simulate", "--hpa", str(HPA), "--static", "2", "--seeds", "1", *words, "--json"],
        )
    for run in runs:
        yield (
            f"recommend {run.name}",
            ["recommend", str(run), "--seeds", "2", "--out", str(folder / "out"), "--json"],
        )
        lengths = ["--prompt-tokens", "uniform:500,1500", "--output-tokens", "uniform:50,150"]
        yield f"predict {run.name}", ["predict", str(run), *lengths, "--json"]
    yield (
        "recommend without a run",
        [
            "recommend",
            "--profile",
            "llama-3.1-8b-1xl4",
            "--seeds",
            "2",
            "--out",
            str(folder / "prior"),
            "--json",
        ],
    )
    yield "lint", ["lint", str(ROOT / "manifests"), "--json"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    asked = parser.parse_args()
    count = 0
    with tempfile.TemporaryDirectory() as place:
        for name, words in questions(Path(place), asked.runs):
            old, new = (answer(tree, *words) for tree in (asked.other, ROOT))
            found = [f"exit code {old[0]} -> {new[0]}"] if old[0] != new[0] else []
            found += differences(old[1], new[1])
            print(
                f"{name:<28}{'same' if not found else f'{len(found)} differences'} (exit code {new[0]})",
                flush=True,
            )
            for line in found[:20]:
                print(f"    {line}")
            count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
