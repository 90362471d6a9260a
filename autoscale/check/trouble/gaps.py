"""What was not watched, and when: gaps that ended and those that still last."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from autoscale.check.records import Gap
from autoscale.kube.cluster import utc_text
from autoscale.kube.objects import Object

KEPT = 2_000
SHORT_S = 1.0  # a gap up to this long hides nothing that a criterion rests on
NO_SIGHT = (None, 403, 429)  # of the metrics API: it did not answer the check, whatever it answers the HPA


class Gaps:
    """The gaps of a watch. A gap without an end lasts until its resource is seen again, or the watch ends."""

    def __init__(self) -> None:
        self._ended: list[Gap] = []
        self._open: dict[str, Gap] = {}
        self._answered_s: dict[str, float] = {}  # metric -> when the metrics API last answered

    def add(self, told: Object, received_s: float) -> Gap:
        """Take what a watcher could not see in; returns it, its end that of its telling while it lasts."""
        resource, from_s = str(told["resource"]), float(told.get("from_s", received_s))
        until_s = told.get("to_s", received_s)
        end_s = received_s if until_s is None else float(until_s)
        gap = Gap(resource, from_s, end_s, bool(told.get("lost", True)), str(told.get("reason", "")))
        if until_s is None or told.get("status"):
            self._open.setdefault(resource, gap)
        else:
            self._open.pop(resource, None)
            self._keep(gap)
        return gap

    def saw(self, resource: str, at_s: float) -> None:
        """The resource is seen again."""
        if gap := self._open.pop(resource, None):
            self._keep(replace(gap, to_s=at_s))

    def asked(self, metric: str, answer: Object, at_s: float) -> None:
        """The metrics API was asked for a metric; without an answer its values are not seen from the last one on."""
        refused = answer.get("values") is None and answer.get("answer", 404) in NO_SIGHT
        if not refused:
            self._answered_s[metric] = at_s
            self.saw("custommetrics", at_s)
        elif "custommetrics" not in self._open:
            reason = str(answer.get("message") or "the metrics API did not answer")
            from_s = self._answered_s.get(metric, at_s)
            self._open["custommetrics"] = Gap("custommetrics", from_s, at_s, True, reason)

    def until(self, last_s: float) -> list[Gap]:
        """All gaps, those that still last up to `last_s`, in order of their begin."""
        lasting = [replace(gap, to_s=max(last_s, gap.to_s)) for gap in self._open.values()]
        return sorted([*self._ended, *lasting], key=lambda gap: gap.from_s)

    def hidden(self, resources: Collection[str], from_s: float, to_s: float, last_s: float) -> str:
        """A sentence on the first gap within [from_s, to_s] in which changes of one of the resources were lost."""
        for gap in self.until(last_s):
            inside = gap.from_s < to_s and gap.to_s > from_s
            if gap.resource in resources and gap.lost and inside and gap.to_s - gap.from_s > SHORT_S:
                return sentence(gap)
        return ""

    def _keep(self, gap: Gap) -> None:
        """One that was taken for late, until the server said that the changes in it are lost, is told once."""
        same = (gap.resource, gap.from_s)
        self._ended = [one for one in self._ended if one.lost or (one.resource, one.from_s) != same]
        if len(self._ended) < KEPT:
            self._ended.append(gap)


def sentence(gap: Gap) -> str:
    """A gap with its times."""
    return f"{gap.resource} were not seen from {utc_text(gap.from_s)} to {utc_text(gap.to_s)}"
