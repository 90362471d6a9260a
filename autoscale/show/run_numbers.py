"""A run as numbers for programs: what `report --json` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.opened import OpenedRun
from analysis.slo import METRICS
from autoscale.regression import Regression

PERCENTILES = (50.0, 95.0, 99.0)


def run_numbers(seen: OpenedRun, against: Regression | None) -> dict[str, Any]:
    """Requests/s and percentiles in s per stage, the SLO's terms over the whole run, and the capacity of one replica.

    A percentile of too few requests is null. With `against` also the verdict against an earlier run.
    """
    capacity = seen.capacity
    return {
        "stages": list(_stages(seen)),
        "slo": [
            {
                "term": v.name,
                "value": v.value,
                "share_within": v.share_within,
                "asked": v.asked,
                "holds": v.holds,
            }
            for v in seen.verdicts
        ],
        "capacity_rps": None
        if capacity is None
        else {
            name: {"value": one.value, "low": one.low, "high": one.high}
            for name, one in {
                "knee": capacity.knee,
                "saturated": capacity.saturated,
                "holds": capacity.capacity,
            }.items()
        },
        "no_capacity": None if capacity else seen.analysed,
        **({"compared": _compared(against)} if against else {}),
    }


def _compared(found: Regression) -> dict[str, Any]:
    return {
        "verdict": found.change,
        "other_load": list(found.other_load),
        "rows": [
            {
                "stage": row.plan,
                "figure": row.figure,
                "before": row.before,
                "now": row.now,
                "change": {"low": row.low, "high": row.high, "relative": not row.is_share},
                "verdict": row.change,
                "why": row.why,
            }
            for row in found.rows
        ],
    }


def _stages(seen: OpenedRun) -> Iterator[dict[str, Any]]:
    table = seen.table
    for stage, start_s, end_s, plan in seen.stages if table is not None else ():
        assert table is not None
        rows = table[table["stage"] == stage]
        yield {
            "stage": stage,
            "planned": plan,
            "offered_rps": len(rows) / (end_s - start_s),
            "finished": int(rows["ok"].sum()),
            "not_finished": int((~rows["ok"]).sum()),
            **{
                f"{metric}_p{p:g}_s": seen.percentile(metric, p, stage).value
                for metric in METRICS
                for p in PERCENTILES
            },
        }
