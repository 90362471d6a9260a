"""Was a run limited by the client instead of the server? A pure judgement over request rows and client samples.

A stage is `limited` when what the client did, not what the server did, may have shaped its numbers. The reasons, each
with its figure and its bound:

    send_lag     requests left later than they were due (p95 beyond a quarter of the median TTFT, 10 to 250 ms)
    stalled      the event loop was late by more than 10 ms for over 5 % of the time
    blurred      over 3 % of the tokens shared a read with others because it came late: their times are not their own
    cpu          the process used over 90 % of a core: one loop cannot do more
    starved      the process used or waited for a core for over 90 % of the time (over 15 % of waiting is enough where
                 the kernel stamps no reads)
    throttled    the CPU limit of its container held it back for over 1 % of the time
    cap          requests waited for a seat: the in-flight cap was reached, or Little's law says that it must be
    pool         over 5 % of the requests waited for a connection to be opened, p95 of their lag beyond 10 ms
    not_sent     less was sent than planned

Where the kernel stamps what arrives (loadgen.wire.receive), a read that comes late is no error in itself: it is one when
several tokens lie in it. Waiting for a core is therefore no reason there as long as reads and requests are in time.

It works on requests alone (recordings of other tools); the samples add what only the client itself could see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadgen.run.client_samples import (
    STAMPED_SHARE,
    Floats,
    floats,
    read_clock,
    reads_of,
    samples_within,
    time_shares,
)

LAG_SHARE_OF_TTFT = 0.25
LAG_LEAST_S, LAG_MOST_S = 0.010, 0.250
STALLED_SHARE = 0.05
BLURRED_SHARE = 0.03
STARVED_SHARE = 0.15
THROTTLED_SHARE = 0.01
CPU_SHARE = 0.90
CAP_SHARE = 0.02  # of the samples with requests waiting for a seat
POOL_SHARE = 0.05
UNSENT_SHARE = 0.005


class LimitReason(NamedTuple):
    """Why a stage was limited: a code of the module's docstring, and a sentence with figure and bound."""

    code: str
    sentence: str


@dataclass(frozen=True)
class StageHealth:
    """How the client fared in one stage; None where nothing is known. `verdict` is ok | limited."""

    stage: int
    verdict: str
    reasons: tuple[LimitReason, ...]
    send_lag_p95_s: float | None
    send_lag_p99_s: float | None
    requests: int
    samples: int
    reads: Mapping[str, float | int] | None  # their number, and shares of them

    def as_json(self) -> dict[str, object]:
        """One entry of run.json's client block."""
        return {**vars(self), "reasons": [reason._asdict() for reason in self.reasons]}


@dataclass(frozen=True)
class ClientHealth:
    """How the client fared in a run; `verdict` is ok | limited, `read_clock` kernel | process, None without a read."""

    verdict: str
    read_clock: str | None
    stages: tuple[StageHealth, ...]


def judge_client(
    requests: Mapping[str, ArrayLike],
    stages: Sequence[Mapping[str, Any]],
    samples: Mapping[str, ArrayLike] | None = None,
    max_in_flight: int | None = None,
) -> ClientHealth:
    """How the client fared in each stage, and in all of them.

    `requests` has the columns of a run's requests table (a DataFrame will do), `stages` dicts with stage, start_s and
    end_s, `samples` what `sample_columns` gives. `max_in_flight` is the cap of all workers together; None = unknown.
    """
    columns = {
        name: floats(requests[name]) for name in ("stage", "due_s", "sent_s", "first_token_s", "last_token_s")
    }
    status = np.asarray(requests["status"], dtype=str)
    verdicts = []
    for number, stage in enumerate(stages):
        which = columns["stage"] == float(stage.get("stage", number))
        rows = {name: values[which] for name, values in columns.items()}
        within = samples_within(samples, float(stage["start_s"]), float(stage["end_s"]))
        reasons = _reasons(rows, status[which], within, max_in_flight)
        lag = rows["sent_s"] - rows["due_s"]
        verdicts.append(
            StageHealth(
                stage=int(stage.get("stage", number)),
                verdict="limited" if reasons else "ok",
                reasons=tuple(LimitReason(code, sentence) for code, sentence in reasons),
                send_lag_p95_s=_rounded(_quantile(lag, 0.95)),
                send_lag_p99_s=_rounded(_quantile(lag, 0.99)),
                requests=len(lag),
                samples=0 if within is None else len(within["time_s"]),
                reads=reads_of(within),
            )
        )
    limited = any(v.verdict == "limited" for v in verdicts)
    return ClientHealth("limited" if limited else "ok", read_clock(samples), tuple(verdicts))


