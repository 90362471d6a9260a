"""What a run tells of the engine's limits; the rest is the profile's, and said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.run import Run
from autoscale.profiles import Profile
from autoscale.sim.engine.replicas import EngineParams

WORDS = {
    "num_blocks": "KV blocks",
    "block_size": "block size",
    "max_num_seqs": "seats (max_num_seqs)",
    "max_num_batched_tokens": "token budget (max_num_batched_tokens)",
}
LIMITS = tuple(WORDS)  # that a run may tell
QUEUED = 20  # samples with a queue, from which on they tell the seats
LEVEL = 0.4  # of them, at the most requests that ever ran: there it levels off
FREE = 0.1  # of those, with room in the KV cache: it was not what kept the others waiting
ROOM = 0.9  # KV usage below which there is room


def limits_from_run(header: dict[str, object], prior: EngineParams, seats: int | None = None) -> EngineParams:
    """The prior with the engine limits that the run found (blocks, block size, seats, token budget); `seats` are those that
    it showed, where it did not read any."""
    facts = header.get("engine") or {}
    assert isinstance(facts, dict)
    found: dict[str, Any] = {name: int(facts[name]) for name in LIMITS if facts.get(name)}
    if seats is not None:
        found.setdefault("max_num_seqs", seats)
    if "max_num_seqs" in found and "max_num_batched_tokens" not in found:
        found["max_num_batched_tokens"] = max(prior.max_num_batched_tokens, found["max_num_seqs"])
    return replace(prior, **found)


def seats_seen(metrics: Sequence[pd.DataFrame | None]) -> int | None:
    """The number of running requests of an engine at which it levels off while others wait and the KV cache has room."""
    tables = [
        table for table in metrics if table is not None and {"running", "waiting", "kv_usage"} <= set(table)
    ]
    if not tables:
        return None
    rows = pd.concat(tables)[["running", "waiting", "kv_usage"]].astype(float).dropna()
    queued = rows[rows["waiting"] >= 1]
    most = float(rows["running"].max()) if len(rows) else 0.0
    level = queued[queued["running"] == most]
    levels_off = len(queued) >= QUEUED and len(level) >= LEVEL * len(queued)
    return int(most) if levels_off and (level["kv_usage"] < ROOM).mean() >= FREE else None


def assumed(run: Run, profile: Profile, engine: EngineParams, seats: int | None) -> list[str]:
    """Sentences on the limits that the run did not read: seats that it showed, the rest by the profile."""
    facts = run.header.get("engine") or {}
    unread = [name for name in LIMITS if not facts.get(name)]
    said = []
    if "max_num_seqs" in unread and seats is not None:
        unread.remove("max_num_seqs")
        said.append(
            f"never more than {seats} requests ran at once while others waited and the KV cache had room: {seats} seats, "
            f"where the profile {profile.name} says {profile.engine.max_num_seqs}"
        )
    if unread and not run.header.get("profile"):
        values = ", ".join(f"{WORDS[name]} {getattr(engine, name)}" for name in unread)
        said.append(
            f"the run does not tell {values}: assumed as in the profile {profile.name}; --profile names another"
        )
    return said
