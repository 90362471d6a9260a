"""`autoscale check`: choose the door, send the load if asked, watch, judge, draw. Where observe, check and plots meet."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from analysis.errors import AutoscaleError, BadInput
from analysis.files import free_directory
from analysis.redact import command_line
from analysis.run import HEADER
from autoscale.check import CheckResult, Expectation, WatchState, judge_again, prove
from autoscale.check.phases import Span
from autoscale.check.watch import clock_of
from autoscale.kube.cluster import Cluster
from autoscale.load_command import started_by
from autoscale.recommendation import Recommendation
from autoscale.recommendation import read_recommendation as read_recommendation

END_S = 20.0  # that a program gets to end in good order
SETTLE_S = 60.0  # of the cluster's time that is watched after a scale-out was absorbed ...
SETTLE_TRUE_S = (
    15.0  # ... and of true time: on a fleet of any --speed clients reconnect and queues drain no faster
)
OWN_RUN = "load"  # the load's run directory inside the check's


@dataclass(frozen=True)
class Checked:
    """A judged check and the files that hold its evidence and its picture."""

    result: CheckResult
    files: list[Path]

    @property
    def passed(self) -> bool:
        """Whether the answer is yes."""
        return self.result.passed


def run_check(
    *,
    fleet: str | None,
    namespace: str,
    hpa: str | None,
    context: str | None,
    load: str | None,
    expect: Path | None,
    timeout_s: float,
    scale_to: int | None,
    replay_dir: Path | None,
    out: Path | None,
    slo: str | None = None,
    profile: str | None = None,
    progress: Callable[[WatchState], None] | None = None,
) -> Checked:
    """Prove a scale-out (or judge an earlier check's evidence again). Raises BadInput, SourceUnavailable, BadRun.

    `profile` is what is served (default that of the recommendation): the size of its weights makes a read rate of the
    time that the log gives them. `load` is a run directory, or a locust command that is run while the cluster is watched: it gets a --run-dir and
    --headless when it lacks them. The watch ends after `timeout_s`, or when a scale-out has been absorbed for SETTLE_S
    and SETTLE_TRUE_S.
    """
    recommended = read_recommendation(expect) if expect is not None else None
    expected = Expectation.from_recommendation(recommended) if recommended else None
    weight_bytes = _weight_bytes(profile, recommended)
    load_run = Path(load) if load and os.path.isdir(load) else None  # False for what no path can be
    if replay_dir is not None:
        kept = load_run or (replay_dir / OWN_RUN if (replay_dir / OWN_RUN / "run.json").exists() else None)
        result = judge_again(replay_dir, expect=expected, load_run=kept, slo=slo, weight_bytes=weight_bytes)
        return Checked(result, _draw(result, kept))
    cluster, scrape, name = _door(fleet, context, hpa)
    target = out or Path("runs") / time.strftime("check-%Y%m%d-%H%M%S", time.gmtime())
    free_directory(target, lambda path: (path / HEADER).exists())  # the load's, which the check joins
    command = None if load is None or load_run else _command(load, target / OWN_RUN, fleet)
    rate, _ = clock_of(cluster)
    with _loading(command):
        result = prove(
            cluster,
            getattr(cluster, "namespace", namespace) if fleet else namespace,
            name,
            target,
            expect=expected,
            load_run=load_run or (target / OWN_RUN if command else None),
            slo=slo,
            timeout_s=timeout_s,
            settle_s=max(SETTLE_S, SETTLE_TRUE_S * rate),
            scrape=scrape,
            scale_to=scale_to,
            weight_bytes=weight_bytes,
            progress=progress,
        )
    return Checked(result, _draw(result, load_run or (target / OWN_RUN if command else None)))


def _weight_bytes(profile: str | None, recommended: Recommendation | None) -> float | None:
    """Size of the weights of the named profile, else of the recommendation's, when that is one of ours; else None.

    Raises BadInput when there is no such profile.
    """
    from autoscale.profiles import load, names

    name = profile or (recommended.profile if recommended else None)
    if profile is None and name not in names():
        return None
    return load(str(name)).model.weight_bytes


def _door(
    fleet: str | None, context: str | None, hpa: str | None
) -> tuple[Cluster, Callable[[], Sequence[Mapping[str, Any]]] | None, str]:
    if fleet is not None:
        from autoscale.observe.fleet_door import FleetDoor

        door = FleetDoor(fleet)
        facts = door.facts()
        if not facts.get("hpa"):
            raise BadInput(
                "the fleet runs without an HPA",
                value=fleet,
                next_step="start it with `autoscale serve --hpa FILE`",
            )
        return door, _scraper(door.metrics_urls), hpa or facts["hpa"]["metadata"]["name"]
    if hpa is None:
        raise BadInput("which HPA", expected="--fleet URL, or --namespace NS and --hpa NAME")
    from autoscale.kube.api import connect
    from autoscale.kube.live import LiveCluster

    return LiveCluster(connect(context)), None, hpa


def _scraper(urls: Callable[[], dict[str, str]]) -> Callable[[], list[dict[str, Any]]]:
    """Rows of metrics.parquet of every replica that serves now; a replica that does not answer has no row."""
    from autoscale.observe.scrape import read_once

    def scrape() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for pod, url in urls().items():
            try:
                reading = read_once(url, None)
            except (OSError, AutoscaleError):  # requests' are OSErrors: the replica is going or not up yet
                continue
            rows += [
                {**row, "pod": pod, "engine": engine, "time_s": time.time()}
                for (_, engine), row in reading.rows.items()
            ]
        return rows

    return scrape


def _command(load: str, run_dir: Path, fleet: str | None) -> list[str]:
    try:
        words = shlex.split(load)
    except ValueError as error:
        raise BadInput(f"the command of --load cannot be read: {error}", expected="quotes in pairs") from None
    started = started_by(words)
    if started is None:
        raise BadInput(
            "the load is neither a run directory nor a load test",
            value=command_line(words),
            expected='a path, or "autoscale load --rate 5 -t 300s"',
        )
    words = started
    if "--headless" not in words:
        words.append("--headless")
    if "--run-dir" not in words:
        words += ["--run-dir", str(run_dir)]
    if fleet and not {"--host", "-H"} & set(words):
        words += ["--host", fleet]
    return words


@contextmanager
def _loading(command: list[str] | None) -> Iterator[None]:
    """Run the load beside the check; it is interrupted, and so ends in good order, when the check is over."""
    if command is None:
        yield
        return
    with running(command, subprocess.DEVNULL):
        yield


@contextmanager
def running(command: list[str], output: int | IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs meanwhile; it is asked to end at the end, and made to when it does not."""
    with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _drawn_name(phase: Span) -> str:
    return f"{phase.name} (at most)" if phase.at_most else phase.name


def _draw(result: CheckResult, load_run: Path | None) -> list[Path]:
    from analysis import plots
    from autoscale.show.pages import run_page

    files = [result.run_dir / "check.json", result.run_dir / "measured.yaml"]
    past = result.judgement.history
    rows = [
        (f"{out.before} to {out.after} replicas", {_drawn_name(p): p.seconds for p in out.phases})
        for out in past.scale_outs
    ]
    if rows:
        files.append(plots.save(plots.phases(rows), result.run_dir / "phases.png"))
    if load_run is not None and (load_run / "run.json").exists():
        from autoscale.show.over_time import check_over_time

        files.append(plots.save(check_over_time(result, load_run), result.run_dir / "timeline.png"))
    files.append(run_page(result.run_dir, None, result.run_dir / "check.html"))
    return [file for file in files if file.exists()]
