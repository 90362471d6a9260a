"""A recommendation as one page: the answer, what it is compared with, why, the figures, the manifest, what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from analysis import plots
from analysis.latency import latencies
from analysis.run import read
from analysis.signals import SIGNALS
from autoscale.profiles import names
from autoscale.recommend import Recommendation
from autoscale.recommend.choice.judging import Judged
from autoscale.recommend.choice.settings import Setting
from autoscale.show.pages import page
from autoscale.show.pages.page import Picture, picture, plain, share, span
from autoscale.show.terminal import HEADLINES, UNITS
from autoscale.sim import write_run

TONES = {"autoscale": "yes", "do_not_autoscale": "", "infeasible": "no", "need_more_data": ""}
SETTINGS = {
    "predicted": "recommended",
    "tutorial_default": "tutorial default",
    "static_fleet": "standing fleet",
    "best_hpa": "best HPA",
    "current": "current HPA",
}
FIGURES = {  # label -> (key, how it is written, smallest and largest possible value)
    "requests within every bound": ("slo_attainment", lambda v: share(v, 2), 0.0, 1.0),
    "TTFT p99": ("ttft_p99_s", span, 0.0, math.inf),
    "TPOT p99": ("tpot_p99_s", span, 0.0, math.inf),
    "longest time over the SLO": ("longest_breach_s", span, 0.0, math.inf),
    "replica-hours": ("replica_hours", lambda v: plain(v, ",.1f"), 0.0, math.inf),
    "accelerator-hours": ("accelerator_hours", lambda v: plain(v, ",.1f"), 0.0, math.inf),
    "cost": ("cost", lambda v: plain(v, ",.2f"), 0.0, math.inf),
    "scale-outs in vain": ("wasted_scale_outs", lambda v: plain(v, ".1f"), 0.0, math.inf),
    "changes of mind within 10 min": ("flaps", lambda v: plain(v, ".1f"), 0.0, math.inf),
}
COEFFICIENTS = {
    "base_s": "every step",
    "per_sequence_s": "per running request",
    "per_kv_token_s": "per token in the KV cache",
    "per_prefill_token_s": "per prompt token processed",
    "request_overhead_s": "per request, outside the step",
}
QUANTITIES = {
    "throughput_rps": "throughput (requests/s)",
    "ttft_p50_s": "TTFT p50 (s)",
    "ttft_p95_s": "TTFT p95 (s)",
    "tpot_p50_s": "TPOT p50 (s)",
    "running": "running (requests)",
    "waiting": "waiting (requests)",
    "kv_usage": "KV used (share)",
    "preemptions": "preemptions (per stage)",
}
SHOWN_CANDIDATES = 20


def recommendation_page(result: Recommendation, out: Path) -> Path:
    """Write the page to `out`; returns the path. Simulates the chosen setting once, for its timeline.

    Raises BadInput when the page cannot be written there.
    """
    content = result.content
    return page.write(
        "recommendation.html.j2",
        out,
        title=f"{HEADLINES[content['answer']][1]}: {content['profile']}",
        headline=HEADLINES[content["answer"]][1],
        tone=TONES[content["answer"]],
        content=content,
        profile=result.scenario.profile,
        targets=list(_targets(result)),
        units=UNITS,
        behavior=list(_behavior(content["behavior"])),
        comparison=_comparison(content),
        manifest=yaml.safe_dump(content["hpa"], sort_keys=False) if content["hpa"] else None,
        capacity=list(_capacity_figures(result)),
        pareto=_pareto(result),
        timeline=_timeline(result),
        replay=_replay(result),
        coefficients=list(_coefficients(content)),
        replay_errors=[
            (QUANTITIES.get(name, name), share(error))
            for name, error in (content["model_error"].get("replay_median_error") or {}).items()
        ],
        candidates=_candidates(content),
        alternatives=list(_alternatives(result)),
        traffic=list(_traffic(content)),
        cold_start=list(_cold_start(result)),
        commands=list(_commands(result)),
    )


# --- the answer ------------------------------------------------------------------------------------------------------


def _targets(result: Recommendation) -> Iterator[dict[str, Any]]:
    """Per metric of the HPA its target as a quantity, its unit, its interval, and a KV target in per cent too."""
    chosen = result.decision.chosen if result.decision else None
    values = dict(chosen.setting.targets) if chosen else {}
    for metric in result.content["metrics"]:
        low, high = metric["interval"]
        percent = share(values.get(metric["name"]), 0) if metric["name"] == "kv_usage" else ""
        yield {**metric, "low": low, "high": high, "unit": UNITS[metric["name"]], "percent": percent}


def _behavior(block: Mapping[str, Any] | None) -> Iterator[str]:
    """The behaviour in words, one sentence per direction."""
    if block is None:
        return
    for key, verb, side in (("scaleUp", "up", "above"), ("scaleDown", "down", "below")):
        rules = block.get(key) or {}
        window = rules.get("stabilizationWindowSeconds")
        steps = " or ".join(
            f"{p['value']}{'%' if p['type'] == 'Percent' else ' replica' + 's' * (p['value'] != 1)} in {p['periodSeconds']} s"
            for p in rules.get("policies") or []
        )
        waits = "at once" if window == 0 else "" if window is None else f"after {span(float(window))} {side}"
        larger = (
            ", whichever is more" if " or " in steps and rules.get("selectPolicy", "Max") == "Max" else ""
        )
        yield f"{verb}: " + ", ".join(part for part in (waits, f"{steps}{larger}" if steps else "") if part)


def _comparison(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Settings as columns, each once, and figures as rows, each cell (text, interval); None without any setting."""
    settings: dict[str, Any] = {}
    for key, name in SETTINGS.items():
        if (row := content.get(key)) and row not in settings.values():
            settings[name] = row
    if not settings:
        return None
    rows = []
    for label, (key, form, least, most) in FIGURES.items():
        cells = [_cell(row.get(key), form, least, most) for row in settings.values()]
        if any(text != page.DASH for text, _ in cells):
            rows.append((label, cells))
    counts = sorted({row["seeds"] for row in settings.values()})
    return {
        "heads": [(name, _label(row["setting"])) for name, row in settings.items()],
        "holds": [row["holds"] for row in settings.values()],
        "rows": rows,
        "unknown": [name for name, row in settings.items() if row["accelerator_hours"]["value"] is None],
        "seeds": f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else counts[0],
        "slower": share(slower, 1) if (slower := content.get("slower_than_fitted")) else "",
        "priced": any(row.get("cost") and row["cost"]["value"] is not None for row in settings.values()),
    }


