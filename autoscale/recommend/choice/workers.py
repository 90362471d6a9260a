"""Trials side by side: processes that know the traffic of a search from their start, so that no task carries it.

A task travels as a parcel: pickled, with the plan and the arrivals kept of it left out by name (pickle's persistent ids,
"external objects" of its documentation) and put back where it is opened. Everything else in it is a plain pickle.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from types import ModuleType
from typing import Any

from autoscale.recommend.choice.judging import Each
from autoscale.recommend.choice.scenario import Kept

_known: dict[str, object] = {}  # in a worker: what parcels leave out, by name


@contextmanager
def workers(kept: Sequence[Kept], jobs: int | None) -> Iterator[Each]:
    """What maps a function over trials of such traffic: so many processes (None: one per core), or this one alone."""
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:
        yield map
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start, initargs=(tuple(kept),)
    ) as executor:

        def side_by_side(job: Callable[..., Any], *items: Any) -> Iterator[Any]:
            parcels = [_parcel((job, *one), kept) for one in zip(*items, strict=False)]
            with _without_main():  # tasks start processes
                return _results([executor.submit(_run, parcel) for parcel in parcels])

        yield side_by_side


def _results(futures: Sequence[Future[Any]]) -> Iterator[Any]:
    """What each gives, in order; whoever stops asking wants no more of them.

    An interrupt may end the workers as well. The executor then fails every task that is left, and CPython 3.11 does so without a
    look whether one was cancelled: a traceback of its thread, over the sentence that says what happened.
    """
    for future in futures:
        future.set_exception = partial(_fail, future.set_exception)  # type: ignore[method-assign]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _fail(set_exception: Callable[[Any], None], error: BaseException | None) -> None:
    with suppress(InvalidStateError):
        set_exception(error)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start meanwhile do not run the caller's program again.

    A spawned process does, as its `__main__`, and a program without `if __name__ == "__main__"` would begin once more in
    each. Whatever a worker does is imported by name.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _start(kept: Sequence[Kept]) -> None:
    _known.update(_outside(kept))
    gc.freeze()  # what is imported stays: no collection has to look at it again


def _outside(kept: Sequence[Kept]) -> dict[str, object]:
    named: dict[str, object] = {}
    for number, one in enumerate(kept):
        named |= {f"plan {number}": one.plan, f"kept {number}": one}
    return named


class _Packer(pickle.Pickler):
    """Pickles all but the traffic that the workers know."""

    def __init__(self, file: io.BytesIO, kept: Sequence[Kept]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._names = {id(thing): name for name, thing in _outside(kept).items()}

    def persistent_id(self, thing: object) -> str | None:
        """Its name where the workers know it."""
        return self._names.get(id(thing))


class _Opener(pickle.Unpickler):
    """Puts back what this worker was started with."""

    def persistent_load(self, name: str) -> object:
        """What goes by that name."""
        return _known[name]


def _parcel(task: tuple[Any, ...], kept: Sequence[Kept]) -> bytes:
    file = io.BytesIO()
    _Packer(file, kept).dump(task)
    return file.getvalue()


def _run(parcel: bytes) -> Any:
    job, *items = _Opener(io.BytesIO(parcel)).load()
    return job(*items)
