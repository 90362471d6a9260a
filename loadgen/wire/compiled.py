"""How the functions that run for every token are compiled: for given types, before the load, cached. Pure.

The compiled parts write into arrays that they are given: without numba's own memory they compile in half the time.
Compiled once and cached beside the file of the function or, where that cannot be written, in the user's cache directory; where neither
can, each process compiles when it starts (some seconds).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

BYTES = types.Array(types.uint8, 1, "C", readonly=True)
INTS, FLOATS, FLAGS = types.int64[::1], types.float64[::1], types.boolean[::1]


def from_c(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the C library, found in the process; addresses are integers (intp)."""
    return types.ExternalFunction(name, result(*arguments))


_njit: Any = njit  # its stubs leave _nrt out


def compiled(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile for these types now, so that nothing is compiled amid the load."""
    signature = result(*arguments)

    def compile_now(function: Callable[..., Any]) -> Any:
        try:
            return _njit(signature, cache=True, error_model="numpy", _nrt=False)(function)
        except RuntimeError:  # no place for a cache
            return _njit(signature, error_model="numpy", _nrt=False)(function)

    return compile_now


inside = _njit(error_model="numpy", _nrt=False)  # compiled with those that call it