def _label(setting: str) -> str:
    """A setting's label, whose replica bounds stay on one line."""
    return setting.replace("-", "\N{NON-BREAKING HYPHEN}")


def _cell(figure: Mapping[str, Any] | None, form: Any, least: float, most: float) -> tuple[str, str]:
    if not figure or figure["value"] is None:
        return page.DASH, ""
    low, high = (
        min(max(figure[side], least), most) if figure[side] is not None else None for side in ("low", "high")
    )
    interval = (
        "" if low is None or high is None or form(low) == form(high) else f"{form(low)} to {form(high)}"
    )
    return form(figure["value"]), interval


# --- figures ---------------------------------------------------------------------------------------------------------


def _capacity_figures(result: Recommendation) -> Iterator[Picture]:
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
                "stages in which the replica was saturated.",
            )


def _pareto(result: Recommendation) -> Picture | None:
    """Cost against attainment of all settings that were tried to the end; None when there are none."""
    decision = result.decision
    if decision is None or not decision.tried:
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
    return base + judged.mean("margin"), base + low, min(base + high, 1.0)


def _timeline(result: Recommendation) -> Picture | None:
    """The chosen setting, simulated once more on the traffic; None when nothing was chosen."""
    chosen = result.decision.chosen if result.decision else None
    if chosen is None:
        return None
    setting, slo = chosen.setting, result.scenario.slo
    outcome = result.scenario.outcome(setting, 1, keep=True)
    with TemporaryDirectory() as folder:
        run = read(write_run(outcome, Path(folder) / "run"))
        table = latencies(run.requests) if run.has("requests") else None
        target = dict(setting.targets)
        made = page.timeline(
            run, slo=slo, table=table, target=target, title="The recommended setting on this traffic"
        )
    if made is None:
        return None
    return picture(
        made,
        f"Load, signals and replicas over time; {page.counted(outcome.peak_replicas, 'replica')} at the peak",
        f"One simulation (seed 1): {outcome.offered:,} requests, {share(outcome.attainment, 2)} within every bound, at "
        f"most {page.counted(outcome.peak_replicas, 'replica')}, {page.counted(len(outcome.decisions), 'change')}. Shaded: windows in which the SLO was "
        "broken. What was created but is not ready is starting.",
    )


def _replay(result: Recommendation) -> Picture | None:
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


# --- from data to number ---------------------------------------------------------------------------------------------


