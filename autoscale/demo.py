"""Everything once, on a simulated fleet: load, collect, recommend, manifests, check.

The fleet, the load generator, Prometheus, the recommendation and the check are the real ones; only the accelerators are
simulated. What a user would do in a morning on a cluster is done here with short stages and a compressed control plane.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import yaml

from analysis.errors import NotAchieved, SourceUnavailable
from analysis.files import empty, free_directory
from analysis.numbers import known
from autoscale.check_command import run_check as run_check
from autoscale.load_command import locust_command
from autoscale.local_servers import local_prometheus, running

if TYPE_CHECKING:
    from autoscale.check import CheckResult
    from autoscale.recommend import Recommended

Progress = Callable[[float, str], None]

DEFAULT_OUT = Path("runs/demo")
LENGTHS = ("uniform:100,400", "uniform:16,48")
SLO = "ttft_p95=1s,tpot_p95=150ms"
STAGES = "2:15,4:15,8:15,12:15,16:15,20:15"  # requests/s:seconds, up to where one replica of the default profile is full
SPEED = 60.0  # of the control plane while the scale-out is checked: a ten-minute start takes 10 s
CHECK_S = 90.0  # at most
START_S = 120.0  # that a process of the demo may take to be up, on a machine that is busy
QUIET, BUSY = 0.6, 3.0  # rates in multiples of what one replica serves within the SLO
MORE = 0.5  # replicas' worth of load beyond what minReplicas serve, for the check
PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: vllm
    static_configs: [{{targets: ['{target}'], labels: {{pod: '{pod}'}}}}]
"""


@dataclass(frozen=True)
class Demonstration:
    """What the demo did: the recommendation, the check, where metrics came from, and every file."""

    recommendation: Recommended
    check: CheckResult
    collected_from: str
    manifest: str
    files: list[Path]

    @property
    def passed(self) -> bool:
        """Whether the recommendation holds and the check agreed."""
        return self.recommendation.document.holds and self.check.passed


def run_demo(out: Path, *, profile: str, seed: int, progress: Progress) -> Demonstration:
    """Do it all, writing below `out`, an empty directory of `directory`."""
    from analysis import plots
    from analysis.opened import open_run
    from autoscale.show.pages import recommendation_page, run_page

    source = _measure(out, profile, seed, progress)
    found = _recommend(out, profile, progress)
    if found.document.hpa is None:
        raise NotAchieved(
            f"the demo's answer is {found.document.answer}: there is nothing to check",
            next_step=f"see {out}",
        )
    manifest, written = _manifests(out, profile, found)
    checked = _check(out, profile, seed, found, progress)
    pages = [
        recommendation_page(found, out / "report.html"),
        run_page(
            replace(open_run(out / "load"), learned=found.model.capacities[0]),
            None,
            out / "load" / "run.html",
        ),
    ]
    plots.save(plots.capacity_curve(found.model.capacities[0]), out / "load" / "capacity.png")
    files = [*pages, out / "load" / "capacity.png", *found.files, *written, *checked[1]]
    return Demonstration(found, checked[0], source, manifest, [f for f in files if f.exists()])


def directory(out: Path | None) -> Path:
    """An empty directory to write to, made now: `out`, by default the first free one of runs/demo, runs/demo-2, ...

    Raises BadInput when `out` holds something or the directory cannot be made.
    """
    return _next_free() if out is None else free_directory(out, empty)


def _next_free() -> Path:
    path, number = DEFAULT_OUT, 1
    while path.exists():
        number += 1
        path = DEFAULT_OUT.with_name(f"{DEFAULT_OUT.name}-{number}")
    return free_directory(path, empty)


# --- load and metrics ------------------------------------------------------------------------------------------------


def _measure(out: Path, profile: str, seed: int, progress: Progress) -> str:
    """One warm replica under rising load; returns where its metrics came from."""
    from autoscale.observe.collect import collect
    from autoscale.observe.scrape import Scraper
    from autoscale.profiles import load
    from autoscale.sim.http.hosting import FleetThread
    from autoscale.sim.http.server import FleetServer

    progress(0.01, "starting a simulated replica")
    with FleetThread(FleetServer(load(profile), port=0, replicas=1, seed=seed)) as fleet:
        replica = requests.get(f"{fleet.url}/fleet", timeout=10).json()["replicas"][0]
        with _prometheus(out, replica) as prometheus:
            total = sum(float(s.split(":")[1]) for s in STAGES.split(",")) + 6
            with _locust(out / "load", fleet.url, ["--stages", STAGES, "--seed", str(seed)]) as load_test:
                scraper = None
                if prometheus is None:
                    _wait_for(out / "load" / "run.json", load_test)
                    scraper = Scraper(out / "load", [replica["metrics_url"]]).start()
                _follow(load_test, total, lambda f: progress(0.03 + 0.4 * f, "load test of one replica"))
                if scraper is not None:
                    scraper.stop()
            progress(0.44, "collecting metrics")
            if prometheus is None:
                return "its own scraper (no prometheus installed)"
            collect(out / "load", prometheus=prometheus)
            return "a Prometheus server"


