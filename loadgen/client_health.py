"""Was a run limited by the client instead of the server? A pure judgement over request rows and client samples.

A stage is `limited` when what the client did, not what the server did, may have shaped its numbers. The reasons, each
with its figure and its bound:

    send_lag     requests left later than they were due (p95 beyond a quarter of the median TTFT, 10 to 250 ms)
    stalled      the event loop was late by more than 10 ms for over 5 % of the time
    starved      the process was ready to run and had no core for over 15 % of the time
    cpu          the process used over 90 % of a core: one loop cannot do more
    cap          requests waited for a seat: the in-flight cap was reached, or Little's law says that it must be
    pool         over 5 % of the requests waited for a connection to be opened, p95 of their lag beyond 10 ms
    not_sent     less was sent than planned

It works on requests alone (recordings of other tools); the samples add what only the client itself could see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LAG_SHARE_OF_TTFT = 0.25
LAG_LEAST_S, LAG_MOST_S = 0.010, 0.250
STALLED_SHARE = 0.05
STARVED_SHARE = 0.15
CPU_SHARE = 0.90
CAP_SHARE = 0.02  # of the samples with requests waiting for a seat
POOL_SHARE = 0.05
UNSENT_SHARE = 0.005

Floats = NDArray[np.float64]


def judge(
    requests: Mapping[str, ArrayLike],
    stages: Sequence[Mapping[str, Any]],
    samples: Mapping[str, ArrayLike] | None = None,
    max_in_flight: int | None = None,
) -> dict[str, Any]:
    """{"verdict": ok | limited, "stages": [{stage, verdict, reasons: [...], lag figures, sample count}]}.

    `requests` has the columns of a run's requests table (a DataFrame will do), `stages` dicts with stage, start_s and
    end_s, `samples` the columns of loadgen.generator.Sample plus `worker`. `max_in_flight` is the cap of all workers
    together; None = unknown. A reason is {"code", "sentence"}.
    """
    columns = {
        name: _floats(requests[name])
        for name in ("stage", "due_s", "sent_s", "first_token_s", "last_token_s")
    }
    status = np.asarray(requests["status"], dtype=str)
    verdicts = []
    for number, stage in enumerate(stages):
        which = columns["stage"] == float(stage.get("stage", number))
        rows = {name: values[which] for name, values in columns.items()}
        within = _window(samples, float(stage["start_s"]), float(stage["end_s"]))
        reasons = [
            {"code": code, "sentence": sentence}
            for code, sentence in _reasons(rows, status[which], within, max_in_flight)
        ]
        lag = rows["sent_s"] - rows["due_s"]
        verdicts.append(
            {
                "stage": int(stage.get("stage", number)),
                "verdict": "limited" if reasons else "ok",
                "reasons": reasons,
                "send_lag_p95_s": _rounded(_quantile(lag, 0.95)),
                "send_lag_p99_s": _rounded(_quantile(lag, 0.99)),
                "requests": len(lag),
                "samples": 0 if within is None else len(within["time_s"]),
            }
        )
    limited = any(v["verdict"] == "limited" for v in verdicts)
    return {"verdict": "limited" if limited else "ok", "stages": verdicts}


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
    """Reasons in the loop's punctuality and the kernel's accounts, of the worker that fared worst."""
    if samples is None or not len(samples["time_s"]):
        return []
    worst: dict[str, float] = {}
    for worker in np.unique(samples["worker"]):
        mine = samples["worker"] == worker
        total = float(np.sum(samples["interval_s"][mine]))
        for name in ("stalled_s", "starved_s", "cpu_s"):
            share = float(np.sum(samples[name][mine])) / total
            worst[name] = max(worst.get(name, 0.0), 0.0 if math.isnan(share) else share)
    said = (
        (
            "stalled",
            "stalled_s",
            STALLED_SHARE,
            "the client's event loop was stalled {:.0%} of the time (bound {:.0%})",
        ),
        (
            "starved",
            "starved_s",
            STARVED_SHARE,
            "the client waited for a core {:.0%} of the time (bound {:.0%})",
        ),
        (
            "cpu",
            "cpu_s",
            CPU_SHARE,
            "the client used {:.0%} of a core (bound {:.0%}): add workers with --processes",
        ),
    )
    return [(code, text.format(worst[key], bound)) for code, key, bound, text in said if worst[key] > bound]


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


def _window(samples: Mapping[str, ArrayLike] | None, start_s: float, end_s: float) -> dict[str, Any] | None:
    if samples is None:
        return None
    time_s = _floats(samples["time_s"])
    inside = (time_s > start_s) & (
        time_s <= end_s + 0.5 * (np.median(np.diff(time_s)) if len(time_s) > 1 else 0)
    )
    window: dict[str, Any] = {
        name: _floats(values)[inside] for name, values in samples.items() if name != "worker"
    }
    window["worker"] = np.asarray(samples["worker"], dtype=str)[inside]
    return window


def _floats(values: ArrayLike) -> Floats:
    to_numpy = getattr(values, "to_numpy", None)
    if to_numpy is not None:
        return np.asarray(to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(values, dtype=np.float64)


def _quantile(values: Floats, fraction: float) -> float:
    known = values[~np.isnan(values)]
    return float(np.quantile(known, fraction)) if len(known) else math.nan


def _rounded(value_s: float) -> float | None:
    return None if math.isnan(value_s) else round(value_s, 6)


def _time(value_s: float) -> str:
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.0f} ms"
