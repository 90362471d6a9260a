"""Verbs of the simulated fleet: serve, simulate, demo."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from analysis.files import empty, free_directory
from analysis.redact import command_line
from autoscale.cli.inputs import fleet_options, in_file, lengths_asked, price_of, sound_hpa, told_apart
from autoscale.cli.options import (
    DEFAULT_PROFILE,
    ClientTimeout,
    GatewayOptions,
    Hours,
    Json,
    MaybeProfile,
    OfOneReplica,
    OtherHpas,
    OutputTokens,
    Peak,
    PriceAsked,
    ProfileName,
    PromptTokens,
    RunSlo,
    StandingFleets,
    TimeUnit,
    Traffic,
)
from autoscale.cli.printing import show, show_json, show_paths
from autoscale.show import progress

if TYPE_CHECKING:
    from autoscale.profiles import Profile
    from autoscale.recommend.choice.scenario import Scenario
    from autoscale.recommend.choice.settings import Setting
    from autoscale.recommend.comparison import Compared
    from autoscale.sim.http.server import FleetServer


def serve(
    profile: ProfileName = DEFAULT_PROFILE,
    hpa: Annotated[
        Path | None,
        typer.Option(
            help="HPA manifest to run, or KEDA's ScaledObject; without it the fleet keeps its size."
        ),
    ] = None,
    gateway: GatewayOptions = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway; 0 = any.")] = 8000,
    metrics_port: Annotated[
        int,
        typer.Option(
            help="First port of the replicas' /metrics, one for each that there may ever be; 0 = any."
        ),
    ] = 0,
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
        Literal["connection", "random", "round_robin", "least_requests"],
        typer.Option(help="How requests find a replica; connection is kube-proxy."),
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
    from autoscale.sim.http.server import FleetServer

    system, scaler = load(profile), sound_hpa(hpa) if hpa else None
    options = replace(fleet_options(gateway, None), warm=not cold)
    progress.compiled_engine()
    with in_file(hpa):
        server = FleetServer(
            system,
            scaler,
            host=host,
            port=port,
            metrics_port=metrics_port,
            speed=speed,
            replicas=replicas,
            seed=seed,
            routing=routing,
            options=options,
        )
    serve_fleet(server, on_started=partial(_tell_served, speed), with_parent=with_parent)


def _tell_served(speed: float, server: FleetServer) -> None:
    if server.note:
        progress.note(server.note)
    print(f"gateway   {server.url}/v1   model {server.model}", file=sys.stderr)
    print(f"fleet     {server.url}/fleet   targets for Prometheus {server.url}/fleet/sd", file=sys.stderr)
    if server.gateway_metrics:
        print(f"metrics   {server.url}/metrics of the inference gateway", file=sys.stderr)
    if speed != 1:
        print(
            f"speed     cold start, scrape, sync and windows run {speed:g} times faster; the engine does not",
            file=sys.stderr,
        )


def simulate(
    hpa: Annotated[Path, typer.Option(help="HPA manifest (autoscaling/v2), or KEDA's ScaledObject.")],
    run: OfOneReplica = None,
    profile: MaybeProfile = None,
    traffic: Traffic = None,
    trace_time_unit: TimeUnit = None,
    peak: Peak = None,
    prompt_tokens: PromptTokens = None,
    output_tokens: OutputTokens = None,
    hours: Hours = None,
    compare: OtherHpas = None,
    static: StandingFleets = None,
    slo: RunSlo = None,
    gateway: GatewayOptions = None,
    client_timeout: ClientTimeout = None,
    price: PriceAsked = None,
    seeds: Annotated[int, typer.Option(help="Simulations per setting.", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Directory for run directories and plots.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate an HPA under some traffic. Beside it other HPAs and standing fleets, all on the same requests."""
    from dataclasses import replace

    from autoscale.recommend.choice.traffic import offered, scenario_of, traffic_in_words
    from autoscale.recommend.comparison import compare as set_side_by_side
    from autoscale.recommend.model.learning import learn, lengths_of, runs_of, slo_of, system_of
    from autoscale.show.terminal.comparison import comparison_table

    options = fleet_options(gateway, client_timeout)
    files = (hpa, *(compare or []))
    settings = _settings(files, static or [])
    if out is not None:
        free_directory(out, empty)
    runs, paid = runs_of([run]) if run else [], price_of(price)
    system = system_of(profile, runs, paid.per_accelerator_hour if paid else None)
    notes = _notes(system, settings, files)
    bounds = slo_of(slo, runs, system)
    tokens = lengths_of(lengths_asked(prompt_tokens, output_tokens, traffic), runs, system)
    plan = offered(traffic, peak, tokens, hours, trace_time_unit)
    progress.compiled_engine()
    with progress.bar() as report:
        engine = learn(runs, system, bounds, report).engine if runs else None
    scenario = replace(scenario_of(
        system, traffic=traffic, peak_rps=peak, slo=bounds, engine=engine, lengths=tokens, hours=hours, plan=plan,
        tell=progress.note,
    ), options=options)  # fmt: skip
    said = traffic_in_words(scenario.plan, traffic)
    notes = _told(notes, scenario, settings, seeds)
    with progress.bar() as report:
        compared = set_side_by_side(scenario, settings, seeds, keep_first=out is not None, progress=report)
    content = {name: _figures(name, found, notes[name], scenario) for name, found in compared.items()}
    paths = _written(compared, system.name, out) if out is not None else []
    if as_json:
        whose = {"profile": system.name, "run": run, "traffic": said, "slo": bounds, "seeds": seeds}
        show_json({"settings": content}, whose)
        return
    whose_slo = "" if slo else "the run's" if runs else "the profile's"
    show(*comparison_table(content, scenario, said, whose_slo, paid.currency if paid else ""))
    show_paths(paths)


