"""ScaledObjects as answers: what is written, that KEDA and the simulator read it, what may be chosen, nights at zero."""

import re
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import yaml
from rich.console import Console

from analysis.errors import BadInput
from analysis.slo import parse_slo
from autoscale.cli.inputs import keda_asked
from autoscale.deploy.writer import objects
from autoscale.keda import ScaledObject
from autoscale.keda.hpa_made import hpa_spec
from autoscale.kube.scaling_signals import LATENCY_SIGNALS, SCALING_SIGNALS
from autoscale.profiles import load, names
from autoscale.recommend.answer import Decision, TargetInterval
from autoscale.recommend.choice.judging import Judge, Judged, Trial, confirm
from autoscale.recommend.choice.keda.beside import guide_objects
from autoscale.recommend.choice.keda.nights import Nights, hard_nights
from autoscale.recommend.choice.keda.reasons import of_gateway
from autoscale.recommend.choice.keda.scaled_object import Keda
from autoscale.recommend.choice.keda.space import KedaAsked, check_zero, keda_space, whole_fleet, zero_space
from autoscale.recommend.choice.keda.written import scaled_object_text
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.promise import Promise
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import search, static_fleet
from autoscale.recommend.choice.settings import Behavior, Candidate, Setting, Standing
from autoscale.recommend.choice.space import Space, build_space
from autoscale.recommend.choice.traffic import scenario_of
from autoscale.recommend.document import document
from autoscale.recommend.model.one_replica import capacity
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommendation import parse_recommendation
from autoscale.show.terminal.recommendation import recommendation_lines
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.scalers import check_gateway, queries_of, read_scaler
from autoscale.sim.fleet.signals.totals import gauge_total
from autoscale.sim.fleet.simulate import simulate

GATEWAY = FleetOptions(gateway=InferenceGateway(ttl_s=600.0, no_endpoint_ttl_s=1800.0))
LOAD = "0.5:600,3:900,0.5:900"


def keda(
    *targets: tuple[str, float], low: int = 1, high: int = 4, window: int | None = None, **of: int
) -> Candidate:
    return Candidate(targets, Behavior(window), low, high, Keda(**of))


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("signal", SCALING_SIGNALS)
def test_every_signal_of_every_profile_is_an_object_that_keda_and_the_simulator_take(name, signal) -> None:
    """One External metric by the place of its trigger, of the signal's own target type; all but latency compiled."""
    profile = load(name)
    scaler = read_scaler(profile, keda((signal, 2.5)).manifest(profile))
    assert isinstance(scaler, ScaledObject)
    (metric,) = hpa_spec(scaler).metrics
    assert (metric.name, metric.target_milli) == ("s0-prometheus", 2500)
    assert metric.average == (SCALING_SIGNALS[signal].metric_type == "AverageValue")
    (query,) = queries_of(scaler).values()
    total = gauge_total(query, profile)
    assert (total is None) == (signal in LATENCY_SIGNALS)


@pytest.mark.parametrize("signal", [s for s in SCALING_SIGNALS if s not in LATENCY_SIGNALS])
def test_the_compiled_way_gives_what_the_rules_give_at_every_tick(small, signal) -> None:
    scenario = small(LOAD, options=GATEWAY)
    target = {"kv_usage": 0.05, "gateway_saturation": 0.4}.get(signal, 3.0)
    scaler = keda((signal, target), window=120).manifest(scenario.profile)
    made = [
        simulate(
            scenario.profile, scaler, replace(scenario.plan, seed=3).arrivals(), seed=3, duration_s=2400.0,
            engine=scenario.engine, slo=scenario.slo, options=GATEWAY, keep=keep,
        )
        for keep in (True, False)
    ]  # fmt: skip
    assert made[0].decisions == made[1].decisions
    assert made[0].accelerator_hours == made[1].accelerator_hours
    assert made[0].peak_replicas > 1


@pytest.mark.parametrize(
    ("low", "zero", "expect"),
    [
        (2, None, {"minReplicaCount": 2}),
        (1, 900, {"minReplicaCount": 0, "cooldownPeriod": 900}),
        (3, 600, {"minReplicaCount": 3, "idleReplicaCount": 0, "cooldownPeriod": 600}),
    ],
    ids=[
        "no cooldown without a zero",
        "zero by the minimum",
        "zero beside a larger minimum by the idle count",
    ],
)
def test_bounds_and_cooldown(low, zero, expect) -> None:
    profile = load("llama-3.1-8b-1xl4")
    setting = keda(("gateway_queue", 1), ("gateway_in_flight", 8), low=low, zero_after_s=zero)
    spec = setting.manifest(profile)["spec"]
    named = ("minReplicaCount", "idleReplicaCount", "cooldownPeriod")
    assert {name: spec[name] for name in named if name in spec} == expect
    assert hpa_spec(ScaledObject.from_manifest(setting.manifest(profile))).min_replicas == low


