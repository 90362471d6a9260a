"""Phases of scale-outs: the recordings against the marks of who drove them, then random histories with known truth."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from analysis.slo import parse_slo
from autoscale.check.client_view import ClientView
from autoscale.check.measured import profile_changes
from autoscale.check.replicas import counts
from autoscale.check.scaleout import history
from autoscale.check.timeline import Timeline
from autoscale.check.verdict import judge
from autoscale.kube.cluster import Observation, read_observations
from autoscale.profiles import profile as profiles

METRIC = "prometheus.googleapis.com|vllm:num_requests_waiting|gauge"


def recording(fixtures_dir, name):
    rows = list(read_observations(fixtures_dir / "kubernetes" / f"{name}.jsonl.gz"))
    marks = [(o.time_s, o.object["text"]) for o in rows if o.resource == "mark"]
    return [o for o in rows if o.resource != "mark"], marks


@pytest.mark.parametrize(
    ("name", "steps", "ready"),
    [
        ("deployment", [(1, 2), (2, 3), (3, 4)], "replicas ready"),
        ("lws", [(1, 2), (2, 3), (3, 4)], "groups ready"),
    ],
    ids=["a Deployment 1 -> 2 -> 3 -> 4", "groups of a LeaderWorkerSet 1 -> 2 -> 3 -> 4"],
)
def test_each_scale_out_of_a_recording_is_attributed_and_agrees_with_the_marks(
    fixtures_dir, name, steps, ready
):
    rows, marks = recording(fixtures_dir, name)
    driven = [t for t, text in marks if not text.startswith("reached")]
    past = history(Timeline().extend(rows), ClientView(changes_s=driven))
    assert [(out.before, out.after) for out in past.scale_outs] == steps
    for out in past.scale_outs:
        assert out.by_hpa
        assert "above target" in out.reason
        assert out.attributed >= 0.95
        for one, following in zip(out.phases, out.phases[1:], strict=False):
            assert one.end_s == following.start_s
        marked = next(t for t, text in marks if text == f"reached: {out.after} {ready}")
        assert out.ready_s == pytest.approx(marked, abs=2.0)
        if "since the decision before" not in out.phases[0].note:
            assert min(abs(out.phases[0].start_s - t) for t in driven) < 0.01
        assert len(out.replicas) == 1
        assert out.replicas[0].size == (2 if name == "lws" else 1)


@pytest.mark.parametrize(
    ("name", "mark", "steps"),
    [("deployment", "reached: back to 1", [(4, 1)]), ("lws", "reached: 1 group", [(4, 3), (3, 2), (2, 1)])],
    ids=["three pods at once", "group by group"],
)
def test_scale_ins_say_when_accelerators_are_free(fixtures_dir, name, mark, steps):
    rows, marks = recording(fixtures_dir, name)
    past = history(Timeline().extend(rows))
    assert [(each.before, each.after) for each in past.scale_ins] == steps
    assert [len(each.victims) for each in past.scale_ins] == [a - b for a, b in steps]
    last = past.scale_ins[-1]
    assert last.deleting_s == pytest.approx(next(t for t, text in marks if text == mark), abs=2.0)
    gone = [o.time_s for o in rows if o.resource == "pods" and o.type == "DELETED"]
    assert last.freed_s == pytest.approx(max(gone), abs=0.01)
    assert last.accelerators == sum(pod.accelerators for unit in last.victims for pod in unit.pods) > 0


def test_recorded_verdicts(fixtures_dir):
    rows, _ = recording(fixtures_dir, "lws")
    timeline = Timeline().extend(rows)
    judgement = judge(timeline, history(timeline))
    by_code = {c.code: c for c in judgement.criteria}
    assert by_code["scaled_when_it_should"].outcome == "pass"
    assert by_code["no_flapping"].outcome == "pass"
    assert by_code["no_wasted_replica"].outcome == "pass"
    assert by_code["new_replica_gets_its_share"].outcome == "pass"
    assert by_code["group_on_own_nodes"].outcome == "fail", (
        "both pods of each recorded group run on node gpu-a"
    )
    assert "gpu-a" in by_code["group_on_own_nodes"].sentence
    assert by_code["slo_recovered"].outcome == "not_asked", "no load was given"
    json.dumps(judgement.as_dict(), allow_nan=False)


def test_replica_counts_follow_the_recording(fixtures_dir):
    rows, _ = recording(fixtures_dir, "deployment")
    timeline = Timeline().extend(rows)
    table = counts(timeline)
    assert [row[0] for row in table] == sorted(row[0] for row in table)
    assert max(row[4] for row in table) == 4
    assert table[-1][1:] == (1.0, 1.0, 1.0, 1.0)


# --- random histories ----------------------------------------------------------------------------------------------------


@dataclass
class Scenario:
    """A fleet with known event times, and what a watcher with its own clock and its own delays receives of it."""

    seed: int
    kind: str = "Deployment"
    observations: list = field(default_factory=list)
    truth: dict = field(default_factory=dict)
    requests: pd.DataFrame | None = None

    def __post_init__(self):
        self.rng = np.random.default_rng(self.seed)
        self.kind = ["Deployment", "LeaderWorkerSet"][self.seed % 2]
        self.zero = 1_800_000_000.0 + self.rng.uniform(0, 1)
        self.offset_s = self.rng.uniform(-30, 30)  # observer's clock minus the cluster's
        blind = self.zero + self.rng.uniform(0, 600)
        self.blind = (blind, blind + (self.rng.uniform(5, 40) if self.seed % 3 == 0 else 0.0))
        self._play()

    def stamp(self, true_s):
        """The cluster's clock in whole seconds."""
        return datetime.fromtimestamp(true_s - self.offset_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def tell(self, true_s, resource, kind, found):
        received = true_s + self.rng.uniform(0.002, 0.15)
        if self.blind[0] <= received < self.blind[1] and resource != "custommetrics":
            received = self.blind[1] + self.rng.uniform(0.002, 0.1)
        self.observations.append(Observation(received, resource, kind, found))

    def hpa(self, true_s, desired, *, last=None, kind="MODIFIED"):
        version = {"Deployment": "apps/v1", "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1"}[self.kind]
        metric = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": "5"}}
        status = {"currentReplicas": 1, "desiredReplicas": desired}
        if last:
            status["lastScaleTime"] = self.stamp(last)
        reference = {"kind": self.kind, "name": "vllm", "apiVersion": version}
        spec = {
            "scaleTargetRef": reference,
            "minReplicas": 1,
            "maxReplicas": 4,
            "metrics": [{"type": "Pods", "pods": metric}],
        }
        self.tell(
            true_s,
            "horizontalpodautoscalers",
            kind,
            {"metadata": {"name": "h"}, "spec": spec, "status": status},
        )

    def target(self, true_s, replicas, kind="MODIFIED"):
        group = (
            {"leaderWorkerTemplate": {"size": 2}}
            if self.kind == "LeaderWorkerSet"
            else {"selector": {"matchLabels": {"app": "vllm"}}}
        )
        found = {"metadata": {"name": "vllm"}, "spec": {"replicas": replicas, **group}, "status": {}}
        self.tell(true_s, {"Deployment": "deployments"}.get(self.kind, "leaderworkersets"), kind, found)

    def pod(self, true_s, name, life, kind="MODIFIED"):
        """The pod as it stands at true_s: `life` maps created, scheduled, started, ready to true times."""
        index, worker = name.split("-")[1], name.split("-")[2] if name.count("-") == 2 else "0"
        labels = (
            {"app": "vllm"}
            if self.kind == "Deployment"
            else {
                "leaderworkerset.sigs.k8s.io/name": "vllm",
                "leaderworkerset.sigs.k8s.io/group-index": index,
                "leaderworkerset.sigs.k8s.io/worker-index": worker,
            }
        )
        have = {stage: t for stage, t in life.items() if t <= true_s}
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": self.stamp(have[stage])}
            for kind, stage in (
                ("PodScheduled", "scheduled"),
                ("Initialized", "scheduled"),
                ("Ready", "ready"),
            )
            if stage in have
        ]
        status = {"phase": "Running" if "started" in have else "Pending", "conditions": conditions}
        if "started" in have:
            status["containerStatuses"] = [
                {
                    "name": "vllm",
                    "restartCount": 0,
                    "state": {"running": {"startedAt": self.stamp(have["started"])}},
                }
            ]
        metadata = {
            "name": name,
            "uid": name,
            "labels": labels,
            "creationTimestamp": self.stamp(life["created"]),
        }
        spec = {"nodeName": f"n-{name}"} if "scheduled" in have else {}
        self.tell(true_s, "pods", kind, {"metadata": metadata, "spec": spec, "status": status})

    def _play(self):
        rng, zero = self.rng, self.zero
        members = [""] if self.kind == "Deployment" else ["", "-1"]
        old = {"created": zero - 500, "scheduled": zero - 400, "started": zero - 300, "ready": zero - 200}
        self.observations.append(
            Observation(zero, "clock", "MEASURED", {"offset_s": self.offset_s + rng.uniform(-0.05, 0.05)})
        )
        self.hpa(zero, 1, kind="ADDED")
        self.target(zero, 1, kind="ADDED")
        for member in members:
            self.pod(zero, f"vllm-0{member}", old, kind="ADDED")
        load_s = zero + rng.uniform(40, 90)
        visible_s = load_s + rng.uniform(3, 40)  # the adapter shows a queue above the target from here on
        sync_s = zero + rng.uniform(0, 15)
        while sync_s < visible_s + 0.3:
            sync_s += rng.uniform(15.0, 15.2)
        decided_s, added = sync_s, int(rng.integers(1, 3))
        self.hpa(decided_s + 0.02, 1 + added, last=decided_s)
        self.target(decided_s, 1 + added)
        lives = {}
        for replica in range(1, 1 + added):
            for member in members:
                created = decided_s + rng.uniform(0.02, 0.9)
                scheduled = created + (rng.uniform(0.02, 0.5) if rng.random() < 0.5 else rng.uniform(20, 200))
                started = scheduled + rng.uniform(1, 90)
                lives[f"vllm-{replica}{member}"] = {
                    "created": created,
                    "scheduled": scheduled,
                    "started": started,
                }
        for replica in range(1, 1 + added):
            whole = max(lives[f"vllm-{replica}{m}"]["started"] for m in members)
            for member in members:
                lives[f"vllm-{replica}{member}"]["ready"] = whole + rng.uniform(10, 200)
        for name, life in lives.items():
            for stage, true_s in life.items():
                self.pod(true_s, name, life, kind="ADDED" if stage == "created" else "MODIFIED")
        ready_s = max(life["ready"] for life in lives.values())
        first_s = ready_s + rng.uniform(0.5, 5)
        peak = rng.uniform(30, 120)
        drain_s = rng.uniform(20, 90)
        absorbed_s = first_s + drain_s * (1 - 5 / (peak / (1 + added)))
        if absorbed_s < first_s:
            absorbed_s = first_s
        end_s = first_s + drain_s + 60

        def queue(t):
            if t < visible_s:
                return 3.0
            if t < first_s:
                return peak * (0.3 + 0.7 * (t - visible_s) / (first_s - visible_s)) if t < first_s else peak
            return max(0.0, peak * (1 - (t - first_s) / drain_s))

        for t in np.arange(zero + 0.5, end_s, 1.0):
            serving = [0, *(r for r in range(1, 1 + added) if t >= first_s)]
            each = queue(t) / len(serving)
            values = {f"vllm-{r}": f"{math.ceil(each * 1000)}m" for r in serving}
            found = {"metric": METRIC, "labelSelector": "", "values": values}
            self.observations.append(Observation(float(t), "custommetrics", "QUERY", found))
        self._requests(zero, load_s, absorbed_s, end_s)
        if self.blind[1] > self.blind[0]:
            gap = {
                "resource": "pods",
                "from_s": self.blind[0],
                "to_s": self.blind[1],
                "lost": False,
                "reason": "cut",
            }
            self.observations.append(Observation(self.blind[1], "gap", "MISSED", gap))
        self.observations.sort(key=lambda o: o.time_s)
        self.truth |= {
            "load": load_s, "detected": visible_s, "decided": decided_s, "after": 1 + added,
            "created": max(life["created"] for life in lives.values()), "ready": ready_s, "absorbed": absorbed_s,
        }  # fmt: skip

    def _requests(self, zero, load_s, absorbed_s, end_s):
        rng = self.rng
        due = np.sort(rng.uniform(zero, end_s, 4000))
        slow = (due > load_s) & (due < absorbed_s) & (rng.random(due.size) < 0.6)
        ttft = np.where(slow, rng.uniform(2.001, 20, due.size), rng.uniform(0.05, 1.999, due.size))
        failed = rng.random(due.size) < 0.01
        first = np.where(failed, np.nan, due + ttft)
        self.truth["breaches"] = int((slow | failed).sum())
        self.truth["bad_due"] = due[slow | failed]
        self.requests = pd.DataFrame(
            {
                "due_s": due, "sent_s": due, "first_token_s": first, "last_token_s": first + 1.0,
                "output_tokens": pd.array(np.full(due.size, 10), dtype="Int64"),
                "status": np.where(failed, "http_error", "ok"),
            }
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(50))
def test_a_history_with_known_times_is_told_within_a_second(seed):
    scenario = Scenario(seed)
    truth = scenario.truth
    timeline = Timeline("h").extend(scenario.observations)
    past = history(
        timeline,
        ClientView(requests=scenario.requests, slo=parse_slo("ttft_p95=2s"), changes_s=[truth["load"]]),
    )
    (out,) = past.scale_outs
    assert (out.before, out.after) == (1, truth["after"])
    assert out.phases[0].start_s == truth["load"]
    for name, told in (
        ("detected", out.detected_s),
        ("decided", out.decided_s),
        ("ready", out.ready_s),
        ("absorbed", out.absorbed_s),
    ):
        assert told == pytest.approx(truth[name], abs=1.0), name
    assert out.attributed >= 0.95
    assert past.requests_in_breach == truth["breaches"]
    inside = (truth["bad_due"] >= out.phases[0].start_s) & (truth["bad_due"] < out.phases[-1].watched_s)
    assert out.requests_in_breach == int(inside.sum())


