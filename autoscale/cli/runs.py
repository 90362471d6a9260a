"""Verbs of a run: collect its metrics, recommend, predict, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.errors import BadInput
from analysis.files import begins_with, free_file
from analysis.redact import command_line
from autoscale.cli.inputs import (
    fleet_options,
    keda_asked,
    lengths_asked,
    price_of,
    promise_of,
    rates_of,
    run_path,
    sound_hpa,
)
from autoscale.cli.options import (
    Against,
    ApiKeyFile,
    Attainment,
    CaFile,
    ClientTimeout,
    ConfirmingSeeds,
    CurrentHpa,
    DaysKept,
    Explain,
    FromPrometheus,
    GatewayOptions,
    Headers,
    Hours,
    Insecure,
    Jobs,
    Json,
    Last,
    LongestBreach,
    MaxReplicas,
    MaybeProfile,
    MeasuredFile,
    ModelKept,
    ModelOf,
    Namespace,
    OutputTokens,
    Peak,
    PriceAsked,
    Prometheus,
    PromptTokens,
    ResultsDirectory,
    RunDirectory,
    Runs,
    RunSlo,
    SampleStep,
    ScalerKind,
    Scrape,
    Selector,
    SloColdStart,
    TimeUnit,
    TokenFile,
    ToZero,
    Traffic,
    Until,
    WithSchedule,
)
from autoscale.cli.printing import show, show_json, show_paths
from autoscale.cli.production import Asked, lengths_given, recommended_from
from autoscale.cli.recommended import recommended_of, tell_recommended
from autoscale.load_command import load_summary
from autoscale.show import progress


def collect(
    run: RunDirectory = None,
    prometheus: Prometheus = None,
    scrape: Scrape = None,
    step: SampleStep = 1.0,
    namespace: Namespace = None,
    selector: Selector = "",
    model: ModelKept = None,
    token_file: TokenFile = None,
    api_key_file: ApiKeyFile = None,
    header: Headers = None,
    ca_file: CaFile = None,
    insecure: Insecure = False,
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
    path = run_path(run)
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
        show_json(summary, {"run": path, "source": source or scrape})
        return
    _tell_collected(path, summary)


def _tell_collected(path: Path, summary: Mapping[str, Any]) -> None:
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


def recommend(
    runs: Runs = None,
    from_prometheus: FromPrometheus = None,
    last: Last = "14d",
    until: Until = None,
    namespace: Namespace = None,
    selector: Selector = "",
    model: ModelOf = None,
    token_file: TokenFile = None,
    header: Headers = None,
    ca_file: CaFile = None,
    insecure: Insecure = False,
    profile: MaybeProfile = None,
    traffic: Traffic = None,
    trace_time_unit: TimeUnit = None,
    peak: Peak = None,
    prompt_tokens: PromptTokens = None,
    output_tokens: OutputTokens = None,
    hours: Hours = None,
    slo: RunSlo = None,
    attainment: Attainment = None,
    days_kept: DaysKept = None,
    longest_breach: LongestBreach = None,
    max_replicas: MaxReplicas = None,
    scaler: ScalerKind = "hpa",
    gateway: GatewayOptions = None,
    client_timeout: ClientTimeout = None,
    to_zero: ToZero = False,
    slo_cold_start: SloColdStart = None,
    price: PriceAsked = None,
    current: CurrentHpa = None,
    measured: MeasuredFile = None,
    against: Against = None,
    schedule: WithSchedule = False,
    seeds: ConfirmingSeeds = 64,
    jobs: Jobs = None,
    out: ResultsDirectory = None,
    explain: Explain = False,
    as_json: Json = False,
) -> None:
    """Find the cheapest target of an HPA or ScaledObject that keeps the SLO. From load tests of one replica, or from production."""
    fleet = fleet_options(gateway, client_timeout)
    same: dict[str, Any] = {
        "profile": profile, "slo": slo, "attainment": attainment, "promise": promise_of(days_kept, longest_breach),
        "max_replicas": max_replicas, "price": price_of(price), "current": sound_hpa(current) if current else None,
        "fleet": fleet, "keda": keda_asked(scaler, to_zero, slo_cold_start, fleet),
        "measured": measured, "against": against, "schedule": schedule, "seeds": seeds, "jobs": jobs, "out": out,
        "command": command_line(sys.argv), "tell": progress.note,
    }  # fmt: skip
    if from_prometheus is not None:
        excluded = {"RUNS": runs, "--traffic": traffic, "--trace-time-unit": trace_time_unit, "--peak": peak, "--hours": hours}  # fmt: skip
        asked = Asked(from_prometheus, last, until, namespace, selector, model, token_file, header, ca_file, insecure)  # fmt: skip
        result = recommended_from(asked, excluded, lengths_given(prompt_tokens, output_tokens), same)
    else:
        lengths = lengths_asked(prompt_tokens, output_tokens, traffic)
        result = recommended_of(
            runs or None, traffic=traffic, peak_rps=peak, hours=hours, time_unit=trace_time_unit, lengths=lengths, **same
        )  # fmt: skip
    tell_recommended(result, explain, as_json)


def predict(
    prompt_tokens: Annotated[
        str,
        typer.Option(
            help="Lengths to predict for: fixed:N | uniform:A,B | normal:M,S | lognormal:M,S | quantiles:A,B,..."
        ),
    ],
    output_tokens: Annotated[str, typer.Option(help="The same for the answers.")],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run directories of one replica, any lengths; default the newest under runs/."),
    ] = None,
    profile: MaybeProfile = None,
    slo: RunSlo = None,
    rates: Annotated[
        str | None,
        typer.Option(help="Rates to look at, requests/s, for example 1,2,4; default up to saturation."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict a measured replica at other lengths. Capacity and latencies with other prompts and answers, with intervals."""
    from autoscale.recommend.model.learning import runs_of, slo_of, system_of
    from autoscale.recommend.model.predict import as_json as plain
    from autoscale.recommend.model.predict import predict as find
    from autoscale.show.terminal.prediction import prediction_lines

    asked = rates_of(rates)
    read = runs_of(runs or None)
    slo_of(slo, read, system_of(profile, read))  # refused before a minute of compiling
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
        show_json(
            plain(found),
            {"profile": found.profile.name, "runs": [run.path for run in found.runs], "slo": found.slo},
        )
    else:
        show(*prediction_lines(found))
    raise typer.Exit(0 if found.capacity is not None else 1)


