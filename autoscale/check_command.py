"""`autoscale check`: choose the door, send the load if asked, watch, judge, draw. Where observe, check and plots meet."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.errors import AutoscaleError, BadInput, SourceUnavailable
from analysis.files import free_directory
from analysis.redact import command_line
from analysis.run import HEADER, unix_now_s
from autoscale.check import CheckResult, WatchState, judge_again, prove
from autoscale.check.evidence import OWN_LOAD, noted_load
from autoscale.check.phases import Span
from autoscale.check.watch import clock_of
from autoscale.kube.cluster import Cluster
from autoscale.load_command import started_by
from autoscale.local_servers import running
from autoscale.observe.fleet_door import FleetDoor
from autoscale.profiles import load as load_profile
from autoscale.recommendation import Recommendation, refuse_other
from autoscale.recommendation import read_recommendation as read_recommendation

SETTLE_S = 60.0  # of the cluster's time that is watched after a scale-out was absorbed ...
SETTLE_TRUE_S = (
    15.0  # ... and of true time: on a fleet of any --speed clients reconnect and queues drain no faster
)


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

    `profile` is what is served (default that of the recommendation): the size of its weights makes a read rate of the time that
    the log gives them. `load` is a run directory, or a load test that runs meanwhile: it gets a --run-dir and --headless. The watch ends after `timeout_s`, or when a scale-out has been absorbed for SETTLE_S
    and SETTLE_TRUE_S.
    """
    from autoscale.forecast.expecting import expecting

    recommended, expected = read_recommendation(expect) if expect is not None else None, None
    if recommended is not None:
        expected, slo = expecting(recommended), slo or recommended.slo.text or None
    weight_bytes = _weight_bytes(profile, recommended)
    load_run = Path(load) if load and os.path.isdir(load) else None  # False for what no path can be
    if replay_dir is not None:
        result = judge_again(
            replay_dir, expect=expected, load_run=load_run, slo=slo, weight_bytes=weight_bytes
        )
        return Checked(result, _draw(result, load_run or noted_load(replay_dir)))
    target = out or Path("runs") / time.strftime("check-%Y%m%d-%H%M%S", time.gmtime())
    cluster, scrape, name = _door(fleet, context, hpa)
    if recommended is not None:
        _refuse_other(recommended, cluster, namespace, name)
    free_directory(target, lambda path: (path / HEADER).exists())  # the load's, which the check joins
    command = None if load is None or load_run else _command(load, target / OWN_LOAD, fleet)
    rate, _ = clock_of(cluster)
    sent = load_run or (_run_dir(command) if command else None)
    result = prove(
        cluster,
        getattr(cluster, "namespace", namespace) if fleet else namespace,
        name,
        target,
        expect=expected,
        load_run=sent,
        loading=_loading(command, target),
        slo=slo,
        timeout_s=timeout_s,
        settle_s=max(SETTLE_S, SETTLE_TRUE_S * rate),
        scrape=scrape,
        scale_to=scale_to,
        weight_bytes=weight_bytes,
        progress=progress,
    )
    return Checked(result, _draw(result, sent))


def _weight_bytes(profile: str | None, recommended: Recommendation | None) -> float | None:
    """Size of the weights of the named profile, else of the recommendation's; else None.

    Raises BadInput when there is no such profile, or when the recommendation is of another one.
    """
    from autoscale.profiles import from_content

    if profile is not None:
        served = load_profile(profile)
        if recommended is not None:
            told = (served.name, served.model.id, served.accelerator.name)
            refuse_other(recommended, profile=told[0], model=told[1], accelerator=told[2])
        return served.model.weight_bytes
    if recommended is None or recommended.system is None:
        return None
    return from_content(recommended.system.content, "the recommendation's system").model.weight_bytes


def _refuse_other(recommended: Recommendation, cluster: Cluster, namespace: str, name: str) -> None:
    """Raises BadInput when what the HPA scales is not what the recommendation is for, as far as it can be read."""
    if isinstance(cluster, FleetDoor):
        told = cluster.facts()
        refuse_other(recommended, profile=str(told.get("profile")), model=str(told.get("model")))
        return
    from autoscale.check import take
    from autoscale.lint.linter import lint_objects

    seen = take(cluster, namespace, name, cluster.now_s)
    hpa = seen.hpa(name)
    target = None if hpa is None else seen.target(hpa)
    if hpa is None or target is None:
        return
    report = lint_objects([hpa.object, target.object], measured=recommended.served())
    if other := next((f for f in report.findings if f.code == "of-another-system"), None):
        raise BadInput(other.problem.rstrip("."), value=f"{other.kind}/{other.name}", next_step=other.fix)


def _door(
    fleet: str | None, context: str | None, hpa: str | None
) -> tuple[Cluster, Callable[[], Sequence[Mapping[str, Any]]] | None, str]:
    if fleet is not None:
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
                {**row, "pod": pod, "engine": engine, "time_s": unix_now_s()}
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


def _run_dir(command: Sequence[str]) -> Path:
    return Path(command[command.index("--run-dir") + 1])


@contextmanager
def _loading(command: list[str] | None, target: Path) -> Iterator[None]:
    """Run the load beside the check; it is interrupted, and so ends in good order, when the check is over.

    What it says goes to load.log in `target`. Raises SourceUnavailable when it ended without a run of its own.
    """
    if command is None:
        yield
        return
    target.mkdir(parents=True, exist_ok=True)
    said = target / f"{OWN_LOAD}.log"
    with said.open("wb") as log, running(command, log):
        yield
    if not (_run_dir(command) / "run.json").exists():
        raise SourceUnavailable(
            "the load did not start", value=command_line(command), next_step=f"see {said}"
        )


def _drawn_name(phase: Span) -> str:
    return f"{phase.name} (at most)" if phase.at_most else phase.name


def _draw(result: CheckResult, load_run: Path | None) -> list[Path]:
    from analysis import plots
    from autoscale.show.check_words import clock_words
    from autoscale.show.over_time import check_over_time
    from autoscale.show.pages import check_page

    files = [*result.files]
    beside = result.files[0].stem.removeprefix("check")  # "-2" of an answer that stands beside an earlier one
    past = result.judgement.history
    rows = [
        (f"{out.before} to {out.after} replicas", {_drawn_name(p): p.seconds for p in out.phases})
        for out in past.scale_outs
    ]
    if rows:
        files.append(
            plots.save(plots.phases(rows, clock_words(result.rate)), result.run_dir / f"phases{beside}.png")
        )
    sent = load_run if load_run is not None and (load_run / "run.json").exists() else None
    if (made := check_over_time(result, sent)) is not None:
        files.append(plots.save(made, result.run_dir / f"timeline{beside}.png"))
    files.append(check_page(result, sent, result.run_dir / f"check{beside}.html"))
    return [file for file in files if file.exists()]
