"""What a Prometheus has where the metrics that were sought are not there: the sentence that names it, and the next step."""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime

from analysis.errors import AutoscaleError, BadInput, TooLittleData
from autoscale.observe.prometheus import Prometheus, Refused
from autoscale.observe.series import EngineChoice, listed

MOST_NAMED = 5
_MATCHER = re.compile(r"""([a-zA-Z_]\w*)\s*=~?\s*["']([^"']*)["']""")
_A_MODEL = '{__name__=~".*vllm[:_]num_requests_running"}'
_YEAR_2100 = 4.1e9  # unix s
_LAST = f"max_over_time(max by (model_name) (timestamp({_A_MODEL}))[30d:1h])"  # unix s, to the hour

Window = tuple[float, float]


def nothing_found(
    door: Prometheus, choice: EngineChoice, wanted: str | None, matchers: str, window: Window
) -> BadInput:
    """The sentence that says what is there instead of the metrics that were sought in the window (unix s)."""
    if wanted is None and len(choice.models) > 1:
        return BadInput(
            f"Prometheus holds several models ({listed(choice.models)}) and none was named",
            next_step="choose one with --model",
        )
    sought = f"model {wanted}" if wanted else "any LLM server"
    sought += f" with {matchers}" if matchers else ""
    when = " to ".join(datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in window) + " UTC"
    missing = f"{door.shown} has no metrics of {sought} from {when}"
    if choice.models:
        return TooLittleData(f"{missing}: it has {listed(choice.models)}", next_step="choose with --model")
    if said := choice.notes.sentences():
        return TooLittleData(f"{missing}: {said[0]}", next_step="let it scrape the replicas themselves")
    if near := _nearest(door, matchers, window):
        return TooLittleData(f"{missing}, but of {near}", next_step="correct --selector or --namespace")
    if made := [name for name in door.all_names(window) if "vllm" in name]:
        return TooLittleData(
            f"{missing}: it has {listed(made)}, which recording rules made, and nothing of single replicas",
            next_step="ask the Prometheus that scrapes the replicas",
        )
    return TooLittleData(
        f"{missing}: {_what_it_has(door)}",
        next_step="check the scrape configuration, the namespace and the window",
    )


def _nearest(door: Prometheus, matchers: str, window: Window) -> str:
    """The values of the labels asked for that vLLM's series have in the window, those first that are most like what was
    asked, or the labels that they have instead; "" where nothing was asked or nothing is there."""
    seconds = max(window[1] - window[0], 1.0)
    query = f'last_over_time({{__name__=~"(?:.+_)?vllm[:_]num_requests_running"}}[{seconds:.0f}s])'
    asked_for = _MATCHER.findall(matchers)
    try:
        told = [labels for labels, _ in door.vector(query, window[1])] if asked_for else []
    except Refused:
        return ""
    found = []
    for label, asked in asked_for if told else ():
        if values := _most_like(asked, {labels[label] for labels in told if labels.get(label)}):
            found.append(f"{label} {values}")
        else:
            there = _most_like(label, {name for labels in told for name in labels if name != "__name__"})
            found.append(f"none with a label {label} (they have {there})")
    return "; ".join(found)


def _most_like(asked: str, values: set[str]) -> str:
    near = sorted(values, key=lambda value: (-difflib.SequenceMatcher(None, asked, value).ratio(), value))
    return ", ".join(near[:MOST_NAMED]) + (" and others" if near[MOST_NAMED:] else "")


def _what_it_has(door: Prometheus) -> str:
    """The models that it knows now, or when it last had any in 30 days, and the jobs that it scrapes, in words; for a sentence
    about what was not found."""

    def told(promql: str, label: str) -> dict[str, float]:
        try:
            return {labels.get(label, "?"): value for labels, value in door.vector(promql)}
        except (Refused, AutoscaleError):
            return {}

    there = "it has no vLLM metrics"
    if now := told(f"count by (model_name) ({_A_MODEL})", "model_name"):
        there = f"it has vLLM metrics of {listed(now)} at present"
    elif past := {name: at_s for name, at_s in told(_LAST, "model_name").items() if 0 < at_s < _YEAR_2100}:
        last = datetime.fromtimestamp(max(past.values()), UTC).strftime("%Y-%m-%d %H:%M")
        there = f"it has no vLLM metrics at present; the last ones, of {listed(past)}, are of {last} UTC"
    jobs = told("up", "job")
    return there + (f", and scrapes the jobs {listed(jobs)}" if jobs else "")
