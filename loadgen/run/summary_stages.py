"""The stages of a run as lines of text: rates, outcomes, and the percentiles that its SLO names. Pure.

Each percentile is the one that the SLO is judged by (analysis.slo), so that a stage has one p95.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.histogram import Histogram
from analysis.slo import Slo, Verdict, evaluate, parse_slo

WIDTH = 80
ENOUGH_FOR_P99 = 100  # below this, a p99 is the maximum by another name
WITHOUT_SLO = "ttft_p95=1s,tpot_p95=1s"  # which percentiles are shown; nothing is judged
UNMEASURED = {
    "ttft": "no answer was streamed",
    "tpot": "no streamed answer had two tokens by the server's count",
    "itl": "no answer had two events with a token",
    "e2e": "no answer had an end",
    "goodput": "no request was sent",
}
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Stage:
    """One stage: its number, seconds, requests by outcome, and the times of those that were answered, in s."""

    number: int
    asked: str  # requests/s, or users
    duration_s: float
    sent: int
    ok: int
    failed: int
    dropped: int
    finished: int  # answers that were complete within the stage's time, of whatever stage
    tokens: float
    events: float
    good: NDArray[np.bool_]
    times_s: Mapping[str, NDArray[np.float64]]
    gaps: Histogram
    client: str

    def verdicts(self, slo: Slo) -> dict[str, Verdict]:
        """How the stage stands to each term, by the term's name."""
        found = evaluate(
            slo,
            self.good,
            self.times_s["TTFT"],
            self.times_s["TPOT"],
            self.times_s["E2E"],
            self.gaps.share_within,
            lambda percentile: self.gaps.quantile(percentile / 100),
        )
        return {verdict.name: verdict for verdict in found}


