"""vLLM replicas in one virtual time: the same engine model for the simulated fleet, the fleet over HTTP and replays.

How an engine moves is in `autoscale.sim.engine.scheduler`, how requests reach it in `autoscale.sim.engine.kernels`; here is the set of
replicas that callers hold. A replica is what the HPA counts: `data_parallel` engines of `pipeline_stages` stages each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.errors import BadInput
from autoscale.sim.engine import flow_control, kernels, state
from autoscale.sim.engine.arrivals import ArrivalQueue, Lent, Requests
from autoscale.sim.engine.gateway import SEEN, InferenceGateway, band_records, gate_record
from autoscale.sim.engine.gauges import GAUGES, fill_gauges
from autoscale.sim.engine.params import STEP_TIMES, EngineParams, packed
from autoscale.sim.engine.routing import ROUTINGS

PROGRESS = np.dtype([("request_id", "i8"), ("slot", "i4"), ("tokens_out", "i4")], align=True)
FINISHED = state.FINISHED


class Replicas:
    """`slots` replica slots in one virtual time that starts at 0; all are closed at first.

    Everything strictly before the time given to `advance` has happened, nothing later has. An arrival that enters at the
    very end of a step is seen by the next one. Results do not depend on the size of the advances.
    """

    def __init__(
        self,
        params: EngineParams,
        slots: int,
        seed: int = 0,
        routing: str = "random",
        connections: int | None = None,
        no_ready: str = "wait",
        gateway: InferenceGateway | None = None,
    ) -> None:
        if routing not in ROUTINGS:
            raise BadInput("unknown routing", value=routing, expected=f"one of {', '.join(ROUTINGS)}")
        if no_ready not in ("wait", "fail"):
            raise BadInput("no_ready", value=no_ready, expected="wait or fail")
        if connections is not None and (routing != "random" or connections < 1):
            raise BadInput("connections", value=connections, expected="at least 1, with random routing only")
        self.params, self.slots = params, slots
        engines = slots * params.data_parallel
        lanes = engines * params.pipeline_stages
        self._state = state.State(
            params=packed(params, ROUTINGS.index(routing), wait_for_ready=no_ready == "wait"),
            clock=np.zeros(1, state.CLOCK),
            is_open=np.zeros(slots, np.int64),
            open_list=np.zeros(slots, np.int64),
            connections=np.full(connections or 0, state.NONE, np.int64),
            engines=np.zeros(engines, state.ENGINE),
            lanes=np.zeros(lanes, state.LANE),
            heaps=np.empty((lanes, params.max_num_seqs), np.int64),
            phases=np.zeros((lanes, params.block_size), np.int32),
            batches=np.zeros((engines, params.max_batches), state.BATCH),
            stage_ends=np.zeros((engines, params.pipeline_stages)),
            requests=np.zeros(0, state.REQUEST),
            finished=np.zeros(0, state.FINISHED),
            bands=band_records(gateway),
            gate=gate_record(gateway),
            seen=np.zeros(slots, SEEN),
        )
        clock = self._state.clock[0]
        for name in ("free_head", "oldest", "newest"):
            clock[name] = state.NONE
        clock["random"] = np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
        for slot in range(slots):
            kernels.reset_slot(self._state, slot)
        self._arrivals = ArrivalQueue(params.prefix_hit_fraction)
        self._controls: list[tuple[float, int, str, int]] = []
        self._control_count = 0
        self._followed = 0  # of those that finished, how many `ended` has told
        self._unfollowed: list[NDArray[Any]] | None = None  # told by `finished`, for who follows

    def pace(self, factor: float) -> None:
        """From now on steps take `factor` times as long as the parameters say."""
        for name in STEP_TIMES:
            self._state.params[0][name] = factor * getattr(self.params, name)

    # --- which slots take traffic ---

    def open(self, slot: int, at_s: float) -> None:
        """The slot takes traffic from `at_s` on, with a fresh and empty engine."""
        self._control(slot, at_s, "open")

    def close(self, slot: int, at_s: float, abort: bool = False) -> None:
        """No new traffic from `at_s` on; `abort` cancels what is in flight, otherwise it drains."""
        self._control(slot, at_s, "abort" if abort else "close")

    def _control(self, slot: int, at_s: float, what: str) -> None:
        if not 0 <= slot < self.slots:
            raise BadInput("no such replica slot", value=slot, expected=f"0 to {self.slots - 1}")
        if at_s <= self.now_s:
            self._apply(slot, what)
            return
        heapq.heappush(self._controls, (float(at_s), self._control_count, what, slot))
        self._control_count += 1

    def _apply(self, slot: int, what: str) -> None:
        s, clock = self._state, self._state.clock[0]
        n = int(clock["open_slots"])
        opened = s.open_list[:n]
        if what == "open":
            if s.is_open[slot]:
                raise BadInput("the replica slot is open already", value=slot)
            if self.in_flight_of(slot):
                raise BadInput(
                    "the replica slot still drains", value=slot, next_step="close it with abort=True"
                )
            kernels.reset_slot(s, int(slot))
            s.seen[slot] = 0
            if n == 0:
                clock["no_pod_s"] += self.now_s - clock["no_pod_since_s"]
                s.gate[0]["regime_s"] = self.now_s
            s.open_list[n] = slot
            s.is_open[slot] = 1
            clock["open_slots"] = n + 1
            clock["engines"] = max(int(clock["engines"]), (int(slot) + 1) * self.params.data_parallel)
            if clock["gateway"] and not s.gate[0]["on"]:
                kernels.flush_gateway(s)
            return
        if s.is_open[slot]:
            s.open_list[: n - 1] = opened[opened != slot]
            s.is_open[slot] = 0
            clock["open_slots"] = n - 1
            if n == 1:
                clock["no_pod_since_s"] = s.gate[0]["regime_s"] = self.now_s
            s.connections[s.connections == slot] = state.NONE
        if what == "abort":
            self._reserve(0)
            kernels.cancel(s, state.NONE, int(slot))

    # --- load ---

    def offer(self, arrivals: Requests) -> None:
        """Queue a chunk of requests, due at or after everything offered before. `request_id` is kept when it has one."""
        self._arrivals.offer(arrivals, self.now_s)

    def submit(
        self, prompt_tokens: int, output_tokens: int, prefix_tokens: int = 0, at_s: float | None = None
    ) -> int:
        """One request, due at `at_s` (now when None); returns its id. It is sent by the next `advance`."""
        due_s = self._arrivals.submit_s(self.now_s) if at_s is None else at_s
        request_id = self._arrivals.next_id
        self.offer(
            _One(*(np.array([v]) for v in (due_s, prompt_tokens, output_tokens, prefix_tokens, request_id)))
        )
        return request_id

    def abort(self, request_id: int) -> bool:
        """The client gives up a request now; False when it is not in flight."""
        self._reserve(0)
        return bool(kernels.cancel(self._state, int(request_id), state.NONE))

    # --- time ---

    @property
    def now_s(self) -> float:
        """Present virtual time in s."""
        return float(self._state.clock[0]["now_s"])

    def gateway_gauges(self) -> tuple[float, float, float]:
        """Requests that an inference gateway holds, those that it has sent on, its pool's saturation; NaN without one."""
        if not self._state.gate[0]["on"]:
            return math.nan, math.nan, math.nan
        held = self.pending
        return float(held), float(self.in_flight - held), float(flow_control.saturation(self._state))

    @property
    def pending(self) -> int:
        """Requests that wait in the gateway because no replica is ready."""
        return int(self._state.clock[0]["gateway"])

    @property
    def in_flight(self) -> int:
        """Requests that arrived and did not end, the pending ones included."""
        return int(self._state.clock[0]["in_flight"])

    def in_flight_of(self, slot: int) -> int:
        """Requests that the slot's engines hold."""
        dp = self.params.data_parallel
        return int(self._state.engines["in_flight"][slot * dp : (slot + 1) * dp].sum())

    def advance(self, until_s: float) -> None:
        """Everything that happens before `until_s`."""
        if until_s < self.now_s:
            raise BadInput("cannot go back in time", value=until_s, expected=f"at least {self.now_s:g}")
        until_s = float(until_s)
        while self._controls and self._controls[0][0] < until_s:
            at_s, _, what, slot = heapq.heappop(self._controls)
            self._run(at_s)
            self._apply(slot, what)
        self._run(until_s)

    def next_event_s(self) -> float:
        """When the next step ends, request arrives or slot opens or closes; inf when nothing is under way."""
        soonest = min(float(kernels.next_event_s(self._state)), self._arrivals.next_s)
        return min(soonest, self._controls[0][0]) if self._controls else soonest

    def _run(self, until_s: float) -> None:
        while True:
            lent, first = self.lend()
            self.take_back(kernels.advance(self._state, lent, first, until_s))
            if lent.follows_s >= until_s:
                return

    @property
    def state(self) -> state.State:
        """The arrays behind it, for kernels that advance it on their own."""
        return self._state

    def lend(self) -> tuple[Lent, int]:
        """The arrivals that a kernel may let in next and the first of them, with room made for them."""
        lent, first = self._arrivals.lend()
        self._reserve(lent.end - first)
        return lent, first

    def take_back(self, first: int) -> None:
        """The first of the lent arrivals that is not yet due."""
        self._arrivals.take_back(first)

    def _reserve(self, arrivals: int) -> None:
        """Make room for that many new requests, and for the end of all that are in flight."""
        s, clock = self._state, self._state.clock[0]
        needed = int(clock["in_flight"]) + arrivals
        if (size := len(s.requests)) < needed:
            grown = np.zeros(max(needed, 2 * size), state.REQUEST)
            grown[:size] = s.requests
            grown["after"][size:] = np.arange(size + 1, len(grown) + 1)
            grown["after"][-1] = clock["free_head"]
            clock["free_head"] = size
            self._state = s = s._replace(requests=grown)
        needed += int(clock["finished"])
        if len(s.finished) < needed:
            records = np.empty(max(needed, 2 * len(s.finished)), state.FINISHED)
            records[: len(s.finished)] = s.finished
            self._state = s._replace(finished=records)

    # --- what is seen ---

    def gauges(self) -> NDArray[Any]:
        """What vLLM exports now, one row per slot (see GAUGES): sums over its engines, mean of the KV usage."""
        return self._read(self.params.data_parallel)

    def engine_gauges(self) -> NDArray[Any]:
        """The same with one row per data-parallel engine, as vLLM labels them."""
        return self._read(1)

    def _read(self, per_row: int) -> NDArray[Any]:
        e, s = self._state.engines, self._state
        rows = len(e) // per_row
        out = np.zeros(rows, GAUGES)
        engine = np.arange(rows) * per_row
        out["time_s"] = self.now_s
        out["slot"] = engine // self.params.data_parallel
        out["engine"] = engine % self.params.data_parallel
        out["open"] = s.is_open[out["slot"]]
        fill_gauges(out, e.reshape(rows, per_row), self.params)
        return out

    def finished(self) -> NDArray[Any]:
        """Requests that ended since the last call (see FINISHED), per engine in the order they ended.

        `status` is a position in analysis.run.STATUSES: ok, timeout, cancelled, http_error (too long, or no
        replica was ready). NaN: did not happen; `slot` -1: never reached a replica, -2 (state.REFUSED): longer than the model
        or the cache takes; `end_s` is when it ended in any way.
        """
        clock = self._state.clock[0]
        done = self._state.finished[: int(clock["finished"])].copy()
        if self._unfollowed is not None and len(done) > self._followed:
            self._unfollowed.append(done[self._followed :])
        clock["finished"] = self._followed = 0
        return done

    def follow(self) -> None:
        """From now on what ends is kept for `ended`, too."""
        self._unfollowed = []

    def ended(self) -> NDArray[Any]:
        """The same since the last call of this, for one who follows them beside `finished`."""
        count = int(self._state.clock[0]["finished"])
        rows = [*(self._unfollowed or []), self._state.finished[self._followed : count].copy()]
        self._followed, self._unfollowed = count, []
        return np.concatenate(rows)

    def progress(self) -> NDArray[Any]:
        """(request_id, slot, tokens_out) of the requests that replicas hold, oldest first."""
        out = np.empty(self.in_flight, PROGRESS)
        return out[: kernels.read_progress(self._state, out)]