def test_the_slo_is_back_when_the_queue_is_gone():
    scenario = Scenario(4)
    timeline = Timeline("h").extend(scenario.observations)
    load = ClientView(requests=scenario.requests, slo=parse_slo("ttft_p95=2s"))
    (out,) = history(timeline, load).scale_outs
    assert out.slo_back_s == pytest.approx(scenario.truth["absorbed"], abs=3.0), (
        "60 % of requests break it until then"
    )


def test_a_measured_cold_start_is_a_valid_change_to_a_profile():
    past = history(Timeline("h").extend(Scenario(5).observations))
    changed = profiles.overlay(profiles.load("llama-3.1-405b-2x8h100"), profile_changes(past))
    total = changed.cold_start.median_s(changed.model.weight_bytes)
    unit = past.scale_outs[0].replicas[0]
    if len(past.scale_outs[0].replicas) == 1:
        assert total == pytest.approx(unit.ready_s - unit.created_s, abs=0.1)
    assert changed.cold_start.engine_init.median_s > 5


def test_without_rights_on_pods_the_start_is_one_phase_and_said_so():
    scenario = Scenario(0)
    rows = [o for o in scenario.observations if o.resource != "pods"]
    ready_s = scenario.truth["ready"]
    found = {
        "metadata": {"name": "vllm"},
        "spec": {"replicas": scenario.truth["after"], "selector": {"matchLabels": {"app": "vllm"}}},
    }
    found["status"] = {"readyReplicas": scenario.truth["after"]}
    rows.append(Observation(ready_s + 0.05, "deployments", "MODIFIED", found))
    rows.sort(key=lambda o: o.time_s)
    past = history(Timeline("h").extend(rows))
    (out,) = past.scale_outs
    assert any(phase.name == "pods_to_ready" for phase in out.phases)
    assert out.ready_s == pytest.approx(ready_s, abs=1.0)
    assert any("saw no pods" in sentence for sentence in past.unseen)


