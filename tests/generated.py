"""Every committed file that a program writes: `python -m tests.generated` (or `make generated`) writes them anew.

Staleness is tested where the content is tested: manifests in tests/deploy, the schema of load files in tests/loadgen, the
others in tests/test_generated.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer

from autoscale import deploy
from autoscale.cli import app
from autoscale.examples import EXAMPLES
from autoscale.profiles.profile import Profile
from loadgen.plan import load_file
from loadgen.run.option_table import add_arguments

ROOT = Path(__file__).parent.parent


def files() -> dict[Path, str]:
    """Path of every generated file -> its content."""
    return {
        **{ROOT / "manifests" / path: text for path, text in deploy.reference_files().items()},
        ROOT / "docs" / "load-file.schema.json": _json(load_file.schema()),
        **documents(),
    }


def documents() -> dict[Path, str]:
    """The generated part of docs/ that no other test compares."""
    return {
        ROOT / "docs" / "profile.schema.json": _json(profile_schema()),
        ROOT / "docs" / "commands.md": commands(),
    }


def profile_schema() -> dict[str, Any]:
    """JSON Schema of a profile file. With `extends` a file holds only what differs, so nothing is required."""
    schema = Profile.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "profile whose keys this one overrides",
    }
    schema["$defs"]["Model"]["properties"]["config"] = {
        "type": "string",
        "description": "config.json of the model, relative to this file: gives the sizes that are not stated here",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def commands() -> str:
    """The reference of both command lines as Markdown."""
    lines = [
        "# Commands",
        "",
        "Written by `make generated` from the programs themselves. Results go to stdout, progress and errors to stderr.",
        "Exit codes: 0 done, 1 the answer is no, 2 bad input, 3 a source could not be reached, 130 interrupted.",
        "",
    ]
    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]  # an app with several verbs
        lines += [f"## autoscale {name}", "", (command.help or "").strip(), "", *_typer_rows(command), ""]
        shown = [line for purpose, example in EXAMPLES[name] for line in (f"# {purpose}", example)]
        lines += ["```text", *shown, "```", ""]
    lines += [
        "## autoscale load, locust -f loadgen/completions.py",
        "",
        "Besides Locust's own options (`locust --help`), of which `--host`, `--headless`, `-t`, `-u`, `-r`, `--processes`, `--master`",
        "and `--worker` matter most here. `autoscale load chat` and `loadgen/chat.py` ask /v1/chat/completions.",
        "",
        *_argparse_rows(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _typer_rows(command: Any) -> Iterator[str]:
    yield "| option | meaning | default |"
    yield "|---|---|---|"
    for parameter in command.params:
        flags = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            shown = f"`{parameter.name.upper()}`"
        else:
            value = "" if parameter.is_flag else f" {_kind(parameter)}"
            shown = ", ".join(f"`{flag}{value if flag.startswith('--') else ''}`" for flag in flags)
        yield f"| {shown} | {_cell(parameter.help)} | {_default(parameter)} |"
    yield "| `-h`, `--help` | Show the options and end. |  |"


def _kind(parameter: Any) -> str:
    """What an option's value is: the leaf of its annotation, past optional and list."""
    kind = parameter.type_descriptor.annotation
    while inner := [part for part in get_args(kind) if part is not type(None) and isinstance(part, type)]:
        kind = inner[0]
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if value is None or value is False or value == () or value == [] else f"`{value}`"


def _argparse_rows() -> Iterator[str]:
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        yield f"**{(group.title or '').capitalize().replace('Llm', 'LLM')}.** {group.description or ''}".rstrip()
        yield ""
        yield "| option | meaning |"
        yield "|---|---|"
        for action in group._group_actions:
            value = f" {action.metavar}" if action.metavar else ""
            shown = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
            yield f"| {shown} | {_cell((action.help or '').replace('%%', '%'))} |"
        yield ""


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def main() -> None:
    """Write what differs and name it."""
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
