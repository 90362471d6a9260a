"""Sentences on a chosen ScaledObject and on its gateway: latency as a signal, nights at zero, requests that are herded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from autoscale.kube.endpoint_picker import LRU_WEIGHT
from autoscale.recommend.answer import Alternative, Decision
from autoscale.recommend.choice.alternatives import nearest_sentence
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.keda.beside import ALWAYS, AT_ZERO
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.reasons import hours
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import static_fleet
from autoscale.recommend.choice.seeds import panel_size
from autoscale.recommend.choice.settings import Candidate, Setting
from autoscale.recommendation import Reason

HERDED = 0.2  # share of the standing fleet from which on it is worth a sentence


def of_latency(found: Mapping[str, Judged[Candidate]]) -> Iterator[Alternative]:
    """Why latency is no better signal, with what it did."""
    why = (
        "a percentile says nothing of how much load there is: it stays flat until the replicas are full and shows a breach "
        "only when requests have suffered it, a rate's window later; without traffic it has no value and reads as 0"
    )
    for signal, judged in found.items():
        seeds = f"over {len(judged.trials)} seeds, a few thresholds"
        did = (
            f"it holds for {hours(judged.cost)} accelerator-hours"
            if judged.holds
            else nearest_sentence(judged)
        )
        yield Alternative(signal, judged, f"tried alone ({seeds}): {did}; no candidate: {why}")


def of_nights(scenario: Scenario, decision: Decision) -> Iterator[Reason]:
    """What going to zero saves and what it costs those who come first, or why it does not do."""
    always, at_zero = decision.guides.get(ALWAYS), decision.guides.get(AT_ZERO)
    if at_zero is None and always is None:
        return
    gateway, start_s = scenario.options.gateway, scenario.cold_start_s
    ttl_s = None if gateway is None else gateway.no_endpoint_ttl_s or gateway.ttl_s
    if at_zero is None or not at_zero.holds:
        bound_s = scenario.slo_cold_start_s
        asked = (
            "no bound of its own (--slo-cold-start)" if bound_s is None else f"a bound of {bound_s:,.0f} s"
        )
        text = f"no setting that goes to zero holds: a start takes {start_s / 60:.0f} min, and who waits for it has {asked}"
        if ttl_s is not None and ttl_s < start_s:
            text += f"; the gateway turns them away after {ttl_s:.0f} s without a replica: give it no_endpoint_ttl"
        yield Reason("not_to_zero", text)
        return
    yield Reason("to_zero", f"{_zero_in_words(at_zero)}; {_always_in_words(always, at_zero)}")


def _zero_in_words(at_zero: Judged[Setting]) -> str:
    longest_s = max((t.longest_from_zero_s for t in at_zero.trials if t.from_zero), default=0.0)
    return (
        f"at zero when nothing has been active for a while: {hours(at_zero.cost)} accelerator-hours; "
        f"{at_zero.mean('from_zero'):.1f} requests wait on a start from zero, for {longest_s:,.0f} s at most"
    )


def _always_in_words(always: Judged[Setting] | None, at_zero: Judged[Setting]) -> str:
    if always is None or not always.cost:
        return "no setting that keeps a replica holds"
    return f"with a replica always there {hours(always.cost)}, {1 - at_zero.cost / always.cost:.0%} of them saved"


def of_gateway(scenario: Scenario, decision: Decision) -> Iterator[Reason]:
    """How many of the replicas that must stand are there because the gateway's picker herds requests, where many are.

    Its scorers of queue and cache see what a pod last exported, and vLLM exports when a step is over: while it computes a
    prompt a pod looks as empty as before. A scorer that remembers whom the picker sent the last requests to does not mind.
    """
    gateway, static = scenario.options.gateway, decision.static
    if gateway is None or static is None or gateway.lru_weight > 0:
        return
    remembering = replace(gateway, lru_weight=LRU_WEIGHT)
    other = replace(scenario, options=replace(scenario.options, gateway=remembering)).keeping()
    needed = static.setting.replicas
    count, _ = static_fleet(Panel(other, panel_size(scenario.plan)), needed, needed)
    if count is None or count > (1 - HERDED) * needed:
        return
    yield Reason(
        "gateway_herds",
        f"behind this gateway {needed} replicas must stand, and {count} with llm-d's no-hit-lru-scorer (--gateway "
        f"lru_weight={LRU_WEIGHT:g}): a pod renews its gauges when a step is over, so while it computes a prompt it looks as "
        "empty as before, and the picker sends the next request there, too",
    )
