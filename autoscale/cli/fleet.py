"""Verbs of the simulated fleet: serve, simulate, demo."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.redact import command_line
from autoscale.cli.inputs import fleet_options, hpa_in, told_apart
from autoscale.cli.options import (
    DEFAULT_PROFILE,
    ClientTimeout,
    GatewayOptions,
    Json,
    Peak,
    ProfileName,
    TimeUnit,
    Traffic,
)
from autoscale.cli.printing import show, show_json, show_paths
from autoscale.show import progress

if TYPE_CHECKING:
    from autoscale.recommend.comparison import Compared


def serve(
    profile: ProfileName = DEFAULT_PROFILE,
    hpa: Annotated[
        Path | None, typer.Option(help="HPA manifest to run; without it the fleet keeps its size.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 = any.")] = 8000,
    metrics_port: Annotated[int, typer.Option(help="First port of the replicas' /metrics; 0 = any.")] = 0,
    replicas: Annotated[
        int | None, typer.Option(help="Replicas at the start; default the HPA's minimum.", min=0)
    ] = None,
    speed: Annotated[
        float, typer.Option(help="Compress cold start, scrape, sync and windows by this; never the engine.")
    ] = 1.0,
    cold: Annotated[
        bool, typer.Option(help="Start cold: the first replicas take their start-up time.")
    ] = False,
    routing: Annotated[
        str, typer.Option(help="connection (kube-proxy) | random | round_robin | least_requests.")
    ] = "connection",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.", min=0)] = 0,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the process that started it ends.")
    ] = False,
) -> None:
    """Run a simulated fleet over HTTP. An OpenAI-compatible gateway, /metrics per replica, cold starts, the HPA."""
    from dataclasses import replace

    from autoscale.profiles import load
    from autoscale.sim.http.hosting import serve_fleet
    from autoscale.sim.http.server import DEFAULTS, FleetServer

    def started(server: FleetServer) -> None:
        if server.note:
            progress.note(server.note)
        print(f"gateway   {server.url}/v1   model {server.model}", file=sys.stderr)
        print(f"fleet     {server.url}/fleet   targets for Prometheus {server.url}/fleet/sd", file=sys.stderr)
        if speed != 1:
            print(
                f"speed     cold start, scrape, sync and windows run {speed:g} times faster; the engine does not",
                file=sys.stderr,
            )

    system = load(profile)
    progress.compiled_engine()
    server = FleetServer(
        system,
        hpa_in(hpa) if hpa else None,
        host=host,
        port=port,
        metrics_port=metrics_port,
        speed=speed,
        replicas=replicas,
        seed=seed,
        routing=routing,
        options=replace(DEFAULTS, warm=not cold),
    )
    serve_fleet(server, on_started=started, with_parent=with_parent)


def simulate(
    hpa: Annotated[Path, typer.Option(help="HPA manifest (autoscaling/v2), or KEDA's ScaledObject.")],
    profile: ProfileName = DEFAULT_PROFILE,
    traffic: Traffic = None,
    trace_time_unit: TimeUnit = None,
    peak: Peak = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Another HPA to set beside it; repeat.")] = None,
    static: Annotated[
        list[int] | None, typer.Option(help="A fixed number of replicas to set beside it; repeat.")
    ] = None,
    slo: Annotated[
        str | None, typer.Option(help="For example ttft_p95=2s,tpot_p95=100ms; default the profile's.")
    ] = None,
    gateway: GatewayOptions = None,
    client_timeout: ClientTimeout = None,
    seeds: Annotated[int, typer.Option(help="Simulations per setting.", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Directory for run directories and plots.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate an HPA under some traffic. Beside it other HPAs and standing fleets, all on the same requests."""
    from dataclasses import replace

    from autoscale.profiles import load
    from autoscale.recommend import cost, scenario_of
    from autoscale.recommend.choice.settings import Given, Setting, Standing
    from autoscale.recommend.comparison import compare as set_side_by_side
    from autoscale.show.terminal.comparison import comparison_table

    scenario = scenario_of(
        load(profile), traffic=traffic, peak_rps=peak, slo=slo, time_unit=trace_time_unit, tell=progress.note
    )
    scenario = replace(scenario, options=fleet_options(gateway, client_timeout))
    settings: dict[str, Setting] = {
        name: Given(hpa_in(path)) for name, path in told_apart((hpa, *(compare or [])))
    }
    settings |= {f"{count} standing": Standing(count) for count in static or []}
    notes = {name: scenario.notes(setting) for name, setting in settings.items()}
    least = max(setting.replicas or 1 for setting in settings.values())
    takes = cost.check_cost(scenario, least, len(settings) * seeds)
    for note in dict.fromkeys([*itertools.chain.from_iterable(notes.values()), *([takes] if takes else [])]):
        progress.note(note)
    progress.compiled_engine()
    with progress.bar() as report:
        compared = set_side_by_side(scenario, settings, seeds, keep_first=out is not None, progress=report)
    content = {
        name: {**found.figures(), "notes": [*notes[name], *found.causes()]}
        for name, found in compared.items()
    }
    for name, found in compared.items():
        for cause in found.causes():
            progress.note(f"{name}: {cause}")
    paths = [] if out is None else _kept(compared, out, scenario.profile.name)
    if as_json:
        show_json(content)
        return
    show(comparison_table(content, scenario, slo_given=slo is not None))
    show_paths(paths)


def _kept(compared: Mapping[str, Compared], out: Path, system: str) -> list[Path]:
    """The run directory of each setting's first seed, and its picture."""
    from analysis import plots
    from analysis.run import read
    from autoscale.show.over_time import run_over_time
    from autoscale.sim import write_run

    paths: list[Path] = []
    for name, found in compared.items():
        folder = str(Path(name).with_suffix("")).replace(" ", "-").replace("/", "-")
        run = write_run(found.outcomes[0], out / folder, command=command_line(sys.argv))
        title = f"{system}: load, signals and replicas"
        figure = run_over_time(read(run), title=title, show=("waiting", "kv_usage"))
        paths += [run, plots.save(figure, run / "timeline.png")] if figure else [run]
    return paths


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Empty directory for everything; default runs/demo, or runs/demo-2 and so on."),
    ] = None,
    profile: ProfileName = DEFAULT_PROFILE,
    seed: Annotated[int, typer.Option(help="Seed.", min=0)] = 0,
) -> None:
    """Do it all once on a simulated fleet. Load, collect, recommend, manifests, check: a few minutes."""
    from autoscale import demo as demonstration
    from autoscale.profiles import load
    from autoscale.show.terminal.demonstration import demonstration_lines

    load(profile)  # a name that is none makes no directory
    target = demonstration.directory(out)
    print(f"writing to {target}", file=sys.stderr)
    progress.compiled_engine()
    with progress.bar() as report:
        result = demonstration.run_demo(target, profile=profile, seed=seed, progress=report)
    show(*demonstration_lines(result))
    show_paths(result.files)
    raise typer.Exit(0 if result.passed else 1)
