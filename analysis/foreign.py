"""Which of the scraped servers served the run's load: metrics of another model, or a copy of the same, may be among them.

Little's law counts twice: requests in flight at the client are the ones waiting and running in its servers. When the
servers report clearly more, those go whose leaving makes the two agree; when no choice of servers does, all stay and
the analysis says that other load is mixed in.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import signals
from analysis.latency import in_flight

SOURCE = ["pod", "engine"]
_TOO_MANY = 1.25  # times the client's requests in flight: less may be a scrape's lateness
_AGREES = (0.75, _TOO_MANY)
_BETTER = 0.5  # of the disagreement must go
_ENOUGH = 50  # requests seen in all scrapes together, for a server without any to be called idle


def own(table: pd.DataFrame, metrics: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """The metrics without the servers that did not serve this load, and a sentence that names them (None: all did).

    `table` holds the client's latencies (`analysis.latency.latencies`), `metrics` the run's rows on the client's clock.
    """
    held = _held(table, metrics)
    if held is None:
        return metrics, None
    client, servers = held
    inside = servers.to_numpy()
    left = np.ones(inside.shape[1], dtype=bool)
    before = inside.sum() / client.sum()
    if before > _TOO_MANY:
        left = _agreeing(client, inside)
    # behind the same address a replica gets its share
    idle = (inside.max(axis=0) == 0) & left & (inside.sum() >= _ENOUGH)
    left &= ~idle | (left.sum() == idle.sum())
    if left.all():
        return metrics, None
    out = servers.columns[~left]
    kept = metrics[~pd.MultiIndex.from_frame(metrics[SOURCE]).isin(out)]
    pods, engines = out.get_level_values("pod"), out.get_level_values("engine")
    names = ", ".join(
        pod if engine in ("", "0") else f"{pod} (engine {engine})"
        for pod, engine in zip(pods, engines, strict=True)
    )
    why = (
        f"with {'it' if len(out) == 1 else 'them'} the servers would hold {before:.1f} times the requests that this client"
        " had in flight"
        if before > _TOO_MANY
        else f"{'it' if len(out) == 1 else 'they'} had no request while the others served"
    )
    return kept, f"metrics of {names} were left out: {why}"


def _held(table: pd.DataFrame, metrics: pd.DataFrame) -> tuple[NDArray[np.float64], pd.DataFrame] | None:
    """Requests in flight at the client, shape (times,), and in each server, a column each; None with a single server."""
    if len(metrics[SOURCE].drop_duplicates()) < 2:
        return None
    slot = np.floor(metrics["time_s"] / signals.scrape_interval_s(metrics) + 1e-9)
    counts = metrics.assign(slot=slot, held=metrics["waiting"] + metrics["running"])
    servers = counts.pivot_table(index="slot", columns=SOURCE, values="held", aggfunc="last")
    times = metrics.groupby(slot.to_numpy())["time_s"].mean().reindex(servers.index)
    client = in_flight(table["sent_s"], table["left_s"], times)
    busy = client > 0  # before and after the load the servers' own affairs prove nothing
    if busy.sum() < 3 or servers.shape[1] < 2:
        return None
    return client[busy], servers[busy].ffill(limit=2).fillna(0.0)


def _agreeing(client: NDArray[np.float64], servers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which columns add up to the client's requests: dropped one by one, whichever helps most; all when that fails."""
    left = np.ones(servers.shape[1], dtype=bool)
    start = error = float(np.abs(servers.sum(axis=1) - client).mean())
    while left.sum() > 1:
        total = servers[:, left].sum(axis=1)
        without = {
            k: float(np.abs(total - servers[:, k] - client).mean()) for k in np.flatnonzero(left)[::-1]
        }
        worst = min(without, key=without.__getitem__)
        if without[worst] >= error:
            break
        left[worst], error = False, without[worst]
    ratio = servers[:, left].sum() / client.sum()
    agrees = _AGREES[0] <= ratio <= _AGREES[1] and error <= _BETTER * start
    return left if agrees else np.ones_like(left)
