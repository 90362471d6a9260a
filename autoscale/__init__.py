"""Control: observe a vLLM deployment, simulate it, recommend an HPA, write it, check it.

What a notebook or a program needs is here by name; docs/python.md shows it in use. Each is loaded when it is first used,
so that importing this package stays light. Everything else may move between releases.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.opened import OpenedRun, open_run
    from autoscale.lint.linter import lint_files
    from autoscale.profiles import load as load_profile
    from autoscale.recommend.choice.settings import Behavior, Candidate, Given, Standing
    from autoscale.recommend.choice.traffic import scenario_of
    from autoscale.recommend.comparison import compare as compare_settings
    from autoscale.recommend.model.learning import learn_replica
    from autoscale.recommend.model.one_replica import capacity as capacity_of
    from autoscale.recommend.model.predict import predict as predict_replica
    from autoscale.recommend.pipeline import recommend as recommend_hpa
    from autoscale.recommendation import read_recommendation as read_recommendation

_PLACES = {  # name -> module, name there
    "Behavior": ("autoscale.recommend.choice.settings", "Behavior"),
    "Candidate": ("autoscale.recommend.choice.settings", "Candidate"),
    "Given": ("autoscale.recommend.choice.settings", "Given"),
    "OpenedRun": ("analysis.opened", "OpenedRun"),
    "Standing": ("autoscale.recommend.choice.settings", "Standing"),
    "capacity_of": ("autoscale.recommend.model.one_replica", "capacity"),
    "compare_settings": ("autoscale.recommend.comparison", "compare"),
    "learn_replica": ("autoscale.recommend.model.learning", "learn_replica"),
    "lint_files": ("autoscale.lint.linter", "lint_files"),
    "load_profile": ("autoscale.profiles", "load"),
    "open_run": ("analysis.opened", "open_run"),
    "predict_replica": ("autoscale.recommend.model.predict", "predict"),
    "read_recommendation": ("autoscale.recommendation", "read_recommendation"),
    "recommend_hpa": ("autoscale.recommend.pipeline", "recommend"),
    "scenario_of": ("autoscale.recommend.choice.traffic", "scenario_of"),
}

__all__ = [
    "Behavior",
    "Candidate",
    "Given",
    "OpenedRun",
    "Standing",
    "capacity_of",
    "compare_settings",
    "learn_replica",
    "lint_files",
    "load_profile",
    "open_run",
    "predict_replica",
    "read_recommendation",
    "recommend_hpa",
    "scenario_of",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _PLACES[name]
    globals()[name] = found = getattr(import_module(module), there)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
