"""One real server from the start to the ledger: see the package's docstring. Options: --help."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
import yaml

import autoscale
from analysis import run
from analysis.errors import AutoscaleError, BadInput, TooLittleData
from analysis.numbers import known
from autoscale.demo import directory
from autoscale.recommend.model.coefficients import scaled
from autoscale.recommend.model.predict import Prediction
from autoscale.recommend.model.replica_model import DrawnRequests
from benchmarks.ledger import LEDGER, append, as_text
from benchmarks.one_gpu.measure import FIGURES, PIECE_S, closed, per_rate, slowness, sweep, throughput_rps
from benchmarks.one_gpu.server import CPU, GPU, Device, prometheus, vllm
from loadgen.plan.lengths import parse_lengths

MEASURED = (
    0.2,
    0.45,
    0.65,
    0.8,
    0.95,
)  # of what the closed loop completed: rates of the sweep that is learnt from
REFERENCE = 1  # of MEASURED: the rate that is offered again, before the predicted load and after it
PREDICTED = (0.4, 0.7, 0.9)  # of the predicted saturation: rates that are predicted, then offered


@dataclass(frozen=True)
class Plan:
    """How long things take: seconds of the closed loop, of each stage of the sweep and of each predicted rate."""

    closed_s: float
    stage_s: float
    predicted_s: float

    @classmethod
    def of(cls, minutes: float) -> Plan:
        """The plan that takes about so many minutes of load. Raises BadInput when that is no time."""
        if not 2 <= minutes <= 600:
            raise BadInput("--minutes", value=minutes, expected="2 to 600")
        piece = (60.0 * minutes - 4 * PIECE_S) / (1 + 2 * len(MEASURED) + 2 * len(PREDICTED))
        stage_s = max(2, round(2 * piece / PIECE_S)) * PIECE_S
        return cls(max(piece, 20.0), stage_s, stage_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, predict, load, compare, and add a line to the ledger; 0 when it could be done, however good it was, 1 when the
    run could not be learnt from, which is a line, too."""
    options = _options(argv)
    device, plan = CPU if options.cpu else GPU, Plan.of(options.minutes)
    out = directory(options.out)
    with vllm(options.python, device, out) as url, prometheus(url, out) as collector:
        version = str(requests.get(f"{url}/version", timeout=10).json()["version"])
        measured = _measured(out, url, collector, device, plan)
        profile = _profile(out, measured, device, version)
        try:
            found = _predict(measured, profile, device)
        except TooLittleData as error:
            refused = _about(options, device, version) | {
                "figures": [],
                "refused": str(error).replace(f"{out}/", ""),
            }
            append(options.ledger, refused)
            print(as_text([refused]))
            return 1
        rows = _frozen(found, out / "prediction.json")
        rates = [row["rate_rps"] for row in rows]
        known = [_known(out / "before", url, collector, device, measured)]
        outcome = sweep(
            out / "predicted", url, collector, device.lengths[1], device.slo, rates, plan.predicted_s
        )
        known.append(_known(out / "after", url, collector, device, measured))
    answer = _recommended(out, measured, profile, device, found)
    slower = [slowness(run, found.model.engine) for run in known]
    entry = _entry(options, device, version, found, rows, outcome)
    entry |= _at_that_speed(entry["figures"], found, device, slower) | {"recommend": answer}
    (out / "entry.json").write_text(json.dumps(entry, indent=1), encoding="utf-8")
    append(options.ledger, entry)
    print(as_text([entry]))
    print(f"added to {options.ledger}; everything else is in {out}")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_gpu", description=__doc__)
    parser.add_argument(
        "--cpu", action="store_true", help="vLLM's CPU build with a tiny model instead of an accelerator"
    )
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python that has vLLM")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="of load, besides the server's start (default 8)"
    )
    parser.add_argument("--out", type=Path, help="an empty directory (default the next free one under runs/)")
    parser.add_argument(
        "--ledger", type=Path, default=LEDGER, help=f"where the entry goes (default {LEDGER.name})"
    )
    return parser.parse_args(argv)


def _measured(out: Path, url: str, collector: str, device: Device, plan: Plan) -> Path:
    mix = device.lengths[0]
    full = closed(out / "closed", url, collector, mix, device.slo, device.users, plan.closed_s)
    full_rps = throughput_rps(full)
    rates = [share * full_rps for share in MEASURED]
    return sweep(out / "measured", url, collector, mix, device.slo, rates, plan.stage_s)


def _profile(out: Path, measured: Path, device: Device, version: str) -> Path:
    """The profile of this server, of what it told itself and the model's own config.json."""
    told = run.read(measured).header.get("engine") or {}
    same = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "kv_tokens")
    engine = {name: told[name] for name in same if told.get(name)} | {"vllm_version": version} | device.engine
    options = dict(zip(device.options[::2], device.options[1::2], strict=False))
    for option, name in (
        ("--max-num-seqs", "max_num_seqs"),
        ("--max-num-batched-tokens", "max_num_batched_tokens"),
    ):
        if option in options:
            engine[name] = int(options[option])
    content = {
        "extends": device.base,
        "title": "the server of this machine",
        "model": {"id": "random", "config": str((out / "model" / "config.json").resolve())},
        "engine": engine,
    }
    path = out / "server.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _predict(measured: Path, profile: Path, device: Device) -> Prediction:
    prompt, answer = device.lengths[1]
    asked: dict[str, Any] = {"profile": str(profile), "slo": device.slo}
    first = autoscale.predict_replica([measured], prompt, answer, **asked)
    rates = [round(share * first.saturated.value, 2) for share in PREDICTED]
    return autoscale.predict_replica([measured], prompt, answer, rates_rps=rates, **asked)


