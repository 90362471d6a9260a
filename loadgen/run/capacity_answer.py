"""What a search for the capacity found, in one sentence, from run.json. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

CLIENT_STEP = "give the client a core of its own or another machine"
TIME_STEP = "search with a longer --find-capacity"


def capacity_sentence(found: Mapping[str, Any], client: Sequence[Mapping[str, Any]]) -> str:
    """What a search found: what held, what broke, what was not decided and why, and the next step.

    From the blocks `find_capacity` and client.stages of run.json.
    """
    held, broke = found["bracket_rps"]
    parts, steps = _undecided(found, client)
    if held is not None:
        until = "none broke" if broke is None else f"{broke:.4g}/s broke it"
        known = f"highest rate that holds {found['slo']}: {held:.4g} requests/s ({until})"
    elif not found["probes"]:
        known = f"capacity not found ({found['slo']}): no rate was tried"
    elif broke is None:
        known = f"capacity not found ({found['slo']}): no rate was decided"
    else:
        known = f"capacity not found ({found['slo']}): {'' if parts else 'every rate down to '}{broke:.4g}/s broke it"
    step = f". Next: {', and '.join(steps)}" if steps else ""
    return f"{'; '.join([known, *parts, found['ended']])}{step}"


def _undecided(found: Mapping[str, Any], client: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """For each rate between what held and what broke that was tried and not decided, why; and what would decide them."""
    held, broke = found["bracket_rps"]
    limits = {stage["stage"]: [r["sentence"] for r in stage["reasons"]] for stage in client}
    decided = {p["rate"] for p in found["probes"] if p["verdict"] != "unclear"}
    reasons: dict[float, str] = {}
    steps: dict[str, None] = {}
    for probe in found["probes"]:
        rate = probe["rate"]
        if rate in decided or rate < (held or 0.0) or rate > (broke or math.inf):
            continue
        limit = limits.get(probe["stage"])
        reasons[rate] = f"the client was the limit ({'; '.join(limit)})" if limit else probe["reason"]
        steps[CLIENT_STEP if limit else TIME_STEP] = None
    return [f"{rate:.4g}/s was not decided: {reason}" for rate, reason in sorted(reasons.items())], [*steps]