def test_a_replica_that_is_removed_before_it_is_ready_is_a_wasted_one():
    scenario = Scenario(2)
    truth = scenario.truth
    cut_s = truth["created"] + 5.0
    rows = [o for o in scenario.observations if o.time_s < cut_s]
    scenario.observations = rows
    scenario.target(cut_s, 1)
    for name in [o.object["metadata"]["name"] for o in rows if o.resource == "pods" and o.type == "ADDED"][
        1:
    ]:
        last = next(
            o for o in reversed(rows) if o.resource == "pods" and o.object["metadata"]["name"] == name
        )
        ended = {
            **last.object,
            "metadata": {**last.object["metadata"], "deletionTimestamp": scenario.stamp(cut_s)},
        }
        rows.append(Observation(cut_s + 0.1, "pods", "MODIFIED", ended))
        rows.append(Observation(cut_s + 2.0, "pods", "DELETED", ended))
    rows.sort(key=lambda o: o.time_s)
    timeline = Timeline("h").extend(rows)
    past = history(timeline)
    assert "removed before it was ready" in past.scale_outs[0].notes[0]
    verdict = {c.code: c for c in judge(timeline, past).criteria}
    assert verdict["no_wasted_replica"].outcome == "fail"
    assert verdict["became_ready"].outcome == "fail"