def stages_of(recorded: run.Run) -> list[Stage]:
    """The stages of a run that has requests."""
    header, requests = recorded.header, recorded.requests
    judged = (header.get("client") or {}).get("stages") or ()
    verdicts = {v["stage"]: v["verdict"] for v in judged}
    last_s = requests["last_token_s"].to_numpy(dtype=np.float64, na_value=np.nan)
    answered = requests["status"].to_numpy(dtype=str) == "ok"
    found = []
    for place, stage in enumerate(header.get("stages") or ()):
        number = int(stage.get("stage", place))
        rows = requests[requests["stage"] == number]
        names = ("due_s", "sent_s", "first_token_s", "last_token_s", "output_tokens", "events")
        column = {name: rows[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in names}
        streamed = column["output_tokens"] - rows["hidden_tokens"].to_numpy(dtype=np.float64, na_value=0.0)
        status = rows["status"].to_numpy(dtype=str)
        good, dropped = status == "ok", int(np.sum(status == "dropped"))
        duration_s = max(stage["end_s"] - stage["start_s"], 1e-9)
        within = answered & (last_s >= stage["start_s"]) & (last_s < stage["end_s"])
        rated = f"{len(status) / duration_s:.2f}" if "rate" in stage else f"{stage.get('users') or '?'} users"
        found.append(
            Stage(
                number=number,
                asked=rated,
                duration_s=duration_s,
                sent=int(np.sum(~np.isnan(column["sent_s"]))),
                ok=int(good.sum()),
                failed=len(status) - int(good.sum()) - dropped,
                dropped=dropped,
                finished=int(within.sum()),
                tokens=float(np.nansum(streamed[good])),
                events=float(np.nansum(column["events"][good])),
                good=good,
                times_s=_times(column, streamed, good),
                gaps=_gaps(recorded, number),
                client=verdicts.get(number, "-"),
            )
        )
    return found


def stage_lines(stages: Sequence[Stage], objectives: str | None) -> Iterator[str]:
    """One line per stage, with the percentiles that the SLO names; an exclamation mark stands at what breaks it."""
    slo = parse_slo(objectives or WITHOUT_SLO)
    named = [term.name for term in slo.terms if term.percentile is not None]
    named += ["goodput"] if slo.goodput is not None else []
    spoilt = [kind for kind in ("failed", "dropped") if any(getattr(stage, kind) for stage in stages)]
    rows = []
    broken = False
    for stage in stages:
        judged = stage.verdicts(slo)
        cells = []
        for name in named:
            breaks = objectives is not None and judged[name].count > 0 and not judged[name].holds
            broken = broken or breaks
            cells.append(_value(judged[name]) + (" !" if breaks else "  "))
        rates = [stage.sent / stage.duration_s, stage.finished / stage.duration_s]
        counts = [str(getattr(stage, kind)) for kind in spoilt]
        rows.append(
            [str(stage.number), stage.asked, *(f"{r:.2f}" for r in rates), *counts, *cells, stage.client]
        )
    heads = ["stage", "offered/s", "sent/s", "finished/s", *spoilt]
    heads += [f"{_heading(name)}  " for name in named] + ["client"]
    yield from _laid_out(heads, rows)
    if objectives is not None:
        yield from _slo_lines(stages, objectives, named, broken)


def _slo_lines(stages: Sequence[Stage], objectives: str, named: Sequence[str], broken: bool) -> Iterator[str]:
    """Which terms hold, and a line for each that no stage could be judged by."""
    verdicts = [stage.verdicts(parse_slo(objectives)) for stage in stages]
    judged = [name for name in named if any(verdict[name].count for verdict in verdicts)]
    if broken:
        said = "! breaks it"
    elif not judged:
        said = "no stage could be judged"
    else:
        who = "" if len(judged) == len(named) else f"of it {' and '.join(judged)} "
        said = f"{who}{'hold' if who and len(judged) > 1 else 'holds'} in every stage that was judged"
    yield f"SLO {objectives}: {said}"
    answered = any(stage.ok for stage in stages)
    for name in named:
        if name not in judged:
            why = UNMEASURED[name.partition("_")[0]] if answered else "no request was answered"
            yield f"SLO {name} was not measured: {why}"


def detail_lines(stages: Sequence[Stage], objectives: str | None) -> Iterator[str]:
    """Tokens, every percentile, and how each stage stands to each term of the SLO."""
    yield ""
    yield from _laid_out(
        ["stage", "ok", "tokens/s", "tokens/event"],
        [[str(stage.number), str(stage.ok), *_tokens(stage)] for stage in stages],
    )
    yield ""
    rows = [row for stage in stages for row in _percentiles(stage)]
    yield from _laid_out(["stage", "latency (s)", *(f"p{p}" for p in PERCENTILES), "count"], rows)
    if objectives is None:
        return
    slo = parse_slo(objectives)
    for stage in stages:
        for name, verdict in stage.verdicts(slo).items():
            if not verdict.count:
                yield f"stage {stage.number} SLO {name}: not measured"
                continue
            yield (
                f"stage {stage.number} SLO {name}: {_value(verdict)}, {verdict.share_within:.1%} of {verdict.count} "
                f"within, {verdict.asked:.1%} asked: {'holds' if verdict.holds else 'BROKEN'}"
            )


def _times(
    column: Mapping[str, NDArray[np.float64]], streamed: NDArray[np.float64], good: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    first, last = (np.where(good, column[name], np.nan) for name in ("first_token_s", "last_token_s"))
    tokens = np.where(np.isnan(streamed), column["events"], streamed)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = (last - first) / (tokens - 1)
    return {
        "TTFT": first - column["due_s"],
        "TTFT from send": first - column["sent_s"],
        "TPOT": np.where(tokens > 1, tpot, np.nan),
        "E2E": last - column["due_s"],
        "E2E from send": last - column["sent_s"],
    }


def _percentiles(stage: Stage) -> Iterator[list[str]]:
    for name, values in stage.times_s.items():
        known = values[~np.isnan(values)]
        if len(known):
            found = [float(np.percentile(known, p, method="inverted_cdf")) for p in PERCENTILES]
            yield [str(stage.number), name, *map(_seconds, found), _count(len(known))]
    if len(stage.gaps):
        found = [stage.gaps.quantile(p / 100) for p in PERCENTILES]
        yield [str(stage.number), "ITL", *map(_seconds, found), _count(len(stage.gaps))]


def _tokens(stage: Stage) -> list[str]:
    per_second = f"{stage.tokens / stage.duration_s:.1f}" if stage.tokens or not stage.ok else "-"
    return [per_second, f"{stage.tokens / stage.events:.2f}" if stage.tokens and stage.events else "-"]


def _count(number: int) -> str:
    return str(number) if number >= ENOUGH_FOR_P99 else f"{number} (too few for a p99)"


def _value(verdict: Verdict) -> str:
    if not verdict.count or math.isnan(verdict.value):
        return "-"
    if verdict.name == "goodput":
        return f"{verdict.value:.1%}"
    return f"{verdict.value * 1e3:.3g} ms" if verdict.value < 1 else f"{verdict.value:.3g} s"


def _heading(name: str) -> str:
    metric, _, percentile = name.partition("_")
    return f"{metric.upper()} {percentile}" if percentile else name


def _seconds(value_s: float) -> str:
    return "-" if math.isnan(value_s) else f"{value_s:.4f}" if value_s < 100 else f"{value_s:.1f}"


def _laid_out(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The columns, set to the right; those for which there is no room beside the first stand below, again with the first."""
    widths = [max(len(row[k]) for row in (heads, *rows)) for k in range(len(heads))]
    group: list[int] = [0]
    for k in [*range(1, len(heads)), None]:
        if k is None or sum(widths[j] + 2 for j in group) + widths[k] > WIDTH:
            for row in (heads, *rows):
                yield "  ".join(row[j].rjust(widths[j]) for j in group).rstrip()
            group = [0]
        if k is not None:
            group.append(k)


def _gaps(recorded: run.Run, stage: int) -> Histogram:
    if not recorded.has("itl"):
        return Histogram()
    rows = recorded.itl[recorded.itl["stage"] == stage]
    return Histogram.from_edges(
        rows["gap_low_s"].to_numpy(dtype=np.float64), rows["count"].to_numpy(dtype=np.int64)
    )
