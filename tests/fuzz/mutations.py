"""Inputs that are nearly right: a seed with a few things in it changed. Bytes by pieces, documents by their values."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, -1e-9, 5e-324, 1e308, math.inf, -math.inf, math.nan,
    "", " ", "0", "-1", "1e400", "nan", "1m", "99999999999999999999Ei", "٣", "\x00", "\ud800", "a" * 5000, "=HYPERLINK(1)",
    "<script>", "../../etc/passwd", "{{7*7}}", "2026-11-31T25:61:00Z", [], {}, [None], [[]], {"": None}, {"a": {"b": []}},
)  # fmt: skip
PIECES = (b"", b"\x00", b"\xff\xfe", b"\r\n", b"\n\n", b"{", b"]", b'"', b":", b"-", b"1e999", b"NaN", b"99999999999999999999", b"data: ", b"&a *a", b"\xf0\x9f\x98\x80", b"," * 50, b"[" * 300)  # fmt: skip


@st.composite
def spoilt_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A seed with up to four pieces cut out, put in, or repeated; or cut off."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8), st.just(data[start:end] * 2)))
        data = data[:start] + piece + data[end:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 5)) == 0 else data


def spoilt_text(seeds: Sequence[bytes]) -> st.SearchStrategy[str]:
    """As `spoilt_bytes`, as text."""
    return spoilt_bytes(seeds).map(lambda data: data.decode("utf-8", "replace"))


@st.composite
def spoilt_document(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """A seed (mappings, lists, scalars) with one to four of its values replaced, removed, repeated or renamed."""
    root = [copy.deepcopy(draw(st.sampled_from(seeds)))]
    for _ in range(draw(st.integers(1, 4))):
        holder: Any = root
        key: Any = 0
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 6)):
            holder = holder[key]
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        how = draw(st.integers(0, 5))
        if how == 0 and holder is not root:
            del holder[key]
        elif how == 1 and isinstance(holder, list) and holder is not root:
            holder.append(copy.deepcopy(holder[key]))
        elif how == 2 and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "x", "schema_version", "kind", "spec"]))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    return root[0]
