"""The one place that takes secrets out of text: keys, header values, user info and keys in URLs.

Two ways, both always on. A value that was read as a secret (`remember`) is replaced wherever it turns up, whatever its
spelling; and what looks like a secret is replaced by its place: user info of a URL, a key among its query, the value of
a header that carries one. Errors, run headers, events and command lines all pass through here.
"""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST = 4  # a shorter value would take half of every sentence with it
_known: dict[str, None] = {}  # secrets of this process, the longest first

_NAME = (
    r"(?:[\w.-]*(?:api[_-]?key|apikey|access[_-]?key|token(?!s)|secret|passw(?:or)?d|passwd|pwd|credential|signature)"
    r"[\w.-]*|key|sig|auth|authorization|pass)"
)
_USER_INFO = re.compile(r"(?<=://)[^\s/?#'\"<>]+@")
_QUERY = re.compile(rf"(?i)([?&;]{_NAME}=)[^&#;\s'\"<>]+")
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|x-[\w-]*(?:key|token|secret|auth)[\w-]*|api-key|apikey|cookie|set-cookie)"
    r"(['\"]?\s*[:=]\s*['\"]?)(?!@|\$)(?:(bearer|basic|token|digest)\s+)?[^\s'\",;}]+"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s+)(?!token\b|auth)[A-Za-z0-9+/._~-]{8,}=*")
_SECRET_OPTION = re.compile(rf"(?i)^--?{_NAME}$")
_FILE_OPTION = re.compile(r"(?i)-file$")
_IS_HEADER = re.compile(r"[A-Za-z][\w-]*:(?!\d+(?:/|$))")  # and no HOST:PORT


def remember(*values: str) -> None:
    """From now on `redact` replaces these values, and their URL and basic-auth spellings, in any text."""
    for value in values:
        for form in {value, value.strip(), quote(value, safe=""), quote_plus(value), _base64(value)}:
            if len(form) >= SHORTEST:
                _known[form] = None
    ordered = sorted(_known, key=len, reverse=True)
    _known.clear()
    _known.update(dict.fromkeys(ordered))


def hide(text: str) -> str:
    """The text with the remembered values replaced, and nothing else: for pages whose code a pattern could break."""
    for value in _known:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def redact(text: str) -> str:
    """The text with every secret in it replaced by ***."""
    text = hide(text)
    text = _USER_INFO.sub(f"{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    text = _HEADER.sub(lambda m: f"{m[1]}{m[2]}{m[3] + ' ' if m[3] else ''}{HIDDEN}", text)
    return _SCHEME.sub(rf"\g<1>\g<2>{HIDDEN}", text)


def redacted(content: Any) -> Any:
    """Plain data (JSON) with every text in it redacted; keys stay."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, Mapping):
        return {key: redacted(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [redacted(value) for value in content]
    return content


def command_line(argv: Sequence[str]) -> str:
    """A command as it may be written down: quoted for a shell, secrets replaced.

    The value of --header keeps the header's name and, where it only names a place (`@FILE`, `$ENV`), its value; the value
    of an option whose name says key, token, secret or password is replaced unless the option takes a file.
    """
    return shlex.join(_words(argv))


def _words(argv: Sequence[str]) -> Iterable[str]:
    option = ""
    for word in argv:
        if option:
            yield _value(option, word)
            option = ""
            continue
        name, equals, value = word.partition("=")
        if equals and name.startswith("-") and _hides(name):
            yield f"{name}={_value(name, value)}"
        else:
            yield redact(word)
            option = word if word.startswith("-") and _hides(word) else ""


def _hides(option: str) -> bool:
    is_header = option in ("--header", "-H")
    return is_header or bool(_SECRET_OPTION.match(option) and not _FILE_OPTION.search(option))


def _value(option: str, word: str) -> str:
    if option not in ("--header", "-H"):
        return word if word.startswith(("@", "$")) else HIDDEN
    if option == "-H" and ("://" in word or not _IS_HEADER.match(word)):  # Locust's short form of --host
        return redact(word)
    name, colon, value = word.partition(":")
    if not colon:
        return HIDDEN
    return word if value.strip().startswith(("@", "$")) else f"{name}: {HIDDEN}"


def _base64(value: str) -> str:
    return b64encode(value.encode("utf-8", "surrogatepass")).decode("ascii")
