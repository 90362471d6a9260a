"""Drives the search of loadgen.probing on one generator: offers a probe, watches it, takes it back, waits, offers the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent

from analysis.histogram import Histogram
from analysis.slo import parse_slo
from loadgen import probing
from loadgen.clock import now_s
from loadgen.generator import Generator
from loadgen.probing import Probe, Seen, Standing, Waiting
from loadgen.records import Done
from loadgen.traffic import LoadPlan

TICK_S = 0.25
LOOK_EVERY = 4  # ticks between two judgements
LEAD_S = 0.3  # from the decision to a probe's start: bodies are made, connections opened
DRAIN_S = 10.0  # after a probe, for answers; what is still in flight then is cancelled
WARM = 512
CLIENT_LAG_S, CLIENT_LAG_SHARE = (
    0.010,
    0.25,
)  # a probe's p95 send lag beyond both (of the median TTFT): the client's fault


class Finder:
    """One search. `hear` is told every request that ended; `run` returns what was found (in a greenlet)."""

    def __init__(
        self,
        generator: Generator,
        plan: LoadPlan,
        slo: str,
        first_rps: float,
        budget_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._generator, self._plan, self._say = generator, plan, say
        self._slo_text, self._slo = slo, parse_slo(slo)
        self._first_rps, self._budget_s = first_rps, budget_s
        self._tried: list[tuple[Probe, Standing]] = []
        self._seen: list[Seen] = []
        self._lags: list[float] = []
        self._gaps = Histogram()
        self._number = 0
        self._first_id = 0
        self._current: Probe | None = None  # being offered, as planned

    def hear(self, done: Done) -> None:
        """A request ended."""
        exchange = done.exchange
        if exchange.stage != self._number or done.answer.status == "cancelled":
            return
        due_s = exchange.due_s - self._generator.clock.zero_s
        self._seen.append(Seen(due_s, done.answer.status == "ok", done.ttft_s, done.tpot_s, done.e2e_s))
        self._lags.append(exchange.sent_s - exchange.due_s)
        self._gaps.add(done.gaps_s)

    def run(self) -> str:
        """Search until the bracket is narrow or the time is over; returns why it ended."""
        limit_s = probing.probe_limit_s(self._budget_s)
        ended = f"the bracket is within {probing.TOLERANCE:.0%}"
        while True:
            rate = probing.next_rate([(p.rate_rps, s.verdict) for p, s in self._tried], self._first_rps)
            if rate is None:
                break
            spent_s = self._elapsed_s()
            lengths = sorted(p.end_s - p.start_s for p, _ in self._tried)
            if self._budget_s - spent_s < (lengths[len(lengths) // 2] if lengths else 0.0):
                ended = f"the time of {self._budget_s:g} s was over"
                break
            probe, stands = self._probe(rate, min(limit_s, self._budget_s - spent_s - LEAD_S))
            limited = self._client_limited()
            if limited and stands.verdict != "holds":
                stands = Standing("unclear", limited, stands.requests)
            self._tried.append((probe, stands))
            self._say(f"{probe.rate_rps:.4g}/s {stands.verdict}: {stands.reason}")
            self._drain()
            if limited and stands.verdict != "holds":
                ended = f"the client was the limit at {probe.rate_rps:.4g}/s ({limited})"
                break
        return ended

    def found(self, ended: str) -> dict[str, Any]:
        """What is known so far; see loadgen.probing.answer."""
        return probing.answer(self._tried, self._slo_text, self._first_rps, self._budget_s, ended)

    def interrupt(self) -> None:
        """The run is about to end: the present probe counts as far as it came."""
        if self._current is not None:
            cut = replace(self._current, end_s=min(self._current.end_s, self._elapsed_s()))
            self._current = None
            if cut.end_s > cut.start_s:
                self._tried.append((cut, Standing("unclear", "interrupted", len(self._seen))))

    def probes(self) -> list[Probe]:
        """The probes so far."""
        return [probe for probe, _ in self._tried]

    def _probe(self, rate_rps: float, limit_s: float) -> tuple[Probe, Standing]:
        generator = self._generator
        self._number = len(self._tried)
        self._seen, self._lags, self._gaps = [], [], Histogram()
        generator.client.warm(min(WARM, math.ceil(rate_rps)))
        start_s = self._elapsed_s() + LEAD_S
        planned = Probe(self._number, rate_rps, start_s, start_s + limit_s, self._first_id, self._plan)
        self._current = planned
        generator.offer(planned)
        least_s = probing.least_s([(p.rate_rps, s.verdict) for p, s in self._tried], limit_s)
        levels: list[tuple[float, int]] = []
        ticks = 0
        while True:
            gevent.sleep(TICK_S)
            ticks += 1
            at_s = self._elapsed_s()
            if at_s > start_s:
                levels.append((at_s, len(generator.client.in_flight)))
            over = at_s >= planned.end_s
            if not over and ticks % LOOK_EVERY:
                continue
            stands = probing.standing(
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

    def _next_id(self, probe: Probe) -> int:
        """The first id after the probe's; conversations begin anew with each probe."""
        last = max((int(chunk.request_id[-1]) for chunk in probe.arrivals()), default=probe.first_id - 1)
        group = self._plan.turns * self._plan.conversations
        return math.ceil((last + 1) / group) * group

    def _waiting(self) -> list[Waiting]:
        zero_s = self._generator.clock.zero_s
        return [
            Waiting(e.due_s - zero_s, e.connection is not None and e.connection.body_begun)
            for e in self._generator.client.in_flight
        ]

    def _client_limited(self) -> str | None:
        """Why the client may have shaped this probe; None when it did not."""
        if not self._lags:
            return None
        ttfts = sorted(s.ttft_s - lag for s, lag in zip(self._seen, self._lags, strict=True) if s.ok)
        late_s = sorted(self._lags)[int(0.95 * (len(self._lags) - 1))]
        usual_s = ttfts[len(ttfts) // 2] if ttfts else 0.0
        if late_s <= max(CLIENT_LAG_S, CLIENT_LAG_SHARE * usual_s):
            return None
        return f"requests were sent late: p95 {late_s * 1e3:.0f} ms after due"

    def _drain(self) -> None:
        deadline_s = now_s() + min(DRAIN_S, max(1.0, self._budget_s - self._elapsed_s()))
        client = self._generator.client
        while client.in_flight and now_s() < deadline_s:
            gevent.sleep(0.02)
        for exchange in list(client.in_flight):
            if exchange.connection is not None:
                exchange.connection.give_up("cancelled", "the probe was over")

    def _elapsed_s(self) -> float:
        return self._generator.clock.elapsed(now_s())
