"""A recommendation from runs, and how one is told, wherever it is from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autoscale.cli.printing import show, show_json, show_paths
from autoscale.show import progress

if TYPE_CHECKING:
    from autoscale.recommend import Recommended


def recommended_of(runs: list[Path] | None, **asked: Any) -> Recommended:
    """The recommendation from runs of one replica."""
    from autoscale.recommend import recommend as find
    from autoscale.recommend.model.learning import runs_of, system_of

    system_of(
        asked["profile"], runs_of(runs), None, asked["measured"]
    )  # refused before a minute of compiling
    progress.compiled_engine()
    with progress.bar() as report:
        return find(runs, progress=report, **asked)


def tell_recommended(result: Recommended, explain: bool, as_json: bool) -> None:
    """Print it, write its page, and end with 0 where it keeps what it promises."""
    from autoscale.show.pages import recommendation_page
    from autoscale.show.terminal.recommendation import recommendation_lines

    page = recommendation_page(result, result.files[0].parent / "report.html")
    if as_json:
        show_json(result.document.as_json())
    else:
        show(*recommendation_lines(result.document, explain=explain))
        show_paths([*result.files, page])
    raise typer.Exit(0 if result.document.achieved else 1)
