"""What a check's run directory says of scale-outs, as rows of a page."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.files import read_json
from analysis.opened import OpenedRun
from autoscale.check.evidence import ANSWER
from autoscale.check.phases import Span
from autoscale.show.words import lasted


def phase_rows(seen: OpenedRun) -> Iterator[tuple[str, str, str, str]]:
    """Scale-out, phase, how long it lasted and what is noted of it; none where no check was judged here.

    Raises BadInput when the answer of a check is not JSON.
    """
    answer = seen.run.path / ANSWER
    if not answer.exists():
        return
    for out in read_json(answer, "the answer of a check").get("scale_outs") or []:
        for told in out["phases"]:
            phase = Span(**{**told, "end_s": float("nan") if told["end_s"] is None else told["end_s"]})
            name = phase.name.replace("_", " ")
            yield f"{out['before']} to {out['after']} replicas", name, lasted(phase), phase.note