@pytest.mark.parametrize(
    ("waiting", "outcome"),
    [((40, 44, 41, 46), "fail"), ((40, 39, 38, 37), "not_judged")],
    ids=["the old replica's queue keeps growing", "the old queue only drains: nobody sends any more"],
)
def test_a_replica_without_traffic_is_named_with_keep_alive_pinning(waiting, outcome):
    scenario = Scenario(1)
    ready_s = scenario.truth["ready"]
    rows = [o for o in scenario.observations if o.resource != "custommetrics" or o.time_s < ready_s]
    for k in range(120):
        values = {f"vllm-{r}": "0m" for r in range(1, scenario.truth["after"])}
        values["vllm-0"] = f"{(waiting[k % 4] if outcome == 'fail' else 200 - k) * 1000}m"
        found = {"metric": METRIC, "labelSelector": "", "values": values}
        rows.append(Observation(ready_s + 1 + k, "custommetrics", "QUERY", found))
    timeline = Timeline("h").extend(sorted(rows, key=lambda o: o.time_s))
    verdict = {c.code: c for c in judge(timeline, history(timeline)).criteria}
    assert verdict["new_replica_gets_its_share"].outcome == outcome
    if outcome == "fail":
        assert "keep-alive pinning" in verdict["new_replica_gets_its_share"].sentence