@contextmanager
def _prometheus(out: Path, replica: dict[str, Any]) -> Iterator[str | None]:
    """A Prometheus server that scrapes the replica every second; None when none is installed."""
    if shutil.which("prometheus") is None:
        yield None
        return
    home = out / "prometheus"
    home.mkdir(exist_ok=True)
    target = replica["metrics_url"].removeprefix("http://").removesuffix("/metrics")
    config = PROMETHEUS.format(target=target, pod=replica["name"])
    try:
        with local_prometheus(home, config, ()) as url:
            yield url
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _locust(run_dir: Path, url: str, options: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    command = locust_command(["--headless", "--host", url, "--run-dir", str(run_dir)])
    command += [*_load_options(), *options]
    with open(run_dir.parent / f"{run_dir.name}.log", "wb") as log, running(command, log) as process:
        yield process


def _load_options() -> list[str]:
    prompt, output = LENGTHS
    return ["--prompt-tokens", prompt, "--output-tokens", output, "--slo", SLO]


def _follow(process: subprocess.Popen[bytes], expected_s: float, progress: Callable[[float], None]) -> None:
    began = time.monotonic()
    while process.poll() is None:
        progress(min(1.0, (time.monotonic() - began) / expected_s))
        time.sleep(0.25)
    if process.returncode not in (0, 1):  # 1: locust's word for failed requests, which the run records
        raise SourceUnavailable(
            "the load generator ended early", value=process.returncode, next_step="see load.log"
        )


def _wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SourceUnavailable("the load generator did not start", next_step=f"see {file.parent}.log")
        time.sleep(0.1)


# --- recommendation and manifests ------------------------------------------------------------------------------------


def _recommend(out: Path, profile: str, progress: Progress) -> Recommended:
    from autoscale.recommend import recommend
    from autoscale.recommend.model.learning import learn, runs_of, system_of

    runs = runs_of([out / "load"])
    capacity = learn(runs, system_of(profile, runs), SLO).capacities[0]
    rates = [
        rate for rate in (capacity.capacity.value, capacity.capacity.low, capacity.knee.value) if known(rate)
    ]
    traffic = out / "traffic.yaml"
    traffic.write_text(_traffic(rates[0] if rates else 4.0), encoding="utf-8")
    return recommend(
        [out / "load"],
        profile=profile,
        traffic=traffic,
        slo=SLO,
        command="autoscale demo",
        progress=lambda f, text: progress(0.46 + 0.24 * f, text),
    )


def _traffic(unit_rps: float) -> str:
    """Two hours with a slow climb to a busy spell, as a load file."""
    quiet, busy = round(unit_rps * QUIET, 2), round(unit_rps * BUSY, 2)
    prompt, output = LENGTHS
    return yaml.safe_dump(
        {
            "arrivals": "gamma:2",
            "prompt_tokens": prompt,
            "output_tokens": output,
            "load": [
                {"constant": {"rate_rps": quiet, "duration_s": 1200}},
                {"ramp": {"from_rps": quiet, "to_rps": busy, "duration_s": 2400}},
                {"constant": {"rate_rps": busy, "duration_s": 1200}},
                {"ramp": {"from_rps": busy, "to_rps": quiet, "duration_s": 1200}},
                {"constant": {"rate_rps": quiet, "duration_s": 1200}},
            ],
        },
        sort_keys=False,
    )


def _manifests(out: Path, profile: str, found: Recommended) -> tuple[str, list[Path]]:
    from autoscale import deploy
    from autoscale.profiles import load

    files = deploy.write_set(load(profile), found.document)
    deploy.write_files(files, out / "manifests")
    manifest = next(text for path, text in files if path == "hpa.yaml")
    return manifest, [out / "manifests"]


# --- check -----------------------------------------------------------------------------------------------------------


def _check(
    out: Path, profile: str, seed: int, found: Recommended, progress: Progress
) -> tuple[CheckResult, list[Path]]:
    """The recommended HPA on a fresh fleet, under more than its fewest replicas can serve."""
    from autoscale.profiles import load
    from autoscale.sim.http.hosting import FleetThread
    from autoscale.sim.http.server import FleetServer

    progress(0.72, "starting the fleet with the recommended HPA")
    assert found.decision.capacity is not None
    standing = found.document.min_replicas or 1
    rate = round((standing + MORE) * found.decision.capacity.rate_rps, 2)
    quiet = round(QUIET * found.decision.capacity.rate_rps, 2)
    server = FleetServer(
        load(profile), found.document.hpa, port=0, speed=SPEED, seed=seed, engine=found.scenario.engine
    )
    sent = ["autoscale", "load", *_load_options(), "--reconnect-every", "1s"]
    began = time.monotonic()
    with FleetThread(server) as fleet:
        checked = run_check(
            fleet=fleet.url,
            namespace="default",
            hpa=None,
            context=None,
            load=shlex.join([*sent, "--stages", f"{quiet}:5,{rate}:{CHECK_S:.0f}"]),
            expect=None,
            timeout_s=CHECK_S,
            scale_to=None,
            replay_dir=None,
            out=out / "check",
            slo=SLO,
            progress=lambda state: progress(
                0.75 + 0.24 * min(1.0, (time.monotonic() - began) / CHECK_S),
                "checking the scale-out"
                + ("" if state.desired is None else f": {state.ready} of {state.desired} replicas ready"),
            ),
        )
    return checked.result, checked.files
