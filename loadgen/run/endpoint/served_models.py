"""What /v1/models lists: which model is asked, how long its requests may be, and whose name its metrics carry. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.errors import LONGEST_NAME, BadInput, SourceUnavailable, did_you_mean, printable
from analysis.sound import MOST

MOST_BYTES = 16 << 20  # of an answer that is read
MOST_PARENTS = 16  # an adapter has one
NAMED = 20  # models that a sentence names


@dataclass(frozen=True)
class ServedModel:
    """One entry. `parent` is the served name that an adapter belongs to, `root` what was loaded."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


def json_of_body(body: bytes) -> Any:
    """The JSON in a body; None when it is none, nested without end, or too long to read."""
    if len(body) > MOST_BYTES:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def listed_models(body: bytes) -> tuple[list[ServedModel] | None, str]:
    """The models in an answer (None: it is no list) and, where there is none to ask, why."""
    if len(body) > MOST_BYTES:
        return None, f"with a list of {len(body) >> 20} MiB; expected at most {MOST_BYTES >> 20}"
    content = json_of_body(body)
    entries = content.get("data") if isinstance(content, dict) else None
    if isinstance(content, dict) and "data" in content and entries is None:
        return [], "the model list is null"
    if not isinstance(entries, list):
        return None, "without a model list"
    models = [_model(entry) for entry in entries if isinstance(entry, dict) and _text(entry.get("id"))]
    if models:
        return models, ""
    return (
        [],
        "the model list is empty"
        if not entries
        else f"no model in the list has a text as id: {str(entries[0])[:80]}",
    )


def choose_model(models: Sequence[ServedModel], asked: str | None) -> tuple[ServedModel, str | None]:
    """The model that is asked, and what has to be said about the choice; `models` holds one unless `asked` is given.

    Of a model and its adapters the model is taken, of several names of one model the first. Raises BadInput.
    """
    names = _names(models)
    if asked is not None:
        found = next((m for m in models if m.id == asked), None)
        if found is None and models:
            raise BadInput(
                "unknown --model",
                value=asked,
                expected=f"one of {names}",
                next_step=did_you_mean(asked, [m.id for m in models]),
            )
        return found or ServedModel(asked), None
    by_id = _by_id(models)
    bases = [m for m in models if _base(m, by_id) is m]
    roots = {m.root for m in bases}
    if len(bases) > 1 and (len(roots) > 1 or None in roots):
        raise BadInput("the server has several models", value=names, next_step="choose one with --model")
    if len(models) == 1:
        return models[0], None
    others = _names([m for m in models if m is not bases[0]])
    return bases[
        0
    ], f"the server lists several names: {_shown(bases[0].id)} is asked; --model chooses another of {others}"


def base_model(model: ServedModel, models: Sequence[ServedModel]) -> ServedModel:
    """The model that an adapter belongs to; the model itself when it is none, or one of some that belong to each other."""
    return _base(model, _by_id(models))


def _by_id(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    return {m.id: m for m in reversed(models)}  # of two of one id the first


def _base(model: ServedModel, by_id: Mapping[str, ServedModel]) -> ServedModel:
    base = model
    for _ in range(MOST_PARENTS):
        above = by_id.get(base.parent or base.id)
        if above is None or above.id == base.id:
            return base
        base = above
    return model  # they belong to each other


def metrics_name(
    model: ServedModel, models: Sequence[ServedModel], on_page: Sequence[str]
) -> tuple[str | None, str | None]:
    """Whose name the server's metrics carry (None: unknown), and what has to be said; `on_page` are the names there.

    vLLM labels them with the first of a model's served names, requests of adapters included.
    """
    own = base_model(model, models)
    aliases = [m.id for m in models if own.root is not None and m.root == own.root]
    wanted = [model.id, own.id, *aliases]
    found = next((name for name in wanted if name in on_page), None)
    if found is None and len(on_page) == 1:
        found = on_page[0]
    if found is None and not on_page:
        found = aliases[0] if aliases else own.id if models else None
    if found in (None, model.id):
        return found, None
    return found, f"metrics of {_shown(model.id)} are those of {_shown(found)}"


def longest(model: ServedModel, models: Sequence[ServedModel]) -> int | None:
    """max_model_len: tokens of prompt and answer together; None where the server does not say."""
    return model.max_model_len or base_model(model, models).max_model_len


def no_model(target: object, path: str, status: int, is_list: bool, why: str) -> SourceUnavailable:
    """The error when no model is named and the server lists none."""
    if status == 429 or status >= 500:
        return SourceUnavailable(
            f"{target} does not list its models now: GET {path} answered {status}",
            next_step="try again later, or name the model with --model",
        )
    kind = "lists no model" if is_list else "is not an OpenAI-compatible server"
    reason = f": {why}" if is_list else f" {why}" if status == 200 else ""
    return SourceUnavailable(
        f"{target} {kind}: GET {path} answered {status}{reason}",
        next_step="correct --host, or name the model with --model if the server lists none",
    )


def _model(entry: Mapping[str, object]) -> ServedModel:
    longest = entry.get("max_model_len")
    return ServedModel(
        str(entry["id"]),
        _text(entry.get("root")),
        _text(entry.get("parent")),
        longest if type(longest) is int and 0 < longest <= MOST else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _names(models: Sequence[ServedModel]) -> str:
    more = len(models) - NAMED
    return ", ".join(_shown(m.id) for m in models[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(name: str) -> str:
    """A name that a server gave, for a sentence."""
    return printable(name, LONGEST_NAME)