def _frozen(found: Prediction, file: Path) -> list[dict[str, float]]:
    """What was predicted, written down before anything of it is measured."""
    rows = [{str(name): value for name, value in row.items()} for row in found.points.to_dict("records")]
    file.write_text(json.dumps({"at": _now(), "points": rows}, indent=1, default=float), encoding="utf-8")
    return rows


def _known(out: Path, url: str, collector: str, device: Device, measured: Path) -> Path:
    """A few pieces of the mix that was learnt from, at a rate that it had: whether the machine is still as fast."""
    rate_rps = per_rate(measured)["rate_rps"].iloc[REFERENCE]
    return sweep(out, url, collector, device.lengths[0], device.slo, [rate_rps], 2.0 * PIECE_S)


def _at_that_speed(
    figures: list[dict[str, Any]], found: Prediction, device: Device, slower: list[float]
) -> dict[str, Any]:
    """How many times as long a step took before and after as in the run that was learnt from; and what the same engine, so
    much slower (their geometric mean), does at the rates: of each figure `then`, with its interval `then_low`, `then_high`.
    Nothing of the load that was predicted enters it."""
    factor = math.exp(sum(math.log(each) for each in slower) / len(slower))
    moved = replace(found.model, engine=scaled(found.model.engine, factor))
    requests = DrawnRequests.drawn(*(parse_lengths(text) for text in device.lengths[1]))
    for rate_rps in {figure["rate_rps"] for figure in figures}:
        then = moved.latency_at(rate_rps, requests)
        for figure in figures:
            if figure["rate_rps"] == rate_rps:
                stem = figure["figure"].removesuffix("_s")
                figure["then"] = then[figure["figure"]]
                figure["then_low"], figure["then_high"] = (
                    then.get(f"{stem}_{end}") for end in ("low", "high")
                )
    return {"slower": slower, "figures": figures}


def _recommended(out: Path, measured: Path, profile: Path, device: Device, found: Prediction) -> str:
    """The answer of `recommend` on the measured run for an hour of traffic of the same mix."""
    unit = found.model.capacities[0].capacity.value if found.model.capacities else found.saturated.value
    unit = unit if known(unit) else found.saturated.value
    steady = {"constant": {"rate_rps": round(0.5 * unit, 2), "duration_s": 1200}}
    busy = {"constant": {"rate_rps": round(2.2 * unit, 2), "duration_s": 1200}}
    traffic = out / "traffic.yaml"
    prompt, answer = device.lengths[0]
    content = {"prompt_tokens": prompt, "output_tokens": answer, "load": [steady, busy, steady]}
    traffic.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    done = autoscale.recommend_hpa(
        [measured], profile=str(profile), traffic=traffic, slo=device.slo, out=out / "recommendation", seeds=4
    )
    return str(done.document.answer)


def _entry(
    options: argparse.Namespace,
    device: Device,
    version: str,
    found: Prediction,
    rows: list[dict[str, float]],
    outcome: Path,
) -> dict[str, Any]:
    """A line of the ledger: where, what was predicted and what happened, figure by figure."""
    happened = per_rate(outcome)
    figures = []
    for row in rows:
        at = happened.loc[(happened["rate_rps"] - row["rate_rps"]).abs().idxmin()]
        for name in FIGURES:
            stem = name.removesuffix("_s")
            bounds = (row.get(f"{stem}_low"), row.get(f"{stem}_high"))
            figures.append(
                {
                    "rate_rps": round(row["rate_rps"], 3),
                    "figure": name,
                    "predicted": row[name],
                    "low": bounds[0],
                    "high": bounds[1],
                    "measured": float(at[name]),
                }
            )
    seen = {"client_late_p95_s": float(happened["late_p95_s"].max()), "saturated_rps": found.saturated.value}
    return _about(options, device, version) | seen | {"figures": figures}


def _about(options: argparse.Namespace, device: Device, version: str) -> dict[str, Any]:
    """Where and on what an entry was made."""
    return {
        "at": _now(),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {_device(options)}",
        "load_average": os.getloadavg()[0],
        "vllm": version,
        "server": " ".join(device.options),
        "learnt_from": " / ".join(device.lengths[0]),
        "predicted_for": " / ".join(device.lengths[1]),
    }


def _device(options: argparse.Namespace) -> str:
    if options.cpu:
        return "vLLM's CPU build"
    shown = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        shown.stdout.strip().splitlines()[0]
        if shown.returncode == 0 and shown.stdout.strip()
        else "unknown device"
    )


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip() or "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AutoscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 3)
