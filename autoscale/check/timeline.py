"""What happened, folded from a stream of observations: pods with their moments, HPA, decisions, metric samples.

The fold keeps one small record per pod and bounded series, so that a watch of hours costs megabytes. Judging a
timeline (scaleout.py) needs nothing else, and the same fold serves the live view while the watch runs.

Moments. Kubernetes stamps conditions in whole seconds on the cluster's clock; a watch delivers the change within
milliseconds on the observer's clock. Both are used: the receipt when it falls into the second that the stamp names
(after correcting for the clock difference), the stamp when the receipt came late (first list, relist after a gap).
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from analysis.numbers import known
from autoscale.check import pod_moments
from autoscale.check.records import NAN, MetricSample, PodRecord, Resize
from autoscale.check.trouble.gaps import Gaps
from autoscale.check.trouble.hindrance import Hindrance
from autoscale.kube.cluster import MISSHAPEN, Observation, log_phase, misshapen, timestamp_s
from autoscale.kube.kinds import LWS_NAME, SCALED, plural_of
from autoscale.kube.objects import Object, mapping
from autoscale.kube.pod import accelerators_of
from autoscale.kube.quantity import milli
from autoscale.kube.scaler import SYNC_PERIOD_S, Hpa
from autoscale.kube.selectors import selector_text, selects

SAMPLES_KEPT = 40_000  # 3 hours of two metrics every second fit with room
LATE_S = 1.25  # a receipt this long after the stamped second began still counts as prompt
MOST_REPLICAS = 2**31 - 1  # what an API server holds


class Timeline:
    """The fold. `add` takes observations in order of receipt; everything else reads.

    hpa_name None: the first HPA that is seen.
    """

    def __init__(self, hpa_name: str | None = None) -> None:
        self.hpa_name = hpa_name
        self.hpa: Object = {}
        self.target: Object = {}
        self.pods: dict[str, PodRecord] = {}
        self.decisions: list[Resize] = []
        self.samples: deque[MetricSample] = deque(maxlen=SAMPLES_KEPT)
        self.gaps = Gaps()
        self.hindrance = Hindrance()
        self.syncs_s: deque[float] = deque(maxlen=64)  # when the HPA was seen to act
        self.nodes: dict[str, Object] = {}
        self.node_seen_s: dict[str, float] = {}
        self.target_ready: list[tuple[float, int]] = []  # (time_s, readyReplicas) of the target's status
        self.log: deque[Object] = deque(maxlen=2_000)  # what happened, for events.jsonl and the live view
        self.logged = 0
        self.first_s = self.last_s = NAN
        self.clock_offset_s = 0.0
        self.clock_known = False
        self.seen: set[str] = set()
        self._size: int | None = None
        self._workloads: dict[
            tuple[str, str], Observation
        ] = {}  # seen before the HPA told which one is its target
        self._named: dict[str, str] = {}  # pod name -> uid of its present owner
        self._events: dict[str, dict[str, float]] = {}  # pod name -> reason -> time, for pods not seen yet
        self._rescales: deque[tuple[float, int, str]] = deque(maxlen=64)
        self._readers = {
            "horizontalpodautoscalers": self._hpa,
            "pods": self._pod,
            "events": self._event,
            "nodes": self._node,
            "custommetrics": self._query,
            "gap": self._gap,
            "clock": self._clock,
            "logs": self._logs,
            **dict.fromkeys(map(plural_of, SCALED), self._workload),
        }

    # --- what it knows ---

    @property
    def kind(self) -> str:
        """Kind of the HPA's target, "" while the HPA is unknown."""
        return Hpa(self.hpa).target_kind

    @property
    def target_name(self) -> str:
        """Name of the HPA's target, "" while the HPA is unknown."""
        return Hpa(self.hpa).target_name

    @property
    def sizing(self) -> tuple[str, str]:
        """The resources that tell the size of the target."""
        return "horizontalpodautoscalers", plural_of(self.kind)

    @property
    def size(self) -> int | None:
        """Replicas that the target is asked to have; None while unknown."""
        return self._size

    def targets_milli(self) -> dict[str, int]:
        """Metric name -> target in milli-units, for the metrics of the HPA that a metrics API serves."""
        return Hpa(self.hpa).targets_milli()

    def own_pods(self) -> list[PodRecord]:
        """The pods of the target, in order of creation."""
        return sorted(filter(self._owned, self.pods.values()), key=lambda pod: (pod.created_s, pod.name))

    def ran(self, pod: str, at_s: float) -> bool:
        """Whether the pod of that name ran at a moment; one that was never seen is taken to."""
        found = self.pods.get(self._named.get(pod, ""))
        if found is None or (math.isnan(found.started_s) and found.phase != "Pending"):
            return True
        return found.started_s <= at_s

    def next_sync_s(self, now_s: float) -> float:
        """When the HPA looks at its metric next; NaN before it was seen to act."""
        if not self.syncs_s:
            return NAN
        last = self.syncs_s[-1]
        return last + math.ceil(max(now_s - last, 1e-9) / SYNC_PERIOD_S) * SYNC_PERIOD_S

    def _owned(self, pod: PodRecord) -> bool:
        if self.kind == "LeaderWorkerSet":
            return pod.labels.get(LWS_NAME) == self.target_name
        if selector := (self.target.get("spec") or {}).get("selector"):
            return selects(selector, pod.labels)
        return bool(self.target_name) and pod.name.startswith(self.target_name + "-")

    # --- the fold ---

    def add(self, seen: Observation) -> None:
        """Take one observation in. Raises BadRun when it is not of its kind's shape."""
        if math.isnan(self.first_s):
            self.first_s = seen.time_s
        self.last_s = seen.time_s if math.isnan(self.last_s) else max(self.last_s, seen.time_s)
        self.seen.add(seen.resource)
        if seen.resource not in ("gap", "custommetrics"):
            self.gaps.saw(seen.resource, seen.time_s)
        if reader := self._readers.get(seen.resource):
            try:
                reader(seen)
            except MISSHAPEN as error:
                raise misshapen(seen, error) from error

    def extend(self, stream: Iterable[Observation]) -> Timeline:
        """Take a whole stream in; returns itself."""
        for seen in stream:
            self.add(seen)
        return self

    def moment(self, received_s: float, stamp: str | None) -> float:
        """When something happened, from its receipt and its stamp; see the module's docstring."""
        stamped_s = timestamp_s(stamp)
        if stamped_s is None:
            return received_s
        stamped_s += self.clock_offset_s
        if "." in str(stamp):
            return min(stamped_s, received_s)
        if received_s <= stamped_s + LATE_S:
            return min(received_s, stamped_s + 1.0)
        return stamped_s + 0.5

    def note(self, time_s: float, kind: str, message: str, **facts: Any) -> None:
        """Keep one line for people; the oldest go first."""
        self.log.append({"time_s": time_s, "kind": kind, "message": message, **facts})
        self.logged += 1

    def _hpa(self, seen: Observation) -> None:
        name = seen.object["metadata"]["name"]
        if self.hpa_name is None:
            self.hpa_name = name
        if name != self.hpa_name or seen.type == "DELETED":
            if name == self.hpa_name:
                self.hindrance.deleted_s = seen.time_s
                self.note(seen.time_s, "hpa", f"HorizontalPodAutoscaler {name} was deleted")
            return
        if self.hindrance.read(Hpa(seen.object), seen.time_s, self.moment):
            self.note(self.hindrance.unreadable_s, "metric", self.hindrance.message)
        before, self.hpa = self.hpa, seen.object
        if early := self._workloads.pop((plural_of(self.kind), self.target_name), None):
            self._workloads.clear()
            self._workload(early)
        status, previous = seen.object.get("status") or {}, before.get("status") or {}
        if before and status != previous:
            self.syncs_s.append(seen.time_s)
        if self._size is None and not self.target and status.get("currentReplicas"):
            self._size = int(status["currentReplicas"])
        rescaled = status.get("lastScaleTime") != previous.get("lastScaleTime")
        if before and rescaled and status.get("desiredReplicas"):
            at_s = self.moment(seen.time_s, status["lastScaleTime"])
            if not self._targets_seen:
                self._resize(at_s, int(status["desiredReplicas"]), by_hpa=True)
            self._claim(at_s, int(status["desiredReplicas"]), "")
        conditions = {c["type"]: c for c in status.get("conditions") or []}
        old = {c["type"]: c for c in previous.get("conditions") or []}
        for kind, condition in conditions.items():
            if before and condition["reason"] != old.get(kind, {}).get("reason"):
                self.note(seen.time_s, "condition", f"{kind}={condition['status']} {condition['reason']}")
        for metric, usage in Hpa(seen.object).usage_milli().items():
            if status != previous:
                self.samples.append(MetricSample(seen.time_s, metric, usage))

    @property
    def _targets_seen(self) -> bool:
        return plural_of(self.kind) in self.seen and bool(self.target)

    def _workload(self, seen: Observation) -> None:
        key = (seen.resource, seen.object["metadata"]["name"])
        if not self.kind:
            self._workloads[key] = seen
            return
        if key != (plural_of(self.kind), self.target_name):
            return
        if seen.type == "DELETED":
            self.note(seen.time_s, "target", f"{self.kind} {self.target_name} was deleted")
            return
        self.target = seen.object
        size = min(int(seen.object.get("spec", {}).get("replicas", 1)), MOST_REPLICAS)
        ready = int((seen.object.get("status") or {}).get("readyReplicas") or 0)
        if not self.target_ready or self.target_ready[-1][1] != ready:
            self.target_ready.append((seen.time_s, ready))
        self._resize(seen.time_s, size, by_hpa=False, late=seen.type == "ADDED" and self._size is not None)

    def _resize(self, at_s: float, size: int, *, by_hpa: bool, late: bool = False) -> None:
        before, self._size = self._size, size
        if before is None or before == size:
            return
        claims = [
            each for each in self._rescales if each[1] == size and self._since_decision_s < each[0] < at_s + 5
        ]
        if claims:  # the HPA's own time is the better one where the target's change was received late
            at_s, by_hpa = min(at_s, claims[-1][0]), True
        reason = next((text for _, _, text in reversed(claims) if text), "")
        self.decisions.append(Resize(at_s, before, size, by_hpa, reason, late))
        self.note(at_s, "decision", f"{before} -> {size} replicas", reason=reason)

    @property
    def _since_decision_s(self) -> float:
        return self.decisions[-1].time_s if self.decisions else self.first_s - 1.0

    def _claim(self, at_s: float, size: int, reason: str) -> None:
        """The HPA says that it set this size: the decision that did is its own, and no later than it says."""
        self._rescales.append((at_s, size, reason))
        if not self.decisions or self.decisions[-1].after != size:
            return
        made = self.decisions[-1]
        floor_s = self.decisions[-2].time_s if len(self.decisions) > 1 else self.first_s - 1.0
        if at_s > floor_s and (made.by_hpa or at_s < made.time_s + 5):
            time_s = min(made.time_s, at_s)
            self.decisions[-1] = Resize(time_s, made.before, size, True, reason or made.reason, made.late)

    def _pod(self, seen: Observation) -> None:
        metadata, status = seen.object["metadata"], seen.object.get("status") or {}
        uid = metadata.get("uid") or metadata["name"]
        self._succeed(metadata["name"], uid, seen)
        pod = self.pods.get(uid)
        fresh = pod is None
        if pod is None:
            if seen.type == "DELETED" and metadata.get("creationTimestamp") is None:
                return
            pod = self.pods[uid] = PodRecord(uid, metadata["name"], dict(metadata.get("labels") or {}))
            pod.accelerators = sum(accelerators_of(mapping(seen.object.get("spec"))).values())
            pod.created_s = self.moment(seen.time_s, metadata.get("creationTimestamp"))
            for reason, time_s in self._events.pop(pod.name, {}).items():
                pod_moments.event(self, pod, reason, time_s, "")
        pod.labels = dict(metadata.get("labels") or pod.labels)
        pod.node = (seen.object.get("spec") or {}).get("nodeName") or pod.node
        pod.phase = status.get("phase", pod.phase)
        pod_moments.pod_conditions(self, pod, seen, fresh)
        pod_moments.containers(self, pod, seen)
        pod_moments.deletion(self, pod, seen)
        if seen.type == "DELETED":
            pod.gone_s = seen.time_s
            if math.isnan(pod.deleting_s):
                pod.deleting_s = seen.time_s
            self.note(seen.time_s, "pod", f"{pod.name} is gone")
        pod.seen_s = seen.time_s

    def _succeed(self, name: str, uid: str, seen: Observation) -> None:
        """A name belongs to one pod at a time: whoever had it before is gone, even if nobody said so."""
        before = self._named.get(name)
        if before == uid and seen.type == "ADDED" and known(self.pods[uid].gone_s):
            ended = self.pods.pop(uid)
            self.pods[f"{uid} until {ended.gone_s}"] = ended
        elif before and before != uid and (earlier := self.pods.get(before)) and math.isnan(earlier.gone_s):
            earlier.gone_s = seen.time_s
            earlier.deleting_s = seen.time_s if math.isnan(earlier.deleting_s) else earlier.deleting_s
        self._named[name] = uid

    def _event(self, seen: Observation) -> None:
        event = seen.object
        about, reason = event.get("involvedObject") or {}, str(event.get("reason") or "")
        message = str(event.get("message") or "")
        stamp = event.get("eventTime") or event.get("firstTimestamp") or event.get("lastTimestamp")
        at_s = self.moment(seen.time_s, stamp)
        if about.get("kind") == "Pod":
            pod = self.pods.get(str(about.get("uid"))) or next(
                (p for p in reversed(self.pods.values()) if p.name == about.get("name")), None
            )
            if pod:
                pod_moments.event(self, pod, reason, at_s, message)
            elif reason in ("Pulling", "Pulled", "TriggeredScaleUp") and len(self._events) < 1_000:
                self._events.setdefault(str(about.get("name")), {})[reason] = at_s
        elif about.get("kind") == "HorizontalPodAutoscaler" and about.get("name") == self.hpa_name:
            if reason == "SuccessfulRescale" and message.startswith("New size: "):
                size = int(message.removeprefix("New size: ").split(";")[0])
                self._claim(at_s, size, message.partition("reason: ")[2])
            elif event.get("type") == "Warning" and seen.type == "ADDED":
                self.note(at_s, "hpa", message, reason=reason)

    def _node(self, seen: Observation) -> None:
        name = seen.object["metadata"]["name"]
        if seen.type == "DELETED":
            self.nodes.pop(name, None)
            return
        if name not in self.nodes:
            stamp = seen.object["metadata"].get("creationTimestamp")
            self.node_seen_s[name] = self.moment(seen.time_s, stamp)
        self.nodes[name] = seen.object

    def _query(self, seen: Observation) -> None:
        answer = seen.object
        targets = self.targets_milli()
        if targets and answer["metric"] not in targets:
            return
        selector, single = answer.get("labelSelector") or "", answer.get("type")
        if self.kind and selector and not single and not self._selector_is_ours(selector):
            return
        values = answer.get("values")
        self.gaps.asked(answer["metric"], answer, seen.time_s)
        if not values:
            self.samples.append(
                MetricSample(seen.time_s, answer["metric"], NAN, {} if values == {} else None)
            )
            return
        read = {sys.intern(pod): milli(value) for pod, value in values.items()}
        if single:
            usage = self._share(answer["metric"], sum(read.values()))
            self.samples.append(MetricSample(seen.time_s, answer["metric"], usage))
            return
        self.samples.append(MetricSample(seen.time_s, answer["metric"], sum(read.values()) / len(read), read))
        if str(answer.get("agent", "")).find("horizontal-pod-autoscaler") >= 0:
            self.syncs_s.append(seen.time_s)

    def _share(self, metric: str, total: float) -> float:
        """What the HPA compares with its target: a total over the replicas, of a Value target the total itself."""
        found = next((m for m in Hpa(self.hpa).served if m.name == metric), None)
        return total / max(1, self._size or 0) if found is None or found.average else total

    def _selector_is_ours(self, selector: str) -> bool:
        if self.kind == "LeaderWorkerSet":
            return f"{LWS_NAME}={self.target_name}" in selector
        own = selector_text((self.target.get("spec") or {}).get("selector"))
        return not own or own == selector

    def _gap(self, seen: Observation) -> None:
        gap = self.gaps.add(seen.object, seen.time_s)
        self.note(
            seen.time_s, "gap", f"{gap.resource} not seen for {gap.to_s - gap.from_s:.1f} s: {gap.reason}"
        )

    def hidden(self, resources: Collection[str], from_s: float = -math.inf, to_s: float = math.inf) -> str:
        """A sentence on a gap in [from_s, to_s] in which changes of one of the resources were lost; "" for none."""
        return self.gaps.hidden(resources, from_s, to_s, self.last_s)

    def _clock(self, seen: Observation) -> None:
        self.clock_offset_s, self.clock_known = float(seen.object["offset_s"]), True

    def _logs(self, seen: Observation) -> None:
        pod = next((p for p in reversed(self.pods.values()) if p.name == seen.object["pod"]), None)
        if pod is None:
            return
        for line in seen.object.get("lines") or []:
            if phase := log_phase(str(line.get("text", ""))):
                pod.log_s.setdefault(phase, self.moment(seen.time_s, line.get("time")))
