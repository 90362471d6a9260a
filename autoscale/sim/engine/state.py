"""The state of a set of replicas as arrays: what the compiled scheduler works on, and how it is compiled.

Lists are doubly linked through the fields `before` and `after` of the table of requests; NONE ends them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from analysis import numbers

# Kernels allocate nothing: without numba's reference counts they run 4 times as fast. Divisors are checked before.
compiled = njit(cache=True, error_model="numpy", _nrt=False)  # type: ignore[call-overload]  # its stubs leave _nrt out
# A call hands over every array of a State, some 120 words: what runs in each step, or for each request, becomes a part
# of its caller, and a simulation takes a seventh of the time.
inlined = njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)  # type: ignore[call-overload]


def compilable(*functions: Callable[..., Any]) -> None:
    """Let kernels call these plain functions, compiled as they stand."""
    for function in functions:
        register_jitable(error_model="numpy", _nrt=False)(function)


def fingerprint(*sources: str | None) -> str:
    """A field name that changes with the text of these files.

    numba's cache notices a change of the file that a function is in, not of the files whose functions it calls: with
    this as a field of a record that it takes, a kernel is compiled anew when any of them changes.
    """
    return f"sources_{zlib.crc32(b''.join(Path(str(source)).read_bytes() for source in sources)):08x}"


compilable(numbers.known)
_SOURCES = (
    "state.py",
    "linked.py",
    "lifecycle.py",
    "routing.py",
    "scorers.py",
    "flow_control.py",
    "sending.py",
    "admission.py",
    "step_time.py",
    "batches.py",
    "pipeline.py",
    "scheduler.py",
    "kernels.py",
    "arrivals.py",
)
_FINGERPRINT = fingerprint(*(str(Path(__file__).with_name(name)) for name in _SOURCES), numbers.__file__)

NONE = -1
# Slots of finished requests that no replica took: too long for the model or the cache, and the gateway's outcomes
REFUSED, SATURATED, NO_ROOM, NO_ENDPOINTS, EVICTED_TTL, EVICTED_NO_ENDPOINTS = -2, -3, -4, -5, -6, -7
FREE, GATEWAY, TRANSIT, WAITING, PREFILL, DECODE = range(6)  # states of a request
OK, HTTP_ERROR, TIMEOUT, CANCELLED = 0, 1, 2, 5  # positions in analysis.run.STATUSES

PARAMS = np.dtype(
    [
        (_FINGERPRINT, "i1"),
        ("base_s", "f8"),
        ("per_sequence_s", "f8"),
        ("per_kv_token_s", "f8"),
        ("per_prefill_token_s", "f8"),
        ("compute_share", "f8"),
        ("ridge_tokens", "f8"),
        ("experts_s", "f8"),
        ("expert_share", "f8"),
        ("per_prefill_pair_s", "f8"),
        ("long_reduce_s", "f8"),
        ("long_reduce_tokens", "f8"),
        ("request_overhead_s", "f8"),
        ("request_timeout_s", "f8"),
        ("num_blocks", "i8"),
        ("max_model_len", "i8"),
        ("stages", "i8"),
        ("max_batches", "i8"),  # in flight at once
        ("data_parallel", "i8"),
        ("max_num_seqs", "i8"),
        ("token_budget", "i8"),
        ("block_size", "i8"),
        ("async_scheduling", "i8"),
        ("routing", "i8"),
        ("wait_for_ready", "i8"),
    ],
    align=True,
)
ENGINE = np.dtype(
    [
        ("end_s", "f8"),  # end of the oldest batch in flight; inf = idle
        ("anchor_s", "f8"),
        ("first_s", "f8"),
        ("growth_s", "f8"),
        ("anchor_steps", "i8"),
        ("schedules", "i8"),  # calls of the scheduler, those that found nothing to do included
        ("oldest", "i8"),  # place of the oldest batch in flight
        ("queued", "i8"),  # batches in flight
        ("free_blocks", "i8"),
        (
            "late_blocks",
            "i8",
        ),  # freed by the last step, seen one step later (asynchronous scheduling of one stage)
        ("late_seats", "i8"),
        ("running", "i8"),
        ("waiting", "i8"),
        ("waiting_formed", "i8"),  # left waiting when the step in progress was formed
        ("untold", "i8"),  # 1: requests have ended since the last call of the scheduler
        ("stale", "i8"),  # waiting requests with output of before their preemption in flight
        ("shown_waiting", "i8"),  # gauges: as of the last completed step
        ("shown_running", "i8"),
        ("shown_free", "i8"),
        ("preemptions", "i8"),
        ("prompt_tokens", "i8"),
        ("generation_tokens", "i8"),
        ("completed", "i8"),
        ("in_flight", "i8"),
        ("run_head", "i8"),
        ("run_tail", "i8"),
        (
            "first_prefill",
            "i8",
        ),  # sequences whose prefill is not over are the tail of the running list from here
        ("wait_head", "i8"),
        ("wait_tail", "i8"),
        ("first_transit", "i8"),  # requests not yet in the scheduler: the waiting list's tail from here
        ("stable", "i8"),  # the step in progress only decodes, and nothing but an event changes that
    ],
    align=True,
)
LANE = np.dtype(  # sequences that decode together: all of them with one stage, else those of one batch
    [
        ("end_s", "f8"),  # when its last batch leaves the last stage
        ("formed", "i8"),  # its batches so far
        ("steps", "i8"),  # and how many of them are over
        ("decoding", "i8"),  # sequences that its next batch decodes
        ("kv_tokens", "i8"),  # that these attend to in it
        ("before", "i8"),  # formed, when the limit was set
        ("limit", "i8"),  # up to here nothing but tokens changes
    ],
    align=True,
)
BATCH = np.dtype(
    [
        ("end_s", "f8"),
        ("number", "i8"),  # of the call of the scheduler that formed it
        ("lane", "i8"),  # NONE: that call found nothing to do
        ("step", "i8"),  # of its lane
        ("sequences", "i8"),
        ("decodes", "i8"),  # of them without a prompt to compute
        ("kv_tokens", "i8"),
        ("prefill_tokens", "i8"),
        ("prefill_pairs", "f8"),  # of a prompt token and one that it attends to
        ("tokens", "i8"),  # of output that it brings
        ("ends_head", "i8"),  # requests whose last token is among them
        ("ends_tail", "i8"),
    ],
    align=True,
)
REQUEST = np.dtype(
    [
        ("request_id", "i8"),
        ("due_s", "f8"),
        ("sent_s", "f8"),
        ("enter_s", "f8"),
        ("first_s", "f8"),
        ("first_step", "i8"),  # of its lane: the steps that bring a token of its present run
        ("finish_step", "i8"),
        ("batch", "i8"),  # number of the one that computes the last scheduled chunk of its prompt
        (
            "stale",
            "i8",
        ),  # number of the last batch in flight that knows it from before its preemption; 0: none
        ("prompt", "i4"),
        ("target", "i4"),
        ("prefix", "i4"),
        ("out", "i4"),  # tokens generated before the current prefill or decode run
        ("computed", "i4"),  # tokens whose KV is computed, while being prefilled
        ("state", "i4"),
        ("engine", "i4"),
        ("lane", "i4"),
        ("band", "i4"),  # where it waits at the gateway
        ("no_pod_s", "f8"),  # how long no slot had been open when it came
        ("held_s", "f8"),  # how long it waited at the gateway although a slot was open
        ("ends_with", "i4"),  # the next request whose last token is in the same batch
        ("before", "i4"),
        ("after", "i4"),
        ("older", "i4"),  # all requests in flight in the order they were due
        ("newer", "i4"),
    ],
    align=True,
)
CLOCK = np.dtype(
    [
        ("now_s", "f8"),
        ("random", "u8"),
        ("turn", "i8"),
        ("open_slots", "i8"),
        ("engines", "i8"),  # of the slots that were opened at some time: the others have nothing to do
        ("in_flight", "i8"),
        ("gateway", "i8"),
        ("finished", "i8"),
        ("free_head", "i8"),
        ("oldest", "i8"),
        ("newest", "i8"),
        ("no_pod_s", "f8"),  # how long no slot was open, up to the last time that one was
        ("no_pod_since_s", "f8"),
    ],
    align=True,
)
FINISHED = np.dtype(
    [
        ("request_id", "i8"),
        ("due_s", "f8"),
        ("sent_s", "f8"),
        ("first_token_s", "f8"),
        ("last_token_s", "f8"),
        ("end_s", "f8"),
        ("held_s", "f8"),
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),
        ("slot", "i4"),
        ("status", "i4"),
    ],
    align=True,
)


class State(NamedTuple):
    """Everything a set of replicas consists of, as arrays; an engine has as many lanes as stages.

    `heaps` holds finish step << 32 | request of the sequences that a lane's next batch decodes.
    """

    params: Any
    clock: Any
    is_open: Any
    open_list: Any  # numbers of the open slots
    connections: Any  # slot of each keep-alive connection
    engines: Any
    lanes: Any
    heaps: Any  # per lane
    phases: Any  # per lane: decoding sequences by the formed % block_size at which they need a block
    batches: Any  # per engine: a ring of those in flight
    stage_ends: Any  # per engine and stage: when it has done all that it was given
    requests: Any
    finished: Any
    bands: Any  # of the gateway
    gate: Any
    seen: Any  # per slot