def _figures(name: str, found: Compared, notes: Sequence[str], scenario: Scenario) -> dict[str, Any]:
    """What is shown of a setting; why a gateway held its requests is said at once."""
    from autoscale.recommend.billing import billed_setting

    for cause in found.causes():
        progress.note(f"{name}: {cause}")
    billed = billed_setting(name, found.outcomes, scenario.plan.begins_s)
    return {**found.figures(), "month": billed, "notes": [*notes, *found.causes()]}


def _notes(system: Profile, settings: Mapping[str, Setting], files: Sequence[Path]) -> dict[str, list[str]]:
    """What is to be known of each setting. Raises BadInput, naming the file, for one that cannot be simulated."""
    from autoscale.recommend.choice.scenario import notes_on

    notes, named = {}, dict(told_apart(files))
    for name, setting in settings.items():
        with in_file(named.get(name)):
            notes[name] = notes_on(system, setting)
    return notes


def _told(
    notes: Mapping[str, Sequence[str]], scenario: Scenario, settings: Mapping[str, Setting], seeds: int
) -> dict[str, list[str]]:
    """What is to be known of the settings, by whose clock their schedules go among it; said once, with how long they take."""
    from autoscale.recommend.cost import check_cost

    all_notes = {name: [*notes[name], *scenario.clock_of(setting)] for name, setting in settings.items()}
    takes = check_cost(scenario, _largest(settings), len(settings) * seeds)
    for note in dict.fromkeys(
        [*itertools.chain.from_iterable(all_notes.values()), *([takes] if takes else [])]
    ):
        progress.note(note)
    return all_notes


def _largest(settings: Mapping[str, Setting]) -> int:
    """Replicas of the largest standing fleet, 1 without one."""
    return max(setting.replicas or 1 for setting in settings.values())


def _settings(hpas: Sequence[Path], static: Sequence[int]) -> dict[str, Setting]:
    """What is set side by side, each under a name of its own."""
    from autoscale.recommend.choice.settings import Given, Standing

    given: dict[str, Setting] = {name: Given(sound_hpa(path)) for name, path in told_apart(hpas)}
    return given | {f"{count} standing": Standing(count) for count in static}


def _written(compared: Mapping[str, Compared], profile: str, out: Path) -> list[Path]:
    """A run directory of each setting's first seed, with its picture."""
    from analysis import plots
    from analysis.run import read
    from autoscale.show.over_time import run_over_time
    from autoscale.sim import write_run

    folders = {name: name.replace(" ", "-").replace("/", "-") for name in compared}
    short = {name: folder.removesuffix(".yaml").removesuffix(".yml") for name, folder in folders.items()}
    if len(set(short.values())) == len(short):
        folders = short
    paths = []
    for name, found in compared.items():
        run = write_run(found.outcomes[0], out / folders[name], command=command_line(sys.argv))
        title = f"{profile}: load, signals and replicas"
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
