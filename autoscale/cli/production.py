"""Verbs of a service that is in production: its traffic out of Prometheus."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from analysis.errors import BadInput
from autoscale.cli.options import CaFile, Headers, Insecure, Json, Namespace, Selector, TokenFile
from autoscale.cli.printing import show_json, show_paths
from autoscale.show import progress

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
    from analysis.numbers import parse_seconds
    from autoscale.history.learned import learn_traffic
    from autoscale.history.picture import days_picture

    _free(out)
    with progress.bar() as report:
        learned = learn_traffic(
            prometheus,
            parse_seconds(last),
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
    text = f"{MARK}, {datetime.fromtimestamp(time.time(), UTC):%Y-%m-%d %H:%M} UTC\n{learned.yaml()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
        picture = days_picture(learned, out.with_suffix(".png"))
    except OSError as error:
        raise BadInput(f"cannot write {out}: {error.strerror}", next_step="choose another --out") from None
    if as_json:
        show_json(learned.as_json())
        return
    for sentence in learned.sentences():
        print(sentence)
    show_paths([out, picture])


def _free(out: Path) -> None:
    """Raises BadInput when `out` is something that this verb did not write."""
    try:
        taken = out.exists() and not (out.is_file() and out.read_text(errors="replace").startswith(MARK))
    except OSError as error:
        raise BadInput(f"cannot look at {out}: {error.strerror}", next_step="choose another --out") from None
    if taken:
        raise BadInput(
            f"{out} is there and was not written by `autoscale traffic`",
            next_step="choose another --out, or move it away",
        )


def _unix(text: str) -> float:
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise BadInput("--until", value=text, expected="a time such as 2026-11-27T12:00, in UTC") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
