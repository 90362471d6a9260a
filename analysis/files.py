"""Files that a user names, to be read as text, YAML or JSON, or to be written: whatever is wrong is one sentence of bad input.

`what` is what the file is to be ("HPA file", "recommendation") and opens the sentence. What is to be written is looked at
before the work, and never over what somebody else left there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from analysis.documents import MAX_DEPTH, TOO_DEEP, Problem, documents, helm_hint
from analysis.errors import BadInput

MAX_BYTES = 64_000_000  # the largest that this project writes, a recommendation with all its candidates, has under 1 MB
UNWRITABLE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a limit on the size of files was reached",
    errno.EROFS: "the file system can only be read",
    errno.EIO: "the disk fails",
}
REGULAR, SAVE_IT = "a regular file", "save it to one"  # of a pipe or a device
_NO_FILES = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}
_KINDS = {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


def read_text(path: Path | str, what: str) -> str:
    """The text of a file, without its byte order mark. Raises BadInput: absent, a directory, a pipe, too large, not UTF-8."""
    try:
        if (kind := special_kind(os.stat(path).st_mode)) == "a pipe":
            raise BadInput(f"the {what} {path} is {kind}", expected=REGULAR, next_step=SAVE_IT)
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise BadInput(f"no such {what}", value=str(path)) from None
    except NotADirectoryError:
        raise BadInput(f"no such {what}", value=str(path), expected="a path through directories") from None
    except IsADirectoryError:
        raise BadInput(f"the {what} is a directory", value=str(path), expected="a file") from None
    except OSError as error:
        raise BadInput(f"cannot read the {what} {path}: {os.strerror(error.errno or 0)}") from None
    if len(raw) > MAX_BYTES:
        raise BadInput(f"the {what} {path} is too large", expected=f"at most {MAX_BYTES // 1_000_000} MB")
    return utf8_text(raw, f"the {what} {path}")


def utf8_text(raw: bytes, file: str) -> str:
    """The text of these bytes, without their byte order mark. Raises BadInput, naming the `file`, where it is not UTF-8."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        raise BadInput(f"{file} is not text: {byte} is not UTF-8", next_step="save it as UTF-8") from None


def special_kind(mode: int) -> str | None:
    """What is at a path, by its `mode`, where that is no regular file: a device has no end, and a pipe may never begin."""
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _NO_FILES.items() if test(mode)), "something else")


def read_documents(path: Path | str, what: str) -> list[Any]:
    """The values of all YAML (or JSON) documents of a file. Raises BadInput, with line and column."""
    values, text = [], read_text(path, what)
    for document in documents(text, {}):
        problems = [document] if isinstance(document, Problem) else document.problems
        for problem in problems:
            raise BadInput(
                f"the {what} {path}, line {problem.line}, column {problem.column}: {problem.text}",
                next_step=helm_hint(problem, text),
            )
        assert not isinstance(document, Problem)
        values.append(document.value)
    return values


def read_yaml(path: Path | str, what: str) -> dict[str, Any]:
    """The one mapping that a YAML file holds. Raises BadInput, with line and column."""
    found = [value for value in read_documents(path, what) if value is not None]
    if len(found) > 1:
        raise BadInput(f"the {what} {path} holds {len(found)} documents", expected="one")
    return mapping_in(found[0] if found else None, path, what, "a mapping")


def read_json(path: Path | str, what: str, expected: str = "a JSON object") -> dict[str, Any]:
    """The object that a JSON file holds. Raises BadInput, with line and column and what was `expected`."""
    text = read_text(path, what)
    try:
        return mapping_in(json_value(text, once=True) if text.strip() else None, path, what, expected)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"the {what} {path} is not JSON: {error.msg} ({where})", expected=expected) from None
    except ValueError as error:
        raise BadInput(f"cannot read the {what} {path}: {error}") from None


