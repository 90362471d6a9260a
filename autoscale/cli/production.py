"""Verbs of a service that is in production: its traffic out of Prometheus."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analysis.errors import BadInput
from analysis.files import begins_with, free_file
from autoscale.cli.options import CaFile, Headers, Insecure, Json, Namespace, Selector, TokenFile
from autoscale.cli.printing import show_json, show_paths
from autoscale.show import progress

if TYPE_CHECKING:
    from autoscale.history.learned import LearnedTraffic

MARK = "# traffic learned by autoscale traffic"


def traffic(
    prometheus: Annotated[str, typer.Option(help="URL of Prometheus or Managed Prometheus.")],
    last: Annotated[str, typer.Option(metavar="TIME", help="How far back, such as 14d or 36h.")] = "14d",
    until: Annotated[
        str | None, typer.Option(metavar="UTC", help="To when, such as 2026-11-27T12:00; default now.")
    ] = None,
    namespace: Namespace = None,
    selector: Selector = "",
    model: Annotated[str | None, typer.Option(help="Model, where Prometheus has several.")] = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(metavar="LEN", help="Prompt lengths, where the server has no histogram of them."),
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option(metavar="LEN", help="The same for the answers.")
    ] = None,
    token_file: TokenFile = None,
    header: Headers = None,
    ca_file: CaFile = None,
    insecure: Insecure = False,
    out: Annotated[
        Path, typer.Option(help="Load file to write, for --traffic and --load; a picture stands beside it.")
    ] = Path("traffic.yaml"),
    as_json: Json = False,
) -> None:
    """Learn a service's traffic from its Prometheus. When requests came, how bursty, how long: as a load file."""
    from analysis.access import access
    from autoscale.history.learned import learn_traffic
    from loadgen.plan.lengths import parse_lengths

    free_file(out, begins_with(MARK), "one that `autoscale traffic` wrote")
    given = tuple(None if text is None else parse_lengths(text) for text in (prompt_tokens, output_tokens))
    last_s = _seconds(last)
    with progress.bar() as report:
        learned = learn_traffic(
            prometheus,
            last_s,
            until=None if until is None else _unix(until),
            namespace=namespace,
            selector=selector,
            model=model,
            access=access(
                key_file=token_file,
                key_option="--token-file",
                headers=header or (),
                ca_file=ca_file,
                insecure=insecure,
                key_variables=(),
            ),
            progress=report,
        )
    paths = _written(learned, learned.yaml(*given), out)
    if as_json:
        show_json(learned.as_json())
        return
    for sentence in learned.sentences():
        print(sentence)
    show_paths(paths)


def watch(
    recommendation: Annotated[Path, typer.Option(help="The recommendation.json whose target is in use.")],
    traffic: Annotated[
        Path, typer.Option(help="What came lately: a load file of `autoscale traffic`, or a recorded trace.")
    ],
    textfile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write metrics for node_exporter's textfile collector, FILE.prom."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether a recommended target still holds. In one line; exit code 1 when not, and metrics for an alert."""
    from autoscale.recommend.drift import still_holds
    from autoscale.recommendation import read_recommendation
    from autoscale.show.textfile import check_textfile, exposition, write_textfile
    from autoscale.typed_json import as_plain

    old = read_recommendation(recommendation)
    if textfile is not None:
        check_textfile(textfile)
    progress.compiled_engine()
    scenario, found = still_holds(old, traffic, tell=progress.note)
    if textfile is not None:
        write_textfile(textfile, exposition(old, found, scenario.plan.duration_s / 3600, time.time()))
    if as_json:
        show_json(as_plain(found), {"recommendation": recommendation, "traffic": traffic})
    else:
        print(found.sentence)
    raise typer.Exit(0 if found.holds else 1)


def _written(learned: LearnedTraffic, load: str, out: Path) -> list[Path]:
    """The load file, and its picture beside it."""
    from autoscale.history.picture import days_picture

    try:
        out.write_text(
            f"{MARK}, {datetime.fromtimestamp(time.time(), UTC):%Y-%m-%d %H:%M} UTC\n{load}", "utf-8"
        )
        return [out, days_picture(learned, out.with_suffix(".png"))]
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}", next_step="choose another --out") from None


def _seconds(text: str) -> float:
    from analysis.numbers import parse_seconds

    if math.isnan(seconds := parse_seconds(text)):
        raise BadInput("--last", value=text, expected="a time such as 14d or 36h")
    return seconds


def _unix(text: str) -> float:
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadInput("--until", value=text, expected="a time such as 2026-11-27T12:00, in UTC") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
