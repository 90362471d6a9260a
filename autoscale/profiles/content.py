"""What a profile file says: `extends` followed to its end, and the model by its config.json where the file names one.

Keys override those of the base, with one exception: another model takes none of its sizes from the base's model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.errors import BadInput, did_you_mean
from analysis.files import read_yaml
from autoscale.profiles.model_config import BYTES, read_model_config

SIZES = ("params", "layers", "hidden", "weight_bytes", "kv_bytes_per_token", "kv_heads")
USUAL = {"active_params": None, "weight_dtype": "bf16"}  # of a model that says nothing else
FLAGS = ("max_model_len", "max_num_batched_tokens", "max_num_seqs", "block_size")  # flags of vLLM
RELEASE = re.compile(r"[0-9]+(\.[0-9]+)+")  # versions of which an image is published
OF_THE_CHIP = ("machine_type", "node_selector", "local_ssds")  # of deploy: where one accelerator stands
OF_THE_MODEL = ("kv_tokens", "step")  # of the engine: known of one model on one accelerator


def names() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.yaml"))


def profile_content(name_or_path: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The keys of a profile, those of its bases included. Raises BadInput."""
    shipped = Path(__file__).parent / f"{name_or_path}.yaml"
    is_path = name_or_path.endswith((".yaml", ".yml"))
    file = Path(name_or_path) if is_path else shipped
    if not is_path and name_or_path not in names():
        raise BadInput(
            "unknown profile",
            value=name_or_path,
            expected=f"one of {', '.join(names())} or a path to a .yaml file",
            next_step=did_you_mean(name_or_path, names()),
        )
    content = read_yaml(file, "profile file")
    if "kind" in content and "apiVersion" in content:
        raise BadInput(
            f"{file} is a Kubernetes {content['kind']}, not a profile",
            expected=f"one of {', '.join(names())} or a file as in docs/profiles.md",
        )
    base = content.pop("extends", None)
    content.setdefault("name", file.stem)
    if base is not None and not isinstance(base, str):
        raise BadInput(
            f"profile {file}, field extends", value=base, expected="the name of a profile or a path"
        )
    if base in seen:
        raise BadInput(f"profile {file} extends itself", value=base)
    below = profile_content(base, (*seen, base)) if base is not None else {}
    whole = merged(_without_the_other(below, content, file), _with_config(content, file))
    return merged(whole, {"deploy": deploy}) if (deploy := _follows(below, content)) else whole


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The base with keys replaced, at every depth."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    return section if isinstance(section, dict) else {}


def _with_config(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The content with what its `model.config` tells; what the file states itself goes first."""
    if "config" not in (model := _section(content, "model")):
        return content
    named = model["config"]
    if not isinstance(named, str):
        raise BadInput(
            f"profile {file}, field model.config", value=named, expected="the path of a config.json"
        )
    stated = {key: value for key, value in model.items() if key != "config"}
    kv_dtype = stated.get("kv_dtype", "bf16")
    if kv_dtype not in BYTES:
        raise BadInput(
            f"profile {file}, field model.kv_dtype",
            value=kv_dtype,
            expected=f"one of {', '.join(BYTES)}",
            next_step=did_you_mean(str(kv_dtype), BYTES),
        )
    return content | {"model": read_model_config(file.parent / named, kv_dtype) | stated}


def _without_the_other(base: dict[str, Any], content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The base without what it says of another model or chip than the file's. Raises BadInput where the file needs it."""
    old, new = _section(base, "model"), _section(content, "model")
    model_changes = bool(old) and ("config" in new or new.get("id", old.get("id")) != old.get("id"))
    chip = _section(base, "accelerator").get("name")
    chip_changes = _section(content, "accelerator").get("name", chip) != chip
    if model_changes:
        known = _section(_with_config(content, file), "model")
        needed = ["id", *SIZES, *(name for name, usual in USUAL.items() if old.get(name, usual) != usual)]
        if missing := [name for name in needed if name not in known]:
            raise _unsaid(
                f"profile {file} serves another model than the one that it extends",
                [f"model.{name}" for name in missing],
                value=new.get("id"),
                expected="its own sizes, none of the other model's",
                next_step="state them, or name the model's config.json as model.config"
                if "config" not in new
                else "state what its config.json does not tell",
            )
        base = {key: value for key, value in base.items() if key != "model"}
    if chip_changes:
        base = _without_its_nodes(base, content, file)
    if model_changes or chip_changes:
        engine = {k: v for k, v in _section(base, "engine").items() if k not in OF_THE_MODEL}
        base = base | ({"engine": engine} if engine else {})
    return base


def _without_its_nodes(base: dict[str, Any], content: dict[str, Any], file: Path) -> dict[str, Any]:
    """The base without the machines of its own chip. Raises BadInput where the other's data sheet is needed and not stated."""
    stated, engine = _section(content, "accelerator"), _section(content, "engine")
    needed = [
        *([] if "step" in engine else ["bandwidth_bytes_s", "flops_s"]),
        *([] if "kv_tokens" in engine else ["visible_gib"]),
    ]
    if missing := [name for name in needed if name not in stated]:
        raise _unsaid(
            f"profile {file} runs on another accelerator than the one that it extends",
            [f"accelerator.{name}" for name in missing],
            value=stated.get("name"),
            expected="its own data sheet, nothing of the other's",
            next_step="state them, or what was measured: engine.step and engine.kv_tokens",
        )
    deploy = {k: v for k, v in _section(base, "deploy").items() if k not in OF_THE_CHIP}
    return base | ({"deploy": deploy} if deploy else {})


def _unsaid(what: str, fields: Sequence[str], **said: Any) -> BadInput:
    return BadInput(f"{what}, and does not say {', '.join(fields)}", **said)


def _follows(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """What of `deploy` follows from the limits and the version that a file states, where it does not say it itself."""
    engine, own = _section(content, "engine"), _section(content, "deploy")
    inherited = _section(base, "deploy")
    deploy: dict[str, Any] = {}
    passed = inherited.get("pass_limits", [])
    stated = [name for name in FLAGS if name in engine]
    if stated and "pass_limits" not in own and isinstance(passed, list):
        deploy["pass_limits"] = [name for name in FLAGS if name in (*passed, *stated)]
    repository, _, tag = str(inherited.get("image", "")).rpartition(":")
    old, new = _section(base, "engine").get("vllm_version"), str(engine.get("vllm_version"))
    if "image" not in own and tag.removeprefix("v") == old and RELEASE.fullmatch(new):
        deploy["image"] = f"{repository}:{tag.removesuffix(str(old))}{new}"
    return deploy