@pytest.mark.parametrize(
    ("seen_s", "outcome"),
    [(200, "pass"), (120, "fail")],
    ids=["absorbed a minute and more before the end", "absorbed too shortly before the end"],
)
def test_what_the_old_replica_had_queued_before_is_not_held_against_the_routing(seen_s, outcome):
    """400 requests wait at the old replica and drain by 4 a second, 4 or 5 everywhere after 100 s. From 60 s to 120 s
    after ready the old one holds 55 on average and the new one 4.5: 15 % of an equal share."""
    scenario = Scenario(1)
    ready_s = scenario.truth["ready"]
    rows = [o for o in scenario.observations if o.resource != "custommetrics" or o.time_s < ready_s]
    for k in range(seen_s):
        values = {f"vllm-{r}": f"{4 + k % 2}" for r in range(1, scenario.truth["after"])}
        values["vllm-0"] = f"{max(400 - 4 * k, 4 + k % 2)}"
        found = {"metric": METRIC, "labelSelector": "", "values": values}
        rows.append(Observation(ready_s + 1 + k, "custommetrics", "QUERY", found))
    timeline = Timeline("h").extend(sorted(rows, key=lambda o: o.time_s))
    verdict = {c.code: c for c in judge(timeline, history(timeline)).criteria}
    assert verdict["new_replica_gets_its_share"].outcome == outcome