def test_what_may_be_chosen_depends_on_the_gateway(small) -> None:
    def signals(options: FleetOptions) -> tuple[str, ...]:
        scenario = small(LOAD, options=options)
        space = build_space(scenario, point := capacity(scenario), 3, 4)
        return tuple(keda_space(space, scenario, point, KedaAsked()).targets)

    assert signals(FleetOptions()) == ("in_flight", "waiting", "running", "kv_usage")
    assert signals(GATEWAY) == (
        "gateway_queue",
        "gateway_in_flight",
        "gateway_saturation",
        "waiting",
        "kv_usage",
    )
    no_queue = FleetOptions(gateway=InferenceGateway(flow_control=False))
    assert "gateway_queue" not in signals(no_queue)


def test_a_zero_needs_a_gateway_that_holds_requests() -> None:
    check_zero(GATEWAY)
    for options in (FleetOptions(), FleetOptions(gateway=InferenceGateway(flow_control=False))):
        with pytest.raises(BadInput, match="holds requests until its first replica is ready"):
            check_zero(options)


def test_a_current_object_on_the_gateways_series_needs_a_gateway() -> None:
    profile = load("llama-3.1-8b-1xl4")
    scaler = read_scaler(profile, keda(("gateway_queue", 1)).manifest(profile))
    check_gateway(scaler, GATEWAY.gateway)
    with pytest.raises(BadInput, match=r"llm_d_epp_flow_control_queue_size.*--gateway"):
        check_gateway(scaler, None)


def test_options_of_a_scaled_object_are_refused_for_an_hpa() -> None:
    assert keda_asked("hpa", False, None, GATEWAY) is None
    assert keda_asked("keda", False, "10m", GATEWAY) == KedaAsked(True, 600.0)
    with pytest.raises(BadInput, match="--slo-cold-start is of a ScaledObject"):
        keda_asked("hpa", False, "10m", GATEWAY)
    with pytest.raises(BadInput, match="--slo-cold-start"):
        keda_asked("keda", False, "soon", GATEWAY)


def test_guides_are_what_their_files_say(small) -> None:
    queue, saturation = guide_objects(small(LOAD, options=GATEWAY), 8).values()
    of = [
        [(t["metadata"]["threshold"], t["metricType"]) for t in g.content["spec"]["triggers"]]
        for g in (queue, saturation)
    ]
    assert of == [
        [("1", "AverageValue"), ("16", "AverageValue")],
        [("0.7", "AverageValue"), ("16", "AverageValue")],
    ]
    assert yaml.safe_load(yaml.safe_dump(queue.content))["spec"]["pollingInterval"] == 15


def test_who_waits_on_a_start_from_zero_has_a_bound_of_its_own(small) -> None:
    """Ten minutes of load, half an hour without, load again: the first requests wait for a start of a minute and more.

    Conserved, and the same fleet either way; only what they are judged by differs.
    """
    scenario = small("0.5:600,0:1800,0.5:600", "ttft_p99=2s", options=GATEWAY)
    setting = keda(("gateway_queue", 60), ("gateway_in_flight", 8), zero_after_s=300)
    strict, loose = (
        replace(scenario, slo_cold_start_s=bound_s).outcome(setting, 1) for bound_s in (None, 300.0)
    )
    assert strict.replicas == loose.replicas
    assert any(row[4] == 0 and row[0] > 0 for row in loose.replicas)
    assert loose.offered == loose.finished + loose.unserved + loose.rejected
    assert strict.from_zero == loose.from_zero > 10
    assert 45 < loose.longest_from_zero_s < 300
    met = loose.attainment - strict.attainment
    assert np.isclose(met * loose.finished, loose.from_zero, atol=2)  # they, and no other, are let off
    always = scenario.outcome(keda(("gateway_queue", 60), ("gateway_in_flight", 8)), 1)
    assert loose.accelerator_hours < 0.7 * always.accelerator_hours
    assert always.from_zero == 0


