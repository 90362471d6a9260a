"""What arrives when: a load plan is a rate programme, an arrival process, lengths and a seed. Pure; only files named are read.

A renewal process with gaps of mean 1 runs in operational time u, which counts expected requests, and is carried into
seconds through the inverse of the rate's integral (loadgen.plan.programme), so that any process works with any programme:

    u_0 = stationary start, u_k = u_(k-1) + gap_k;      due_k = inverse(u_k);      the last due is before the end

    constant   gap = 1, u_0 = 0                            CV 0: evenly spaced under a constant rate
    poisson    gap ~ exponential                           CV 1
    gamma:CV   gap ~ gamma(1/CV^2, scale CV^2)             u_0 from the stationary residual, so that the expected count
                                                           is exactly the integral whatever the CV
    trace      due times of a recorded trace (loadgen.plan.traces)

Gaps, prompt lengths and output lengths come from three generators seeded by (seed, purpose): the same seed gives the same
bytes, whatever the chunk size; a longer plan begins with the shorter one; and plans that differ in rate only share their
gaps, which makes comparisons between them paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.errors import BadInput
from loadgen.plan import lengths, rates
from loadgen.plan.arrivals import Arrivals, Process, parse_arrivals
from loadgen.plan.lengths import Lengths
from loadgen.plan.programme import Rate
from loadgen.plan.prompt_lengths import continued, cut_lengths
from loadgen.plan.traces import Trace

CHUNK = 65_536  # arrivals drawn at a time: about 2 MB
UNTIL_STOPPED_S = 366 * 86_400.0  # duration of a plan that was given none


@dataclass(frozen=True, eq=False)
class LoadPlan:
    """Everything that is offered, drawn on demand; see the module docstring. Slices of it belong to workers."""

    programme: Rate
    process: Process = Process("poisson", 1.0)  # noqa: RUF009 -- frozen
    prompt: Lengths = Lengths("fixed", 512)  # noqa: RUF009 -- frozen
    output: Lengths = Lengths("fixed", 128)  # noqa: RUF009 -- frozen
    shared_prefix_tokens: int = 0
    seed: int = 0
    trace: Trace | None = None
    turns: int = 1  # requests of one conversation; each prompt holds the earlier prompts and answers
    conversations: int = 1  # that are held at the same time: turn k + 1 comes this many requests after turn k
    begins_s: float = 0.0  # after a Monday 00:00 UTC
    most_tokens: int | None = None  # of prompt and answer together, to which requests are cut
    index: int = 0
    of: int = 1

    @property
    def duration_s(self) -> float:
        """Length of the plan in s; UNTIL_STOPPED_S when none was given."""
        return self.programme.duration_s

    @property
    def expected_requests(self) -> float:
        """Expected requests of the whole plan (not of a slice); exact for constant arrivals and traces."""
        return self.programme.requests

    @property
    def drawn_requests(self) -> float:
        """Requests that are read or drawn to offer these: of a trace that is thinned, all of it."""
        return self.expected_requests / (1.0 if self.trace is None else min(1.0, self.trace.rate_scale))

    @property
    def stages(self) -> list[dict[str, float]]:
        """One stage per piece of the programme, one in all for a trace: stage, start_s, end_s, rate (mean, req/s)."""
        edges, means = self.programme.edges_s, self.programme.means()
        if self.trace is not None:
            edges, means = edges[[0, -1]], np.array([self.expected_requests / self.duration_s])
        return [
            {"stage": i, "start_s": float(edges[i]), "end_s": float(edges[i + 1]), "rate": float(mean)}
            for i, mean in enumerate(means)
        ]

    def stage_of(self, due_s: ArrayLike) -> NDArray[np.int32]:
        """The stage number of each due time."""
        edges = np.array([stage["start_s"] for stage in self.stages])
        return (np.searchsorted(edges, np.asarray(due_s), side="right") - 1).astype(np.int32)

    def rate(self, t_s: ArrayLike) -> NDArray[np.float64]:
        """Offered requests/s of the whole plan at each time."""
        return self.programme.rate(t_s)

    def of_seed(self, seed: int) -> LoadPlan:
        """The same plan drawn with this seed."""
        return replace(self, seed=seed)

    def describe(self) -> dict[str, object]:
        """The plan in words and numbers, for run.json."""
        return {
            "stages": self.stages,
            "duration_s": self.duration_s,
            "expected_requests": self.expected_requests,
            "arrivals": "trace" if self.trace is not None else str(self.process),
            "prompt_tokens": str(self.prompt),
            "output_tokens": str(self.output),
            "shared_prefix_tokens": self.shared_prefix_tokens,
            "turns": self.turns,
            "conversations": self.conversations,
            "seed": self.seed,
            **({"trace": self.trace.describe()} if self.trace is not None else {}),
        }

    def prompt_options(self) -> dict[str, int]:
        """What loadgen.plan.prompts must know of the plan: the keywords of by_ids and by_words."""
        blocks = self.trace.block_tokens if self.trace is not None else None
        options = {"turns": self.turns, "conversations": self.conversations}
        return options if blocks is None else {**options, "block_tokens": blocks}

    def slice(self, index: int, of: int) -> LoadPlan:
        """Worker `index` of `of`: the requests whose id leaves `index` when divided by `of`."""
        if not 0 <= index < of:
            raise ValueError(f"slice {index} of {of}")
        return replace(self, index=self.index + self.of * index, of=self.of * of)

    def arrivals(self, n: int = CHUNK) -> Iterator[Arrivals]:
        """This slice's arrivals, in chunks of at most `n`; memory is that of one chunk, whatever the plan's length.

        Every slice draws the whole plan and keeps its share: about 0.1 us per request of the plan and worker.
        """
        for chunk in self._traced(n) if self.trace is not None else self._drawn(n):
            if self.most_tokens is not None:
                chunk = cut_lengths(chunk, self.most_tokens)
            mine = chunk if self.of == 1 else chunk.take(chunk.request_id % self.of == self.index)
            if len(mine.due_s):
                yield mine

    def _drawn(self, n: int) -> Iterator[Arrivals]:
        gaps, prompts, outputs = (_generator(self.seed, purpose) for purpose in range(3))
        history = np.zeros(self.conversations, dtype=np.int64)
        done = 0
        for due in self.process.due_times(self.programme, gaps, n):
            count = len(due)
            prompt, output = self.prompt.draw(prompts, count), self.output.draw(outputs, count)
            known = np.full(count, self.shared_prefix_tokens, dtype=np.int64)
            if self.turns > 1:
                prompt, said = continued(prompt, output, done, self.turns, history)
                known = np.maximum(known, said)
            yield Arrivals(
                due_s=due,
                prompt_tokens=prompt,
                output_tokens=output,
                prefix_tokens=np.minimum(prompt - 1, known).astype(np.int32),
                request_id=np.arange(done, done + count, dtype=np.int64),
            )
            done += count

    def _traced(self, n: int) -> Iterator[Arrivals]:
        assert self.trace is not None
        prompts, outputs = (_generator(self.seed, purpose) for purpose in (1, 2))
        for chunk in self.trace.chunks(n, self.seed):
            count = len(chunk.due_s)
            if (
                self.prompt.kind != "trace"
            ):  # other lengths: the trace's prefix blocks no longer describe the prompts
                chunk = chunk._replace(prompt_tokens=self.prompt.draw(prompts, count), blocks=None)
            if chunk.blocks is None:
                shared = np.minimum(chunk.prompt_tokens - 1, self.shared_prefix_tokens)
                chunk = chunk._replace(prefix_tokens=shared.astype(np.int32))
            if self.output.kind != "trace":
                chunk = chunk._replace(output_tokens=self.output.draw(outputs, count))
            yield chunk

    @staticmethod
    def from_options(
        rate: float | None = None,
        arrivals: str = "poisson",
        stages: str | None = None,
        load_file: Path | str | None = None,
        trace: Path | str | None = None,
        time_unit: str | None = None,
        prompt_tokens: str | None = None,
        output_tokens: str | None = None,
        shared_prefix_tokens: int = 0,
        seed: int = 0,
        duration_s: float | None = None,
        interleave_s: float | None = None,
    ) -> LoadPlan:
        """The plan that command-line options describe; exactly one of rate, stages, load_file and trace says how much.

        Lengths default to `fixed:512` and `fixed:128`, with a trace to `trace`. `duration_s` cuts the plan; a rate
        without it lasts UNTIL_STOPPED_S. A load file is complete in itself: only `duration_s` applies to it. `time_unit`
        (s, ms, us, ns) is that of the trace's timestamps where it is not the format's own; `interleave_s` cuts `stages`
        into pieces that take turns (loadgen.plan.rates.interleaved).
        Raises BadInput with the option's value, what was expected and the next step.
        """
        given = {"--rate": rate, "--stages": stages, "--load": load_file, "--trace": trace}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise BadInput(
                "several loads are named" if named else "no load is named",
                value=" and ".join(named) or None,
                expected=f"exactly one of {', '.join(given)}",
            )
        _check_companions(stages, trace, time_unit, interleave_s)
        if load_file is not None:
            return LoadPlan.from_file(load_file).until(duration_s)
        recorded = None
        if trace is not None:
            recorded = Trace.open(trace, time_unit=time_unit)
            programme = recorded.rate
        elif stages is not None:
            programme = rates.parse_stages(stages)
            if interleave_s is not None:
                programme = rates.interleaved(programme, interleave_s, seed)
        else:
            assert rate is not None
            if not 0 < rate < math.inf:
                raise BadInput("--rate", value=rate, expected="requests/s above 0")
            programme = rates.constant(rate, UNTIL_STOPPED_S if duration_s is None else duration_s)
        plan = LoadPlan(
            programme=programme,
            process=parse_arrivals(arrivals),
            prompt=lengths.parse_lengths(prompt_tokens or ("trace" if recorded else "fixed:512")),
            output=lengths.parse_lengths(output_tokens or ("trace" if recorded else "fixed:128")),
            shared_prefix_tokens=shared_prefix_tokens,
            seed=seed,
            trace=recorded,
        )
        plan.check()
        return plan.until(duration_s)

    @staticmethod
    def from_file(path: Path | str) -> LoadPlan:
        """The plan that a load file describes (loadgen.plan.load_file).

        Raises BadInput naming the file, and the line and field where the file itself is wrong.
        """
        from loadgen.plan import load_file  # pydantic takes a while to import

        spec = load_file.read_load_file(path)
        try:
            recorded, programme = None, spec.programme()
            if programme is None:
                recorded = Trace.open(Path(path).parent / spec.trace_path(), **spec.trace_options())
                programme = recorded.rate
            plan = LoadPlan(
                programme=programme,
                process=parse_arrivals(spec.arrivals),
                prompt=lengths.parse_lengths(spec.prompt_tokens or ("trace" if recorded else "fixed:512")),
                output=lengths.parse_lengths(spec.output_tokens or ("trace" if recorded else "fixed:128")),
                shared_prefix_tokens=spec.shared_prefix_tokens,
                seed=spec.seed,
                trace=recorded,
                turns=spec.conversations.turns if spec.conversations else 1,
                conversations=spec.conversations.concurrent if spec.conversations else 1,
                begins_s=spec.begins_s,
            )
            plan.check()
            return plan.until(spec.duration_s)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None

    @staticmethod
    def default_traffic(
        peak_rps: float,
        prompt_tokens: str = "lognormal:1020,1.0",
        output_tokens: str = "lognormal:129,0.9",
        cv: float = 3.0,
        duration_s: float = 86_400.0,
        seed: int = 0,
    ) -> LoadPlan:
        """What is assumed when nobody says: one day from midnight UTC along rates.DAY_SHAPE, in bursts of gamma gaps.

        The busiest hour offers `peak_rps`; the day's mean is 0.62 and its trough 0.28 of that. CV 3 is the burstiness
        that multiplied TTFT p99 about five times in published simulation at equal throughput; 1 would be Poisson.
        """
        if not 0 < peak_rps < math.inf:
            raise BadInput("peak of the default traffic in requests/s", value=peak_rps, expected="above 0")
        return LoadPlan(
            programme=rates.diurnal(peak_rps, duration_s),
            process=parse_arrivals(f"gamma:{cv:g}"),
            prompt=lengths.parse_lengths(prompt_tokens),
            output=lengths.parse_lengths(output_tokens),
            seed=seed,
        )

    def until(self, duration_s: float | None) -> LoadPlan:
        """The same plan, ended at `duration_s` when that is earlier."""
        if duration_s is None or duration_s >= self.duration_s:
            return self
        if not duration_s > 0:
            raise BadInput("duration in s", value=duration_s, expected="a number above 0")
        shorter = None if self.trace is None else self.trace.until(duration_s)
        programme = self.programme.until(duration_s) if shorter is None else shorter.rate
        return replace(self, programme=programme, trace=shorter)

    def times(self, factor: float) -> LoadPlan:
        """The same plan at so many times its rates."""
        if self.trace is None:
            return replace(self, programme=self.programme.times(factor))
        more = self.trace.times(factor)
        return replace(self, programme=more.rate, trace=more)

    def within(self, most_tokens: int | None) -> LoadPlan:
        """The same plan with requests cut to so many tokens; None: as they are."""
        return self if most_tokens is None else replace(self, most_tokens=most_tokens)

    def check(self) -> None:
        """Raises BadInput when the parts do not go together."""
        if self.trace is None and "trace" in (self.prompt.kind, self.output.kind):
            raise BadInput("lengths `trace` without a trace", next_step="give --trace FILE or other lengths")
        if (
            self.trace is not None
            and not self.trace.has_lengths
            and "trace" in (self.prompt.kind, self.output.kind)
        ):
            raise BadInput(
                "the trace holds no lengths",
                next_step="name prompt and output lengths, for example lognormal:600,1.0",
            )
        own_prefixes = (
            self.trace is not None and self.trace.block_tokens is not None and self.prompt.kind == "trace"
        )
        if own_prefixes and self.shared_prefix_tokens:
            raise BadInput("a shared prefix, and a trace with prefixes of its own", next_step="leave out one")
        if not 0 <= self.shared_prefix_tokens <= lengths.MOST:
            raise BadInput(
                "shared prefix tokens", value=self.shared_prefix_tokens, expected=f"0 to {lengths.MOST:,}"
            )
        if self.turns > 1 and self.trace is not None:
            raise BadInput("conversations with a trace", next_step="a trace brings its own conversations")
        if self.turns > 1 and self.shared_prefix_tokens:
            raise BadInput("conversations and a shared prefix", next_step="leave out one of them")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise BadInput("seed", value=self.seed, expected="a whole number of at least 0")
        if not self.expected_requests > 0:
            raise BadInput("the load offers nothing: every rate is 0", next_step="raise one of the rates")


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, purpose))))


def _check_companions(
    stages: str | None, trace: Path | str | None, time_unit: str | None, interleave_s: float | None
) -> None:
    """Raises BadInput for an option that stands without the one that it speaks of."""
    if time_unit is not None and trace is None:
        raise BadInput(
            "--trace-time-unit without a trace",
            value=time_unit,
            next_step="leave it out; a load file says time_unit itself, under trace",
        )
    if interleave_s is not None and stages is None:
        raise BadInput(
            "--interleave without --stages",
            value=f"{interleave_s:g} s",
            next_step="name the stages; a load file says interleave_s itself, beside stages",
        )
