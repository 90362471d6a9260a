"""Thresholds of KEDA's triggers: derived against the guides' defaults and an exhaustive grid; nights at zero.

    python -m benchmarks.keda_thresholds              all scenarios, minutes of processor time each: a table, and the nights
    python -m benchmarks.keda_thresholds --only KV    those whose name holds the text

Two profiles before an inference gateway with flow control, one signal at a time, HOURS of a day made shorter, starts of
two minutes. The guide's ScaledObject is written as the guide has it, its second trigger included, with the maximum of the
choice. The grid has every threshold of the search's space with more windows and minima than the search begins with; all
figures are over seeds that neither it nor the recommendation has seen. The recommendation searches over two seeds at once, confirms
over as few as show the promise, and sees what stands beside it over few: a worse search than the product's own. `--rows FILE` keeps finished rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from analysis.slo import parse_slo
from autoscale.recommend.choice import seeds
from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.judging import Judged, Trial, confirm
from autoscale.recommend.choice.keda.beside import guide_objects
from autoscale.recommend.choice.keda.scaled_object import Keda, keda_object, trigger
from autoscale.recommend.choice.keda.space import KedaAsked, keda_space, zero_space
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Setting
from autoscale.recommend.choice.space import Space, build_space, with_spare
from autoscale.recommend.effort import CHOOSING
from autoscale.sim.engine.gateway import InferenceGateway
from autoscale.sim.fleet.control import FleetOptions
from benchmarks.recommend import Row, Rows, head, line, scenario_of
from loadgen.plan import rates

PROFILES = ("llama-3.1-8b-1xl4", "llama-3.1-405b-2x8h100-hdml")
SIGNALS = {
    "queue": "gateway_queue",
    "saturation": "gateway_saturation",
    "in flight": "gateway_in_flight",
    "KV": "kv_usage",
}
HOURS, COLD_MIN = 3.0, 2
WINDOWS_S = (None, 300, 1800)
COOLDOWNS_S = (None, 180, 300, 600, 900, 1800, 3600)
SEED, JUDGING, FINAL = 500, range(501, 505), range(601, 617)
MOST = 40  # settings of the grid that are judged over more seeds
GATEWAY = InferenceGateway(ttl_s=600.0)


@dataclass(frozen=True)
class Case:
    """One scenario with its name, the signal that is asked for, and the guide's object for a maximum."""

    name: str
    scenario: Scenario
    signals: tuple[str, ...]
    to_zero: bool = False

    def guide(self, cap: int) -> Given:
        """What the guide of the signal hands out."""
        queue, saturation = guide_objects(self.scenario, cap).values()
        if self.signals == ("kv_usage",):
            return _token_aware(self.scenario, cap)
        return saturation if self.signals == ("gateway_saturation",) else queue


def _token_aware(scenario: Scenario, cap: int) -> Given:
    """The KV trigger of llm-d's token-aware guide @04c0115b: a pod up in 180 s, one down in 300 s."""

    def rules(window_s: int, period_s: int) -> dict[str, object]:
        policy = {"type": "Pods", "value": 1, "periodSeconds": period_s}
        return {"stabilizationWindowSeconds": window_s, "policies": [policy]}

    kv = trigger(scenario.profile, "kv_usage", 0.8, at_zero=True)
    behavior = {"scaleUp": rules(0, 180), "scaleDown": rules(300, 300)}
    return Given(
        keda_object(scenario.profile, [kv], (1, cap), Keda(), behavior), "llm-d's guide, token-aware"
    )


def cases() -> Iterator[Case]:
    """Eight of one signal each, and the nights."""
    for profile in PROFILES:
        scenario = replace(
            scenario_of(profile, COLD_MIN, "day", hours=HOURS), options=FleetOptions(gateway=GATEWAY)
        )
        for name, signal in SIGNALS.items():
            yield Case(f"{profile}, {name}", scenario, (signal,))
    yield night()


def night(
    profile: str = PROFILES[0],
    hours: float = HOURS,
    cold_min: float = COLD_MIN,
    slo_start_s: float = 600.0,
    slo: str = "ttft_p95=2s",
) -> Case:
    """Four times so many hours, half of it without a request; who waits for the first replica may wait for `slo_start_s`.

    `slo` takes the place of the profile's own; "": that.
    """
    scenario = scenario_of(profile, cold_min, "day", hours=hours)
    top = float(scenario.plan.rate(scenario.plan.duration_s / 2))
    spans = [(0.2 * top, 0.5 * hours), (0.6 * top, 0.5 * hours), (0.0, 2 * hours), (0.3 * top, hours)]
    plan = replace(scenario.plan, programme=rates.steps([(rate, 3600 * span) for rate, span in spans]))
    options = FleetOptions(gateway=replace(GATEWAY, no_endpoint_ttl_s=1800.0))
    if slo:
        scenario = replace(scenario, slo=parse_slo(slo))
    scenario = replace(scenario, plan=plan, options=options, slo_cold_start_s=slo_start_s)
    name = f"{profile}, nights of {2 * hours:g} h, start {cold_min:g} min"
    return Case(name, scenario, ("gateway_queue", "gateway_in_flight"), to_zero=True)


