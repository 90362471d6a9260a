"""How fast ScaledObjects are searched, beside HPAs of the pods' own metrics on the same traffic.

    python -m benchmarks.keda_speed    some minutes of a processor: a table

The search alone over the same days, and a whole answer with all that it is set beside, in s of one processor. A setting of the
search is a simulation or a few, each stopped as soon as it breaks the SLO or costs too much.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from autoscale.recommend.choice.decide import choose_setting
from autoscale.recommend.choice.keda.space import KedaAsked, keda_space, zero_space
from autoscale.recommend.choice.panel import Panel
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import search, static_fleet
from autoscale.recommend.choice.seeds import panel_size
from autoscale.recommend.choice.space import Space, build_space, with_spare
from autoscale.recommend.model.one_replica import capacity
from autoscale.sim.fleet.control import FleetOptions
from benchmarks.keda_thresholds import GATEWAY, PROFILES
from benchmarks.recommend import HOURS, head, line, scenario_of


def rows(profile: str, hours: float) -> None:
    """HPAs, ScaledObjects of the pods' signals, of a gateway's, and to zero: one row each."""
    day = scenario_of(profile, 2, "day", hours=hours)
    behind = replace(day, options=FleetOptions(gateway=GATEWAY))
    for name, scenario, asked in (
        ("HPA", day, None),
        ("ScaledObject", day, KedaAsked()),
        ("HPA behind a gateway", behind, None),
        ("ScaledObject behind a gateway", behind, KedaAsked()),
        ("to zero, behind a gateway", behind, KedaAsked(to_zero=True)),
    ):
        tried, search_s = _searched(scenario.keeping(), asked)
        started = time.process_time()
        found = choose_setting(scenario, keda=asked, jobs=1)
        whole_s = time.process_time() - started
        each_ms = 1000 * search_s / tried
        line(f"{profile}: {name}", tried, f"{search_s:.1f}", f"{each_ms:.0f}", found.answer, f"{whole_s:.0f}")


def _searched(scenario: Scenario, asked: KedaAsked | None) -> tuple[int, float]:
    """Settings that a search tried, and s of a processor that it took."""
    panel, point = Panel(scenario, panel_size(scenario.plan)), capacity(scenario)
    standing, fleets = static_fleet(panel, 4, 64)
    assert standing is not None
    space: Space = build_space(scenario, point, standing, with_spare(standing))
    if asked:
        space = keda_space(space, scenario, point, asked)
        space = zero_space(space, standing) if asked.to_zero else space
    panel(space.line(((), next(iter(space.targets))), space.behaviors[0], 1).settings[0], 0)  # compiles
    started = time.process_time()
    tried = search(panel, space, fleets[standing].accelerator_hours)
    return len(tried), time.process_time() - started


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="profiles whose name holds the text")
    parser.add_argument("--hours", type=float, default=HOURS, help="of the day's traffic")
    options = parser.parse_args()
    head("what", "settings searched", "CPU s", "ms a setting", "answer", "CPU s of the whole answer")
    for profile in PROFILES:
        if options.only in profile:
            rows(profile, options.hours)


if __name__ == "__main__":
    main()
