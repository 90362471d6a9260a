"""What every page shares: the frame, figures inside the file, number formats, a run over time as a picture.

A page is one file: styles and figures lie in it, nothing is loaded from anywhere, nothing needs a script, and every
text is escaped.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib import rc_context

from analysis import plots, signals
from analysis.errors import BadInput
from analysis.run import Run
from analysis.slo import Slo, breaches
from autoscale.show.terminal import rates, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = 240  # points of a line over time: finer ones cannot be seen, and the page stays small
DASH = "–"


@dataclass(frozen=True)
class Picture:
    """A figure inside the page: `source` is a data URL, `alt` its content in words, `caption` how to read it."""

    source: str
    alt: str
    caption: str


def picture(figure: Figure, alt: str, caption: str = "") -> Picture:
    """The figure as SVG inside the page; the same data give the same bytes."""
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "llm-autoscale"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"\s*\n\s*", "\n", buffer.getvalue().decode())
    return Picture(
        f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}",
        alt,
        caption,
    )


def write(template: str, out: Path, **content: Any) -> Path:
    """Render a template to `out` (atomically); returns the path. Raises BadInput when it cannot be written there."""
    text = _ENVIRONMENT.get_template(template).render(**content)
    temporary = out.with_name(out.name + ".tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out)
    except OSError as error:
        raise BadInput(f"cannot write the page {out}: {error.strerror}", next_step="choose --out") from None
    return out


def share(value: float | None, digits: int = 1) -> str:
    """A share (0-1) as a percentage, kept within 0 and 100; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * min(max(value, 0.0), 1.0):.{digits}f}%"


def plain(value: float | None, form: str = ",.3g") -> str:
    """A number, in three digits unless `form` says otherwise; a dash when there is none."""
    return DASH if value is None or not math.isfinite(value) else format(value, form)


def span(value: float | None) -> str:
    """A duration: 45 ms, 1.23 s, 40 s, 12 min, 3.0 h; a dash when there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0 s"
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    return f"{value:.0f} s" if 10 <= value < 120 else seconds(value)


def counted(count: int, noun: str) -> str:
    """1 replica, 2 replicas."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(time_s: float) -> str:
    """A moment of a run as hours, minutes and seconds: 1:16:05."""
    minutes, second = divmod(abs(round(time_s)), 60)
    return f"{'-' if time_s < 0 else ''}{minutes // 60}:{minutes % 60:02}:{second:02}"


def change(before: float, after: float) -> str:
    """How far `after` lies from `before`, relatively; a dash when either is not known or `before` is zero."""
    if not (math.isfinite(before) and math.isfinite(after)) or before == 0:
        return DASH
    return f"{after / before - 1:+.1%}"


def timeline(
    run: Run,
    *,
    slo: Slo | None = None,
    table: pd.DataFrame | None = None,
    target: Mapping[str, float] | None = None,
    title: str = "Load, signals and replicas",
    show: Sequence[str] = signals.SIGNALS,
) -> Figure | None:
    """Load, signals and replicas of a run over time; None when it holds none of them.

    `table` holds the latencies of the run's requests (`analysis.latency.latencies`): with an SLO the times in which it
    was broken are marked.
    """
    load = rates(run) if run.has("requests") and len(run.requests) else None
    gauges = gauges_of(run)
    replicas = run.replicas if run.has("replicas") and len(run.replicas) else None
    if load is None and gauges is None and replicas is None:
        return None
    spans: list[tuple[float, float]] = []
    if slo is not None and table is not None and len(table):
        length_s = float(table["due_s"].max())
        spans = breaches(slo, table, window_s=max(3.0, min(15.0, length_s / 40), length_s / 480))
    return plots.timeline(
        load=load,
        signals=gauges,
        replicas=None if replicas is None else held_until(replicas, _end_s(load, gauges, replicas)),
        target=target,
        breaches=spans,
        title=title,
        show=show,
    )


def gauges_of(run: Run) -> pd.DataFrame | None:
    """The fleet's gauges over time in at most CELLS rows (means over each cell); None without metrics."""
    if not run.has("metrics") or not len(run.metrics):
        return None
    series = signals.fleet(run.metrics)
    return thinned(series) if len(series) else None


def thinned(series: pd.DataFrame, cells: int = CELLS) -> pd.DataFrame:
    """Means over equal cells of `time_s`, when there are more rows than cells; an empty cell stays out."""
    if len(series) <= cells:
        return series
    times = series["time_s"].to_numpy(float)
    width = (times[-1] - times[0]) / cells
    cell = np.minimum(((times - times[0]) / width).astype(int), cells - 1)
    return series.groupby(cell).mean(numeric_only=True)


def held_until(replicas: pd.DataFrame, end_s: float) -> pd.DataFrame:
    """Replica counts, which are written at changes only, with a last row that holds them to the end."""
    last = replicas.tail(1).assign(time_s=max(end_s, float(replicas["time_s"].iloc[-1])))
    return pd.concat([replicas, last], ignore_index=True)


def _end_s(*tables: pd.DataFrame | None) -> float:
    return max(float(table["time_s"].max()) for table in tables if table is not None)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"share": share, "number": plain, "span": span, "counted": counted}
