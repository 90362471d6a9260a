"""The command line: the only module that reads arguments, prints and exits.

Results go to stdout (a table, or JSON with --json), progress and errors to stderr. Exit codes: 0 done, 1 the answer is
no, 2 bad input, 3 a source could not be reached, 130 interrupted. Every verb imports what it needs when it runs.
"""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from analysis.errors import AutoscaleError, BadInput
from analysis.redact import command_line
from autoscale import examples
from autoscale.show import progress

app = typer.Typer(
    help="Find, write and prove HPA targets for vLLM on Kubernetes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXIT_INTERRUPTED = 130
DEFAULT_PROFILE = "llama-3.1-8b-1xl4"

MetricsPath = Literal["stackdriver", "autoscalingmetric", "prometheus-adapter", "keda"]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ProfileName = Annotated[str, typer.Option("--profile", "-p", help="Profile name, or a profile .yaml.")]
MaybeProfile = Annotated[
    str | None, typer.Option("--profile", "-p", help="Profile name, or a profile .yaml.")
]
Traffic = Annotated[
    Path | None, typer.Option(help="Traffic: a load file (YAML) or a recorded trace.", exists=False)
]
Peak = Annotated[
    float | None, typer.Option(help="Peak of the default traffic (a day in bursts), requests/s.")
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        "--trace-time-unit",
        metavar="UNIT",
        help="Unit of the trace's timestamps: s | ms | us | ns; default the format's own, or that of Unix time.",
    ),
]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"autoscale {metadata.version('llm-autoscale')}")
        raise typer.Exit