class _One(NamedTuple):
    """One request as a chunk."""

    due_s: NDArray[Any]
    prompt_tokens: NDArray[Any]
    output_tokens: NDArray[Any]
    prefix_tokens: NDArray[Any]
    request_id: NDArray[Any]


def replay(
    params: EngineParams,
    arrivals: Requests,
    sample_s: NDArray[np.float64] | None = None,
    *,
    pace: Sequence[tuple[float, float]] = (),
    given_up: Sequence[tuple[float, int]] = (),
) -> tuple[NDArray[Any], NDArray[Any]]:
    """One replica serves `arrivals`: (finished requests by request_id, gauges at the instants `sample_s`).

    `sample_s` ascends; the gauge array has the columns of GAUGES, one row per instant. `pace` holds (time in s, factor):
    from then on steps take so many times as long. `given_up` holds (time in s, request_id): who is still there then is
    cancelled.
    """
    replica = Replicas(params, 1)
    replica.open(0, 0.0)
    replica.offer(arrivals)
    times = np.zeros(0) if sample_s is None else np.asarray(sample_s, float)
    series = np.zeros(len(times), GAUGES)
    seen = np.zeros((len(times), params.data_parallel), state.ENGINE)
    changes = [(at_s, -1, factor) for at_s, factor in pace] + [(at_s, r, 1.0) for at_s, r in given_up]
    changes.sort(key=lambda change: -change[0])
    for k, at_s in enumerate([*times, math.inf]):
        while changes and changes[-1][0] <= at_s:
            change_s, request_id, factor = changes.pop()
            replica.advance(change_s)
            if request_id < 0:
                replica.pace(factor)
            else:
                replica.abort(request_id)
        replica.advance(at_s)
        if k < len(times):
            seen[k] = replica.state.engines
    series["time_s"], series["open"] = times, 1
    fill_gauges(series, seen, params)
    done = replica.finished()
    return done[np.argsort(done["request_id"], kind="stable")], series
