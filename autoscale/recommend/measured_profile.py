"""A profile of the server that a run measured: its own limits and version, and the step time calibrated on the run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.errors import BadInput
from analysis.run import Run
from autoscale.profiles import Profile, load
from autoscale.profiles.content import SIZES, USUAL
from autoscale.profiles.model_config import read_model_config
from autoscale.recommend.model.limits import LIMITS
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.sim.engine.params import COEFFICIENTS, SHAPE
from autoscale.sim.engine.replicas import EngineParams


@dataclass(frozen=True)
class UserFacts:
    """What a run cannot tell. Price per chip hour; the chip's name as the cluster's operator calls it; `model_config` is a
    config.json. None: as the base says."""

    price: float | None = None
    accelerator: str | None = None
    model_config: Path | None = None


@dataclass(frozen=True)
class MeasuredProfile:
    """The text of a profile file, and sentences on what in it nobody measured."""

    text: str
    open_points: tuple[str, ...]


def measured_profile(run: Run, model: ReplicaModel, base: str, given: UserFacts) -> MeasuredProfile:
    """The profile of the server of one run, with the model that was learnt from it, extending `base` (a name or a path).

    Raises BadInput where no run is behind the model, or `given` does not tell what it should.
    """
    if not model.fitted:
        raise BadInput(f"the run {run.path} fits no engine", next_step="measure more stages of one replica")
    system = load(base)
    open_points = tuple(_open_points(run, system, given))
    content = _content(run, base, system, model.engine, given) | {"predictions": list(open_points)}
    heading = [
        f"The server of the run {run.path.name} ({run.header.get('target') or 'target not noted'}).",
        "engine: limits and version as the server told them, step and what else is calibrated fitted to the run.",
        "Everything that is not here is the profile's that it extends; predictions says what nobody measured.",
    ]
    text = "".join(f"# {_plain(line)}\n" for line in heading) + yaml.safe_dump(
        content, sort_keys=False, width=110, allow_unicode=True
    )
    return MeasuredProfile(text, open_points)


def _content(run: Run, base: str, system: Profile, engine: EngineParams, given: UserFacts) -> dict[str, Any]:
    facts = _facts(run)
    served = str(run.header.get("model") or system.model.id)
    limits = {
        "max_num_seqs": engine.max_num_seqs,
        "max_num_batched_tokens": engine.max_num_batched_tokens,
        "block_size": engine.block_size,
    }
    if facts.get("max_model_len"):
        limits["max_model_len"] = int(facts["max_model_len"])
    step = {name: float(getattr(engine, name)) for name in (*COEFFICIENTS, *SHAPE)}
    content: dict[str, Any] = {
        "extends": base if not base.endswith((".yaml", ".yml")) else str(Path(base).resolve()),
        "title": f"{_plain(served)}, as measured in {_plain(run.path.name)}",
        "model": _model(served, system, given),
        "engine": limits
        | {
            "kv_tokens": engine.kv_tokens,
            "request_overhead_s": float(engine.request_overhead_s),
            "async_scheduling": engine.async_scheduling,
            "prefix_hit_fraction": float(engine.prefix_hit_fraction),
            "step": step,
        },
    }
    if facts.get("vllm_version"):
        content["engine"]["vllm_version"] = str(facts["vllm_version"])
    accelerator = {"name": given.accelerator, "price_per_chip_hour": given.price}
    if told := {key: value for key, value in accelerator.items() if value is not None}:
        content["accelerator"] = told
    return content


def _model(served: str, system: Profile, given: UserFacts) -> dict[str, Any]:
    """The model with all its sizes: of its config.json, or the base's where nothing else is known."""
    if given.model_config is not None:
        told = read_model_config(given.model_config, system.model.kv_dtype)
        if missing := [name for name in SIZES if name not in told]:
            raise BadInput(
                f"{given.model_config} does not tell {', '.join(missing)}",
                next_step="write a profile with them and the config (docs/profiles.md), and name it with --profile",
            )
        return {"id": served, "kv_dtype": system.model.kv_dtype, **told}
    return {"id": served} | {name: getattr(system.model, name) for name in (*SIZES, *USUAL, "kv_dtype")}


def _open_points(run: Run, system: Profile, given: UserFacts) -> Iterator[str]:
    facts, base = _facts(run), system.name
    unread = [name for name in (*LIMITS, "max_model_len", "vllm_version") if not facts.get(name)]
    if unread:
        yield f"the run does not tell {', '.join(unread)}: where it did not show them either, they are those of {base}"
    if given.accelerator is None:
        yield f"the run does not tell the accelerator: {system.accelerator.name}, as in {base}; --accelerator names another"
    elif given.accelerator != system.accelerator.name and system.deploy.node_selector:
        yield (
            f"nobody told on which nodes {given.accelerator} stands: `autoscale manifests` wants deploy.machine_type and "
            "deploy.node_selector"
        )
    if given.price is None:
        yield "the run does not tell the price of an accelerator hour: --price gives it"
    yield f"the run does not tell how long a start takes: as in {base}; `autoscale check` measures it, recommend --measured takes it"
    served = run.header.get("model")
    if served and served != system.model.id and given.model_config is None:
        yield (
            f"the run does not tell the sizes of the model {_plain(str(served))}: those of {system.model.id}, on which the time "
            "to load weights and the disk rest; --model-config names its config.json"
        )


def _facts(run: Run) -> dict[str, Any]:
    facts = run.header.get("engine")
    return facts if isinstance(facts, dict) else {}


def _plain(text: str) -> str:
    """One line without control characters, for a comment or a title."""
    return re.sub(r"[^ -~]+", " ", text)[:200]