def json_value(text: str | bytes, *, once: bool = False) -> Any:
    """`json.loads`, with one limit of nesting for all versions of Python, and only texts that a file can hold; `once`: of a
    key that stands twice none counts.

    Raises ValueError.
    """
    try:
        value = json.loads(text, object_pairs_hook=_said_once if once else None)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if "\\ud" in (text if isinstance(text, str) else text.decode("utf-8", "replace")).lower():
        _writable(value)
    level, depth = [value], 0
    while level := [one for one in level if type(one) is dict or type(one) is list]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        level = [inner for one in level for inner in (one.values() if type(one) is dict else one)]
    return value


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _writable(value: Any) -> None:
    """JSON's escapes can make half a surrogate pair, which nothing that is written can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise ValueError(f"a text in it holds half a surrogate pair, {half}") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def json_text(content: Mapping[str, Any], indent: int | None = None) -> str:
    """Plain data as JSON that `json_value` reads: half a surrogate pair is escaped once more, what is not finite is null."""
    return json.dumps(_readable(content), indent=indent, default=str, allow_nan=False)


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_readable(key): _readable(inner) for key, inner in value.items()}
    return [_readable(inner) for inner in value] if isinstance(value, list | tuple) else value


def mapping_in(value: Any, path: Path | str, what: str, expected: str) -> dict[str, Any]:
    """What a file holds as a mapping. Raises BadInput naming what it holds instead: nothing, a list, text."""
    if value is None:
        raise BadInput(f"the {what} {path} is empty", expected=expected)
    if not isinstance(value, dict):
        raise BadInput(
            f"the {what} {path} holds {_KINDS.get(type(value), type(value).__name__)}", expected=expected
        )
    return value


Recognised = Callable[[Path], bool]
_made: list[Path] = []  # directories made for results, an outer one before what is in it


def free_directory(path: Path, earlier: Recognised) -> Path:
    """The directory, made now. One that holds something must hold an earlier result of the same kind: `earlier(path)`.

    Raises BadInput, also where it cannot be made.
    """
    try:
        _make(path)
        taken = any(path.iterdir())
    except OSError as error:
        raise BadInput(
            f"cannot write to {error.filename or path}: {error.strerror}",
            next_step="choose another directory with --out",
        ) from None
    if taken and not earlier(path):
        raise BadInput(
            "the directory already holds something else",
            value=str(path),
            expected="an empty or a new one",
            next_step="choose another with --out",
        )
    return path


def _make(directory: Path) -> None:
    new = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    _made.extend(reversed(new))


def leave_no_empty_directories() -> None:
    """Remove the directories that were made and that nothing was written to: the work for them was refused, or cut off."""
    while _made:
        with suppress(OSError):  # it holds something, or has gone
            _made.pop().rmdir()


def free_file(path: Path, earlier: Recognised, expected: str) -> Path:
    """The file, its directory made now. One that is there must be an earlier result of the same kind: `earlier(path)`.

    Raises BadInput, also where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
    except OSError as error:
        raise BadInput(
            f"cannot write to {error.filename or path}: {error.strerror}",
            next_step="choose another --out",
        ) from None
    if there and not (path.is_file() and earlier(path)):
        raise BadInput(
            "there is something else already",
            value=str(path),
            expected=f"a new file, or {expected}",
            next_step="choose another --out",
        )
    return path


def empty(_: Path) -> bool:
    """Of a kind whose earlier results are kept, too: nothing may be there."""
    return False


def begins_with(text: str) -> Recognised:
    """Whether a file begins so, case aside."""

    def earlier(path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(200).lstrip().lower().startswith(text.lower().encode())

    return earlier


def put_all(texts: Mapping[Path, str]) -> None:
    """Write files that belong together, all of them or none, in directories that are made where there are none.

    Raises BadInput, naming the file, where nothing can be written.
    """
    with ExitStack() as beside:
        for target, text in texts.items():
            try:
                _make(target.parent)
                beside.enter_context(replacing(target)).write_text(text, encoding="utf-8")
            except OSError as error:
                if error.errno not in UNWRITABLE:
                    raise
                raise BadInput(
                    f"cannot write {target}: {UNWRITABLE[error.errno]}",
                    next_step="make room, or write elsewhere",
                ) from None


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place once it is written, so that nobody reads half of it; what a full disk holds of
    it is removed."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