def _reasons(
    rows: Mapping[str, Floats],
    status: NDArray[np.str_],
    samples: Mapping[str, Floats] | None,
    cap: int | None,
) -> list[tuple[str, str]]:
    reasons = []
    lag = rows["sent_s"] - rows["due_s"]
    ttft = _quantile(rows["first_token_s"] - rows["sent_s"], 0.5)
    bound_s = min(max(LAG_SHARE_OF_TTFT * (0 if math.isnan(ttft) else ttft), LAG_LEAST_S), LAG_MOST_S)
    lag_p95 = _quantile(lag, 0.95)
    if lag_p95 > bound_s:
        reasons.append(
            ("send_lag", f"requests were sent late: p95 {_time(lag_p95)} after due (bound {_time(bound_s)})")
        )
    reasons += _sampled(samples)
    reasons += _seats(rows, samples, cap, lag_p95 > bound_s)
    if samples is not None and len(lag):
        waited = float(np.sum(samples["waited"])) / len(lag)
        if waited > POOL_SHARE and lag_p95 > LAG_LEAST_S:
            reasons.append(
                ("pool", f"{waited:.0%} of the requests waited for a connection (bound {POOL_SHARE:.0%})")
            )
    unsent = int(np.sum(status == "dropped"))
    if unsent > max(UNSENT_SHARE * len(status), 0):
        reasons.append(("not_sent", f"{unsent} of {len(status)} planned requests were not sent"))
    return reasons


def _sampled(samples: Mapping[str, Floats] | None) -> list[tuple[str, str]]:
    """Reasons in the loop's punctuality, its reads and the kernel's accounts, of the worker that fared worst."""
    if samples is None or not len(samples["time_s"]):
        return []
    workers = [time_shares(samples, samples["worker"] == worker) for worker in np.unique(samples["worker"])]
    stalled, blurred = (max(w[name] for w in workers) for name in ("stalled", "blurred"))
    throttled = max(w["throttled"] for w in workers)
    busiest = max(workers, key=lambda w: w["cpu"] + w["starved"])
    cpu, starved = busiest["cpu"], busiest["starved"]
    needs_time = busiest["stamped"] < STAMPED_SHARE and starved > STARVED_SHARE
    said = (
        (
            "stalled",
            stalled > STALLED_SHARE,
            f"the client's event loop was stalled {stalled:.0%} of the time (bound {STALLED_SHARE:.0%})",
        ),
        (
            "blurred",
            blurred > BLURRED_SHARE,
            f"{blurred:.0%} of the tokens were read late, together with others (bound {BLURRED_SHARE:.0%})",
        ),
        (
            "cpu",
            cpu > CPU_SHARE,
            f"the client used {cpu:.0%} of a core (bound {CPU_SHARE:.0%}): add workers with --processes",
        ),
        (
            "starved",
            cpu <= CPU_SHARE and (needs_time or cpu + starved > CPU_SHARE),
            f"the client waited for a core {starved:.0%} of the time and used one {cpu:.0%}: give it its own",
        ),
        (
            "throttled",
            throttled > THROTTLED_SHARE,
            f"the client's CPU limit held it back {throttled:.0%} of the time (bound {THROTTLED_SHARE:.0%}): raise it",
        ),
    )
    return [(code, sentence) for code, is_so, sentence in said if is_so]


def _seats(
    rows: Mapping[str, Floats], samples: Mapping[str, Floats] | None, cap: int | None, late: bool
) -> list[tuple[str, str]]:
    """Whether the in-flight cap held requests back: seen in samples, else by Little's law (in flight = rate * time)."""
    if cap is None:
        return []
    if samples is not None and len(samples["time_s"]):
        share = float(np.mean(samples["waiting"] > 0))
        if share > CAP_SHARE:
            return [
                (
                    "cap",
                    f"requests waited for one of {cap} seats {share:.0%} of the time: raise --max-in-flight",
                )
            ]
    busy = rows["last_token_s"] - rows["sent_s"]
    known = busy[~np.isnan(busy)]
    span = np.ptp(rows["due_s"]) if len(rows["due_s"]) > 1 else math.nan
    if not late or not len(known) or not span > 0:
        return []
    needed = (len(rows["due_s"]) - 1) / span * float(np.mean(known))
    if needed <= 0.95 * cap:
        return []
    return [
        (
            "cap",
            f"the load needs {needed:.1f} requests in flight and {cap} are allowed: raise --max-in-flight",
        )
    ]


def _quantile(values: Floats, fraction: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, fraction)) if len(known) else math.nan


def _rounded(value_s: float) -> float | None:
    return None if math.isnan(value_s) else round(value_s, 6)


def _time(value_s: float) -> str:
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.0f} ms"
