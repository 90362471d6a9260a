"""What the client's own samples say of a stretch of time: shares of it, how answers were read, by whose clock. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadgen.run.vitals import ClientSample

STAMPED_SHARE = 0.9  # of the reads with a kernel stamp, from which late reads are no error
Floats = NDArray[np.float64]


def sample_columns(samples: Mapping[str, Sequence[ClientSample]]) -> dict[str, ArrayLike] | None:
    """The samples of each worker as columns, of the worker and of the sample's fields; None when there are none."""
    rows = [(worker, sample) for worker, own in sorted(samples.items()) for sample in own]
    if not rows:
        return None
    workers = [worker for worker, _ in rows]
    columns: dict[str, ArrayLike] = dict(
        zip(ClientSample._fields, map(list, zip(*(sample for _, sample in rows), strict=True)), strict=True)
    )
    columns["waited"] = _increments(workers, [sample.waited for _, sample in rows])
    return {"worker": workers, **columns}


def _increments(workers: Sequence[str], totals: Sequence[int]) -> list[int]:
    last: dict[str, int] = {}
    steps = []
    for worker, total in zip(workers, totals, strict=True):
        steps.append(total - last.get(worker, 0))
        last[worker] = total
    return steps


def time_shares(samples: Mapping[str, Floats], which: NDArray[np.bool_]) -> dict[str, float]:
    """What the chosen samples say, as shares of the time, of the reads or of the tokens; 0 where nothing is known."""

    def share(part: str, of: str) -> float:
        if part not in samples or of not in samples:
            return 0.0
        whole = float(np.nansum(samples[of][which]))
        return float(np.nansum(samples[part][which])) / whole if whole > 0 else 0.0

    return {
        "stalled": share("stalled_s", "interval_s"),
        "starved": share("starved_s", "interval_s"),
        "throttled": share("throttled_s", "interval_s"),
        "cpu": share("cpu_s", "interval_s"),
        "stamped": share("stamped", "reads"),
        "late": share("late_reads", "stamped"),
        "shared": share("shared", "events"),
        "blurred": share("blurred", "events"),
    }


def reads_of(samples: Mapping[str, Floats] | None) -> dict[str, float | int] | None:
    """How the answers were read: the number of reads, the share of late ones, of tokens that shared one; None = unknown."""
    if samples is None or "reads" not in samples:
        return None
    shares = time_shares(samples, np.ones(len(samples["time_s"]), dtype=bool))
    counted = {"number": int(np.sum(samples["reads"]))}
    return counted | {name: round(shares[name], 4) for name in ("stamped", "late", "shared", "blurred")}


def read_clock(samples: Mapping[str, ArrayLike] | None) -> str | None:
    """Whose clock told when tokens came; None = no read."""
    if samples is None or "reads" not in samples:
        return None
    reads, stamped = (float(np.sum(floats(samples[name]))) for name in ("reads", "stamped"))
    if not reads:
        return None
    return "kernel" if stamped >= STAMPED_SHARE * reads else "process"


def samples_within(
    samples: Mapping[str, ArrayLike] | None, start_s: float, end_s: float
) -> dict[str, NDArray[Any]] | None:
    if samples is None:
        return None
    time_s = floats(samples["time_s"])
    inside = (time_s > start_s) & (
        time_s <= end_s + 0.5 * (np.median(np.diff(time_s)) if len(time_s) > 1 else 0)
    )
    window: dict[str, NDArray[Any]] = {
        name: floats(values)[inside] for name, values in samples.items() if name != "worker"
    }
    window["worker"] = np.asarray(samples["worker"], dtype=str)[inside]
    return window


def floats(values: ArrayLike) -> Floats:
    to_numpy = getattr(values, "to_numpy", None)
    if to_numpy is not None:
        return np.asarray(to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(values, dtype=np.float64)
