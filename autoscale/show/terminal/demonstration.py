"""The end of the demo on the terminal: the recommendation, the manifest, the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from autoscale.show.terminal.check import check_lines
from autoscale.show.terminal.layout import to_copy
from autoscale.show.terminal.recommendation import recommendation_lines

if TYPE_CHECKING:
    from autoscale.demo import Demonstration


def demonstration_lines(result: Demonstration) -> Iterator[RenderableType]:
    """The demo's end: the recommendation, the manifest, the verdict."""
    yield from recommendation_lines(result.recommendation.document)
    yield Text("\nThe manifest, ready for kubectl apply", style="bold")
    yield to_copy(result.manifest.strip(), "cyan")
    yield Text(
        f"\nThe scale-out, watched on the simulated fleet (metrics of the load test from {result.collected_from})",
        style="bold",
    )
    yield from check_lines(result.check)
    yield Text("\nFiles", style="bold")