@app.callback()
def autoscale(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Find, write and prove HPA targets for vLLM on Kubernetes."""


def main() -> NoReturn:
    """Run the command line and exit with the code of its outcome."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell made a background job ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except AutoscaleError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(error).__name__, "sentence": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        error.show()
        sys.exit(getattr(error, "exit_code", 2))
    if code == EXIT_INTERRUPTED:
        print("interrupted: what was written so far stays readable", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


# --- simulated fleet -------------------------------------------------------------------------------------------------


@app.command(epilog=examples.epilog("serve"))
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
        _manifest(hpa) if hpa else None,
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


@app.command(epilog=examples.epilog("simulate"))
def simulate(
    hpa: Annotated[Path, typer.Option(help="HPA manifest (autoscaling/v2).")],
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
    seeds: Annotated[int, typer.Option(help="Simulations per setting.", min=1)] = 3,
    out: Annotated[Path | None, typer.Option(help="Directory for run directories and plots.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate an HPA under some traffic. Beside it other HPAs and standing fleets, all on the same requests."""
    from analysis import plots
    from analysis.run import read
    from autoscale.profiles import load
    from autoscale.recommend import cost, scenario_of
    from autoscale.recommend.choice.settings import Given, Setting, Standing
    from autoscale.recommend.comparison import compare as set_side_by_side
    from autoscale.show.over_time import run_over_time
    from autoscale.show.terminal.comparison import comparison_table
    from autoscale.sim import write_run

    scenario = scenario_of(
        load(profile), traffic=traffic, peak_rps=peak, slo=slo, time_unit=trace_time_unit, tell=progress.note
    )
    settings: dict[str, Setting] = {
        name: Given(_manifest(path)) for name, path in _told_apart((hpa, *(compare or [])))
    }
    settings |= {f"{count} standing": Standing(count) for count in static or []}
    notes = {name: scenario.notes(setting) for name, setting in settings.items()}
    least = max(setting.replicas or 1 for setting in settings.values())
    takes = cost.check(scenario, least, len(settings) * seeds)
    for note in dict.fromkeys([*itertools.chain.from_iterable(notes.values()), *([takes] if takes else [])]):
        progress.note(note)
    progress.compiled_engine()
    with progress.bar() as report:
        compared = set_side_by_side(scenario, settings, seeds, keep_first=out is not None, progress=report)
    content = {name: {**found.figures(), "notes": notes[name]} for name, found in compared.items()}
    paths = []
    if out is not None:
        for name, found in compared.items():
            folder = str(Path(name).with_suffix("")).replace(" ", "-").replace("/", "-")
            run = write_run(found.outcomes[0], out / folder, command=command_line(sys.argv))
            title = f"{scenario.profile.name}: load, signals and replicas"
            figure = run_over_time(read(run), title=title, show=("waiting", "kv_usage"))
            paths += [run, plots.save(figure, run / "timeline.png")] if figure else [run]
    if as_json:
        _print_json(content)
        return
    _print(comparison_table(content, scenario, slo_given=slo is not None))
    _print_paths(paths)


# --- from a run to a recommendation ----------------------------------------------------------------------------------


@app.command(epilog=examples.epilog("collect"))
def collect(
    run: Annotated[Path | None, typer.Argument(help="Run directory; default the newest under runs/.")] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(help="URL of Prometheus or Managed Prometheus; default the one noted in the run."),
    ] = None,
    scrape: Annotated[
        list[str] | None, typer.Option(help="A replica's address to scrape until the run ends; repeat.")
    ] = None,
    step: Annotated[float, typer.Option(help="Seconds between samples.", min=0.1)] = 1.0,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only pods of this namespace.")
    ] = None,
    selector: Annotated[str, typer.Option(help='More PromQL label matchers, such as job="vllm".')] = "",
    model: Annotated[str | None, typer.Option(help="Model to keep; default the run's.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with a bearer token for Prometheus (never on the command line).")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="With --scrape: file with the server's key; default OPENAI_API_KEY or VLLM_API_KEY."
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            help="'Name: value' to send, such as a tenant; the value may be @FILE or $VARIABLE; repeat."
        ),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) of the CA that signed the server's.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not check the server's certificate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Collect the server's metrics of a run. From Prometheus afterwards, or by scraping replicas while the load runs."""
    from analysis.access import KEY_VARIABLES, access
    from analysis.run import read_header
    from autoscale.observe.collect import collect as fill

    if token_file and (scrape or api_key_file):
        raise BadInput("--token-file is for Prometheus", next_step="with --scrape use --api-key-file")
    if api_key_file and not scrape:
        raise BadInput("--api-key-file is for --scrape", next_step="with Prometheus use --token-file")
    going = access(
        key_file=token_file or api_key_file,
        key_option="--token-file" if token_file else "--api-key-file",
        headers=header or (),
        ca_file=ca_file,
        insecure=insecure,
        key_variables=KEY_VARIABLES if scrape else (),
    )
    path = _run_path(run)
    noted = None if scrape else read_header(path).get("prometheus")
    source = prometheus or (str(noted) if noted else None)
    with progress.bar() as report:
        summary = fill(
            path,
            source,
            scrape or (),
            step_s=step,
            namespace=namespace,
            selector=selector,
            model=model,
            access=going,
            progress=report,
        )
    if as_json:
        _print_json(summary)
        return
    low, high = summary["window_s"]
    print(
        f"{path}/metrics.parquet: {summary['rows']} rows of {len(summary['pods'])} replicas, {low:.0f} to {high:.0f} s, "
        f"{len(summary['gaps'])} gaps"
    )
    for gap in summary["gaps"]:
        print(f"  gap: {gap}")
    for name in summary["other_models"]:
        print(f"  left out: metrics of model {name}")
    for note in summary["notes"]:
        print(f"  note: {note}")


@app.command(epilog=examples.epilog("recommend"))
def recommend(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories of one replica; default the newest under runs/."),
    ] = None,
    profile: MaybeProfile = None,
    traffic: Traffic = None,
    trace_time_unit: TimeUnit = None,
    peak: Peak = None,
    slo: Annotated[
        str | None,
        typer.Option(help="For example ttft_p95=2s,tpot_p95=100ms; default the run's, else the profile's."),
    ] = None,
    attainment: Annotated[
        float | None,
        typer.Option(help="Share of requests that must keep every bound; default the SLO's percentiles."),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(help="Most replicas; default what the traffic needs and a quarter more.", min=1),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Price of one accelerator hour.", min=0)] = None,
    current: Annotated[Path | None, typer.Option(help="The HPA in use now, to set beside it.")] = None,
    measured: Annotated[
        Path | None,
        typer.Option(help="Measured cold start and metric delay (measured.yaml of `autoscale check`)."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="An older recommendation.json: does its target still hold?")
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Seeds that confirm the figures, at least: short traffic gets more.", min=2)
    ] = 4,
    jobs: Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the results; default the run directory.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the path from data to number.")] = False,
    as_json: Json = False,
) -> None:
    """Find the cheapest HPA target that keeps the SLO. From load tests of one replica; with an interval and reasons."""
    from autoscale.recommend import recommend as find
    from autoscale.show.pages import recommendation_page
    from autoscale.show.terminal.recommendation import recommendation_lines

    progress.compiled_engine()
    with progress.bar() as report:
        result = find(
            runs or None,
            profile=profile,
            traffic=traffic,
            peak_rps=peak,
            slo=slo,
            attainment=attainment,
            max_replicas=max_replicas,
            price=price,
            current=_manifest(current) if current else None,
            measured=measured,
            against=against,
            seeds=seeds,
            jobs=jobs,
            out=out,
            command=command_line(sys.argv),
            time_unit=trace_time_unit,
            progress=report,
            tell=progress.note,
        )
    page = recommendation_page(result, result.files[0].parent / "report.html")
    if as_json:
        _print_json(result.document.as_json())
    else:
        _print(*recommendation_lines(result.document, explain=explain))
        _print_paths([*result.files, page])
    raise typer.Exit(0 if result.document.achieved else 1)


@app.command(epilog=examples.epilog("predict"))
def predict(
    prompt_tokens: Annotated[
        str, typer.Option(help="Lengths to predict for: fixed:N | uniform:A,B | normal:M,S | lognormal:M,S.")
    ],
    output_tokens: Annotated[str, typer.Option(help="The same for the answers.")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories of one replica, any lengths; default the newest under runs/."),
    ] = None,
    profile: MaybeProfile = None,
    slo: Annotated[
        str | None,
        typer.Option(help="For example ttft_p95=2s,tpot_p95=100ms; default the run's, else the profile's."),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(help="Rates to look at, requests/s, for example 1,2,4; default up to saturation."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict a measured replica at other lengths. Capacity and latencies with other prompts and answers, with intervals."""
    from autoscale.recommend.model.predict import as_json as plain
    from autoscale.recommend.model.predict import predict as find
    from autoscale.show.terminal.prediction import prediction_lines

    asked = _numbers(rates)
    progress.compiled_engine()
    with progress.bar() as report:
        found = find(
            runs or None,
            prompt_tokens,
            output_tokens,
            profile=profile,
            slo=slo,
            rates_rps=asked,
            progress=report,
        )
    if as_json:
        _print_json(plain(found))
    else:
        _print(*prediction_lines(found))
    raise typer.Exit(0 if found.capacity is not None else 1)


@app.command(epilog=examples.epilog("report"))
def report(
    run: Annotated[Path | None, typer.Argument(help="Run directory; default the newest under runs/.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run to set beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; default run.html in the run.")] = None,
) -> None:
    """Write a run, or two side by side, as a page. Load, latency, server signals, client verdict, replicas."""
    from autoscale.show.pages import run_page

    path = _run_path(run)
    print(run_page(path, compare, out or path / "run.html"))


# --- manifests -------------------------------------------------------------------------------------------------------


@app.command(epilog=examples.epilog("manifests"))
def manifests(
    profile: Annotated[str, typer.Argument(help="Profile name, or a profile .yaml.")],
    recommendation: Annotated[
        Path | None, typer.Option(help="recommendation.json; default the profile's tutorial target.")
    ] = None,
    metrics: Annotated[
        MetricsPath | None,
        typer.Option(
            help="stackdriver | autoscalingmetric | prometheus-adapter | keda; default the profile's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the set here; default prints it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the set, name=value, for example health_probes=false; repeat."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Apply to the cluster in KUBECONFIG; a dry run unless --yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --apply: really change the cluster.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --apply: also objects that somebody else wrote.")
    ] = False,
) -> None:
    """Write the HPA and everything around it. A commented, kustomize-friendly set for a profile, with a README."""
    from autoscale import deploy
    from autoscale.profiles import load
    from autoscale.recommendation import read

    system = load(profile)
    content = read(recommendation) if recommendation else None
    options = deploy.options(set_ or [])
    if apply:
        for line in deploy.apply(
            deploy.objects(system, content, metrics, options), dry_run=not yes, force=force
        ):
            print(line)
        return
    files = deploy.write_set(system, content, metrics, options)
    if out is None:
        for path, text in files:
            print(f"# {path}\n{text}" if path.endswith((".yaml", ".yml")) else "", end="")
        return
    deploy.write_files(files, out)
    _print_paths([out / path for path, _ in files])


@app.command(epilog=examples.epilog("lint"))
def lint(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or directories: YAML, kustomize or Helm output.")
    ] = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Read the objects from the cluster in KUBECONFIG instead.")
    ] = False,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="With --cluster: the namespace; default all.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="With --cluster: context in KUBECONFIG.")] = None,
    max_nodes: Annotated[
        int | None,
        typer.Option(help="Most nodes of the accelerator pool, to check maxReplicas against.", min=0),
    ] = None,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF.")] = False,
    as_json: Json = False,
) -> None:
    """Find what kubectl accepts and the HPA never forgives. Metrics that cannot arrive, targets that cannot fire."""
    from autoscale import deploy
    from autoscale.show.terminal.findings import finding_lines

    if cluster == bool(paths):
        raise BadInput("lint needs files or --cluster", expected="one of the two")
    if cluster:
        result = deploy.lint_cluster(namespace, context, max_nodes=max_nodes)
    else:
        result = deploy.lint_files(paths or [], max_nodes=max_nodes)
    if sarif:
        _print_json(result.sarif())
    elif as_json:
        _print_json(result.to_json())
    else:
        _print(*finding_lines(result))
    raise typer.Exit(1 if result.errors else 0)


# --- check -----------------------------------------------------------------------------------------------------------


@app.command(epilog=examples.epilog("check"))
def check(
    fleet: Annotated[str | None, typer.Option(help="URL of a simulated fleet (`autoscale serve`).")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the HPA.")] = "default",
    hpa: Annotated[str | None, typer.Option(help="Name of the HPA.")] = None,
    context: Annotated[str | None, typer.Option(help="Context in KUBECONFIG.")] = None,
    load: Annotated[
        str | None,
        typer.Option(help="A locust command that makes the load, or a run directory recorded meanwhile."),
    ] = None,
    expect: Annotated[
        Path | None, typer.Option(help="recommendation.json that the cluster is held to.")
    ] = None,
    slo: Annotated[str | None, typer.Option(help="SLO of the load; default the one of its run.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            help="What is served, for the read rate of its weights; default that of --expect.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to watch at most.", min=1)] = 7200.0,
    scale_to: Annotated[
        int | None,
        typer.Option(help="Write this number of replicas: the only option that changes anything.", min=0),
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="Judge the evidence of an earlier check again.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory for the evidence.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a scale-out with every phase timed. On a cluster or a simulated fleet; a verdict with evidence."""
    from autoscale import check_command as checking
    from autoscale.show.terminal.check import check_lines

    with progress.live() as show:
        result = checking.run(
            fleet=fleet,
            namespace=namespace,
            hpa=hpa,
            context=context,
            load=load,
            expect=expect,
            timeout_s=timeout,
            scale_to=scale_to,
            replay_dir=replay,
            out=out,
            slo=slo,
            profile=profile,
            progress=show,
        )
    if as_json:
        _print_json(result.result.as_dict())
    else:
        _print(*check_lines(result.result))
        _print_paths(result.files)
    raise typer.Exit(0 if result.passed else 1)


@app.command(epilog=examples.epilog("demo"))
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
        result = demonstration.run(target, profile=profile, seed=seed, progress=report)
    _print(*demonstration_lines(result))
    _print_paths(result.files)
    raise typer.Exit(0 if result.passed else 1)


# --- printing --------------------------------------------------------------------------------------------------------


def _run_path(run: Path | None) -> Path:
    from analysis.errors import BadRun
    from analysis.run import newest

    if run is not None:
        return run
    found = newest()
    if found is None:
        raise BadRun(
            "there is no run under runs/",
            next_step="make one with `locust -f loadgen/completions.py --host URL --rate 1`",
        )
    print(f"using the newest run, {found}", file=sys.stderr)
    return found


def _numbers(text: str | None) -> list[float]:
    """ "1,2,4" as numbers; none without text."""
    try:
        return [float(word) for word in text.split(",")] if text else []
    except ValueError:
        raise BadInput(
            "rates", value=text, expected="requests/s separated by commas, for example 1,2,4"
        ) from None


def _told_apart(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each file once, under the end of its path that no other one has: hpa.yaml, or a/hpa.yaml beside b/hpa.yaml."""
    by_place = {path.resolve(): path for path in paths}
    for place, path in by_place.items():
        others = [other.parts for other in by_place if other != place]
        parts = place.parts
        length = next(
            n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others)
        )
        yield "/".join(parts[-length:]), path


def _manifest(path: Path) -> dict[str, Any]:
    """The HorizontalPodAutoscaler in a YAML file (the first one, other kinds passed over)."""
    from analysis.files import read_documents

    for document in read_documents(path, "HPA file"):
        if isinstance(document, dict) and document.get("kind") == "HorizontalPodAutoscaler":
            return document
    raise BadInput(f"{path} holds no HorizontalPodAutoscaler", expected="an autoscaling/v2 manifest")


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=100)


def _print(*parts: Any) -> None:
    console = _console()
    for part in parts:
        console.print(part)


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=str))


def _print_paths(paths: list[Path]) -> None:
    for path in paths:
        print(f"  {path}")
