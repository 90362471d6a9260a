"""What is said at the end of a run, on one screen: what was offered, sent and finished, how long it took, whether to believe
it. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import run
from loadgen.run.capacity_answer import capacity_sentence
from loadgen.run.summary_stages import Stage, detail_lines, stage_lines, stages_of
from loadgen.wire.refusals import UNAUTHORIZED, rate_limit_sentence, unauthorized

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 80


def summary_table(recorded: run.Run, *, details: bool = False) -> str:
    """A line per stage and what else is to be known of the run; with `details` every percentile, rate and share. At most 80
    columns, paths and commands aside."""
    header = recorded.header
    lines = ["", f"Run {recorded.path}"]
    if not recorded.has("requests"):
        return "\n".join([*lines, "No request was sent: nothing to report.", ""])
    stages: list[Stage] = stages_of(recorded)
    lines += stage_lines(stages, header.get("slo"))
    if details:
        lines += detail_lines(stages, header.get("slo"))
    lines += _warnings(header, recorded.requests)
    if not details:
        lines.append(f"Every percentile: autoscale report {recorded.path} --details")
    return "\n".join([*lines, ""])


def _warnings(header: Mapping[str, Any], requests: pd.DataFrame) -> Iterable[str]:
    client = header.get("client") or {}
    judged = client.get("stages") or ()
    if header.get("find_capacity"):
        yield from _folded(capacity_sentence(header["find_capacity"], judged))
    if header.get("stopped"):
        yield from _wrapped(f"stopped early: {header['stopped']}")
    for stage in judged:
        for reason in stage["reasons"]:
            yield from _wrapped(f"stage {stage['stage']} limited by the client: {reason['sentence']}")
    for lost in client.get("lost_workers") or ():
        yield from _wrapped(f"worker {lost['worker']} was lost at {lost['time_s']:.1f} s")
    if unwritten := header.get("unwritten"):
        yield from _wrapped(f"{unwritten} requests have no row: the run directory could not be written")
    if (pauses := header.get("pauses")) and pauses["number"]:
        yield from _wrapped(
            f"users waited {pauses['number']} times after failures, {pauses['seconds']:.1f} s in all "
            f"({pauses['retry_after']} times by Retry-After)"
        )
    if unsent := client.get("unsent"):
        yield from _wrapped(f"{unsent} planned requests have no record and count as dropped")
    failures = requests[~requests["status"].isin(["ok", "dropped"])]
    if len(failures):
        most = failures.groupby(["status", "error"], dropna=False).size().nlargest(3)
        for kind, count in zip(most.index.tolist(), most.tolist(), strict=True):
            yield from _wrapped(f"{count} x {kind[0]}: {kind[1]}")
    for status in UNAUTHORIZED:
        if count := int((failures["http_status"] == status).sum()):
            yield from _folded(f"{count} x: {'. '.join(unauthorized(status, header.get('access') or {}))}")
    if limited := client.get("rate_limited"):
        yield from _folded(rate_limit_sentence(limited))
    if hidden := int((requests["hidden_tokens"] > 0).sum()):
        yield from _folded(
            f"{hidden} answers hold reasoning that was not streamed: TPOT and tokens/s are those of streamed tokens"
        )
    for note in header.get("notes") or ():
        yield from _folded(note)
    if (header.get("lengths") or {}).get(
        "prompts"
    ) is None:  # the user's own prompts have lengths of their own
        yield from _length_error(requests)
        yield from _doubtful_counts(requests)


def _doubtful_counts(requests: pd.DataFrame) -> Iterable[str]:
    """Answers whose count of tokens cannot be: more than were asked, or none beside events that carry some."""
    counted = requests["output_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    asked = requests["output_tokens_asked"].to_numpy(dtype=np.float64, na_value=np.nan)
    more = (asked > 0) & (counted > asked)
    if more.any():
        yield from _folded(
            f"{more.sum()} answers have more tokens by the server's usage than were asked, up to {counted[more].max():.0f}: "
            "TPOT and tokens/s are only as right as that count"
        )
    if none := int(((counted == 0) & (requests["events"] > 0)).sum()):
        yield from _folded(f"{none} streamed answers have no token by the server's usage: they have no TPOT")


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


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, max_lines=2, placeholder=" ...", subsequent_indent="  ", break_long_words=False
    )


def _folded(sentence: str) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
