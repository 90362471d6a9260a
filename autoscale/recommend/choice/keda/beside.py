"""What a chosen ScaledObject is set beside: the guides' own, the best plain HPA, latency as a signal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autoscale.kube.scaling_signals import LATENCY_SIGNALS
from autoscale.profiles import Profile
from autoscale.recommend.choice.judging import Each, Judge, Judged, confirm, shown_over
from autoscale.recommend.choice.keda.scaled_object import Keda, keda_object, trigger
from autoscale.recommend.choice.keda.space import KedaAsked
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import Tried, loosest
from autoscale.recommend.choice.settings import Candidate, Given, Setting, quantity
from autoscale.recommend.choice.space import Line, Space
from autoscale.recommend.effort import CHOOSING

ALWAYS, AT_ZERO = "one replica always", "to zero at night"  # what a choice that may go to zero is set beside


def beside_keda(
    panel: Panel, pods: Space, lead: Candidate, seeds: Sequence[int], each: Each
) -> dict[str, Judged[Setting]]:
    """The ScaledObjects that guides hand out, with the most of `pods`, the space of HPAs, and the best plain HPA of it."""
    scenario = panel.judge
    assert isinstance(scenario, Scenario)
    guides = guide_objects(scenario, pods.max_replicas)
    found = dict(zip(guides, shown_over(scenario, guides.values(), seeds, each), strict=True))
    hpa = _plain_hpa(scenario, panel, pods, lead, seeds, each)
    return {**found, **({"best plain HPA": hpa} if hpa else {})}


def guide_objects(scenario: Scenario, cap: int) -> dict[str, Given]:
    """By name: before a gateway llm-d's two, else those of production-stack and KServe.

    Sources: llm-d guides/workload-autoscaling/keda-epp, overlays queue and saturation @057abb4a; production-stack
    tutorial 20 @a6c01db0; KServe's website @c01377df. The last two query without sum(), which fails at two pods: summed here.
    """
    profile = scenario.profile
    if scenario.options.gateway is None:
        return {
            "production-stack's tutorial": _given(profile, [("waiting", 5, "")], cap, None),
            "KServe's website": _given(profile, [("running", 2, "")], cap, None),
        }
    rules = {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    }
    behavior = {"scaleUp": rules, "scaleDown": rules}
    sent = ("gateway_in_flight", 16, "")
    saturation = ("gateway_saturation", 0.7, "AverageValue")
    return {
        "llm-d's guide, queue": _given(profile, [("gateway_queue", 1, ""), sent], cap, behavior),
        "llm-d's guide, saturation": _given(profile, [saturation, sent], cap, behavior),
    }


def _given(
    profile: Profile,
    triggers: Sequence[tuple[str, float, str]],
    cap: int,
    behavior: Mapping[str, Any] | None,
) -> Given:
    made = [trigger(profile, signal, value, metric_type=kind) for signal, value, kind in triggers]
    targets = ", ".join(f"{signal} {quantity(value)}" for signal, value, _ in triggers)
    pace = "down 5 min, up after 5 min" if behavior else "default"
    return Given(keda_object(profile, made, (1, cap), Keda(), behavior), f"{targets}, 1-{cap}, {pace}, KEDA")


def _plain_hpa(
    scenario: Scenario, panel: Panel, space: Space, lead: Candidate, seeds: Sequence[int], each: Each
) -> Judged[Setting] | None:
    """The cheapest HPA of one Pods metric with the choice's behaviour and bounds that holds in the search, over the seeds.

    None when none holds there.
    """
    lines = [
        space.line(((), signal), lead.behavior, lead.min_replicas, lead.max_replicas)
        for signal in space.targets
    ]
    tried = [item for found in each(_along, [panel] * len(lines), lines) for item in found]
    holding = sorted((item for item in tried if item[1].holds), key=lambda item: item[1].accelerator_hours)
    if not holding:
        return None
    return shown_over(scenario, [holding[0][0]], seeds, each)[0]


def latency_alone(
    scenario: Scenario,
    asked: KedaAsked | None,
    space: Space,
    lead: Candidate,
    seeds: Sequence[int],
    each: Each,
) -> dict[str, Judged[Candidate]]:
    """The best that the 95th percentile of TTFT and of ITL can do alone, with the choice's behaviour and bounds.

    Their triggers read histograms over a window, which takes long to simulate: a few thresholds, shares of the SLO's
    bound, over two seeds at most. What is never bounded is not tried, nor is traffic that takes too long; nothing where
    signals were named.
    """
    if asked is None or asked.signals is not None or scenario.plan.duration_s > CHOOSING.latency_most_s:
        return {}
    bounds_s = scenario.slo.bounds_s()
    found = {}
    for signal, metric in zip(LATENCY_SIGNALS, ("ttft", "tpot"), strict=True):
        if metric not in bounds_s:
            continue
        thresholds = tuple(round(share * bounds_s[metric], 3) for share in CHOOSING.latency_shares)
        of_latency = Space(
            {signal: tuple(t for t in thresholds if t > 0)},
            space.behaviors,
            space.min_replicas,
            space.max_replicas,
            keda=Keda(),
        )
        line = of_latency.line(((), signal), lead.behavior, lead.min_replicas, lead.max_replicas)
        end, tried = loosest(scenario, line, math.inf, seeds[0])
        nearest = end or max(tried, key=lambda item: item[1].margin)[0]
        found[signal] = confirm(scenario, [nearest], seeds[: CHOOSING.first_look], each)[0]
    return found


def _along(judge: Judge, line: Line) -> list[Tried]:
    return loosest(judge, line, math.inf)[1]