def test_the_space_of_nights_holds_every_cooldown(small) -> None:
    scenario = small(LOAD, options=GATEWAY)
    space = build_space(scenario, point := capacity(scenario), 3, 4)
    nights = zero_space(keda_space(space, scenario, point, KedaAsked(True)), 3)
    setting = nights.line(((), "gateway_in_flight"), Behavior(), 1).settings[0]
    assert setting.keda == nights.keda
    tried = {line.settings[0].keda for line in nights.beside(setting)}
    assert tried == set(nights.kedas)
    assert nights.min_replicas[-2:] == (3, 4)  # the whole fleet may start at once
    assert (Behavior(), 4, 4) in nights.beginnings
    assert whole_fleet(nights).label.endswith("4-4, default, KEDA, to zero after 60 min")
    assert all(
        s.keda.zero_after_s < setting.keda.zero_after_s
        for s in nights.cheaper(setting)
        if s.keda != setting.keda
    )


def test_the_slo_of_a_start_changes_only_what_counts_time_to_the_first_token() -> None:
    from autoscale.sim.fleet.from_zero import FromZero

    slo = parse_slo("ttft_p95=2s,tpot_p95=100ms,e2e_p95=30s")
    assert str(FromZero([], 300.0).slo(slo)) == "ttft_p95=300s,tpot_p95=100ms,e2e_p95=330s"
    assert FromZero([]).slo(slo) == slo


def test_a_recommendation_is_written_as_a_scaled_object_that_reads_back(small, tmp_path) -> None:
    """A setting judged over three seeds as the answer: document, file with comments, and the set around it."""
    scenario = small(LOAD, "ttft_p95=10s", options=GATEWAY, slo_cold_start_s=300.0)
    setting = keda(("gateway_queue", 5), ("gateway_in_flight", 8), zero_after_s=900)
    (judged,) = confirm(scenario, [setting], range(3))
    interval = TargetInterval({"gateway_queue": (5, 5), "gateway_in_flight": (7.4, 9)})
    decision = Decision("autoscale", (), capacity(scenario), chosen=judged, interval=interval)
    made = document(scenario, decision, ReplicaModel(scenario.engine))
    assert parse_recommendation(made.as_json()).scaled_object == made.scaled_object == made.scaler
    assert made.hpa is None
    text = scaled_object_text(made)
    assert yaml.safe_load(text) == made.scaled_object
    words = " ".join(text.replace("#", "").split())
    assert "The best threshold lies between 7.4 and 9" in words
    assert "cooldownPeriod 900 s" in words
    (scaled,) = [o for o in objects(scenario.profile, made, "keda") if o["kind"] == "ScaledObject"]
    ours, theirs = made.scaled_object["spec"], scaled["spec"]
    for of in ("minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"):
        assert theirs[of] == ours[of]
    for a, b in zip(ours["triggers"], theirs["triggers"], strict=True):
        assert [a["metadata"][k] for k in ("query", "threshold")] == [
            b["metadata"][k] for k in ("query", "threshold")
        ]
        assert a["metricType"] == b["metricType"]
    with pytest.raises(BadInput, match="no HPA reads from the pods"):
        objects(scenario.profile, made, "stackdriver")
    shown = StringIO()
    Console(file=shown, width=200).print(*recommendation_lines(made))
    assert "averageValue 8 requests that the gateway has sent on per replica" in shown.getvalue()
    assert "to zero 900 s after the last activity" in shown.getvalue()
    assert "for who waits on a start from zero" in shown.getvalue()


def _made(margin: float, cost_h: float = 1.0) -> Trial:
    """A trial with a margin and accelerator-hours, one period, nothing in vain."""
    return Trial(margin, 0.95 + margin, cost_h, cost_h, 0, 0, 0.0, 1, int(margin >= 0), 1, 0.0)


def test_nights_are_searched_on_what_is_hard_for_both_fleets() -> None:
    """Three replicas suffer from what is even, two from what is odd; later seeds are harder: 2014 and 2013 come first."""
    whole = keda(("gateway_queue", 5), low=4, zero_after_s=3600)

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = None) -> Trial:
        if setting == whole:
            return _made(-0.01 if seed in lost else 0.01)
        hard = (seed % 2 == 0) == (setting.replicas == 3)
        return _made(-0.001 * (seed - 2000) if hard else 0.01)

    lost = [2012, 2003]  # which nothing that goes to zero keeps
    hard, pool = hard_nights(judge, 3, whole, 14, 1)
    assert hard == (2014, 2013, 2011, 2010)  # two of each at least
    assert sorted(pool) == [seed for seed in range(2001, 2015) if seed not in lost]
    assert hard_nights(judge, 3, whole, 14, 6)[0] == (2014, 2013, 2011, 2010, 2009, 2008)
    assert len(hard_nights(judge, 1, whole, 14, 1)[0]) == 2  # there is no smaller fleet
    lost = list(range(2001, 2015))
    assert len(hard_nights(judge, 3, whole, 14, 1)[1]) == 14  # nothing tells them apart


