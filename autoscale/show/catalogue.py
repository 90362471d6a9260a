"""What there is to choose from: profiles with their capacity, signals with their metric names, formats of traces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.run import SIGNALS
from autoscale.kube.vllm_names import PATHS, SIGNAL_NAMES, SignalName
from autoscale.profiles import Profile, load
from autoscale.profiles.prior_error import prior_error
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.model.one_replica import capacity
from autoscale.show import words
from loadgen.plan import servegen
from loadgen.plan.trace_files import FORMATS, Csv

KEYS = "timestamp, input_length, output_length"
KEYS_OF = {"qwen": f"{KEYS}, chat_id", "sessions": f"{KEYS}, session_id"}


def profile_facts(name: str) -> dict[str, Any]:
    """What a profile says in short, and the rate in requests/s that one replica keeps its SLO at by the model.

    Raises BadInput for an unknown profile.
    """
    profile = load(name)
    point = capacity(scenario_of(profile, peak_rps=1.0))
    error = prior_error(profile)
    return {
        "name": profile.name,
        "title": profile.title,
        "model": profile.model.id,
        "accelerator": profile.accelerator.name,
        "chips_per_replica": profile.replica.chips,
        "prompt_tokens": profile.workload.prompt_tokens,
        "output_tokens": profile.workload.output_tokens,
        "slo": profile.workload.slo,
        "capacity_rps": {"value": point.rate_rps, "kind": "modelled", "binds": point.binding},
        "measured": list(_measured(profile)),
        "modelled": f"step time from the data sheet, median error of TPOT {error.step.median:.1%}"
        if profile.engine.step is None
        else "",
        "predictions": profile.predictions,
    }


def _measured(profile: Profile) -> Iterator[str]:
    if profile.engine.step is not None:
        yield "step time"
    if profile.engine.kv_tokens is not None:
        yield "KV capacity"


def signal_facts() -> list[dict[str, Any]]:
    """The server's gauges that an HPA can scale on: unit, metric names by version of vLLM, paths to the HPA."""
    return [
        {
            "name": signal,
            "unit": words.UNITS[signal],
            "metrics": [
                {"name": known.series, "versions": _versions(known)} for known in SIGNAL_NAMES[signal]
            ],
            "paths": list(PATHS),
        }
        for signal in SIGNALS
    ]


def _versions(known: SignalName) -> str:
    since = f"since {_version(known.since)}" if known.since else "every version"
    if known.gone_in >= known.hidden_in and _real(known.hidden_in):
        since = f"before {_version(known.hidden_in)}, hidden until {_version(known.gone_in)}"
    return since


def _real(version: tuple[int, ...]) -> bool:
    return len(version) > 1


def _version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def trace_facts() -> list[dict[str, Any]]:
    """The formats of recorded traces: how a row is told, and the unit of its time stamps."""
    found = []
    for name, form in FORMATS.items():
        if form is None:
            rows, unit = f"CSV: {', '.join(servegen.COLUMNS)}", "s"
        elif isinstance(form, Csv):
            rows, unit = f"CSV: {', '.join(form.columns)}", form.unit or "dates"
        else:
            rows, unit = f"JSON lines: {KEYS_OF.get(name, KEYS)}", form.unit
        found.append({"name": name, "rows": rows, "time_unit": unit})
    return found
