"""Linked lists over the table of requests, and the heap of finish steps; compiled."""

from __future__ import annotations

from typing import Any

from autoscale.sim.engine.state import NONE, compiled


@compiled
def blocks_for(tokens: int, size: int) -> int:
    return (tokens + size - 1) // size


@compiled
def append_running(e: Any, requests: Any, r: int) -> None:
    requests[r].before = e.run_tail
    requests[r].after = NONE
    if e.run_tail == NONE:
        e.run_head = r
    else:
        requests[e.run_tail].after = r
    e.run_tail = r


@compiled
def remove_running(e: Any, requests: Any, r: int) -> None:
    before, after = requests[r].before, requests[r].after
    if e.first_prefill == r:
        e.first_prefill = after
    if before == NONE:
        e.run_head = after
    else:
        requests[before].after = after
    if after == NONE:
        e.run_tail = before
    else:
        requests[after].before = before


@compiled
def append_waiting(e: Any, requests: Any, r: int) -> None:
    requests[r].before = e.wait_tail
    requests[r].after = NONE
    if e.wait_tail == NONE:
        e.wait_head = r
    else:
        requests[e.wait_tail].after = r
    e.wait_tail = r


@compiled
def prepend_waiting(e: Any, requests: Any, r: int) -> None:
    requests[r].before = NONE
    requests[r].after = e.wait_head
    if e.wait_head == NONE:
        e.wait_tail = r
    else:
        requests[e.wait_head].before = r
    e.wait_head = r


@compiled
def remove_waiting(e: Any, requests: Any, r: int) -> None:
    before, after = requests[r].before, requests[r].after
    if e.first_transit == r:
        e.first_transit = after
    if before == NONE:
        e.wait_head = after
    else:
        requests[before].after = after
    if after == NONE:
        e.wait_tail = before
    else:
        requests[after].before = before


@compiled
def sift_up(heap: Any, i: int, key: int) -> None:
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= key:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = key


@compiled
def sift_down(heap: Any, size: int, i: int, key: int) -> None:
    child = 2 * i + 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
        child = 2 * i + 1
    heap[i] = key


@compiled
def heap_remove(heap: Any, size: int, key: int) -> None:
    """Take out any key; a scan of the keys, needed only when a request is preempted or aborted."""
    i = 0
    while heap[i] != key:
        i += 1
    last = heap[size - 1]
    if last == key:
        return
    if i > 0 and heap[(i - 1) >> 1] > last:
        sift_up(heap, i, last)
    else:
        sift_down(heap, size - 1, i, last)
