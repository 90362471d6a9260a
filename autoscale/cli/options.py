"""Options that several verbs share, or that would hide what a verb does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

DEFAULT_PROFILE = "llama-3.1-8b-1xl4"

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
PromptTokens = Annotated[
    str | None,
    typer.Option(
        metavar="LEN",
        help="Prompt lengths of the default traffic: N | uniform:A,B | normal:M,S | lognormal:M,S; default the run's, else the profile's.",
    ),
]
OutputTokens = Annotated[str | None, typer.Option(metavar="LEN", help="The same for the answers.")]
Hours = Annotated[
    float | None,
    typer.Option(
        metavar="H",
        help="Hours of the default traffic; default a day or, where it is busier, about 120,000 requests around its peak.",
    ),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        "--trace-time-unit",
        metavar="UNIT",
        help="Unit of the trace's timestamps: s | ms | us | ns; default the format's own, or that of Unix time.",
    ),
]
GatewayOptions = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="OPTIONS",
        help="Requests pass an inference gateway (llm-d's EPP): on, or flow_control=off,ttl=5m and so on.",
    ),
]
ClientTimeout = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long clients wait for an answer, such as 5m.")
]
RunDirectory = Annotated[Path | None, typer.Argument(help="Run directory; default the newest under runs/.")]
Prometheus = Annotated[
    str | None,
    typer.Option(help="URL of Prometheus or Managed Prometheus; default the one noted in the run."),
]
FromPrometheus = Annotated[
    str | None,
    typer.Option(help="URL of a Prometheus: traffic and replica as production shows them, without a run."),
]
Last = Annotated[str, typer.Option(metavar="TIME", help="How far back, such as 14d or 36h.")]
Until = Annotated[
    str | None, typer.Option(metavar="UTC", help="To when, such as 2026-11-27T12:00; default now.")
]
ModelOf = Annotated[str | None, typer.Option(help="Model, where Prometheus has several.")]
Scrape = Annotated[
    list[str] | None, typer.Option(help="A replica's address to scrape until the run ends; repeat.")
]
SampleStep = Annotated[float, typer.Option(help="Seconds between samples.", min=0.1)]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only pods of this namespace.")]
Selector = Annotated[str, typer.Option(help='More PromQL label matchers, such as job="vllm".')]
ModelKept = Annotated[str | None, typer.Option(help="Model to keep; default the run's.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with a bearer token for Prometheus (never on the command line).")
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(help="With --scrape: file with the server's key; default OPENAI_API_KEY or VLLM_API_KEY."),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        help="'Name: value' to send, such as a tenant; the value may be @FILE or $VARIABLE; repeat."
    ),
]
CaFile = Annotated[Path | None, typer.Option(help="Certificates (PEM) of the CA that signed the server's.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do not check the server's certificate.")]
Runs = Annotated[
    list[Path] | None,
    typer.Argument(help="Run directories of one replica; default the newest under runs/."),
]
OneRun = Annotated[
    Path | None,
    typer.Option(help="Run directory of one replica: its lengths, SLO and step times, not the profile's."),
]
OtherHpas = Annotated[list[Path] | None, typer.Option(help="Another HPA to set beside it; repeat.")]
StandingFleets = Annotated[
    list[int] | None, typer.Option(help="A fixed number of replicas to set beside it; repeat.", min=1)
]
RunSlo = Annotated[
    str | None,
    typer.Option(help="For example ttft_p95=2s,tpot_p95=100ms; default the run's, else the profile's."),
]
Attainment = Annotated[
    float | None,
    typer.Option(help="Share of requests that must keep every bound; default the SLO's percentiles."),
]
DaysKept = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Share of days (of shorter traffic: of its repetitions) that keep the SLO, 50% to 99%; default 95%.",
    ),
]
LongestBreach = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Longest stretch over the SLO in a day that keeps it, such as 10m."),
]
MaxReplicas = Annotated[
    int | None,
    typer.Option(help="Most replicas; default what the traffic needs and a quarter more.", min=1),
]
ScalerKind = Annotated[
    Literal["hpa", "keda"],
    typer.Option("--scaler", help="What the answer is: an HPA of the pods' metrics, or KEDA's ScaledObject."),
]
ToZero = Annotated[
    bool,
    typer.Option("--to-zero", help="A ScaledObject may go to zero (needs --gateway, which holds requests)."),
]
SloColdStart = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="TTFT that a request may have which waits on a start from zero, such as 10m; implies --to-zero.",
    ),
]
PriceAsked = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="PRICE",
        help="Price of one accelerator hour, and its currency if you like: 2.5 or '2.5 EUR'.",
    ),
]
CurrentHpa = Annotated[
    Path | None, typer.Option(help="The HPA or ScaledObject in use now, to set beside it.")
]
MeasuredFile = Annotated[
    Path | None,
    typer.Option(help="Measured cold start and metric delay (measured.yaml of `autoscale check`)."),
]
Against = Annotated[
    Path | None, typer.Option(help="An older recommendation.json: does its target still hold?")
]
WithSchedule = Annotated[
    bool,
    typer.Option(
        "--schedule",
        help="Also look for minimum replicas by hour and weekday; needs traffic of two days at least.",
    ),
]
ConfirmingSeeds = Annotated[
    int, typer.Option(help="Simulations that confirm the answer, at least: short traffic gets more.", min=2)
]
Jobs = Annotated[int | None, typer.Option(help="Processes; default one per core.", min=1)]
ResultsDirectory = Annotated[
    Path | None, typer.Option(help="Directory for the results; default the run directory.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Show the path from data to number.")]
OfOneReplica = Annotated[
    Path | None,
    typer.Option(help="Run directory of one replica: its lengths, SLO and step times, not the profile's."),
]
