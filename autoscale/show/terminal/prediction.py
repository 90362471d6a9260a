"""A prediction on the terminal: one replica at other lengths, how far that reaches, how to test it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from analysis.saturation import Estimate
from autoscale.recommend.model.predict import Prediction
from autoscale.show.terminal.layout import number_text, plain_table, to_copy


def prediction_lines(found: Prediction) -> Iterator[RenderableType]:
    """One replica at other lengths: capacity, a table over rates, how far it reaches, how to test it."""
    measured = found.model.shape
    head = f"prompts {found.prompt}, outputs {found.output} tokens"
    if found.model.fitted:
        head += f"; measured at {measured[0]:.0f} and {measured[1]:.0f} on average"
    yield Text("\nPrediction for one replica", style="bold")
    yield Text(head, style="dim")
    yield Text.assemble(
        ("knee       ", "bold"), _rate(found.knee), "  every second request finds the batch full"
    )
    yield Text(f"saturated  {_rate(found.saturated)}  {found.limit[0]}")
    yield Text(f"           {found.limit[1]}", style="dim")
    if found.capacity is None:
        yield Text(f"SLO        {found.slo}: {found.binds}", style="red")
    else:
        yield Text(f"SLO        {_rate(found.capacity)}  holds {found.slo}")
        yield Text(f"           {found.binds} binds first", style="dim")
    made = plain_table(
        "req/s", "TTFT p50 s", "p95 s", "TPOT p50 ms", "p95 ms", "running", "waiting", "KV", title=""
    )
    for row in found.points.to_dict(orient="records"):
        made.add_row(
            f"{row['rate_rps']:.3g}",
            *(_spanned(row, name, 1) for name in ("ttft_p50", "ttft_p95")),
            *(_spanned(row, name, 1000) for name in ("tpot_p50", "tpot_p95")),
            number_text(row["running"]),
            "grows" if row["queue_grows"] else number_text(row["waiting"]),
            number_text(row["kv_usage"], ".0%"),
        )
    yield made
    yield Text("  with 95 % intervals", style="dim")
    yield Text("\nHow far it reaches", style="bold")
    for note in found.notes:
        yield Padding(Text.assemble("• ", note), (0, 0, 0, 1))
    yield Text("\nTo test it", style="bold")
    yield to_copy(f" {found.verify}")


def _rate(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} req/s (95 %: {estimate.low:.3g} to {estimate.high:.3g})"


def _spanned(row: Mapping[Any, Any], name: str, scale: float) -> str:
    """A latency with its interval: 0.106 (0.092-0.12); above saturation it grows."""
    value, low, high = (row[f"{name}_{end}"] * scale for end in ("s", "low", "high"))
    if math.isinf(value):
        return "grows"
    return f"{_short(value)} ({_short(low)}-{_short(high)})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