def report(
    run: RunDirectory = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="An earlier run of the same load: is this one better, worse, the same?"),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print the load's summary with every percentile.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The page; default run.html in the run.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run as a page, or judge it against an earlier one. Load, latency, server signals, client verdict, replicas."""
    from analysis.opened import open_run
    from autoscale.recommend.model.learning import capacity_of_run
    from autoscale.regression import regression
    from autoscale.show.pages import run_page
    from autoscale.show.run_numbers import run_numbers
    from autoscale.show.terminal.regression import regression_lines

    path = run_path(run)
    page = free_file(out, begins_with("<!doctype html"), "a page") if out else path / "run.html"
    with progress.bar() as shown:
        capacity = capacity_of_run(path, shown)
    seen, before = replace(open_run(path), learned=capacity), open_run(compare) if compare else None
    found = regression(seen, before) if before else None
    made = run_page(seen, before, page, found)
    if as_json:
        of = {"run": path, "before": compare, "slo": str(seen.slo) if seen.slo else None}
        show_json({**run_numbers(seen, found), "page": str(made)}, of)
    else:
        if details:
            print(load_summary(path))
        show(*regression_lines(found, str(compare)) if found else ())
        print(made)
    raise typer.Exit(1 if found and not found.no_worse else 0)


def profile(
    from_run: Annotated[Path, typer.Option(help="Run directory of one replica.")],
    profile: MaybeProfile = None,
    slo: RunSlo = None,
    price: PriceAsked = None,
    accelerator: Annotated[str | None, typer.Option(help="Name of the accelerator.")] = None,
    model_config: Annotated[
        Path | None, typer.Option(help="config.json of the model, where the base profile's is another.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The profile .yaml; default prints it.")] = None,
) -> None:
    """Write the profile of a measured server. Its own limits and version, and the step time calibrated on its run."""
    from autoscale.recommend.measured_profile import UserFacts, measured_profile
    from autoscale.recommend.model.learning import learn, runs_of, slo_of, system_of

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise BadInput("name of a profile file", value=str(out), expected="one that ends in .yaml")
    if out is not None:
        free_file(out, _is_profile, "a profile")
    given, found = price_of(price), runs_of([from_run])
    system = system_of(profile, found)
    named = profile or found[0].header.get("profile") or system.name
    progress.compiled_engine()
    with progress.bar() as report:
        model = learn(found, system, slo_of(slo, found, system), report)
    written = measured_profile(
        found[0],
        model,
        str(named),
        UserFacts(given.per_accelerator_hour if given else None, accelerator, model_config),
    )
    if out is None:
        print(written.text, end="")
        return
    out.write_text(written.text, encoding="utf-8")
    for sentence in written.open_points:
        print(f"  not measured: {sentence}")
    show_paths([out])


def _is_profile(path: Path) -> bool:
    """Whether a YAML file says what profiles say; Kubernetes objects have a kind."""
    from analysis.files import read_yaml

    content = read_yaml(path, "profile file")
    return "kind" not in content and bool({"extends", "model"} & set(content))
