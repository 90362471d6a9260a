"""Drives the search of loadgen.run.capacity_search on one generator: offers a probe, watches it, takes it back, waits, offers the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import gevent
import numpy as np
from numpy.typing import ArrayLike

from analysis.histogram import Histogram
from analysis.slo import parse_slo, stage_needed_s
from analysis.steady import LOST
from loadgen.plan.traffic import LoadPlan
from loadgen.run import capacity_search, client_health
from loadgen.run.capacity_search import FoundCapacity, ProbeRequest, ProbeStanding, Waiting
from loadgen.run.client_samples import sample_columns
from loadgen.run.generator import Generator
from loadgen.run.measured import Done
from loadgen.run.probes import Probe
from loadgen.run.vitals import ClientSample
from loadgen.wire.clock import now_s

TICK_S = 0.25
LOOK_EVERY = 4  # ticks between two judgements
LEAD_S = 0.3  # from the decision to a probe's start: bodies are made, connections opened
DRAIN_S = 10.0  # after a probe, for answers; what is still in flight then is cancelled
WARM = 512


class Finder:
    """One search. `hear` is told every request that ended and `sampled` how the client fared; `run` returns why the
    search ended (in a greenlet).
    """

    def __init__(
        self,
        generator: Generator,
        plan: LoadPlan,
        slo: str,
        first_rps: float,
        budget_s: float,
        max_in_flight: int,
        say: Callable[[str], None],
    ) -> None:
        self._generator, self._plan, self._say = generator, plan, say
        self._slo_text, self._slo = slo, parse_slo(slo)
        self._first_rps, self._budget_s, self._max_in_flight = first_rps, budget_s, max_in_flight
        self._tried: list[tuple[Probe, ProbeStanding]] = []
        self._seen: list[ProbeRequest] = []
        self._rows: list[
            tuple[float, ...]
        ] = []  # due, sent, first and last token, in s on the client's clock
        self._samples: list[ClientSample] = []
        self._lives_s: list[float] = []  # median E2E of each probe with answers
        self._gaps = Histogram()
        self._number = 0
        self._first_id = 0
        self._current: Probe | None = None  # being offered, as planned

    def hear(self, done: Done) -> None:
        """A request ended."""
        exchange = done.exchange
        if exchange.stage != self._number:
            return
        answer = done.answer
        self._rows.append((exchange.due_s, exchange.sent_s, answer.first_s, answer.last_s))
        if answer.status == "cancelled":
            return
        due_s = exchange.due_s - self._generator.clock.zero_s
        latencies_s = done.ttft_s, done.tpot_s, done.e2e_s
        self._seen.append(ProbeRequest(due_s, answer.status == "ok", *latencies_s, answer.status in LOST))
        self._gaps.add(done.gaps_s)

    def sampled(self, samples: Sequence[ClientSample]) -> None:
        """How the client fared since the last time."""
        self._samples.extend(samples)

    def run(self) -> str:
        """Search until the bracket is narrow or the time is over; returns why it ended."""
        limit_s = capacity_search.probe_limit_s(self._budget_s)
        ended = f"the bracket is within {capacity_search.TOLERANCE:.0%}"
        limited_rps: float | None = None  # tried last, and the client could not: once more
        while True:
            tried = [(p.rate_rps, s.verdict) for p, s in self._tried]
            rate = limited_rps or capacity_search.next_rate(tried, self._first_rps)
            if rate is None:
                break
            left_s, needed_s = self._budget_s - self._elapsed_s(), self._needed_s(rate)
            if left_s < needed_s:
                ended = f"of {self._budget_s:g} s {max(left_s, 0):.0f} s were left, and a step at {rate:.4g}/s takes {needed_s:.0f} s"
                ended += f", and the client was the limit at {limited_rps:.4g}/s" if limited_rps else ""
                break
            probe, stands = self._probe(rate, limit_s, left_s - LEAD_S)
            self._tried.append((probe, stands))
            if life_s := self._life_s():
                self._lives_s.append(life_s)
            self._drain()  # the last requests count, in what the client did and in what the server broke
            stands = self._judged_again(probe, stands)
            self._tried[-1] = (probe, stands)
            told = stands.verdict == "holds" or capacity_search.died(self._seen)
            limit = "" if told else self._client_limit(probe)
            if limit:
                stands = ProbeStanding("unclear", f"the client was the limit: {limit}", stands.requests)
                self._tried[-1] = (probe, stands)
            self._say(f"{probe.rate_rps:.4g}/s {stands.verdict}: {stands.reason}")
            if capacity_search.died(self._seen):
                ended = f"the server died at {rate:.4g}/s"
                break
            if limit and limited_rps == rate:
                ended = f"the client was the limit at {rate:.4g}/s, twice"
                break
            limited_rps = rate if limit else None
        return ended

    def found(self, ended: str) -> FoundCapacity:
        """What is known so far."""
        return capacity_search.found_capacity(
            self._tried, self._slo_text, self._first_rps, self._budget_s, ended
        )

    def interrupt(self) -> None:
        """The run is about to end: the present probe counts as far as it came."""
        if self._current is not None:
            cut = replace(self._current, end_s=min(self._current.end_s, self._elapsed_s()))
            self._current = None
            if cut.end_s > cut.start_s:
                self._tried.append((cut, ProbeStanding("unclear", "interrupted", len(self._seen))))

    def probes(self) -> list[Probe]:
        """The probes so far."""
        return [probe for probe, _ in self._tried]

    def _needed_s(self, rate_rps: float) -> float:
        """How long the next step has to be, at least, in s; 0 before the first."""
        if not self._tried:
            return 0.0
        lengths = sorted(p.end_s - p.start_s for p, _ in self._tried)
        life_s = min(self._lives_s, default=0.0)
        return max(lengths[len(lengths) // 2], stage_needed_s(life_s, rate_rps, self._slo))

    def _probe(self, rate_rps: float, limit_s: float, most_s: float) -> tuple[Probe, ProbeStanding]:
        """Offers a rate until it is decided, for `limit_s` or as long as a stage needs, and `most_s` at most."""
        generator = self._generator
        self._number = len(self._tried)
        self._seen, self._rows, self._gaps = [], [], Histogram()
        generator.client.warm(min(WARM, math.ceil(rate_rps)))
        start_s = self._elapsed_s() + LEAD_S
        planned = Probe(self._number, rate_rps, start_s, start_s + most_s, self._first_id, self._plan)
        self._current = planned
        generator.offer(planned)
        least_s = capacity_search.least_s([(p.rate_rps, s.verdict) for p, s in self._tried], limit_s)
        levels: list[tuple[float, int]] = []
        ticks = 0
        while True:
            gevent.sleep(TICK_S)
            ticks += 1
            at_s = self._elapsed_s()
            if at_s > start_s:
                levels.append((at_s, len(generator.client.in_flight)))
            over = at_s >= min(planned.end_s, start_s + max(limit_s, self._stage_s(rate_rps)))
            if not over and ticks % LOOK_EVERY:
                continue
            stands = capacity_search.standing(
                self._slo,
                rate_rps,
                start_s,
                at_s,
                self._seen,
                self._waiting(),
                levels,
                self._gaps,
                least_s,
                over,
            )
            if over or stands.verdict != "unclear":
                break
        end_s = min(self._elapsed_s(), planned.end_s)
        generator.recall(end_s)
        self._current = None
        probe = replace(planned, end_s=end_s)
        self._first_id = self._next_id(probe)
        return probe, stands

    def _stage_s(self, rate_rps: float) -> float:
        """How long the present probe has to be, by what its requests took so far."""
        return stage_needed_s(self._life_s(), rate_rps, self._slo)

    def _life_s(self) -> float:
        """Median E2E of the present probe's answers; 0 before any."""
        lasting = [r.e2e_s for r in self._seen if r.ok]
        return float(np.median(lasting)) if lasting else 0.0

    def _judged_again(self, probe: Probe, stands: ProbeStanding) -> ProbeStanding:
        """A probe with its last answers: they can show that the server died, and where it was undecided a breach, no more,
        since the load was over by then."""
        if gone := capacity_search.died(self._seen):
            return gone
        if stands.verdict != "unclear":
            return stands
        again = capacity_search.standing(
            self._slo, probe.rate_rps, probe.start_s, probe.end_s, self._seen, (), (), self._gaps, over=True
        )
        return again if again.verdict == "breaks" else stands

    def _next_id(self, probe: Probe) -> int:
        """The first id after the probe's; conversations begin anew with each probe."""
        last = max((int(chunk.request_id[-1]) for chunk in probe.arrivals()), default=probe.first_id - 1)
        group = self._plan.turns * self._plan.conversations
        return math.ceil((last + 1) / group) * group

    def _waiting(self) -> list[Waiting]:
        zero_s = self._generator.clock.zero_s
        return [Waiting(e.due_s - zero_s, e.body_begun) for e in self._generator.client.in_flight]

    def _client_limit(self, probe: Probe) -> str:
        """Why the client may have shaped this probe, by the verdict of every run; empty when it did not."""
        self._generator.flush()  # the samples of the last second
        times = np.array(self._rows, dtype=np.float64).reshape(-1, 4) - self._generator.clock.zero_s
        requests: dict[str, ArrayLike] = dict(
            zip(("due_s", "sent_s", "first_token_s", "last_token_s"), times.T, strict=True)
        )
        requests["stage"] = np.full(len(times), probe.number)
        requests["status"] = np.full(len(times), "ok")
        samples = sample_columns({"": self._samples})
        verdict = client_health.judge_client(requests, [probe.stage()], samples, self._max_in_flight)
        return "; ".join(reason.sentence for reason in verdict.stages[0].reasons)

    def _drain(self) -> None:
        deadline_s = now_s() + min(DRAIN_S, max(1.0, self._budget_s - self._elapsed_s()))
        client = self._generator.client
        while client.in_flight and now_s() < deadline_s:
            gevent.sleep(0.02)
        for exchange in list(client.in_flight):
            exchange.give_up("cancelled", "the probe was over")
        gevent.sleep(0.02)  # they are heard of

    def _elapsed_s(self) -> float:
        return self._generator.clock.elapsed(now_s())