def _coefficients(content: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What a step takes: label, value, interval where it was fitted."""
    model = content["model_error"]
    for name, label in COEFFICIENTS.items():
        low, high = (model.get("intervals") or {}).get(name, (None, None))
        interval = page.DASH if low is None or high is None else f"{_small(low)} to {_small(high)}"
        yield label, _small(model["engine"][name]), interval


def _small(value_s: float) -> str:
    """A time that may be nanoseconds: 20.5 ms, 17.4 µs, 0.115 µs."""
    return f"{value_s * 1e3:.3g} ms" if value_s >= 1e-3 else f"{value_s * 1e6:.3g} µs"


def _candidates(content: Mapping[str, Any]) -> dict[str, Any]:
    """How many settings were tried and what became of them, and rows of the first; a stopped one has no figures."""
    tried = content["candidates"]
    rows = []
    for row in tried[:SHOWN_CANDIDATES]:
        whole = not row["stopped"] and row["margin"] is not None
        rows.append(
            (
                _label(row["setting"]),
                plain(row["accelerator_hours"], ",.1f") if whole else page.DASH,
                f"{100 * row['margin']:+.2f}" if whole else page.DASH,
                "holds" if row["holds"] else f"stopped: {row['stopped']}" if row["stopped"] else "breaks",
            )
        )
    return {
        "tried": len(tried),
        "held": sum(bool(row["holds"]) for row in tried),
        "stopped": sum(bool(row["stopped"]) for row in tried),
        "rows": rows,
    }


def _alternatives(result: Recommendation) -> Iterator[tuple[str, str, str, str]]:
    """What each signal can do on its own: signal, accelerator-hours, whether it keeps the SLO, a sentence."""
    for found in result.decision.alternatives if result.decision else ():
        hours = page.DASH if found.judged is None else plain(found.judged.cost, ",.1f")
        kept = page.DASH if found.judged is None else "kept" if found.judged.holds else "broken"
        yield plots.LABELS[found.signal], hours, kept, found.sentence


def _traffic(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    traffic = content["traffic"]
    yield "source", content["provenance"].get("traffic", "")
    yield (
        "length",
        f"{traffic['duration_s'] / 3600:,.1f} h, about {traffic['expected_requests']:,.0f} requests",
    )
    yield "arrivals", traffic["arrivals"]
    yield "prompt tokens", traffic["prompt_tokens"]
    yield "output tokens", traffic["output_tokens"]
    if traffic["shared_prefix_tokens"]:
        yield "shared prefix", f"{traffic['shared_prefix_tokens']} tokens"


def _cold_start(result: Recommendation) -> Iterator[tuple[str, str, str]]:
    """Phases of a replica's start that take time: name, median, 95th percentile; the sum of the medians last."""
    profile = result.scenario.profile
    start = profile.cold_start
    labels = {
        "node": "a node is there",
        "image": "image pulled",
        "engine_init": "engine started",
        "group_join": "group joined",
        "compile": "compiled",
        "compile_cached": "compiled, from a filled cache",
    }
    for name, label in labels.items():
        phase = getattr(start, name)
        if phase is not None and phase.p95_s > 0:
            yield label, span(phase.median_s), span(phase.p95_s)
    yield "weights loaded", span(profile.model.weight_bytes / start.weights_rate_bytes_s), page.DASH
    yield "together", span(start.median_s(profile.model.weight_bytes)), page.DASH


# --- what to do now --------------------------------------------------------------------------------------------------


def _commands(result: Recommendation) -> Iterator[tuple[str, str]]:
    """(what it does, command) in the order to run them, for the answer at hand."""
    content, deploy = result.content, result.scenario.profile.deploy
    answer, file = (
        content["answer"],
        shlex.quote(str(result.files[0])) if result.files else "recommendation.json",
    )
    name = content["profile"]
    profile = shlex.quote(name if name in names() else f"{name}.yaml")
    again = "autoscale recommend runs/NEW --profile " + profile
    if answer == "autoscale":
        yield (
            "write the whole set around the HPA",
            f"autoscale manifests {profile} --recommendation {file} --out manifests",
        )
        yield "look for what could go wrong", "autoscale lint manifests"
        hpa = next((str(f) for f in result.files if f.name == "hpa.yaml"), "hpa.yaml")
        yield "apply the HPA alone", f"kubectl apply -f {shlex.quote(hpa)}"
        yield "prove that it scales out as predicted", _check(result, file)
    elif answer == "do_not_autoscale":
        where = f"--namespace {shlex.quote(deploy.namespace)}"
        yield (
            "remove an HPA that is there",
            f"kubectl delete hpa {shlex.quote(deploy.hpa_name)} {where} --ignore-not-found",
        )
        kind = f"{deploy.kind.lower()}/{deploy.name}"
        yield (
            "keep the replicas standing",
            f"kubectl scale {shlex.quote(kind)} --replicas={content['minReplicas']} {where}",
        )
    elif answer == "infeasible":
        yield "ask for less", f"autoscale recommend --profile {profile} --slo 'ttft_p95=5s,tpot_p95=200ms'"
        yield "allow more replicas", f"autoscale recommend --profile {profile} --max-replicas N"
    else:
        measured = content["capacity_rps"]["measured"] or {}
        sweep = measured.get("next_command") or (
            "locust -f loadgen/completions.py --headless --host URL --stages 1:120,2:120,4:120,8:120 "
            "--prompt-tokens uniform:100,1500 --output-tokens uniform:50,250"
        )
        yield "measure again on one quiet replica", f"{sweep} --run-dir runs/NEW"
        yield "fetch the server's metrics", "autoscale collect runs/NEW --prometheus URL"
        yield "ask again", again
    if answer in ("autoscale", "do_not_autoscale"):
        yield "later, after a new measurement: does it still hold?", f"{again} --against {file}"


def _check(result: Recommendation, file: str) -> str:
    content, deploy = result.content, result.scenario.profile.deploy
    point = result.decision.capacity if result.decision else None
    rate = (content["minReplicas"] + 0.5) * point.rate_rps if point else 5.0
    load = f"locust -f loadgen/completions.py --host URL --rate {rate:.2g} -t 1800s"
    return (
        f"autoscale check --namespace {shlex.quote(deploy.namespace)} --hpa {shlex.quote(deploy.hpa_name)} "
        f"--expect {file} --load {shlex.quote(load)}"
    )
