"""Public measurements beside predictions that were frozen before.

python -m benchmarks.league              the table, worst entries first; needs the public data (AUTOSCALE_SHARED)
python -m benchmarks.league --page       the same as docs/league.md
python -m benchmarks.league freeze       simulate what is not frozen yet, and write it down with commit and date
python -m benchmarks.league freeze --anew   all of it, by the engine and the prior of this commit
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.league import autoscaled, llama_405b, loops, stages, token_aware
from benchmarks.league.entries import FIGURES, Entry

FROZEN = Path(__file__).with_name("frozen.json")
ROOT = Path(__file__).parents[2]
PEERS = (  # (who, what of, error of E2E, TPOT or ITL, TTFT mean, TTFT p99; as published)
    (
        "BLIS, trained physics",
        "its training and test stages, of which ours are a part",
        0.067,
        0.071,
        0.176,
        0.29,
    ),
    ("a roofline without overheads", "an independent comparison of 15 runs", 0.49, None, 2.79, None),
)


def entries(shared: Path) -> list[Entry]:
    """All of them."""
    return [
        entry
        for room in (stages, llama_405b, autoscaled, token_aware, loops)
        for entry in room.entries(shared)
    ]


def freeze(found: list[Entry], anew: bool) -> None:
    """Write the predictions that are missing (or all) with the commit that makes them."""
    frozen = {} if anew or not FROZEN.exists() else json.loads(FROZEN.read_text())
    stands = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "autoscale", "benchmarks/*.py"]
    if subprocess.run(stands, capture_output=True, text=True, check=True).stdout:
        raise SystemExit(
            "commit autoscale/ and benchmarks/ first: a frozen prediction names the commit that made it"
        )
    head = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    for entry in found:
        if entry.name not in frozen:
            predicted = {name: float(f"{value:.5g}") for name, value in entry.predict().items()}
            frozen[entry.name] = {
                "commit": commit,
                "date": f"{datetime.now(UTC):%Y-%m-%d}",
                "predicted": predicted,
            }
    FROZEN.write_text(json.dumps(frozen, indent=1) + "\n")


def compared(found: list[Entry]) -> pd.DataFrame:
    """One row per entry: its names, the error of every figure (NaN: not measured), and the worst of them."""
    frozen = json.loads(FROZEN.read_text())
    rows: list[dict[str, Any]] = []
    for entry in found:
        if entry.name not in frozen:
            continue
        predicted = frozen[entry.name]["predicted"]
        errors = {name: predicted[name] / value - 1 for name, value in entry.measured.items()}
        rows.append(
            {
                "entry": entry.name,
                "family": entry.family,
                "source": entry.source,
                "seen": "blind" if entry.blind else "fitted",
                "frozen": f"{frozen[entry.name]['commit']} {frozen[entry.name]['date']}",
                **{name: errors.get(name) for name in FIGURES},
                "worst": max(map(abs, errors.values())),
                **{f"{name} measured": value for name, value in entry.measured.items()},
                **{f"{name} predicted": predicted[name] for name in entry.measured},
            }
        )
    return pd.DataFrame(rows).sort_values("worst", ascending=False, ignore_index=True)


def families(table: pd.DataFrame) -> list[list[str]]:
    """Median and largest error of every figure by family."""
    lines = []
    for (family, seen), group in table.groupby(["family", "seen"]):
        cells = []
        for name in FIGURES:
            size = group[name].astype(float).abs().dropna()
            cells.append(f"{size.median():.1%} / {size.max():.1%}" if len(size) else "")
        lines.append([str(family), str(seen), str(len(group)), *cells])
    return lines


def page(table: pd.DataFrame) -> str:
    """docs/league.md."""
    parts = [PAGE, _markdown(["family", "", "entries", *FIGURES.values()], families(table))]
    peers = [[who, what, *("" if e is None else f"{e:.1%}" for e in errors)] for who, what, *errors in PEERS]
    parts += [
        PEERS_TEXT,
        _markdown(["who", "measured on", "E2E", "TPOT or ITL", "TTFT mean", "TTFT p99"], peers),
    ]
    lines = [
        [
            row["entry"],
            row["seen"],
            *(_cell(name, row) for name in FIGURES),
        ]
        for _, row in table.iterrows()
    ]
    frozen = ", ".join(sorted(table["frozen"].unique()))
    sources = "; ".join(sorted(table["source"].unique()))
    parts += [
        ENTRIES_TEXT.format(frozen=frozen, sources=sources),
        _markdown(["entry", "", *FIGURES.values()], lines),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(name: str, row: pd.Series[Any]) -> str:
    """Predicted, measured and the error."""
    if pd.isna(row[name]):
        return ""
    predicted, measured = (_figure(name, row[f"{name} {kind}"]) for kind in ("predicted", "measured"))
    return f"{predicted} / {measured} ({row[name]:+.0%})"


def _figure(name: str, value: float) -> str:
    if name.endswith("_s") and value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g}" + (" s" if name.endswith("_s") else "")


def _markdown(heading: list[str], lines: list[list[str]]) -> str:
    rows = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows)


PAGE = """# The league

What others measured on real accelerators, beside what the simulator said from data sheets alone. Written by
`python -m benchmarks.league --page`, which needs the public data; every prediction was frozen, with its commit, by
`python -m benchmarks.league freeze`. *fitted*: the prior's constants were fitted on the entry (`python -m
benchmarks.prior_fit` prints the errors with its model or chip left out); *blind*: on none of its kind. Median / largest
error. Autoscaling loops whose text does not give enough are left out. llm-d-autoscaling 1118 was scaled by llm-d's retired
variant autoscaler, which is not simulated. 1220, 1230 and 1412 do not say how many accelerators a replica has, and their client
sent 682 of 12,000 requests (512 in flight, then it waited). llm-d's SLO-aware ramp scales on recording rules over its own predictor's
latency; its reports of warm starts (llm-d 2317, 2459) share prompts of a number that is not told."""
PEERS_TEXT = "Published by peers, medians or means as they state them:"
ENTRIES_TEXT = (
    """Every entry, the worst first: predicted / measured (error). Frozen at {frozen}. Sources: {sources}."""
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["freeze"], help="simulate and write down")
    parser.add_argument("--anew", action="store_true", help="with freeze: also what is frozen already")
    parser.add_argument("--page", action="store_true", help="print docs/league.md")
    options = parser.parse_args()
    found = entries(Path(os.environ.get("AUTOSCALE_SHARED", ROOT.parent / "shared")))
    if options.what == "freeze":
        freeze(found, options.anew)
    table = compared(found)
    if options.page:
        print(page(table), end="")
        return
    shown = table[["entry", "seen", *FIGURES, "worst"]].rename(columns=FIGURES)
    print(shown.to_string(index=False, float_format=lambda e: f"{e:+.1%}", na_rep=""))
    print(
        pd.DataFrame(families(table), columns=["family", "", "entries", *FIGURES.values()]).to_string(
            index=False
        )
    )


if __name__ == "__main__":
    main()