def _nights(judge: Judge, pool: Sequence[int]) -> tuple[Nights, Panel]:
    return Nights(Space({}, (), (), 4), tuple(pool), (4, 5, 6), 24.0), Panel(judge, 1, hard=(2014,))


def test_the_day_that_breaks_the_best_joins_the_panel() -> None:
    """Of a pool whose days from 2020 on break it, by more and more; with two failures given up it is the third hardest."""
    pool = range(2010, 2030)
    setting = keda(("gateway_queue", 5))

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = None) -> Trial:
        return replace(_made(0.001 * (2019.5 - seed)), promise=promise)

    promise = Promise(0.95)
    nights, panel = _nights(judge, pool)
    best = Judged(setting, (_made(0.01),) * 4)  # over the panel's day and the three of all
    assert nights.next_days(panel, [best]) == (
        2026,
        2014,
    )  # the hardest of those that show that it cannot hold
    promise = Promise(0.5)  # of twenty days five may fail
    assert promise.failures(len(pool)) == 5
    assert nights.next_days(panel, [best]) == (2021, 2014)
    nights, _ = _nights(judge, range(2010, 2020))
    assert nights.next_days(panel, [best]) == (2014,)  # it holds on all of these


def test_the_seed_that_broke_most_joins_the_panel_and_hopeless_ones_leave_it() -> None:
    """Seeds 4, 5, 6 after the panel's own: the second broke two settings, the third one, which saw only that many."""
    settings = [keda(("gateway_queue", value)) for value in (1, 5, 10)]
    good, bad = _made(0.01), _made(-0.01)
    judged = [Judged(settings[0], (good, good, bad, bad)), Judged(settings[1], (good, good, bad))]
    nights, panel = _nights(lambda *_: good, [])
    assert nights.next_days(panel, judged) == (5, 2014)
    assert nights.next_days(panel, [Judged(settings[2], (bad,))]) == (2014,)  # nothing new
    many = replace(panel, hard=(2014, 2013, 2012, 2011))
    assert nights.next_days(many, []) == (2012, 2011)  # nothing held on these


def test_what_broke_on_fewer_days_is_not_simulated_on_more() -> None:
    few, broken, holds = Panel(_made, 1, hard=(2, 3)), keda(("gateway_queue", 1)), keda(("gateway_queue", 5))  # type: ignore[arg-type]
    dear = replace(_made(0.01), stopped="cost")
    tried = {broken: _made(-0.01), holds: _made(0.01), keda(("gateway_queue", 9)): dear}
    assert set(replace(few, hard=(1, 2, 3)).broken_before(tried, few)) == {broken}
    assert replace(few, hard=(3,)).broken_before(tried, few) == {}


def test_a_picker_that_herds_requests_is_told() -> None:
    """vLLM exports when a step is over: whoever ranks pods by it sends the next request to the pod that computes a prompt."""
    plain = scenario_of(load("llama-3.1-8b-1xl4"), peak_rps=1.0, hours=1)
    herding = replace(plain, options=FleetOptions(gateway=InferenceGateway()))
    needed, tried = static_fleet(Panel(herding, 1), 4, 64)
    assert needed is not None
    decision = Decision("do_not_autoscale", (), None, static=Judged(Standing(needed), (tried[needed],)))
    (reason,) = of_gateway(herding, decision)
    said = re.search(r"(\d+) replicas must stand, and (\d+) with", reason.sentence)
    assert said
    assert int(said[1]) == needed
    assert int(said[2]) <= 0.8 * needed
    fewer = Panel(replace(plain, options=FleetOptions(gateway=InferenceGateway(lru_weight=2.0))), 1)
    assert fewer(Standing(int(said[2])), 0).holds
    for calm in (plain, fewer.judge):
        assert isinstance(calm, Scenario)
        assert not list(of_gateway(calm, decision))


def test_a_signal_that_needs_the_longest_wait_before_zero_is_found(small) -> None:
    """A queue that is empty while replicas keep up: with less than an hour's wait they go from under their requests."""

    def judge(setting: Setting, seed: int, cost_limit_h: float | None = None) -> Trial:
        assert isinstance(setting, Candidate)
        assert setting.keda is not None
        return _made(0.01 if setting.keda.zero_after_s == 3600 else -0.1, 10.0)

    scenario = small(LOAD, options=GATEWAY)
    asked = KedaAsked(True, signals=("gateway_queue",))
    space = build_space(scenario, point := capacity(scenario), 3, 4)
    nights = zero_space(keda_space(space, scenario, point, asked), 3)
    best, trial = search(judge, nights, 24.0)[0]
    assert trial.holds
    assert best.keda == Keda(zero_after_s=3600)
