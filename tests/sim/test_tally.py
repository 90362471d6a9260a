"""The counts of a simulation's finished requests, against the rule for one request at a time (analysis.slo.meets)."""

from dataclasses import dataclass

import numpy as np
import pytest

from analysis.histogram import Histogram
from analysis.run import STATUSES
from analysis.slo import meets, parse_slo
from autoscale.sim.engine.state import FINISHED, REFUSED, SATURATED
from autoscale.sim.fleet import tally
from autoscale.sim.fleet.from_zero import FromZero
from autoscale.sim.fleet.tally import Tally

SLO = parse_slo("ttft_p95=2s,tpot_p90=50ms,e2e=30s,goodput=90%")
HOUR_S = 3600.0
NEVER_READY = ((0.0, 1, 1, 1, 0), (1800.0, 1, 1, 1, 1))  # ready from half an hour on


def finished(count: int, seed: int) -> np.ndarray:
    """Records as an engine may write them: some refused, some turned away, some without a token or with one."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, FINISHED)
    rows["due_s"] = rng.uniform(0, HOUR_S, count)
    rows["first_token_s"] = rows["due_s"] + rng.exponential(1.0, count)
    rows["output_tokens"] = rng.integers(1, 500, count)
    rows["last_token_s"] = rows["first_token_s"] + (rows["output_tokens"] - 1) * rng.exponential(0.04, count)
    rows["status"] = rng.choice([0, 0, 0, 0, 1, 2, 5], count)
    rows["slot"] = rng.choice([0, 1, 2, 3, REFUSED, SATURATED], count)
    lost = rows["status"] != STATUSES.index("ok")
    rows["first_token_s"][lost & (rng.random(count) < 0.5)] = np.nan
    rows["last_token_s"][lost] = np.nan
    return rows


@dataclass
class ByRule:
    """The same figures with the rule for requests, one metric after the other."""

    rows: np.ndarray
    cold: np.ndarray
    cold_s: float

    def __post_init__(self) -> None:
        rows = self.rows = self.rows[(taken := self.rows["slot"] != REFUSED)]
        self.cold = self.cold[taken]
        self.ok = rows["status"] == 0
        more = rows["output_tokens"] > 1
        tpot = np.full(len(rows), np.nan)
        tpot[more] = (rows["last_token_s"] - rows["first_token_s"])[more] / (rows["output_tokens"][more] - 1)
        self.times = {
            "ttft": rows["first_token_s"] - rows["due_s"],
            "tpot": tpot,
            "e2e": rows["last_token_s"] - rows["due_s"],
        }
        self.minute = (rows["due_s"] / 60).astype(int)

    def good(self) -> np.ndarray:
        looser = FromZero(NEVER_READY, self.cold_s).slo(SLO)
        usual, waited = (meets(slo, self.ok, *self.times.values()) for slo in (SLO, looser))
        return np.where(self.cold, waited, usual)

    def judged_within(
        self, metric: str, bound_s: float, cold_bound_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        seconds = self.times[metric]
        within = self.ok & (seconds <= np.where(self.cold, cold_bound_s, bound_s))
        return ~self.ok | np.isfinite(seconds), within


@pytest.mark.parametrize("cold_s", [None, 60.0])
def test_counts_are_those_of_the_rule_for_one_request(cold_s, monkeypatch) -> None:
    """In batches of any size, and with a histogram that takes the times a few at a time."""
    monkeypatch.setattr(tally, "MOST_AT_ONCE", 1000)
    rows = finished(20_000, seed=5)
    of = Tally(SLO, HOUR_S, None if cold_s is None else FromZero(NEVER_READY, cold_s))
    for part in np.split(rows, [0, 3, 5000, 5001, 12_345]):
        of.add(part)
    cold = rows["due_s"] < 1800.0 if cold_s else np.zeros(len(rows), bool)
    want = ByRule(rows, cold, cold_s or 0.0)
    good = want.good()
    assert (of.requests, of.ok, of.good) == (len(want.rows), want.ok.sum(), good.sum())
    assert of.rejected == (rows["slot"] == REFUSED).sum()
    assert of.turned_away == {SATURATED: (rows["slot"] == SATURATED).sum()}
    assert of.output_tokens == want.rows["output_tokens"].sum()
    assert (of.good_by_minute == np.bincount(want.minute[good], minlength=60)).all()
    for k, (metric, bound_s, cold_bound_s) in enumerate((("ttft", 2.0, cold_s or 2.0), ("tpot", 0.05, 0.05))):
        judged, within = want.judged_within(metric, bound_s, cold_bound_s)
        assert (of.judged[k], of.within[k]) == (judged.sum(), within.sum())
        broken = np.bincount(want.minute[judged & ~within], minlength=60)
        assert (of.breaches_by_minute[k] == broken).all()
    for metric, seconds in want.times.items():
        known = Histogram()
        known.add(seconds[want.ok & np.isfinite(seconds)])
        assert (of.latency[metric].counts == known.counts).all()
    if of.from_zero:
        assert of.from_zero.count == want.cold.sum()


@pytest.mark.parametrize("due_s", [-60.0, HOUR_S, 1e300, np.nan])
def test_a_request_outside_the_traffic_is_no_count_of_another_minute(due_s) -> None:
    rows = finished(3, seed=1)
    rows["slot"], rows["due_s"][1] = 0, due_s
    with pytest.raises(ValueError, match="outside the traffic"):
        Tally(SLO, HOUR_S).add(rows)
