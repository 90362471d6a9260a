"""What is done to a trace's requests between the file and the plan: spread, cut, thinned or copied, and their prefixes. Pure.

Each step takes chunks of arrivals in order of time and gives such chunks, holding back no more than it must.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from loadgen.plan.arrivals import Arrivals

COPY = 1 << 40  # distance between the block ids of copies: a copy shares nothing with its original


def _joined(parts: list[Arrivals]) -> Arrivals:
    columns = zip(*parts, strict=True)
    return Arrivals._make(None if column[0] is None else np.concatenate(column) for column in columns)


def spread(chunks: Iterator[Arrivals], bucket_s: float, rng: np.random.Generator) -> Iterator[Arrivals]:
    """Stamps moved to sorted random places inside their bucket; a bucket is held back until it is complete."""
    if bucket_s == 0:
        yield from chunks
        return
    held: Arrivals | None = None
    for chunk in chunks:
        whole = chunk if held is None else _joined([held, chunk])
        open_from = int(np.searchsorted(whole.due_s, whole.due_s[-1]))
        held = whole.take(slice(open_from, None))
        yield _inside(whole.take(slice(0, open_from)), bucket_s, rng)
    if held is not None:
        yield _inside(held, bucket_s, rng)


def _inside(chunk: Arrivals, bucket_s: float, rng: np.random.Generator) -> Arrivals:
    return chunk._replace(due_s=np.sort(chunk.due_s + bucket_s * rng.random(len(chunk.due_s))))


def window(chunks: Iterable[Arrivals], from_s: float, to_s: float) -> Iterator[Arrivals]:
    for chunk in chunks:
        first, last = np.searchsorted(chunk.due_s, [from_s, to_s])
        if last > first:
            yield chunk.take(slice(int(first), int(last)))
        if last < len(chunk.due_s):
            return


def superposed(
    chunks: Iterable[Arrivals],
    scale: float,
    jitter_s: float,
    pass_s: float,
    rng: np.random.Generator,
    *,
    conversations: bool,
) -> Iterator[Arrivals]:
    """A share of the requests, or copies of them moved by up to half the jitter; in order again.

    With `conversations` the turns of one stay together: all are kept or none, all are moved by the same time.
    """
    if scale == 1:
        yield from chunks
        return
    lot = _Lots(rng) if conversations else rng
    held: list[Arrivals] = []
    for chunk in chunks:
        for copy in range(math.ceil(scale)):
            kept = chunk.take(np.flatnonzero(_drawn(lot, chunk, 2 * copy) < scale - copy))
            if copy:
                moved = np.abs(kept.due_s + jitter_s * (_drawn(lot, kept, 2 * copy + 1) - 0.5))
                moved = np.clip(pass_s - np.abs(pass_s - moved), 0, math.nextafter(pass_s, 0))
                blocks = kept.blocks if kept.blocks is None else renamed(kept.blocks, copy * COPY)
                kept = kept._replace(due_s=moved, blocks=blocks)
            held.append(kept)
        whole = _joined(held)
        whole = whole.take(np.argsort(whole.due_s, kind="stable"))
        settled = (
            int(np.searchsorted(whole.due_s, chunk.due_s[-1] - jitter_s / 2))
            if scale > 1
            else len(whole.due_s)
        )
        held = [whole.take(slice(settled, None))]
        yield whole.take(slice(0, settled))
    if held:
        yield held[0]


class _Lots:
    """Uniform numbers that every turn of a conversation draws alike, by what they are drawn for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.key = int(rng.integers(1 << 62))

    def of(self, chunk: Arrivals, purpose: int) -> NDArray[np.float64]:
        assert chunk.blocks is not None
        firsts = np.array([blocks[0] for blocks in chunk.blocks], dtype=np.uint64)
        known, where = np.unique(firsts, return_inverse=True)
        drawn = [np.random.default_rng((self.key, purpose, int(first))).random() for first in known]
        return np.array(drawn)[where]


def _drawn(lot: _Lots | np.random.Generator, chunk: Arrivals, purpose: int) -> NDArray[np.float64]:
    return lot.of(chunk, purpose) if isinstance(lot, _Lots) else lot.random(len(chunk.due_s))


def renamed(blocks: NDArray[np.object_], offset: int) -> NDArray[np.object_]:
    """The blocks with other names."""
    named = np.empty(len(blocks), dtype=object)
    named[:] = [_moved(ids, offset) for ids in blocks]
    return named


def _moved(ids: Sequence[int], offset: int) -> Sequence[int]:
    return (
        range(ids.start + offset, ids.stop + offset)
        if isinstance(ids, range)
        else tuple(i + offset for i in ids)
    )


def with_prefixes(chunks: Iterable[Arrivals], block_tokens: int | None) -> Iterator[Arrivals]:
    """`prefix_tokens` = tokens of the leading blocks that an earlier request of the trace already named."""
    seen: set[int] = set()
    for chunk in chunks:
        if chunk.blocks is None or block_tokens is None:
            yield chunk
            continue
        hits = np.zeros(len(chunk.due_s), dtype=np.int64)
        for i, ids in enumerate(chunk.blocks):
            hits[i] = next((k for k, name in enumerate(ids) if name not in seen), len(ids))
            seen.update(ids)
        prefix = np.minimum(hits * block_tokens, chunk.prompt_tokens - 1)  # the last token is always computed
        yield chunk._replace(prefix_tokens=prefix.astype(np.int32))
