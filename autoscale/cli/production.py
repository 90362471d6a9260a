"""Verbs of a service that is in production: its traffic out of Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.errors import BadInput
from analysis.files import begins_with, free_file
from autoscale.cli.options import (
    CaFile,
    Headers,
    Insecure,
    Json,
    Last,
    ModelOf,
    Namespace,
    Selector,
    TokenFile,
    Until,
)
from autoscale.cli.printing import show_json, show_paths
from autoscale.show import progress

if TYPE_CHECKING:
    from autoscale.history.learned import LearnedTraffic
    from autoscale.history.service import Service
    from autoscale.recommend import Recommended
    from loadgen.plan.lengths import Lengths

MARK = "# traffic learned by autoscale traffic"


def traffic(
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="Prometheus or Managed Prometheus.")
    ] = None,
    access_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Or an access log: JSON lines or CSV with a header, .gz too."),
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="NAME=FIELD,...",
            help="The log's fields, where they are not found: time, prompt, output, model, took (s; the time is the end's).",
        ),
    ] = "",
    last: Last = "14d",
    until: Until = None,
    namespace: Namespace = None,
    selector: Selector = "",
    model: ModelOf = None,
    prompt_tokens: Annotated[
        str | None,
        typer.Option(metavar="LEN", help="Prompt lengths, where nothing tells them."),
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
    """Learn a service's traffic from its Prometheus or an access log. When requests came, how bursty, how long: as a load file."""
    free_file(out, begins_with(MARK), "one that `autoscale traffic` wrote")
    given = lengths_given(prompt_tokens, output_tokens)
    if (prometheus is None) == (access_log is None):
        raise BadInput("where the traffic is told", expected="one of --prometheus URL and --access-log FILE")
    if access_log is not None:
        learned = _of_log(access_log, columns, model, last, until)
    else:
        assert prometheus is not None
        asked = Asked(prometheus, last, until, namespace, selector, model, token_file, header, ca_file, insecure)  # fmt: skip
        learned = _of_prometheus(asked)
    paths = _written(learned, learned.yaml(*given), out)
    if as_json:
        show_json(learned.as_json())
        return
    for sentence in learned.sentences():
        print(sentence)
    show_paths(paths)


def _of_log(file: Path, columns: str, model: str | None, last: str, until: str | None) -> LearnedTraffic:
    from autoscale.history.access_log import learn_log, log_columns

    to = None if until is None else _unix(until)
    return learn_log(file, columns=log_columns(columns), model=model, last_s=_seconds(last), until=to)


def _of_prometheus(asked: Asked) -> LearnedTraffic:
    from autoscale.history.learned import learn_traffic
    from autoscale.history.pod_moments import pod_moments

    with progress.bar() as report:
        found = asked.service(report)
        return learn_traffic(found, pod_moments(found))


@dataclass(frozen=True)
class Asked:
    """A service in a Prometheus as the command line names it."""

    url: str
    last: str
    until: str | None
    namespace: str | None
    selector: str
    model: str | None
    token_file: Path | None
    header: list[str] | None
    ca_file: Path | None
    insecure: bool

    def service(self, report: Callable[[float, str], None]) -> Service:
        """Its rows. Raises BadInput, SourceUnavailable, TooLittleData."""
        from analysis.access import access
        from autoscale.history.service import find_service

        return find_service(
            self.url,
            _seconds(self.last),
            until=None if self.until is None else _unix(self.until),
            namespace=self.namespace,
            selector=self.selector,
            model=self.model,
            access=access(
                key_file=self.token_file,
                key_option="--token-file",
                headers=self.header or (),
                ca_file=self.ca_file,
                insecure=self.insecure,
                key_variables=(),
            ),
            progress=report,
        )


def recommended_from(
    asked: Asked,
    excluded: Mapping[str, object],
    lengths: tuple[Lengths | None, Lengths | None],
    same: Mapping[str, Any],
) -> Recommended:
    """The recommendation from production; `excluded` are options that only go with runs, `same` those of both."""
    from autoscale.history.learned import NAMELESS
    from autoscale.history.production import learn_production
    from autoscale.profiles import load
    from autoscale.recommend.from_production import profile_name, recommend_from
    from autoscale.recommend.progress import part

    for option, value in excluded.items():
        if value:
            raise BadInput(
                f"{option} with --from-prometheus",
                value=value,
                expected="traffic and replica as production has them",
            )
    rest = {name: value for name, value in same.items() if name != "current"}
    with progress.bar() as report:
        service = asked.service(part(report, 0.0, 0.7))
        # a wrong profile is refused before the rest is read
        load(profile_name(same["profile"], service.model or NAMELESS))
        production = learn_production(service, same["current"], part(report, 0.7, 0.3))
    for note in production.notes:
        progress.note(note)
    progress.compiled_engine()  # once it is known that the server answers
    with progress.bar() as report:
        return recommend_from(production, lengths=lengths, progress=report, **rest)


def lengths_given(prompt: str | None, output: str | None) -> tuple[Lengths | None, Lengths | None]:
    """Lengths as they were typed; None where they were not."""
    from loadgen.plan.lengths import parse_lengths

    return None if prompt is None else parse_lengths(prompt), None if output is None else parse_lengths(
        output
    )


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

    at = out
    try:
        out.write_text(
            f"{MARK}, {datetime.fromtimestamp(time.time(), UTC):%Y-%m-%d %H:%M} UTC\n{load}", "utf-8"
        )
        at = out.with_suffix(".png")
        return [out, days_picture(learned, at)]
    except OSError as error:
        raise BadInput(f"cannot write {at}: {error.strerror}", next_step="choose another --out") from None


def _seconds(text: str) -> float:
    from analysis.numbers import parse_seconds

    if not 0 < (seconds := parse_seconds(text)) < math.inf:
        raise BadInput("--last", value=text, expected="a time such as 14d or 36h")
    return seconds


def _unix(text: str) -> float:
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadInput("--until", value=text, expected="a time such as 2026-11-27T12:00, in UTC") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
