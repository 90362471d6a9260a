"""The load that a check's run directory recorded, as arrivals that can be simulated; and what simulated clients saw of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.run import TABLES
from autoscale.check.client_view import ClientView
from autoscale.check.timeline import Timeline
from autoscale.sim.fleet.run_writer import request_columns
from loadgen.plan.arrivals import Arrivals

TIMES = ("due_s", "sent_s", "first_token_s", "last_token_s")


@dataclass(frozen=True)
class ReplayedLoad:
    """Arrivals in true s after `zero_s`, the start of the watch or of the load (unix s of the watch's clock).

    until_s is the end of the watch on its own clock, clients_s that of the clients in true s, both after zero.
    """

    arrivals: Arrivals
    zero_s: float
    until_s: float
    clients_s: float


def load_as_sent(timeline: Timeline, load: ClientView) -> ReplayedLoad | tuple[str, str]:
    """The recorded load; or why it cannot be simulated, and what would let it be."""
    rows = load.requests
    if rows is None or rows.empty:
        return "no request of the load was seen", "send the load with --load, or name its run directory"
    if load.closed_loop:
        return (
            "the load is a closed loop: what its users send depends on the answers that they get",
            "send an open loop: --rate or --stages",
        )
    rows = rows.sort_values("due_s", kind="stable")
    due_s = rows["due_s"].to_numpy(float) * load.rate + load.ahead_s
    zero_s = min(timeline.first_s, float(due_s[0]))
    asked = [_tokens(rows, kind) for kind in ("prompt_tokens", "output_tokens")]
    if any(np.isnan(tokens).any() for tokens in asked):
        return "the run of the load does not tell how long its requests were", "send the load with --load"
    prompt, output = (np.maximum(tokens, 1).astype(np.int32) for tokens in asked)
    count = len(rows)
    arrivals = Arrivals(
        (due_s - zero_s) / load.rate,
        prompt,
        output,
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int64),
    )
    known = [column for column in (*TIMES, "given_up_s") if column in rows]
    last_s = float(rows[known].max().max()) * load.rate + load.ahead_s
    return ReplayedLoad(arrivals, zero_s, timeline.last_s - zero_s, (last_s - zero_s) / load.rate)


def _tokens(rows: pd.DataFrame, kind: str) -> NDArray[np.float64]:
    """Tokens of every request: as the server counted them where it answered in full, else as they were asked."""
    counted = rows[kind].astype("float64").to_numpy(float, na_value=np.nan)
    asked = rows[f"{kind}_asked"].astype("float64").to_numpy(float, na_value=np.nan)
    whole = (rows["status"] == "ok").to_numpy() & np.isfinite(counted)
    return np.where(whole, counted, np.where(np.isfinite(asked), asked, counted))


def client_view(done: NDArray[Any], load: ClientView, sent: ReplayedLoad, started_at: float) -> ClientView:
    """What the simulated clients saw, on the simulated watch's clock, whose zero is `started_at`."""
    columns = request_columns(done, None)
    frame = pd.DataFrame({name: columns[name] for name in TABLES["requests"] if name in columns})
    shift_s = started_at - sent.zero_s
    return replace(
        load,
        requests=frame,
        changes_s=[change_s + shift_s for change_s in load.changes_s],
        ahead_s=started_at,
        run=None,
    )
