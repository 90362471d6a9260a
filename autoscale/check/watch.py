"""Drive a check: preflight, watch with bounded memory, judge; or judge recorded evidence again.

Everything is read-only, unless `scale_to` asks for a scale-out without load.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from analysis import run as runs
from analysis.numbers import known
from analysis.run import read_unix_clock, unix_now_s
from autoscale.check import evidence
from autoscale.check.client_view import ClientView
from autoscale.check.expectation import Expectation
from autoscale.check.feeding import LOST, ClusterWatch
from autoscale.check.live_view import WatchState
from autoscale.check.measured import profile_changes
from autoscale.check.preflight import diagnose, diagnose_observations
from autoscale.check.scaleout import as_dict, history
from autoscale.check.snapshot import take
from autoscale.check.timeline import Timeline
from autoscale.check.verdict import Judgement, Verdict, judge
from autoscale.kube.cluster import Cluster, ClusterError
from autoscale.lint.findings import Finding

STOPPERS = {"hpa-not-found", "target-missing", "target-kind-unknown", "target-at-zero"}


Expect = Callable[[Timeline, ClientView], Expectation]


@dataclass(frozen=True)
class CheckResult:
    """The answer of a check."""

    run_dir: Path
    findings: tuple[Finding, ...]
    judgement: Judgement
    measured: Mapping[str, Any]
    ended: str  # why the watch ended
    timeline: Timeline = field(repr=False)
    files: tuple[Path, ...] = ()  # the answer, and what was measured
    rate: float = 1.0  # of the timeline's clock against the wall's: above 1 its seconds are simulated ones
    ahead_s: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """That of the criteria; what stands in the way now is never a pass."""
        hindered = any(f.severity == "error" for f in self.findings)
        return "NOT PASSED" if hindered else self.judgement.verdict

    @property
    def passed(self) -> bool:
        """Whether the answer is yes."""
        return self.verdict == "PASSED"

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        return {
            "passed": self.passed,
            "verdict": self.verdict,
            "ended": self.ended,
            "findings": [_finding(each) for each in self.findings],
            "measured": dict(self.measured),
            **{key: value for key, value in self.judgement.as_dict().items() if key != "verdict"},
        }


def _finding(found: Finding) -> dict[str, Any]:
    """A finding in check.json: what it says, the figures behind it, and the object that it is about."""
    about = {key: getattr(found, key) for key in ("kind", "namespace", "name", "field")}
    said = {"code": found.code, "severity": found.severity, "cause": found.cause, "fix": found.fix}
    return {**said, "evidence": as_dict(dict(found.evidence)), **about}


def prove(
    cluster: Cluster,
    namespace: str,
    hpa_name: str,
    run_dir: Path | str,
    *,
    expect: Expect | None = None,
    load_run: Path | str | None = None,
    loading: AbstractContextManager[object] | None = None,
    slo: str | None = None,
    timeout_s: float = 3600.0,
    settle_s: float | None = 60.0,
    sample_s: float | None = 5.0,
    scrape: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    scale_to: int | None = None,
    weight_bytes: float | None = None,
    progress: Callable[[WatchState], None] | None = None,
    stop: threading.Event | None = None,
) -> CheckResult:
    """Preflight, watch, judge; the evidence goes to `run_dir` as it comes.

    The watch ends after `timeout_s` of wall time, when `stop` is set, when the source ends, or `settle_s` after a
    scale-out was absorbed (None: never by itself). `sample_s` (on the cluster's clock) is how often the HPA's metrics are asked for, unless the
    cluster tells them by itself; `scrape` returns rows of metrics.parquet (time_s in unix s) and is called as often.
    `load_run` is the run directory of the load (default: `run_dir`), `loading` sends it while the cluster is watched and
    has ended when things are judged. `expect` tells of what was watched what was predicted. `weight_bytes` is the size of the model's weights,
    which makes a read rate of the time that the log gives them.

    Raises ClusterError when the cluster cannot be reached, BadRun when `run_dir` is taken.
    """
    run_dir = Path(run_dir)
    rate, ahead_s = clock_of(cluster)
    before = take(cluster, namespace, hpa_name, cluster.now_s)
    findings = diagnose(before, hpa_name)
    facts = {
        "load": str(Path(load_run).resolve()) if load_run else None,
        "namespace": namespace,
        "hpa": hpa_name,
        "slo": slo,
    }
    started_at = evidence.open_evidence(run_dir, _header(cluster, facts, (rate, ahead_s)))
    timeline = Timeline(hpa_name)
    stop = stop or threading.Event()
    ended = "the preflight found nothing to watch"
    if "horizontalpodautoscalers" not in before.hidden and not any(f.code in STOPPERS for f in findings):
        clock = (started_at, rate, ahead_s)
        watch = ClusterWatch(cluster, namespace, run_dir, clock, timeline, stop, sample_s, scrape, progress)
        loaded = bool(loading or load_run)
        with loading or nullcontext():
            ended = watch.run(timeout_s, settle_s, scale_to, before.hpa(hpa_name), loaded)
        if ended != LOST:  # what stands in the way at the end counts; what went away meanwhile was a start
            findings = _findings_at_end(cluster, namespace, hpa_name, run_dir, timeline)
    evidence.write_replicas(run_dir, timeline, started_at, rate, ahead_s)
    runs.merge_parts(run_dir, "metrics")
    runs.update(run_dir, ended_at=unix_now_s())
    sent = Path(load_run or run_dir)
    load = evidence.load_of(sent, slo, rate, ahead_s, cluster.tells_queries)
    return _answer(run_dir, timeline, load, findings, expect, weight_bytes, ended)


def _header(cluster: Cluster, facts: Mapping[str, Any], clock: tuple[float, float]) -> dict[str, Any]:
    """The header of the evidence: what the check is of, its clock (rate, ahead_s), and what the cluster is."""
    told = {"clock_rate": clock[0], "clock_ahead_s": clock[1], "queries_told": cluster.tells_queries}
    kind = "simulated" if cluster.simulated else "live"
    return {"kind": kind, "command": "check", "check": {**facts, **told}}


def _findings_at_end(
    cluster: Cluster, namespace: str, hpa_name: str, run_dir: Path, timeline: Timeline
) -> tuple[Finding, ...]:
    """What stands in the way now; of a cluster that does not answer any more, what it told last."""
    try:
        now = take(cluster, namespace, hpa_name, cluster.now_s)
    except ClusterError:
        return diagnose_observations(evidence.observations(run_dir), hpa_name)
    if known(timeline.hindrance.deleted_s):
        now.deleted_s["horizontalpodautoscalers", hpa_name] = timeline.hindrance.deleted_s
    return diagnose(now, hpa_name)


def judge_again(
    run_dir: Path | str,
    *,
    expect: Expect | None = None,
    load_run: Path | str | None = None,
    slo: str | None = None,
    weight_bytes: float | None = None,
) -> CheckResult:
    """Judge recorded evidence again, with this version's rules; the answer is written beside the earlier ones.

    The load is that of the check where no other is named. Raises BadRun when there is no evidence.
    """
    run_dir = Path(run_dir)
    header = runs.read_header(run_dir)
    facts = header.get("check") or {}
    load_run = load_run or evidence.noted_load(run_dir)
    rate, ahead_s = float(facts.get("clock_rate", 1.0)), float(facts.get("clock_ahead_s", 0.0))
    timeline = Timeline(facts.get("hpa")).extend(evidence.observations(run_dir))
    name = timeline.hpa_name or ""
    findings = diagnose_observations(evidence.observations(run_dir), name)
    told = facts.get("queries_told", header.get("kind") == "simulated") is True
    load = evidence.load_of(Path(load_run or run_dir), slo or facts.get("slo"), rate, ahead_s, told)
    return _answer(run_dir, timeline, load, findings, expect, weight_bytes, "judged again from its evidence")


def clock_of(cluster: Cluster) -> tuple[float, float]:
    """(rate, ahead_s): the cluster's observations run at wall time * rate + ahead_s. To be asked before a watch begins."""
    read_unix_clock()
    rate = float(getattr(cluster, "speed", 1.0))
    return (1.0, 0.0) if rate == 1.0 else (rate, cluster.now_s() - unix_now_s() * rate)


def _answer(
    run_dir: Path,
    timeline: Timeline,
    load: ClientView,
    findings: tuple[Finding, ...],
    expect: Expect | None,
    weight_bytes: float | None,
    ended: str,
) -> CheckResult:
    past = history(timeline, load, evidence.metrics_of(run_dir, load.rate, load.ahead_s))
    judgement = judge(timeline, past, expect(timeline, load) if expect else None)
    result = CheckResult(run_dir, findings, judgement, profile_changes(past, weight_bytes), ended, timeline)
    files = evidence.write_answer(run_dir, result.as_dict(), result.measured)
    return replace(result, files=files, rate=load.rate, ahead_s=load.ahead_s)
