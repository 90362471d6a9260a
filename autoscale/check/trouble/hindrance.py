"""What keeps an HPA from acting while it is watched, as the API server tells it: an unreadable metric, its deletion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from autoscale.check.records import NAN
from autoscale.kube.cluster import utc_text
from autoscale.kube.scaler import SYNC_PERIOD_S, Hpa

STAYED_SYNCS = 3  # an HPA that is replaced, or a metrics server that restarts, is back sooner
# Series that only requests make (a gateway's, a histogram's) have no value while nobody asks: a scrape of 30 s, a minute in
# which prometheus-adapter's chart looks for new series, a sync, and as long again.
FIRST_VALUE_S = 180.0


@dataclass
class Hindrance:
    """Since when the HPA cannot act, unix s on the observer's clock; NaN = it can."""

    unreadable_s: float = NAN
    message: str = ""  # the HPA's own words about the metric
    deleted_s: float = NAN

    def read(self, hpa: Hpa, received_s: float, moment: Callable[[float, str | None], float]) -> bool:
        """Take the HPA's status in; whether its metrics just became unreadable."""
        self.deleted_s = NAN
        self.message = hpa.unreadable
        if not self.message:
            self.unreadable_s = NAN
            return False
        fresh = math.isnan(self.unreadable_s)
        if fresh:
            self.unreadable_s = moment(received_s, hpa.conditions["ScalingActive"].get("lastTransitionTime"))
        return fresh

    @property
    def since_s(self) -> float:
        """When the present hindrance began; NaN without one."""
        return self.unreadable_s if math.isnan(self.deleted_s) else self.deleted_s

    def now(self) -> str:
        """What keeps the HPA from acting, "" for nothing."""
        if not math.isnan(self.deleted_s):
            return f"the HPA was deleted at {utc_text(self.deleted_s)}"
        if not math.isnan(self.unreadable_s):
            return f"the HPA has not read its metric since {utc_text(self.unreadable_s)}: {self.message}"
        return ""

    def ended(self, first_s: float, now_s: float, loaded: bool) -> str:
        """Why a watch that began at `first_s`, with load or without, need not go on, "" while it may."""
        least_s, long = STAYED_SYNCS * SYNC_PERIOD_S, f"{STAYED_SYNCS} syncs and longer"
        if loaded and math.isnan(self.deleted_s) and self.unreadable_s < first_s:
            least_s, long = FIRST_VALUE_S, f"nor after {FIRST_VALUE_S:g} s of load"
        return f"{self.now()} ({long})" if now_s - max(self.since_s, first_s) >= least_s else ""
