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
from autoscale.recommend.choice.judging import FIGURES, Judged, Trial
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.choice.settings import Candidate, Setting, quantity
from autoscale.recommend.model.replica_model import ReplicaModel

SCHEMA_VERSION = 1
EXPECTED = "a recommendation.json of `autoscale recommend`"
ANSWERS = ("autoscale", "do_not_autoscale", "infeasible", "need_more_data")


def document(
    scenario: Scenario,
    decision: Decision,
    model: ReplicaModel,
    *,
    spread: tuple[float, float] | None = None,
    measured: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    provenance: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole recommendation as plain JSON types; NaN becomes null.

    `spread` is the interval of the model's capacity relative to its value, `measured` what the run itself said about it, `notes` what was set aside or disagrees in it, `provenance` where run, profile and traffic came from.
    """
    setting = decision.chosen.setting if decision.chosen else None
    manifest = setting.manifest(scenario.profile) if setting else None
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
        "metrics": _metrics(scenario, decision),
        "minReplicas": setting.min_replicas if setting else None,
        "maxReplicas": setting.max_replicas if setting else None,
        "behavior": setting.behavior.block if setting else None,
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
        "model_error": _model(scenario, model),
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


def _metrics(scenario: Scenario, decision: Decision) -> list[dict[str, Any]]:
    deploy, version = scenario.profile.deploy, scenario.profile.engine.vllm_version
    return [
        {
            "name": signal,
            "metric": hpa_metric_name(signal, version, deploy.metrics),
            "averageValue": quantity(value),
            "interval": [quantity(v) for v in decision.interval.ends.get(signal, (value, value))],
        }
        for signal, value in (decision.chosen.setting.targets if decision.chosen else ())
    ]


def _judged(scenario: Scenario, judged: Judged[Setting] | None) -> dict[str, Any] | None:
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
    return {"setting": judged.setting.label, "holds": judged.holds, "seeds": len(judged.trials), **figures}


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


def _model(scenario: Scenario, model: ReplicaModel) -> dict[str, Any]:
    engine = scenario.engine
    content: dict[str, Any] = {
        "source": "calibrated on the run" if model.fitted else "profile prior (no run)",
        "engine": {name: getattr(engine, name) for name in engine.__dataclass_fields__},
    }
    if model.fitted:
        content["replay_median_error"] = model.median_error()
        content["intervals"] = {k: list(v) for k, v in model.intervals.items()}
        content["confounded"] = [list(pair) for pair in model.confounded]
        content["stages_used"] = list(model.stages_used)
        content["replay"] = model.replay.to_dict(orient="records")
    return content


def _alternative(alternative: Alternative) -> dict[str, Any]:
    """The best of one signal alone; when no target holds, the nearest, with `holds` false and what it attains."""
    judged = alternative.judged
    single = judged.setting if judged else None
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