@pytest.mark.parametrize(("stays_s", "judged"), [(20, False), (80, True)], ids=["at once", "after a minute"])
def test_a_replica_that_is_given_back_at_once_is_not_judged_by_its_share(stays_s, judged):
    """The old replica keeps 100 requests and gets new ones; the new ones hold none. vllm-1 is ready last."""
    scenario = Scenario(1)
    ready_s = scenario.truth["ready"]
    scenario.target(ready_s + stays_s, 1)
    rows = [o for o in scenario.observations if o.resource != "custommetrics" or o.time_s < ready_s]
    for k in range(120):
        values = {f"vllm-{r}": "0" for r in range(1, scenario.truth["after"])}
        values["vllm-0"] = f"{100 + k % 3}"
        found = {"metric": METRIC, "labelSelector": "", "values": values}
        rows.append(Observation(ready_s + 1 + k, "custommetrics", "QUERY", found))
    timeline = Timeline("h").extend(sorted(rows, key=lambda o: o.time_s))
    past = history(timeline)
    assert past.scale_ins
    verdict = {c.code: c for c in judge(timeline, past).criteria}
    shares = verdict["new_replica_gets_its_share"].figures["share_of_equal"]
    assert ("vllm-1" in shares) == judged
    assert shares["vllm-2"] == 0


def test_a_metric_that_asks_in_vain_fails_when_it_should():
    scenario = Scenario(7)
    rows = [o for o in scenario.observations if o.time_s < scenario.truth["decided"] - 0.5]
    extra = [
        o
        for o in scenario.observations
        if o.resource == "custommetrics" and o.time_s < scenario.truth["ready"]
    ]
    rows = sorted({id(o): o for o in [*rows, *extra]}.values(), key=lambda o: o.time_s)
    timeline = Timeline("h").extend(rows)
    verdict = {c.code: c for c in judge(timeline, history(timeline)).criteria}
    assert verdict["scaled_when_it_should"].outcome == "fail"
    assert "nothing was decided" in verdict["scaled_when_it_should"].sentence


def test_start_up_phases_are_told_apart_when_the_log_was_read():
    scenario = Scenario(2)
    past = history(Timeline("h").extend(scenario.observations))
    leader = max(past.scale_outs[0].replicas, key=lambda u: u.ready_s).leader
    lines = [
        {
            "time": scenario.stamp(leader.started_s + 4).replace("Z", ".250Z"),
            "text": "Loading weights took 4.0 seconds",
        },
        {
            "time": scenario.stamp(leader.started_s + 6).replace("Z", ".250Z"),
            "text": "torch.compile takes 2.0 s in total",
        },
    ]
    logs = Observation(leader.ready_s + 0.1, "logs", "READ", {"pod": leader.name, "lines": lines})
    rows = sorted([*scenario.observations, logs], key=lambda o: o.time_s)
    (out,) = history(Timeline("h").extend(rows)).scale_outs
    names = [phase.name for phase in out.phases]
    assert names[names.index("weights") : names.index("weights") + 3] == ["weights", "compile", "ready"]
    weights = next(phase for phase in out.phases if phase.name == "weights")
    assert weights.seconds == pytest.approx(4.0, abs=1.3)


