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
    "step_time.py",
    "scheduler.py",
    "kernels.py",
    "arrivals.py",
)
_FINGERPRINT = fingerprint(*(str(Path(__file__).with_name(name)) for name in _SOURCES), numbers.__file__)

NONE = -1
REFUSED = -2  # slot of a finished request that no replica takes: too long for the model or the cache
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
        ("request_overhead_s", "f8"),
        ("request_timeout_s", "f8"),
        ("num_blocks", "i8"),
        ("max_model_len", "i8"),
        ("stages", "i8"),
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
        ("end_s", "f8"),  # end of the step in progress; inf = idle
        ("anchor_s", "f8"),
        ("first_s", "f8"),
        ("growth_s", "f8"),
        ("anchor_steps", "i8"),
        ("steps", "i8"),  # completed
        ("free_blocks", "i8"),
        ("late_blocks", "i8"),  # freed by the last step, seen one step later (asynchronous scheduling)
        ("late_seats", "i8"),
        ("kv_tokens", "i8"),  # of decoding sequences, the one being computed included
        ("decoding", "i8"),
        ("running", "i8"),
        ("waiting", "i8"),
        ("waiting_formed", "i8"),  # left waiting when the step in progress was formed
        ("shown_waiting", "i8"),  # gauges: as of the last completed step
        ("shown_running", "i8"),
        ("shown_free", "i8"),
        ("preemptions", "i8"),
        ("prompt_tokens", "i8"),
        ("generation_tokens", "i8"),
        ("completed", "i8"),
        ("in_flight", "i8"),
        ("heap_size", "i8"),
        ("run_head", "i8"),
        ("run_tail", "i8"),
        ("first_prefill", "i8"),  # sequences being prefilled are the tail of the running list from here
        ("wait_head", "i8"),
        ("wait_tail", "i8"),
        ("first_transit", "i8"),  # requests not yet in the scheduler: the waiting list's tail from here
        ("stable", "i8"),  # the step in progress only decodes, and nothing but an event changes that
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
        ("finish_step", "i8"),
        ("prompt", "i8"),
        ("target", "i8"),
        ("prefix", "i8"),
        ("out", "i8"),  # tokens generated before the current prefill or decode run
        ("computed", "i8"),  # tokens whose KV is computed, while being prefilled
        ("state", "i8"),
        ("engine", "i8"),
        ("before", "i8"),
        ("after", "i8"),
        ("older", "i8"),  # all requests in flight in the order they were due
        ("newer", "i8"),
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
        ("gateway_head", "i8"),
        ("gateway_tail", "i8"),
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
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),
        ("slot", "i4"),
        ("status", "i4"),
    ],
    align=True,
)


class State(NamedTuple):
    """Everything a set of replicas consists of, as arrays; `heaps` holds finish step << 32 | request, per engine."""

    params: Any
    clock: Any
    is_open: Any
    open_list: Any  # numbers of the open slots
    connections: Any  # slot of each keep-alive connection
    engines: Any
    heaps: Any
    phases: Any  # per engine: decoding sequences by the steps % block_size at which they need a block
    requests: Any
    finished: Any
