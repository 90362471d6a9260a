"""The pictures of a recommendation's page: capacity, cost against attainment, the traffic simulated, the replay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from analysis import plots
from analysis.latency import latencies
from analysis.run import SIGNALS, read
from autoscale.recommend import Recommended
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.settings import Setting
from autoscale.show import words
from autoscale.show.over_time import run_over_time
from autoscale.show.pages.page import Picture, picture
from autoscale.show.words import QUANTITIES, counted, share
from autoscale.sim import write_run


def capacity_figures(result: Recommended) -> Iterator[Picture]:
    """Per run latency against load, and the signals against load where they were measured."""
    for capacity in result.model.capacities:
        yield picture(
            plots.capacity_curve(capacity),
            f"Latency against load: knee {capacity.knee}; the SLO holds up to {capacity.capacity}",
            "Dots: measured stages, with 95% intervals as bands. The solid upright line is the highest rate at which "
            "one replica holds the SLO, the dash-dotted one the knee, at which every second request waits; their bands "
            "are intervals.",
        )
        if capacity.points[list(SIGNALS)].notna().any().any():
            yield picture(
                plots.signal_against_load(capacity.points, capacity),
                "Waiting, running and KV usage against the offered rate",
                "A signal is worth scaling on when it rises clearly before the capacity is reached. Hollow markers: "
                "stages in which requests were queued at least half of the time.",
            )


def tried_figure(result: Recommended) -> Picture | None:
    """Cost against attainment of all settings that were tried to the end; None when there are none."""
    decision = result.decision
    if not decision.tried:
        return None
    scenario = result.scenario
    asked = {t.percentile / 100 for t in scenario.slo.terms if t.percentile is not None and t.metric != "itl"}
    if scenario.slo.goodput is not None:
        asked.add(scenario.slo.goodput)
    if scenario.attainment is not None:
        asked = {scenario.attainment}
    base = (
        asked.pop() if len(asked) == 1 else 0.0
    )  # terms that ask different shares meet at their margins only
    rows = [
        (
            c.label,
            c.family.replace("kv_usage", "KV"),
            t.accelerator_hours,
            base + t.margin,
            math.nan,
            math.nan,
        )
        for c, t in decision.tried
        if not t.stopped and math.isfinite(t.margin)
    ]
    if not rows:
        return None
    stopped = sum(bool(t.stopped) for _, t in decision.tried)
    compared: dict[str, Judged[Setting] | None] = {
        "recommended": decision.chosen,
        "standing fleet": decision.static,
        "tutorial": decision.tutorial,
        "current HPA": decision.current,
    }
    for name, judged in compared.items():
        if (
            judged is not None
            and math.isfinite(judged.cost)
            and (name == "recommended" or judged is not decision.chosen)
        ):
            rows.append((name, "over several seeds", judged.cost, *_margins(judged, base)))
    columns = ["name", "kind", "cost", "attainment", "attainment_low", "attainment_high"]
    made = plots.pareto(
        pd.DataFrame(rows, columns=columns),
        chosen="recommended",
        asked=base if base else 0.0,
        attainment_label="requests within the tightest bound (%)"
        if base
        else "share above what the SLO asks (percentage points)",
        annotate=list(compared),
    )
    return picture(
        made,
        "Accelerator-hours of every setting tried against the share of requests within the SLO",
        "Left is cheaper, up is better, the dashed line is what the SLO asks. Settings of one kind share a marker, as the "
        "search saw them; those with a name were confirmed over several seeds."
        + (f" {stopped} of {len(decision.tried)} were stopped early and are not shown." if stopped else ""),
    )


def _margins(judged: Judged[Setting], base: float) -> tuple[float, float, float]:
    low, high = judged.interval("margin")
    return base + judged.mean("margin"), base + low, min(base + high, 1.0)  # NaN stays NaN


def simulated_figure(result: Recommended) -> Picture | None:
    """The chosen setting, simulated once more on the traffic; None when nothing was chosen."""
    chosen = result.decision.chosen
    if chosen is None:
        return None
    setting, slo = chosen.setting, result.scenario.slo
    outcome = result.scenario.outcome(setting, 1, keep=True)
    with TemporaryDirectory() as folder:
        run = read(write_run(outcome, Path(folder) / "run"))
        table = latencies(run.requests) if run.has("requests") else None
        target = dict(setting.targets)
        made = run_over_time(
            run,
            slo=slo,
            table=table,
            target=target,
            title="The recommended setting on this traffic",
            show=[signal for signal in target if signal in SIGNALS] or ["waiting", "running"],
            clock="simulated time",
        )
    if made is None:
        return None
    return picture(
        made,
        f"Load, signals and replicas over time; {counted(outcome.peak_replicas, 'replica')} at the peak",
        f"One simulation (seed 1): {outcome.offered:,} requests, {share(outcome.attainment, 2)} within every bound, "
        f"{outcome.peak_replicas} replicas at most, {counted(len(outcome.decisions), 'change')} of their number. "
        "Percentiles over time are those of short windows: shaded ones break the SLO, which bounds those of "
        f"{words.periods(result.document)}.",
    )


def replay_figure(result: Recommended) -> Picture | None:
    """The measured stages against the model's replay of them; None without a run."""
    if result.model.replay.empty:
        return None
    rates = {
        (i, int(stage)): rate
        for i, capacity in enumerate(result.model.capacities)
        for stage, rate in zip(capacity.points["stage"], capacity.points["rate_rps"], strict=True)
    }
    replay = result.model.replay
    keys = zip(replay["run"].astype(int), replay["stage"].astype(int), strict=True)
    rows = pd.DataFrame(
        {
            "quantity": replay["figure"].map(lambda name: QUANTITIES.get(name, name)),
            "rate_rps": [rates.get(key, math.nan) for key in keys],
            "measured": replay["measured"],
            "predicted": replay["modelled"],
            "error": replay["error"],
        }
    ).dropna(subset=["rate_rps", "measured", "predicted"])
    if rows.empty:
        return None
    order = list(QUANTITIES.values())
    rows = rows.sort_values(
        "quantity", key=lambda names: names.map({name: k for k, name in enumerate(order)}), kind="stable"
    )
    return picture(
        plots.replay_error(rows),
        "Measured and modelled throughput, latency and signals per stage",
        "The requests of the run were sent through the fitted engine model. What it does not reproduce it cannot predict.",
    )
