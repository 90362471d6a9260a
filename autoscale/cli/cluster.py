"""Verbs of the cluster: manifests, lint, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.errors import BadInput
from autoscale.cli.options import Json
from autoscale.cli.printing import print_lines, show, show_json, show_paths
from autoscale.kube.vllm_names import MetricsPath
from autoscale.show import progress


def manifests(
    profile: Annotated[str, typer.Argument(help="Profile name, or a profile .yaml.")],
    recommendation: Annotated[
        Path | None, typer.Option(help="recommendation.json; default the profile's tutorial target.")
    ] = None,
    metrics: Annotated[
        MetricsPath | None,
        typer.Option(
            help="stackdriver | autoscalingmetric | prometheus-adapter | keda | llm-d; default the profile's."
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
    from autoscale.recommendation import read_recommendation

    system = load(profile)
    content = read_recommendation(recommendation) if recommendation else None
    options = deploy.options(set_ or [])
    if apply:
        for line in deploy.apply(
            deploy.objects(system, content, metrics, options), dry_run=not yes, force=force
        ):
            print_lines(line)
        return
    files = deploy.write_set(system, content, metrics, options)
    if out is None:
        for path, text in files:
            if path.endswith((".yaml", ".yml")):
                print(f"---\n# {path}\n{text}", end="")
        return
    deploy.set_directory(system, out)
    deploy.write_files(files, out)
    show_paths([out / path for path, _ in files])


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
    recommendation: Annotated[
        Path | None, typer.Option(help="recommendation.json whose measured engine the servers shall have.")
    ] = None,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print SARIF.")] = False,
    as_json: Json = False,
) -> None:
    """Find what kubectl accepts and the HPA never forgives. Metrics that cannot arrive, targets that cannot fire."""
    from autoscale.lint.linter import lint_cluster, lint_files
    from autoscale.recommendation import read_recommendation
    from autoscale.show.terminal.findings import finding_lines

    if cluster == bool(paths):
        raise BadInput("lint needs files or --cluster", expected="one of the two")
    measured = read_recommendation(recommendation).served() if recommendation else None
    if cluster:
        result = lint_cluster(namespace, context, max_nodes=max_nodes, measured=measured)
    else:
        result = lint_files(paths or [], max_nodes=max_nodes, measured=measured)
    if sarif:
        show_json(result.sarif())
    elif as_json:
        show_json(result.to_json(), {"paths": paths, "recommendation": recommendation})
    else:
        show(*finding_lines(result))
    raise typer.Exit(1 if result.errors else 0)


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

    with progress.live() as follow:
        result = checking.run_check(
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
            progress=follow,
        )
    if as_json:
        show_json(result.result.as_dict())
    else:
        show(*check_lines(result.result))
        show_paths(result.files)
    raise typer.Exit(0 if result.passed else 1)
