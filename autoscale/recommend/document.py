"""recommendation.json: the answer with everything that the manifest writer, the checker and a later drift test need."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.errors import BadInput
from analysis.files import read_json
from analysis.numbers import plain
from autoscale.kube.vllm_names import hpa_metric_name
from autoscale.recommend.answer import Alternative, Decision
from autoscale.recommend.choice.decide import FIGURES
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.search import Judged, Trial
from autoscale.recommend.choice.settings import Candidate, quantity
from autoscale.recommend.model.calibrate import Calibration

SCHEMA_VERSION = 1
EXPECTED = "a recommendation.json of `autoscale recommend`"
ANSWERS = ("autoscale", "do_not_autoscale", "infeasible", "need_more_data")


def document(
    scenario: Scenario,
    decision: Decision,
    *,
    calibration: Calibration | None = None,
    spread: tuple[float, float] | None = None,
    measured: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole recommendation as plain JSON types; NaN becomes null.

    `spread` is the interval of the model's capacity relative to its value, `measured` what the run itself said about it, `notes` what was set aside or disagrees in it, `provenance` where run, profile and traffic came from.
    """
    setting = decision.chosen.setting if decision.chosen else None
    manifest = scenario.manifest(setting) if isinstance(setting, Candidate) else None
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "answer": decision.answer,
        "profile": scenario.profile.name,
        "provenance": provenance or {},
        "slo": {
            "text": str(scenario.slo),
            "attainment": scenario.attainment,
            "binding": decision.capacity.binding if decision.capacity else None,
        },
        "metrics": _metrics(scenario, decision, setting),
        "minReplicas": _bound(setting, "min_replicas"),
        "maxReplicas": _bound(setting, "max_replicas"),
        "behavior": setting.behavior.block if isinstance(setting, Candidate) else None,
        "hpa": manifest,
        "predicted": _judged(scenario, decision.chosen),
        "slower_than_fitted": decision.slower,
        "predicted_as_fitted": _judged(scenario, decision.expected),
        "static_fleet": _judged(scenario, decision.static),
        "tutorial_default": _judged(scenario, decision.tutorial),
        "current": _judged(scenario, decision.current),
        "best_hpa": _judged(scenario, decision.best_hpa),
        "alternatives": {a.signal: _alternative(a) for a in decision.alternatives},
        "capacity_rps": _capacity(decision, spread, measured),
        "model_error": _model(scenario, calibration),
        "reasons": [{"code": r.code, "sentence": r.sentence} for r in decision.reasons],
        "notes": list(notes),
        "candidates": [_candidate(c, t) for c, t in decision.tried],
        "traffic": scenario.plan.describe(),
    }
    return plain(content)


def write(content: dict[str, Any], path: Path) -> None:
    """Write a document atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read(path: Path | str) -> dict[str, Any]:
    """A recommendation.json. Raises BadInput when it is not one."""
    content = read_json(path, "recommendation", EXPECTED)
    if content.get("answer") not in ANSWERS:
        raise BadInput(f"{path} is not a recommendation", expected=EXPECTED)
    if content.get("schema_version") != SCHEMA_VERSION:
        raise BadInput(
            f"{path}: schema_version",
            value=content.get("schema_version"),
            expected=f"{SCHEMA_VERSION}, which this version writes and reads",
            next_step="run `autoscale recommend` again",
        )
    return content


def _metrics(scenario: Scenario, decision: Decision, setting: object) -> list[dict[str, Any]]:
    if not isinstance(setting, Candidate):
        return []
    deploy, version = scenario.profile.deploy, scenario.profile.engine.vllm_version
    return [
        {
            "name": signal,
            "metric": hpa_metric_name(signal, version, deploy.metrics),
            "averageValue": quantity(value),
            "interval": [quantity(v) for v in decision.interval.ends.get(signal, (value, value))],
        }
        for signal, value in setting.targets
    ]


def _bound(setting: object, name: str) -> int | None:
    if isinstance(setting, Candidate):
        return int(getattr(setting, name))
    return setting if isinstance(setting, int) else None


def _judged(scenario: Scenario, judged: Judged | None) -> dict[str, Any] | None:
    if judged is None:
        return None
    figures: dict[str, Any] = {}
    for figure in FIGURES:
        low, high = judged.interval(figure)
        name = "slo_attainment" if figure == "attainment" else figure
        figures[name] = {"value": judged.mean(figure), "low": low, "high": high}
    price = scenario.profile.accelerator.price_per_chip_hour
    figures["cost"] = (
        None if price is None else {k: v * price for k, v in figures["accelerator_hours"].items()}
    )
    setting = judged.setting
    label = (
        setting.label
        if isinstance(setting, Candidate)
        else f"{setting} standing replica{'' if setting == 1 else 's'}"
        if isinstance(setting, int)
        else "as given"
    )
    return {"setting": label, "holds": judged.holds, "seeds": len(judged.trials), **figures}


def _capacity(
    decision: Decision, spread: tuple[float, float] | None, measured: dict[str, Any] | None
) -> dict[str, Any]:
    content: dict[str, Any] = {"measured": measured}
    if decision.capacity is not None:
        rate, (low, high) = decision.capacity.rate_rps, spread or (math.nan, math.nan)
        content["model"] = {
            "value": rate,
            "low": rate * low,
            "high": rate * high,
            "waiting": decision.capacity.waiting,
            "running": decision.capacity.running,
            "kv_usage": decision.capacity.kv_usage,
        }
    return content


def _model(scenario: Scenario, calibration: Calibration | None) -> dict[str, Any]:
    engine = scenario.engine
    content: dict[str, Any] = {
        "source": "profile prior (no run)" if calibration is None else "calibrated on the run",
        "engine": {name: getattr(engine, name) for name in engine.__dataclass_fields__},
    }
    if calibration is not None:
        content["replay_median_error"] = calibration.median_error()
        content["intervals"] = {k: list(v) for k, v in calibration.intervals.items()}
        content["confounded"] = [list(pair) for pair in calibration.confounded]
        content["stages_used"] = list(calibration.stages_used)
        content["replay"] = calibration.replay.to_dict(orient="records")
    return content


def _alternative(alternative: Alternative) -> dict[str, Any]:
    """The best of one signal alone; when no target holds, the nearest, with `holds` false and what it attains."""
    judged = alternative.judged
    setting = judged.setting if judged else None
    single = setting if isinstance(setting, Candidate) else None
    return {
        "averageValue": quantity(single.targets[-1][1]) if single else None,
        "setting": single.label if single else None,
        "holds": judged.holds if judged else None,
        "slo_attainment": judged.mean("attainment") if judged else None,
        "accelerator_hours": judged.cost if judged else None,
        "sentence": alternative.sentence,
    }


def _candidate(candidate: Candidate, trial: Trial) -> dict[str, Any]:
    return {
        "setting": candidate.label,
        "family": candidate.family,
        "holds": trial.holds,
        "stopped": trial.stopped or None,
        "margin": trial.margin,
        "accelerator_hours": trial.accelerator_hours,
        "wasted_scale_outs": trial.wasted_scale_outs,
    }
