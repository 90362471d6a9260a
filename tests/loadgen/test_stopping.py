"""When a run ends early."""

import math

import pytest

from analysis.errors import BadInput
from loadgen.run.measured import RequestRow
from loadgen.run.stopping import Watch, parse_rules


def rows(n, status="ok", ttft_s=0.05):
    first_s = 1.0 + ttft_s
    return [
        RequestRow(i, 0, "w", 1.0, 1.0, first_s, 2.0, 10, 11, 11, status, 200, None, 10, 11, 0, math.nan)
        for i in range(n)
    ]


CASES = [
    ("3 of 30 failed, 10 % allowed", "errors=10%", None, rows(27) + rows(3, "timeout"), None),
    ("4 of 30 failed, 10 % allowed", "errors=10%", None, rows(26) + rows(4, "timeout"), "4 of the last 30"),
    ("all of 10 failed: too few to judge", "errors=10%", None, rows(10, "timeout"), None),
    ("the SLO holds", "slo", "ttft_p95=100ms", rows(30), None),
    ("the SLO breaks", "slo", "ttft_p95=100ms", rows(30, ttft_s=0.2), "ttft_p95 was 0.2"),
    ("failures break the SLO", "slo", "ttft_p95=100ms", rows(27) + rows(3, "timeout"), "ttft_p95"),
    ("nothing asked, nothing stopped", None, None, rows(30, "timeout"), None),
]


@pytest.mark.parametrize(("text", "slo", "given", "said"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_reasons(text, slo, given, said):
    watch = Watch(parse_rules(text, slo))
    watch.add(given, 5.0)
    reason = watch.reason()
    assert reason is None if said is None else said in reason


def test_what_ended_long_ago_is_forgotten():
    watch = Watch(parse_rules("errors=10%", None))
    watch.add(rows(30, "timeout"), 5.0)
    watch.add(rows(30), 25.0)
    assert watch.reason() is None


def flight(level_at, seconds=120, per_s=10):
    """The first second at which in flight = level_at(t) counts as saturated, with `per_s` answers per second."""
    watch = Watch(parse_rules("saturated", None))
    for t in range(1, seconds):
        watch.add(rows(per_s), float(t))
        watch.level("w", int(level_at(t)), float(t))
        if watch.reason():
            return t
    return math.inf


def test_a_queue_that_grows_by_a_fifth_of_the_rate_is_saturation_once_it_was_watched_for_half_a_minute():
    # 2 of 12 sent per second stay: 17 % > 10 %; judged from 30 s to 60 s
    assert flight(lambda t: 2 * t) == 60


def test_a_steady_level_and_the_rise_to_it_are_not():
    assert flight(lambda t: min(10 * t, 50)) == math.inf


@pytest.mark.parametrize("text", ["errors", "errors=many", "errors=200%", "slow"])
def test_unknown_rules_are_refused(text):
    with pytest.raises(BadInput, match="--stop-when"):
        parse_rules(text, "ttft_p95=1s")


def test_slo_needs_an_slo():
    with pytest.raises(BadInput, match="without --slo"):
        parse_rules("slo", None)
