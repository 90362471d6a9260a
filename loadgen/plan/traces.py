"""Recorded traces as arrivals: who asked when, for how many tokens, and which prompts begin alike. Reads only the named file.

    format     looks like                                                                 times
    azure      TIMESTAMP,ContextTokens,GeneratedTokens                                    date and time, 100 ns (2023, 2024)
    burstgpt   Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type       s; v1.2 has more columns
    mooncake   {"timestamp", "input_length", "output_length", "hash_ids"}                 ms; 512-token prefix blocks
    qwen       {"chat_id", ..., "timestamp", "input_length", ..., "turn", "hash_ids"}     s; 16-token prefix blocks
    sessions   {"session_id", "timestamp" or "delay", "input_length", "output_length"}    ms; loadgen.plan.conversations
    servegen   client_id,window_start_s,rate_rps,cv,dist,param1,param2                    windows of 600 s per client, drawn

Plain or gzipped; the format is told from the header or the keys, the unit of the times as loadgen.plan.time_units says. Read in
pieces, so memory stays bounded (but all ids of prefix blocks are kept, and whole sessions, to be put in order). On the way
from the file to the plan a request passes, in order (loadgen.plan.reshaping):

    read -> origin (first stamp = 0) -> spread (stamps in coarse buckets) -> window (from_s, to_s of the trace)
         -> time_scale -> rate_scale -> prefixes -> repeat -> ids

spread: when stamps repeat and no two different ones are closer than 0.1 s (Mooncake's conversations: 3 s), the clock was coarse:
requests are spread at random over the smallest distance (at most 10 s; `bucket_s` overrides, 0 switches it off). rate_scale
below 1 keeps that share of requests; above 1 adds copies, each moved by up to half of `jitter_s` either way and with prefix
blocks of its own. Both keep the shape of the rate over times longer than the jitter.
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
from loadgen.plan import conversations, rates, reshaping, servegen
from loadgen.plan.arrivals import Arrivals
from loadgen.plan.programme import Rate
from loadgen.plan.time_bins import TimeBins
from loadgen.plan.time_units import UNITS, check_rate, duration, unit_of
from loadgen.plan.trace_files import FORMATS, Jsonl, arrivals_of, detect, first_stamp, own_unit, read_trace

COARSE_S = (0.1, 10.0)  # distances of stamps that mean a bucket, not a clock; the most that is spread over
MOST_GAP_S = 31 * 86_400.0  # between a row and the next: more is a stamp typed wrong, or in another unit
MOST_SCALE = 1000.0  # copies of a request
MOST_JITTER_S = 86_400.0  # also of a bucket: what lies within it is held in memory
TURN_TOKENS = ("added", "whole")


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
    time_unit: str | None = None  # of the stamps: s, ms, us or ns; None where they are dates or windows
    turn_tokens: str = (
        "added"  # whether input_length of a session row is what the turn adds, or the whole prompt
    )
    unit_from: str = ""  # how the unit is known: given | Unix time | format
    requests: float = 0.0  # of the window, in the file; expected ones where they are drawn
    span_s: float = 0.0  # trace seconds from the first of them to the last
    pass_s: float = 0.0  # run seconds of one pass
    end_s: float | None = None  # run seconds; earlier than repeat * pass_s when the run is cut
    rate: Rate = field(default_factory=lambda: rates.constant(0.0, 1.0), repr=False, compare=False)

    @property
    def block_tokens(self) -> int | None:
        """Tokens of one prefix block; None when the format has none."""
        form = FORMATS[self.format]
        return form.block_tokens if isinstance(form, Jsonl) else None

    @property
    def sessions(self) -> bool:
        """Whether rows are turns of conversations."""
        form = FORMATS[self.format]
        return isinstance(form, Jsonl) and form.sessions

    @property
    def has_lengths(self) -> bool:
        """Whether the trace says how many tokens; ServeGen's windows alone do not."""
        return self.format != "servegen" or servegen.knows_lengths(self.path)

    @property
    def sentence(self) -> str:
        """What was read, to be checked by eye before it is replayed: format, rows, span, rates, and the unit."""
        if self.time_unit is None:
            unit = "times are dates" if self.format != "servegen" else "windows of 600 s, requests are drawn"
        else:
            how = {"given": "given", "Unix time": "Unix time", "format": f"the unit of {self.format}"}
            unit = f"timestamps in {self.time_unit} ({how[self.unit_from]})"
        mean = self.requests / self.span_s if self.span_s > 0 else math.nan
        level = self.rate.level_rps * self.time_scale / self.rate_scale
        busiest = int(np.argmax(level))
        width_s = float(np.diff(self.rate.edges_s)[busiest]) / self.time_scale
        text = (
            f"trace {self.path}: {self.format}, {self.requests:,.0f} requests over {duration(self.span_s)}, mean "
            f"{mean:.3g}/s, peak {max(level[busiest], mean):.3g}/s (over {duration(width_s)}), {unit}"
        )
        if self.sessions:
            text += f", input_length is {'what a turn adds' if self.turn_tokens == 'added' else 'the whole prompt'}"
        if (self.time_scale, self.rate_scale, self.repeat) != (1.0, 1.0, 1):
            run_s = self.rate.duration_s
            text += f"; replayed as {self.rate.requests:,.0f} requests over {duration(run_s)}"
        return text

    @staticmethod
    def open(path: Path | str, format: str | None = None, **options: Any) -> Trace:
        """The trace in `path`, checked from first to last row; options are the fields from time_scale to turn_tokens.

        Raises BadInput naming the line and column of a malformed row, when the window holds no request, or when the
        rate can only come from a wrong unit.
        """
        trace = Trace(str(path), format or detect(path), **options)
        if trace.format not in FORMATS:
            raise BadInput("trace format", value=trace.format, expected=" | ".join(FORMATS))
        trace._check_options()
        return trace._with_unit()._scanned()

    def until(self, duration_s: float) -> Trace:
        """The same trace, ended at `duration_s` of the run."""
        return replace(self, end_s=duration_s, rate=self.rate.until(duration_s))

    def times(self, factor: float) -> Trace:
        """The same trace at so many times its rates."""
        return replace(self, rate_scale=self.rate_scale * factor, rate=self.rate.times(factor))

    def describe(self) -> dict[str, object]:
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
                blocks = chunk.blocks
                if blocks is not None:
                    blocks = reshaping.renamed(blocks, number * 1000 * reshaping.COPY)
                ids = np.arange(done, done + len(due), dtype=np.int64)
                whole = chunk._replace(due_s=due, request_id=ids, blocks=blocks).take(slice(0, kept))
                for at in range(0, kept, n):
                    yield whole.take(slice(at, at + n))
                if kept < len(due):
                    return
                done += kept

    def _one_pass(self, rng: np.random.Generator) -> Iterator[Arrivals]:
        if self.format == "servegen":
            drawn = servegen.drawn_requests(self.path, self.from_s, self._to_s(), rng)
            chunks: Iterable[Arrivals] = (arrivals_of(*columns) for columns in drawn)
        else:
            spread = reshaping.spread(self._read(), self.bucket_s or 0.0, rng)
            chunks = reshaping.window(spread, self.from_s, self._to_s())
        scaled = (c._replace(due_s=(c.due_s - self.from_s) * self.time_scale) for c in chunks)
        thick = reshaping.superposed(
            scaled, self.rate_scale, self.jitter_s, self.pass_s, rng, conversations=self.sessions
        )
        return (
            conversations.known_so_far(thick)
            if self.sessions
            else reshaping.with_prefixes(thick, self.block_tokens)
        )

    def _read(self) -> Iterator[Arrivals]:
        origin, latest = math.nan, math.nan
        unit_s = UNITS[self.time_unit] if self.time_unit else 1.0
        for line, chunk in read_trace(self.path, self.format, unit_s, self.turn_tokens):
            if math.isnan(origin):
                origin = latest = float(chunk.due_s[0])
            gaps = np.diff(chunk.due_s, prepend=latest)
            odd = np.flatnonzero((gaps < 0) | (gaps > MOST_GAP_S))
            if len(odd):
                raise self._odd_gap(line[odd[0]], float(gaps[odd[0]]))
            latest = float(chunk.due_s[-1])
            yield chunk._replace(due_s=chunk.due_s - origin)

    def _odd_gap(self, line: int, gap_s: float) -> BadInput:
        where = f"{self.path} line {line}: the time lies"
        if gap_s < 0:
            return BadInput(f"{where} before that of the line above", next_step="sort the file by time")
        unit = "" if self.time_unit is None else ", or say time_unit when it is not " + self.time_unit
        return BadInput(
            f"{where} {duration(gap_s)} after that of the line above",
            expected=f"at most {duration(MOST_GAP_S)} without a request",
            next_step=f"correct the time{unit}",
        )

    def _to_s(self) -> float:
        return math.inf if self.to_s is None else self.to_s

    def _check_options(self) -> None:
        if not 0 < self.time_scale < math.inf:
            raise BadInput("time_scale of a trace", value=self.time_scale, expected="a number above 0")
        if not 0 < self.rate_scale <= MOST_SCALE:
            raise BadInput(
                "rate_scale of a trace",
                value=self.rate_scale,
                expected=f"a number above 0, at most {MOST_SCALE:,.0f}",
            )
        if not 0 <= self.from_s < self._to_s():
            raise BadInput(
                "window of a trace",
                value=(self.from_s, self.to_s),
                expected="0 <= from_s < to_s in trace seconds",
            )
        for name, value in (("bucket_s", self.bucket_s), ("jitter_s", self.jitter_s)):
            if value is not None and not 0 <= value <= MOST_JITTER_S:
                raise BadInput(f"{name} of a trace", value=value, expected=f"0 to {MOST_JITTER_S:,.0f} s")
        if self.repeat < 1:
            raise BadInput("repeat", value=self.repeat, expected="at least 1")
        if self.turn_tokens not in TURN_TOKENS:
            raise BadInput("turn_tokens of a trace", value=self.turn_tokens, expected=" | ".join(TURN_TOKENS))

    def _with_unit(self) -> Trace:
        own = own_unit(self.format)
        if own is None:
            if self.time_unit is not None:
                kind = "windows in seconds" if self.format == "servegen" else "dates"
                raise BadInput(
                    f"{self.path}: time_unit of a trace whose times are {kind}",
                    value=self.time_unit,
                    next_step="leave it out",
                )
            return self
        unit, unit_from = unit_of(self.time_unit, own, first_stamp(self.path, self.format))
        return replace(self, time_unit=unit, unit_from=unit_from)

    def _scanned(self) -> Trace:
        """The trace with its bucket, the length of a pass and its rate filled in."""
        if self.format == "servegen":
            edges, counts = servegen.expected(self.path, self.from_s, self._to_s())
            bucket, span_s = 0.0, float(edges[-1] - edges[0])
        else:
            edges, counts, bucket, span_s = self._counted()
        if counts.sum() == 0:
            no_request = f"{self.path} holds no request"
            if self.from_s == 0 and self.to_s is None:
                raise BadInput(no_request)
            window = self.from_s, self.to_s
            raise BadInput(f"{no_request} in its window", value=window, next_step="widen from_s and to_s")
        run_edges = (edges - self.from_s) * self.time_scale
        level = counts * self.rate_scale / np.diff(run_edges)
        once = Rate(run_edges, level, np.zeros(len(level)))
        return replace(
            self,
            bucket_s=bucket,
            pass_s=once.duration_s,
            rate=rates.repeated(once, self.repeat),
            requests=float(counts.sum()),
            span_s=span_s,
        )

    def _counted(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        """Edges in trace seconds, requests between them, the bucket of the stamps, and the span of the window."""
        bins = TimeBins()
        step, ties, before, last, first = math.inf, False, math.nan, 0.0, math.inf
        requests, fractions = 0, False
        to_s = self._to_s()
        for chunk in self._read():
            stamps = chunk.due_s
            gaps = np.diff(stamps, prepend=before)
            step = min(step, float(np.min(gaps, where=gaps > 0, initial=math.inf)))
            ties = ties or bool((gaps == 0).any())
            before = float(stamps[-1])
            requests += len(stamps)
            fractions = fractions or self._has_fractions(stamps)
            inside = stamps[(stamps >= self.from_s) & (stamps < to_s)]
            if len(inside):
                first, last = min(first, float(inside[0])), float(inside[-1])
                bins.add(inside - self.from_s)
        if self.unit_from == "format" and self.time_unit is not None:
            check_rate(self.path, self.format, self.time_unit, requests, before, fractions)
        coarse = ties and COARSE_S[0] <= step < math.inf
        bucket = self.bucket_s if self.bucket_s is not None else min(step, COARSE_S[1]) if coarse else 0.0
        count = int(bins.counts.sum())
        mean_gap = (last - first) / (count - 1) if count > 1 else 1.0
        end = to_s if self.to_s is not None else last + max(bucket, mean_gap, 1e-3)
        edges, sums = bins.pieces(self.from_s, end)
        return edges, sums, bucket, max(last - first, 0.0) if count else 0.0

    def _has_fractions(self, stamps: NDArray[np.float64]) -> bool:
        """Whether stamps are not whole units after the first one."""
        units = stamps / UNITS[self.time_unit or "s"]
        return bool((np.abs(units - np.rint(units)) > 1e-4).any())


_NO_RATE = rates.constant(0.0, 1.0)
