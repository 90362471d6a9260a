"""What a Prometheus has instead of the metrics that were sought, for the sentence that says that they are not there."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime

from analysis.errors import AutoscaleError, BadInput, TooLittleData
from autoscale.observe import series
from autoscale.observe.prometheus import Prometheus, Refused
from autoscale.observe.series import EngineChoice

MOST_NAMED = 5
_MATCHER = re.compile(r"""([a-zA-Z_]\w*)\s*=~?\s*["']([^"']*)["']""")
_A_MODEL = '{__name__=~".*vllm[:_]num_requests_running"}'
_YEAR_2100 = 4.1e9  # unix s
_LAST = f"max_over_time(max by (model_name) (timestamp({_A_MODEL}))[30d:1h])"  # unix s, to the hour


def nothing_found(
    door: Prometheus, choice: EngineChoice, wanted: str | None, matchers: str, window: tuple[float, float]
) -> BadInput:
    """The sentence that says what is there instead of the metrics that were sought."""
    if wanted is None and len(choice.models) > 1:
        return BadInput(
            f"Prometheus holds several models ({series.listed(choice.models)}) and the run names none",
            next_step="choose one with --model",
        )
    sought = f"model {wanted}" if wanted else "any LLM server"
    sought += f" with {matchers}" if matchers else ""
    when = " to ".join(datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in window) + " UTC"
    if choice.models:
        return TooLittleData(
            f"{door.shown} has no metrics of {sought} from {when}: it has {series.listed(choice.models)}",
            next_step="choose with --model",
        )
    if said := choice.notes.sentences():
        return TooLittleData(
            f"{door.shown} has no metrics of {sought} from {when}: {said[0]}",
            next_step="let it scrape the replicas themselves",
        )
    if near := _nearest(door, matchers, window):
        return TooLittleData(
            f"{door.shown} has no metrics of {sought} from {when}, but of {near}",
            next_step="correct --selector or --namespace",
        )
    return TooLittleData(
        f"{door.shown} has no metrics of {sought} from {when}: {_what_it_has(door)}",
        next_step="check the scrape configuration, the namespace and the run's window",
    )


def _nearest(door: Prometheus, matchers: str, window: tuple[float, float]) -> str:
    """The values of the labels asked for that vLLM's series have in the window, those first that are most like what was
    asked; "" where nothing was asked or nothing is there."""
    found = []
    for label, asked in _MATCHER.findall(matchers):
        seconds = max(window[1] - window[0], 1.0)
        query = f'group by ({label}) (last_over_time({{__name__=~"(?:.+_)?vllm[:_]num_requests_running"}}[{seconds:.0f}s]))'
        try:
            told = door.vector(query, window[1])
        except Refused:
            continue
        values = [labels[label] for labels, _ in told if labels.get(label)]
        values.sort(key=lambda value: (-difflib.SequenceMatcher(None, asked, value).ratio(), value))
        if values:
            found.append(
                f"{label} {', '.join(values[:MOST_NAMED])}" + (" and others" if values[MOST_NAMED:] else "")
            )
        elif told:
            found.append(f"none with a label {label}")
    return "; ".join(found)


def _what_it_has(door: Prometheus) -> str:
    """The models that it knows now, or when it last had any in 30 days, and the jobs that it scrapes."""

    def told(promql: str, label: str) -> dict[str, float]:
        try:
            return {labels.get(label, "?"): value for labels, value in door.vector(promql)}
        except (Refused, AutoscaleError):
            return {}

    there = "it has no vLLM metrics"
    if now := told(f"count by (model_name) ({_A_MODEL})", "model_name"):
        there = f"it has vLLM metrics of {series.listed(now)} at present"
    elif past := {name: at_s for name, at_s in told(_LAST, "model_name").items() if 0 < at_s < _YEAR_2100}:
        last = datetime.fromtimestamp(max(past.values()), UTC).strftime("%Y-%m-%d %H:%M")
        there = (
            f"it has no vLLM metrics at present; the last ones, of {series.listed(past)}, are of {last} UTC"
        )
    jobs = told("up", "job")
    return there + (f", and scrapes the jobs {series.listed(jobs)}" if jobs else "")
