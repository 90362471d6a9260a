"""The table at the end of a run: what was offered, sent and delivered (answered), how long it took, and whether to believe it. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis import run
from analysis.histogram import Histogram
from analysis.slo import evaluate, parse_slo
from loadgen.run.capacity_answer import capacity_sentence
from loadgen.wire.refusals import UNAUTHORIZED, rate_limit_sentence, unauthorized

if TYPE_CHECKING:
    import pandas as pd

Columns = Mapping[str, NDArray[np.float64]]
WIDTH = 100
ENOUGH_FOR_P99 = 100  # below this, a p99 is the maximum by another name


def summary_table(recorded: run.Run) -> str:
    """Per stage: rates, outcomes, latencies with percentiles, tokens per event, client verdict; at most 100 columns."""
    header = recorded.header
    lines = ["", f"Run {recorded.path}"]
    if not recorded.has("requests"):
        return "\n".join([*lines, "No request was sent: nothing to report.", ""])
    requests = recorded.requests
    verdicts = {v["stage"]: v for v in header["client"]["stages"]}
    lines.append(
        f"{'stage':>5} {'offered/s':>10} {'sent/s':>8} {'delivered/s':>12} {'ok':>8} {'failed':>7} {'dropped':>8} "
        f"{'tokens/s':>10} {'tokens/event':>13}  client"
    )
    latencies = [
        "",
        f"{'stage':>5} {'latency (s)':<16} {'p50':>9} {'p95':>9} {'p99':>9} {'count':>9}",
    ]
    judged: list[str] = []
    for stage in header["stages"]:
        number = int(stage["stage"])
        rows = requests[requests["stage"] == number]
        column = {
            name: rows[name].to_numpy(dtype=np.float64, na_value=np.nan)
            for name in ("due_s", "sent_s", "first_token_s", "last_token_s", "output_tokens", "events")
        }
        hidden = rows["hidden_tokens"].to_numpy(dtype=np.float64, na_value=0.0)
        column["streamed_tokens"] = column["output_tokens"] - hidden
        status = rows["status"].to_numpy(dtype=str)
        lines.append(_rates(number, stage, column, status, verdicts.get(number, {})))
        gaps = _gaps(recorded, number)
        latencies += _latencies(number, column, status, gaps)
        judged += _judged(number, header.get("slo"), column, status, gaps)
    lines += latencies + judged
    lines += list(_warnings(header, requests))
    return "\n".join([*lines, ""])


def _rates(
    number: int,
    stage: Mapping[str, Any],
    column: Columns,
    status: NDArray[np.str_],
    verdict: Mapping[str, str],
) -> str:
    duration_s = max(stage["end_s"] - stage["start_s"], 1e-9)
    sent = int(np.sum(~np.isnan(column["sent_s"])))
    ok, dropped = int(np.sum(status == "ok")), int(np.sum(status == "dropped"))
    good = status == "ok"
    tokens, events = np.nansum(column["streamed_tokens"][good]), np.nansum(column["events"][good])
    offered = f"{len(status) / duration_s:.2f}" if "rate" in stage else f"{stage.get('users') or '?'} users"
    per_second = f"{tokens / duration_s:.1f}" if tokens or not ok else "-"  # without usage nobody knows
    per_event = f"{tokens / events:.2f}" if tokens and events else "-"
    return (
        f"{number:>5} {offered:>10} {sent / duration_s:>8.2f} {ok / duration_s:>12.2f} {ok:>8} "
        f"{len(status) - ok - dropped:>7} {dropped:>8} {per_second:>10} {per_event:>13}  {verdict.get('verdict', '-')}"
    )


def _latencies(number: int, column: Columns, status: NDArray[np.str_], gaps: Histogram) -> Iterable[str]:
    good = status == "ok"
    first, last = (np.where(good, column[name], np.nan) for name in ("first_token_s", "last_token_s"))
    due, sent, tpot = column["due_s"], column["sent_s"], _tpot(column, good)
    for name, values in (
        ("TTFT from due", first - due),
        ("TTFT from send", first - sent),
        ("TPOT", tpot),
        ("E2E from due", last - due),
        ("E2E from send", last - sent),
    ):
        known = values[~np.isnan(values)]
        if len(known):
            yield _latency(
                number, name, [float(np.quantile(known, q)) for q in (0.5, 0.95, 0.99)], len(known)
            )
    if len(gaps):
        yield _latency(number, "ITL", [gaps.quantile(q) for q in (0.5, 0.95, 0.99)], len(gaps))


def _judged(
    number: int, objectives: str | None, column: Columns, status: NDArray[np.str_], gaps: Histogram
) -> Iterable[str]:
    """How the stage stands to each term of --slo."""
    if objectives is None:
        return
    good = status == "ok"
    ttft, e2e = (column[name] - column["due_s"] for name in ("first_token_s", "last_token_s"))
    for verdict in evaluate(
        parse_slo(objectives),
        good,
        ttft,
        _tpot(column, good),
        e2e,
        gaps.share_within,
        lambda percentile: gaps.quantile(percentile / 100),
    ):
        if not verdict.count:
            yield f"stage {number} SLO {verdict.name}: not measured"
            continue
        holds = "holds" if verdict.holds else "BROKEN"
        value = "no answer" if math.isnan(verdict.value) else f"{verdict.value:.4g}"
        yield (
            f"stage {number} SLO {verdict.name}: {value}, "
            f"{verdict.share_within:.1%} of {verdict.count} within, {verdict.asked:.1%} asked: {holds}"
        )


def _tpot(column: Columns, good: NDArray[np.bool_]) -> NDArray[np.float64]:
    tokens = np.where(np.isnan(column["streamed_tokens"]), column["events"], column["streamed_tokens"])
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = (column["last_token_s"] - column["first_token_s"]) / (tokens - 1)
    return np.where(good & (tokens > 1), tpot, np.nan)


def _latency(number: int, name: str, values_s: list[float], counted: int) -> str:
    p50, p95, p99 = (_seconds(value) for value in values_s)
    few = "" if counted >= ENOUGH_FOR_P99 else "  (too few for a p99)"
    return f"{number:>5} {name:<16} {p50:>9} {p95:>9} {p99:>9} {counted:>9}{few}"


def _warnings(header: Mapping[str, Any], requests: pd.DataFrame) -> Iterable[str]:
    if header.get("find_capacity"):
        yield from _folded(capacity_sentence(header["find_capacity"], header["client"]["stages"]))
    if header.get("stopped"):
        yield from _wrapped(f"stopped early: {header['stopped']}")
    for stage in header["client"]["stages"]:
        for reason in stage["reasons"]:
            yield from _wrapped(f"stage {stage['stage']} limited by the client: {reason['sentence']}")
    for lost in header["client"].get("lost_workers", []):
        yield from _wrapped(f"worker {lost['worker']} was lost at {lost['time_s']:.1f} s")
    if unwritten := header.get("unwritten"):
        yield from _wrapped(f"{unwritten} requests have no row: the run directory could not be written")
    if (pauses := header.get("pauses")) and pauses["number"]:
        yield from _wrapped(
            f"users waited {pauses['number']} times after failures, {pauses['seconds']:.1f} s in all "
            f"({pauses['retry_after']} times by Retry-After)"
        )
    if unsent := header["client"].get("unsent"):
        yield from _wrapped(f"{unsent} planned requests have no record and count as dropped")
    failures = requests[~requests["status"].isin(["ok", "dropped"])]
    if len(failures):
        most = failures.groupby(["status", "error"], dropna=False).size().nlargest(3)
        for kind, count in zip(most.index.tolist(), most.tolist(), strict=True):
            yield from _wrapped(f"{count} x {kind[0]}: {kind[1]}")
    for status in UNAUTHORIZED:
        if count := int((failures["http_status"] == status).sum()):
            yield from _folded(f"{count} x: {'. '.join(unauthorized(status, header.get('access') or {}))}")
    if limited := header["client"].get("rate_limited"):
        yield from _folded(rate_limit_sentence(limited))
    if hidden := int((requests["hidden_tokens"] > 0).sum()):
        yield from _folded(
            f"{hidden} answers hold reasoning that was not streamed: TPOT and tokens/s are those of streamed tokens"
        )
    for note in header.get("notes", ()):
        yield from _folded(note)
    if header["lengths"].get("prompts") is None:
        yield from _length_error(requests)


def _length_error(requests: pd.DataFrame) -> Iterable[str]:
    """Asked against achieved prompt lengths, from the server's usage."""
    achieved = requests["prompt_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    asked = requests["prompt_tokens_asked"].to_numpy(dtype=np.float64, na_value=np.nan)
    known = ~np.isnan(achieved) & (asked > 0)
    if known.any():
        mean, wanted = float(achieved[known].mean()), float(asked[known].mean())
        if abs(mean - wanted) > 0.005 * wanted:
            yield from _wrapped(
                f"prompts had {mean:.1f} tokens on average by the server's count, {wanted:.1f} were asked"
            )


def _gaps(recorded: run.Run, stage: int) -> Histogram:
    if not recorded.has("itl"):
        return Histogram()
    rows = recorded.itl[recorded.itl["stage"] == stage]
    return Histogram.from_edges(
        rows["gap_low_s"].to_numpy(dtype=np.float64), rows["count"].to_numpy(dtype=np.int64)
    )


def _wrapped(sentence: str) -> list[str]:
    return [sentence if len(sentence) <= WIDTH else sentence[: WIDTH - 3] + "..."]


def _folded(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")


def _seconds(value_s: float) -> str:
    return "-" if math.isnan(value_s) else f"{value_s:.4f}" if value_s < 100 else f"{value_s:.1f}"
