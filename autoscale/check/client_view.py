"""What the clients of a scale-out saw: which requests broke the SLO, and which were cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoscale.check.records import NAN

if TYPE_CHECKING:
    import pandas as pd

    from analysis.slo import Slo

SLO_WINDOW_S = 30.0
WINDOW_REQUESTS = 20  # a window holds as many at least: of fewer, a single breach would break a p95
SILENT_WAIT_S = 120.0
CUT_STATUSES = ("connection_error", "incomplete", "http_error")


@dataclass(frozen=True)
class ClientView:
    """What clients saw: rows of requests.parquet with times in unix s, the SLO, and when the offered load changed.

    `rate` and `ahead_s` turn the clients' clock into the timeline's (time * rate + ahead_s): a fleet with a compressed
    control plane has one of its own, while latencies stay true seconds. `closed_loop`: users wait for answers, so that
    what they send depends on what they get. `run` is the load's run directory, where there is one.
    `queries_told`: of the metrics only what the HPA asked is seen, not what a watcher asks in between.
    `limited`: by its own verdict the load generator was the limit, so that its latencies are not the server's alone.
    """

    requests: pd.DataFrame | None = None
    slo: Slo | None = None
    changes_s: Sequence[float] = ()
    rate: float = 1.0
    ahead_s: float = 0.0
    closed_loop: bool = False
    run: Path | None = None
    queries_told: bool = False
    limited: bool = False


class Breaches:
    """Which requests broke the SLO, by the time they were due. Without requests or SLO it knows nothing."""

    def __init__(self, load: ClientView) -> None:
        self.known = load.requests is not None and load.slo is not None
        if load.requests is None or load.slo is None:
            return
        import numpy as np

        from analysis.slo import meets

        rows = load.requests.sort_values("due_s")
        # what the client itself cancelled, at its own end of the run, says nothing about the server
        rows = rows[rows["status"] != "cancelled"]
        due = rows["due_s"].to_numpy(float)
        ttft = rows["first_token_s"].to_numpy(float) - due
        e2e = rows["last_token_s"].to_numpy(float) - due
        tokens = rows["output_tokens"].astype("float64").to_numpy(float, na_value=np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(tokens > 1, (e2e - ttft) / (tokens - 1), np.nan)
        self.due_s = due * load.rate + load.ahead_s
        answered = tpot[(rows["status"] == "ok").to_numpy() & np.isfinite(tpot)]
        self.tpot_s = float(np.median(answered)) if len(answered) else NAN
        self.good = meets(load.slo, rows["status"].to_numpy() == "ok", ttft, tpot, e2e)
        shares = [t.percentile / 100 for t in load.slo.terms if t.percentile is not None]
        self.asked = load.slo.goodput or min(shares, default=1.0)

    def count(self, from_s: float, to_s: float) -> int | None:
        """Requests due in [from_s, to_s) that broke a bound or failed; None when nothing is known."""
        if not self.known:
            return None
        return int(((self.due_s >= from_s) & (self.due_s < to_s) & ~self.good).sum())

    def total(self) -> int | None:
        """All requests in breach."""
        return int((~self.good).sum()) if self.known else None

    def recovered_s(self, from_s: float, until_s: float) -> float:
        """Due time of the request from which on the SLO held again over 30 s windows; NaN: never broken or not again."""
        stretch = self.stretch(from_s, until_s)
        return stretch[1] if stretch else NAN

    def stretch(self, from_s: float = -math.inf, until_s: float = math.inf) -> tuple[float, float] | None:
        """(when the SLO broke first, when it held again for good) over windows of SLO_WINDOW_S, or of WINDOW_REQUESTS
        where that is longer; NaN: it did not hold again. None: it held throughout, or nothing is known."""
        if not self.known:
            return None
        import numpy as np

        inside = (self.due_s >= from_s) & (self.due_s < until_s)
        due, good = self.due_s[inside], self.good[inside]
        if not len(due) or good.all():
            return None
        sums = np.concatenate([[0], np.cumsum(good)])
        index = np.arange(len(due))
        upto = np.searchsorted(due, due + SLO_WINDOW_S)
        upto = np.minimum(np.maximum(upto, index + WINDOW_REQUESTS), len(due))
        first = np.minimum(
            index, max(0, len(due) - WINDOW_REQUESTS)
        )  # the last ones: as many that came before
        broken = (sums[upto] - sums[first]) / (upto - first) < self.asked
        bad = np.flatnonzero(broken & ~good)  # a window begins to be broken with a breach
        if not len(bad):
            return None
        last = int(bad[-1])
        return float(due[bad[0]]), NAN if last + 1 >= len(due) else float(due[last + 1])


def cut_off(load: ClientView, deleting_s: float, freed_s: float) -> int:
    """Requests that failed and were under way while replicas were removed. An answer that broke off was last heard
    of in that time; one without any token may have been waiting for up to two minutes."""
    assert load.requests is not None
    rows = load.requests[["sent_s", "first_token_s", "last_token_s"]] * load.rate + load.ahead_s
    failed = load.requests["status"].isin(CUT_STATUSES)
    sent, silent = rows["sent_s"], rows["last_token_s"].isna()
    until_s = math.inf if math.isnan(freed_s) else freed_s + 1.0
    heard = rows.max(axis=1) >= deleting_s - 1.0
    waiting = silent & (sent >= deleting_s - SILENT_WAIT_S)
    return int((failed & (sent <= until_s) & (heard | waiting)).sum())
