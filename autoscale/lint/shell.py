"""Commands of containers as words and flags: exec form, `sh -c` scripts, environment variables put in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from autoscale.kube.objects import Object, items, mapping

_SHELL = re.compile(r"(^|/)(ba|da|z|k)?sh$")
_VARIABLE = re.compile(r"\$\((\w+)\)|\$\{(\w+)(?::-[^}]*)?\}|\$(\w+)")
_OPERATORS = {";", "&&", "||", "|", "&", ";;"}


def words(container: Object) -> list[str]:
    """command and args as one list of texts, known variables put in."""
    known = environment(container)
    given = [
        str(word) for key in ("command", "args") for word in items(container.get(key)) if word is not None
    ]
    return [expand(word, known) for word in given]


def environment(container: Object) -> dict[str, str]:
    """The variables whose value is written in the manifest."""
    return {
        str(entry.get("name")): str(entry["value"])
        for entry in map(mapping, items(container.get("env")))
        if entry.get("value") is not None
    }


def expand(text: str, known: dict[str, str]) -> str:
    """$(NAME), ${NAME} and $NAME replaced where the value is known."""
    if not known or "$" not in text:
        return text
    return _VARIABLE.sub(lambda m: known.get(m[1] or m[2] or m[3], m[0]), text)


def commands(argv: list[str]) -> Iterator[list[str]]:
    """The simple commands that an argv runs: itself, or those of its shell script, one after the other."""
    if argv and _SHELL.search(argv[0]):
        for index, word in enumerate(argv[1:], 1):
            if re.fullmatch(r"-[a-z]*c[a-z]*", word) and index + 1 < len(argv):
                yield from script_commands(argv[index + 1])
                return
    yield argv


def script_commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, without redirections; a script that cannot be split gives rough words."""
    lines = [line for line in script.replace("\\\n", " ").split("\n") if not line.lstrip().startswith("#")]
    text = " ;\n".join(re.sub(r"(?:(?<=\s)|^)#[^'\"]*$", "", line) for line in lines)
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError:
        tokens = text.split()
    current: list[str] = []
    for token in tokens:
        if token in _OPERATORS or set(token) <= set(";&|"):
            if current:
                yield current
            current = []
        else:
            current.append(token)
    if current:
        yield current


def flags(argv: list[str]) -> dict[str, str]:
    """Long flags with their values, dashes for underscores; a flag alone has the value ""; the last one counts."""
    found: dict[str, str] = {}
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if not word.startswith("--") or len(word) < 3:
            continue
        name, separator, value = word.partition("=")
        if not separator and index < len(argv) and not argv[index].startswith("--"):
            value = argv[index]
            index += 1
        found[name[2:].replace("_", "-")] = value
    return found