def test_requests_that_break_off_during_a_scale_in_are_counted(fixtures_dir):
    rows, _ = recording(fixtures_dir, "deployment")
    timeline = Timeline().extend(rows)
    at_s = timeline.decisions[-1].time_s
    requests = pd.DataFrame(
        {
            "due_s": [at_s - 20, at_s - 20, at_s - 300, at_s + 60],
            "sent_s": [at_s - 20, at_s - 20, at_s - 300, at_s + 60],
            "first_token_s": [at_s - 19, at_s - 19, math.nan, math.nan],
            "last_token_s": [at_s + 0.8, at_s + 5, math.nan, math.nan],
            "output_tokens": pd.array([3, 9, None, None], dtype="Int64"),
            "status": ["incomplete", "ok", "http_error", "connection_error"],
        }
    )
    past = history(timeline, ClientView(requests=requests, slo=parse_slo("ttft_p95=2s")))
    assert past.scale_ins[0].requests_cut == 1, "one broke off; the others ended well, long before, or after"
    assert judge(timeline, past).criteria[-1].outcome == "fail"


def test_a_pod_that_does_not_run_yet_does_not_stretch_metric_to_decision():
    """The metrics API answers 6 for both pods of a target of 5, but the HPA counts a Pending pod as 0: (6 + 0) / 2.
    vllm-1 runs from 5.1 s on, so that the metric asks for a third replica 2.9 s before the decision at 8 s."""
    zero = 1_800_000_000.0
    scenario = Scenario(0)  # for its way to write objects: a Deployment
    scenario.observations, scenario.offset_s, scenario.blind = [], 0.0, (0.0, 0.0)
    scenario.hpa(zero, 2, kind="ADDED")
    scenario.target(zero, 2, kind="ADDED")
    old = {"created": zero - 500, "scheduled": zero - 400, "started": zero - 300, "ready": zero - 200}
    new = {"created": zero - 5, "scheduled": zero - 4, "started": zero + 5.1, "ready": math.inf}
    scenario.pod(zero, "vllm-0", old, kind="ADDED")
    scenario.pod(zero, "vllm-1", new, kind="ADDED")
    scenario.pod(zero + 5.1, "vllm-1", new)
    for k in range(80):
        found = {"metric": METRIC, "labelSelector": "", "values": {"vllm-0": "6", "vllm-1": "6"}}
        scenario.observations.append(Observation(zero + 0.3 + k / 10, "custommetrics", "QUERY", found))
    scenario.hpa(zero + 8.02, 3, last=zero + 8)
    scenario.target(zero + 8, 3)
    rows = sorted(scenario.observations, key=lambda o: o.time_s)
    (out,) = history(Timeline("h").extend(rows)).scale_outs
    assert out.decided_s - out.detected_s == pytest.approx(2.9, abs=0.3)


def test_a_share_is_not_claimed_of_values_that_never_change():
    scenario = Scenario(1)
    ready_s = scenario.truth["ready"]
    rows = [o for o in scenario.observations if o.resource != "custommetrics" or o.time_s < ready_s]
    for k in range(120):
        values = {f"vllm-{r}": "4500m" for r in range(1 + scenario.truth["after"] - 1)}
        found = {"metric": METRIC, "labelSelector": "", "values": values}
        rows.append(Observation(ready_s + 1 + k, "custommetrics", "QUERY", found))
    timeline = Timeline("h").extend(sorted(rows, key=lambda o: o.time_s))
    verdict = {c.code: c for c in judge(timeline, history(timeline)).criteria}
    assert verdict["new_replica_gets_its_share"].outcome == "not_judged"
