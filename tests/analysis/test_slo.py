import numpy as np
import pytest

from analysis.errors import BadInput
from analysis.slo import Slo, Term, evaluate, meets, parse_slo

READ = {
    "a percentile bound with seconds and one with milliseconds": (
        "ttft_p95=2s,tpot_p95=100ms",
        Slo((Term("ttft", 95, 2.0), Term("tpot", 95, 0.1))),
    ),
    "spaces, a decimal percentile and minutes": (
        " e2e_p99.9 = 1.5 min ",
        Slo((Term("e2e", 99.9, 90.0),)),
    ),
    "goodput takes bounds without percentile": (
        "ttft=2s,tpot=100ms,goodput=95%",
        Slo((Term("ttft", None, 2.0), Term("tpot", None, 0.1)), goodput=0.95),
    ),
    "a gap bound": ("itl_p99=200ms", Slo((Term("itl", 99, 0.2),))),
}


@pytest.mark.parametrize(("text", "slo"), READ.values(), ids=READ.keys())
def test_reads(text: str, slo: Slo) -> None:
    read = parse_slo(text)
    assert [(t.metric, t.percentile) for t in read.terms] == [(t.metric, t.percentile) for t in slo.terms]
    assert [t.bound_s for t in read.terms] == pytest.approx([t.bound_s for t in slo.terms])
    assert read.goodput == slo.goodput
    assert parse_slo(str(read)) == read  # the text form comes back as the same value


REFUSED = {
    "an unknown metric names the nearest": ("tfft_p95=2s", "Did you mean ttft"),
    "no unit": ("ttft_p95=2", "ms, s or min"),
    "a percentile above 100": ("ttft_p200=2s", "between 0 and 100"),
    "no percentile and no goodput": ("ttft=2s", "ttft_p95=2s"),
    "gaps have no share per request": ("ttft=2s,itl=1s,goodput=9%", "itl_p95=1s"),
    "nothing": ("", "bounds no latency"),
    "goodput of nothing": ("goodput=99%", "bounds no latency"),
    "a share above one": ("ttft=1s,goodput=250%", "goodput=99%"),
    "the same twice": ("ttft_p95=1s,ttft_p95=2s", "twice"),
    "no equals sign": ("ttft_p95", "cannot read the SLO term"),
    "a bound of zero": ("ttft_p95=0s", "above 0"),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_slo(text)


def test_a_failed_request_is_a_breach_and_in_no_percentile() -> None:
    # 9 of 10 within 1 s, the tenth failed after a fast first token
    ttft = np.array([0.1] * 9 + [0.1])
    ok = np.array([True] * 9 + [False])
    nan = np.full(10, np.nan)
    slo = parse_slo("ttft_p95=1s,goodput=90%")
    ttft_p95, goodput = evaluate(slo, ok, ttft, nan, nan)
    assert (ttft_p95.value, ttft_p95.share_within, ttft_p95.holds) == (0.1, 0.9, False)
    assert (goodput.share_within, goodput.holds) == (0.9, True)


def test_one_request_is_held_to_the_bound_of_the_highest_percentile() -> None:
    slo = parse_slo("ttft_p99=2s,ttft_p50=1s,tpot_p95=100ms")
    ttft, tpot = [0.5, 1.5, 2.5, 0.5, 0.5], [0.05, 0.05, 0.05, 0.2, np.nan]
    good = meets(slo, [True] * 5, ttft, tpot, [1.0] * 5)
    assert good.tolist() == [True, True, False, False, True]  # the last has a single token: no TPOT to break
    assert parse_slo("ttft=1s,ttft_p99=2s,goodput=90%").bounds_s() == {"ttft": 1.0}


def test_no_requests_hold_nothing() -> None:
    verdict = evaluate(parse_slo("ttft_p95=1s"), [], [], [], [])[0]
    assert np.isnan(verdict.value)
    assert not verdict.holds


def test_gaps_are_judged_from_the_histogram() -> None:
    slo = parse_slo("itl_p99=100ms")
    verdict = evaluate(slo, [True], [1.0], [1.0], [1.0], lambda _: (0.995, 1000), lambda _: 0.08)[0]
    assert verdict.holds
    assert not evaluate(slo, [True], [1.0], [1.0], [1.0])[0].holds
