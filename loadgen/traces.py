"""Recorded traces as arrivals: who asked when, for how many tokens, and which prompts begin alike. Reads only the named file.

    format     looks like                                                                 times
    azure      TIMESTAMP,ContextTokens,GeneratedTokens                                    date and time, 100 ns (2023, 2024)
    burstgpt   Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type       s; v1.2 has more columns
    mooncake   {"timestamp", "input_length", "output_length", "hash_ids"}                 ms; 512-token prefix blocks
    qwen       {"chat_id", ..., "timestamp", "input_length", ..., "turn", "hash_ids"}     s; 16-token prefix blocks
    servegen   client_id,window_start_s,rate_rps,cv,dist,param1,param2                    windows of 600 s per client, drawn

Plain or gzipped; the format is told from the header or the keys. A file is read in pieces, so memory stays bounded (a
trace with prefix blocks keeps the set of block ids seen). On the way from the file to the plan a request passes, in order:

    read -> origin (first stamp = 0) -> spread (stamps in coarse buckets) -> window (from_s, to_s of the trace)
         -> time_scale -> rate_scale -> prefixes -> repeat -> ids

spread: when stamps repeat and no two different ones are closer than 0.1 s, the clock was coarse: requests are spread evenly
at random over the smallest distance (at most 10 s; `bucket_s` overrides, 0 switches it off). Mooncake's conversation stamps come in steps of 3 s, which would otherwise be bursts nobody sent.
rate_scale below 1 keeps that share of requests; above 1 adds copies, each moved by up to half of `jitter_s` either way and
with prefix blocks of its own. Both keep the shape of the rate over times longer than the jitter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from loadgen import rates, servegen
from loadgen.arrivals import Arrivals
from loadgen.rates import Rate
from loadgen.trace_files import FORMATS, Jsonl, arrivals, detect, read

COARSE_S = (0.1, 10.0)  # distances of stamps that mean a bucket, not a clock; the most that is spread over
COPY = 1 << 40  # distance between the block ids of copies: a copy shares nothing with its original


@dataclass(frozen=True)
class Trace:
    """A trace file, how it is read, and its rate over the run (scanned once by `open`)."""

    path: str
    format: str
    time_scale: float = 1.0  # run seconds per trace second: 0.1 replays ten times as fast
    from_s: float = 0.0  # window in trace seconds since its first request
    to_s: float | None = None
    rate_scale: float = 1.0
    jitter_s: float = 30.0  # run seconds
    repeat: int = 1
    bucket_s: float | None = (
        None  # step of coarse stamps in trace seconds; 0: stamps are exact; None: find out
    )
    pass_s: float = 0.0  # run seconds of one pass
    end_s: float | None = None  # run seconds; earlier than repeat * pass_s when the run is cut
    rate: Rate = field(default_factory=lambda: rates.constant(0.0, 1.0), repr=False, compare=False)

    @property
    def block_tokens(self) -> int | None:
        """Tokens of one prefix block; None when the format has none."""
        form = FORMATS[self.format]
        return form.block_tokens if isinstance(form, Jsonl) else None

    @property
    def has_lengths(self) -> bool:
        """Whether the trace says how many tokens; ServeGen's windows alone do not."""
        return self.format != "servegen" or servegen.knows_lengths(self.path)

    @staticmethod
    def open(path: Path | str, format: str | None = None, **options: Any) -> Trace:
        """The trace in `path`, checked from the first to the last row; options are the fields from time_scale to repeat.

        Raises BadInput naming the line and column of a malformed row, or when the window holds no request.
        """
        trace = Trace(str(path), format or detect(path), **options)
        if trace.format not in FORMATS:
            raise BadInput("trace format", value=trace.format, expected=" | ".join(FORMATS))
        trace._check_options()
        return trace._scanned()

    def until(self, duration_s: float) -> Trace:
        """The same trace, ended at `duration_s` of the run."""
        return replace(self, end_s=duration_s, rate=self.rate.until(duration_s))

    def describe(self) -> dict[str, Any]:
        """What was read and how, for run.json."""
        return {name: value for name, value in asdict(replace(self, rate=_NO_RATE)).items() if name != "rate"}

    def chunks(self, n: int, seed: int) -> Iterator[Arrivals]:
        """All arrivals in order, in chunks of at most `n`; the values depend on `seed` alone."""
        done = 0
        for number in range(self.repeat):
            start = number * self.pass_s
            for chunk in self._one_pass(np.random.default_rng((seed, 3, number))):
                due = chunk.due_s + start
                kept = len(due) if self.end_s is None else int(np.searchsorted(due, self.end_s))
                blocks = (
                    chunk.blocks if chunk.blocks is None else _renamed(chunk.blocks, number * 1000 * COPY)
                )
                ids = np.arange(done, done + len(due), dtype=np.int64)
                whole = chunk._replace(due_s=due, request_id=ids, blocks=blocks).take(slice(0, kept))
                for at in range(0, kept, n):
                    yield whole.take(slice(at, at + n))
                if kept < len(due):
                    return
                done += kept

    def _one_pass(self, rng: np.random.Generator) -> Iterator[Arrivals]:
        if self.format == "servegen":
            drawn = servegen.drawn(self.path, self.from_s, self._to_s(), rng)
            chunks: Iterable[Arrivals] = (arrivals(*columns) for columns in drawn)
        else:
            chunks = _window(_spread(self._read(), self.bucket_s or 0.0, rng), self.from_s, self._to_s())
        scaled = (c._replace(due_s=(c.due_s - self.from_s) * self.time_scale) for c in chunks)
        thick = _superposed(scaled, self.rate_scale, self.jitter_s, self.pass_s, rng)
        return _with_prefixes(thick, self.block_tokens)

    def _read(self) -> Iterator[Arrivals]:
        origin, latest = math.nan, math.nan
        for line, chunk in read(self.path, self.format):
            if math.isnan(origin):
                origin = latest = float(chunk.due_s[0])
            back = np.flatnonzero(np.diff(chunk.due_s, prepend=latest) < 0)
            if len(back):
                raise BadInput(
                    f"{self.path} line {line[back[0]]}: the time lies before that of the line above",
                    next_step="sort the file by time",
                )
            latest = float(chunk.due_s[-1])
            yield chunk._replace(due_s=chunk.due_s - origin)

    def _to_s(self) -> float:
        return math.inf if self.to_s is None else self.to_s

    def _check_options(self) -> None:
        for name, value in (("time_scale", self.time_scale), ("rate_scale", self.rate_scale)):
            if not 0 < value < math.inf:
                raise BadInput(f"{name} of a trace", value=value, expected="a number above 0")
        if not 0 <= self.from_s < self._to_s():
            raise BadInput(
                "window of a trace",
                value=(self.from_s, self.to_s),
                expected="0 <= from_s < to_s in trace seconds",
            )
        if self.bucket_s is not None and not 0 <= self.bucket_s < math.inf:
            raise BadInput("bucket_s of a trace", value=self.bucket_s, expected="at least 0 trace seconds")
        if self.repeat < 1 or self.jitter_s < 0:
            raise BadInput(
                "repeat and jitter_s", value=(self.repeat, self.jitter_s), expected=">= 1 and >= 0"
            )

    def _scanned(self) -> Trace:
        """The trace with its bucket, the length of a pass and its rate filled in."""
        if self.format == "servegen":
            edges, counts = servegen.expected(self.path, self.from_s, self._to_s())
            bucket = 0.0
        else:
            edges, counts, bucket = self._counted()
        if counts.sum() == 0:
            raise BadInput(
                f"{self.path} holds no request in its window",
                value=(self.from_s, self.to_s),
                next_step="widen from_s and to_s",
            )
        run_edges = (edges - self.from_s) * self.time_scale
        level = counts * self.rate_scale / np.diff(run_edges)
        once = Rate(run_edges, level, np.zeros(len(level)))
        whole = rates.joined([once] * self.repeat)
        return replace(self, bucket_s=bucket, pass_s=once.duration_s, rate=whole)

    def _counted(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Edges in trace seconds, requests between them, and the bucket of the stamps."""
        seconds = np.zeros(1, dtype=np.int64)  # requests by whole second of the window
        step, ties, before, last, first = math.inf, False, math.nan, 0.0, math.inf
        to_s = self._to_s()
        for chunk in self._read():
            stamps = chunk.due_s
            gaps = np.diff(stamps, prepend=before)
            step = min(step, float(np.min(gaps, where=gaps > 0, initial=math.inf)))
            ties = ties or bool((gaps == 0).any())
            before = float(stamps[-1])
            inside = stamps[(stamps >= self.from_s) & (stamps < to_s)]
            if len(inside):
                first, last = min(first, float(inside[0])), float(inside[-1])
                here = np.bincount((inside - self.from_s).astype(np.int64))
                seconds = np.pad(seconds, (0, max(0, len(here) - len(seconds))))
                seconds[: len(here)] += here
        coarse = ties and COARSE_S[0] <= step < math.inf
        bucket = self.bucket_s if self.bucket_s is not None else min(step, COARSE_S[1]) if coarse else 0.0
        count = int(seconds.sum())
        mean_gap = (last - first) / (count - 1) if count > 1 else 1.0
        end = to_s if self.to_s is not None else last + max(bucket, mean_gap, 1e-3)
        width = max(1, round(min((end - self.from_s) / 60, 60.0)))
        sums = np.add.reduceat(seconds, np.arange(0, len(seconds), width)).astype(np.float64)
        edges = self.from_s + width * np.arange(len(sums) + 1, dtype=np.float64)
        if edges[-2] >= end:  # a last stamp inside the last whole second before the end
            edges, sums = np.delete(edges, -2), np.append(sums[:-2], sums[-2:].sum())
        if end > edges[-1]:
            edges, sums = np.append(edges, end), np.append(sums, 0.0)
        edges[-1] = end
        return edges, sums, bucket


_NO_RATE = rates.constant(0.0, 1.0)


def _joined(parts: list[Arrivals]) -> Arrivals:
    columns = zip(*parts, strict=True)
    return Arrivals._make(None if column[0] is None else np.concatenate(column) for column in columns)


def _spread(chunks: Iterator[Arrivals], bucket_s: float, rng: np.random.Generator) -> Iterator[Arrivals]:
    """Stamps moved to sorted random places inside their bucket; a bucket is held back until it is complete."""
    if bucket_s == 0:
        yield from chunks
        return
    held: Arrivals | None = None
    for chunk in chunks:
        whole = chunk if held is None else _joined([held, chunk])
        open_from = int(np.searchsorted(whole.due_s, whole.due_s[-1]))
        held = whole.take(slice(open_from, None))
        yield _inside(whole.take(slice(0, open_from)), bucket_s, rng)
    if held is not None:
        yield _inside(held, bucket_s, rng)


def _inside(chunk: Arrivals, bucket_s: float, rng: np.random.Generator) -> Arrivals:
    return chunk._replace(due_s=np.sort(chunk.due_s + bucket_s * rng.random(len(chunk.due_s))))


def _window(chunks: Iterable[Arrivals], from_s: float, to_s: float) -> Iterator[Arrivals]:
    for chunk in chunks:
        first, last = np.searchsorted(chunk.due_s, [from_s, to_s])
        if last > first:
            yield chunk.take(slice(int(first), int(last)))
        if last < len(chunk.due_s):
            return


def _superposed(
    chunks: Iterable[Arrivals], scale: float, jitter_s: float, pass_s: float, rng: np.random.Generator
) -> Iterator[Arrivals]:
    """A share of the requests, or copies of them moved by up to half the jitter; in order again."""
    if scale == 1:
        yield from chunks
        return
    held: list[Arrivals] = []
    for chunk in chunks:
        for copy in range(math.ceil(scale)):
            kept = chunk.take(np.flatnonzero(rng.random(len(chunk.due_s)) < scale - copy))
            if copy:
                moved = np.abs(kept.due_s + jitter_s * (rng.random(len(kept.due_s)) - 0.5))
                moved = np.clip(pass_s - np.abs(pass_s - moved), 0, math.nextafter(pass_s, 0))
                blocks = kept.blocks if kept.blocks is None else _renamed(kept.blocks, copy * COPY)
                kept = kept._replace(due_s=moved, blocks=blocks)
            held.append(kept)
        whole = _joined(held)
        whole = whole.take(np.argsort(whole.due_s, kind="stable"))
        settled = (
            int(np.searchsorted(whole.due_s, chunk.due_s[-1] - jitter_s / 2))
            if scale > 1
            else len(whole.due_s)
        )
        held = [whole.take(slice(settled, None))]
        yield whole.take(slice(0, settled))
    if held:
        yield held[0]


def _renamed(blocks: NDArray[np.object_], offset: int) -> NDArray[np.object_]:
    named = np.empty(len(blocks), dtype=object)
    named[:] = [tuple(i + offset for i in ids) for ids in blocks]
    return named


def _with_prefixes(chunks: Iterable[Arrivals], block_tokens: int | None) -> Iterator[Arrivals]:
    """`prefix_tokens` = tokens of the leading blocks that an earlier request of the trace already named."""
    seen: set[int] = set()
    for chunk in chunks:
        if chunk.blocks is None or block_tokens is None:
            yield chunk
            continue
        hits = np.zeros(len(chunk.due_s), dtype=np.int64)
        for i, ids in enumerate(chunk.blocks):
            hits[i] = next((k for k, name in enumerate(ids) if name not in seen), len(ids))
            seen.update(ids)
        prefix = np.minimum(hits * block_tokens, chunk.prompt_tokens - 1)  # the last token is always computed
        yield chunk._replace(prefix_tokens=prefix.astype(np.int32))