def grid(case: Case, space: Space, standing: int) -> Iterator[Candidate]:
    """Every setting of the grid."""
    minima = sorted({1, *(max(1, round(standing * share)) for share in (0.25, 0.5, 0.75, 1))})
    if case.to_zero:
        kedas = [Keda(zero_after_s=seconds) for seconds in COOLDOWNS_S]
        pairs = product((1, 5, 10), space.targets["gateway_in_flight"][::3], (None, 300), minima[:1], kedas)
        for queue, sent, window, low, keda in pairs:
            targets = (("gateway_queue", queue), ("gateway_in_flight", sent))
            yield Candidate(targets, Behavior(window), low, space.max_replicas, keda)
        return
    (signal,) = case.signals
    for value, window, low in product(space.targets[signal], WINDOWS_S, minima):
        if low < space.max_replicas:
            yield Candidate(((signal, value),), Behavior(window), low, space.max_replicas, Keda())


def best_of_grid(
    scenario: Scenario, settings: Iterable[Candidate], limit_h: float
) -> tuple[list[Candidate], int]:
    """The four cheapest that hold over JUDGING, as the choice has to, of those that hold on SEED; and how many were tried."""
    holding: list[tuple[float, Candidate]] = []
    count = 0
    for setting in settings:
        count += 1
        trial: Trial = scenario(setting, SEED, limit_h)
        if not trial.stopped and trial.margin >= 0:
            holding.append((trial.accelerator_hours, setting))
    good: list[Judged[Candidate]] = []
    for _, setting in sorted(holding, key=lambda one: one[0])[:MOST]:
        judged = confirm(scenario, [setting], JUDGING)[0]
        if judged.holds:
            good.append(judged)
        if len(good) == 4:
            break
    return [judged.setting for judged in good], count


def judge(case: Case) -> Row:
    """One scenario: derived, guide and grid over FINAL."""
    started = time.process_time()
    asked = KedaAsked(case.to_zero, case.scenario.slo_cold_start_s, case.signals)
    found = choose_setting(case.scenario, keda=asked, jobs=1)
    searched = time.process_time() - started
    if found.chosen is None or found.static is None or found.capacity is None:
        return {"answer": found.answer}
    scenario, standing = case.scenario.keeping(), found.static.setting.replicas
    cap = with_spare(standing)
    pods = build_space(scenario, found.capacity, standing, cap)
    space = keda_space(pods, scenario, found.capacity, asked)
    if case.to_zero:
        space = zero_space(space, standing)
    tried, count = best_of_grid(scenario, grid(case, space, standing), 1.05 * found.static.cost)
    ours = found.chosen.setting
    named = [ours, found.static.setting, case.guide(cap)]  # the first two may be one
    again = confirm(scenario, dict.fromkeys([*named, *tried]), FINAL)
    by_setting = {judged.setting: judged for judged in again}
    return _row([by_setting[setting] for setting in named], again, count, searched)


def _row(
    named: Sequence[Judged[Setting]], again: Sequence[Judged[Setting]], count: int, searched: float
) -> Row:
    ours, static, guide = named
    best = min((j for j in again if j.holds and j is not guide), key=lambda j: j.cost, default=ours)
    return {
        "derived": ours.setting.label,
        "attainment": ours.mean("attainment"),
        "hours": ours.cost,
        "days": ours.mean("days_kept"),
        "guide": guide.setting.label,
        "guide_attainment": guide.mean("attainment"),
        "guide_hours": guide.cost,
        "guide_days": guide.mean("days_kept"),
        "grid": best.setting.label,
        "grid_hours": best.cost,
        "regret": ours.cost / best.cost - 1,
        "settings": count,
        "from_zero": ours.mean("from_zero"),
        "longest_s": max((t.longest_from_zero_s for t in ours.trials if t.from_zero), default=0.0),
        "standing_hours": static.cost,
        "cpu_s": searched,
    }


def main() -> None:
    """The tables."""
    seeds.CHOOSING = replace(CHOOSING, panel_most=2, confirm_s=0.0, beside_s=0.0)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows = Rows.open(options.rows)
    asked = [case for case in cases() if options.only in case.name]
    for case in asked:
        if case.name not in rows.known:
            rows.add(case.name, judge(case))
    head(
        "scenario",
        "derived",
        "in bounds",
        "acc-h",
        "guide",
        "in bounds",
        "acc-h",
        "grid's best",
        "acc-h",
        "regret",
    )
    for case in asked:
        row = rows.known[case.name]
        if "derived" not in row:
            line(case.name, row["answer"])
            continue
        line(
            case.name,
            row["derived"],
            f"{row['attainment']:.2%}",
            f"{row['hours']:.2f}",
            row["guide"],
            f"{row['guide_attainment']:.2%}",
            f"{row['guide_hours']:.2f}",
            row["grid"],
            f"{row['grid_hours']:.2f}",
            f"{row['regret']:+.1%}",
        )
    for case in asked:
        if case.to_zero and "derived" in (row := rows.known[case.name]):
            print(
                f"nights: {row['hours']:.2f} accelerator-hours against {row['standing_hours']:.2f} standing; "
                f"{row['from_zero']:.1f} requests wait on a start, {row['longest_s']:.0f} s at most; brute force over "
                f"{row['settings']} settings: {row['regret']:+.1%}"
            )


if __name__ == "__main__":
    main()
