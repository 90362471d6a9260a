"""The one place that takes secrets out of text: keys, header values, user info and keys in URLs.

Two ways, both always on. A value that was read as a secret (`remember`) is replaced wherever it turns up, whatever its
spelling; and what looks like a secret is replaced by its place: user info of a URL, a key among its query, the value of
a header or of a variable that carries one. Errors, run headers, events, findings, Kubernetes objects that are kept and
command lines all pass through here.
"""

from __future__ import annotations

import json
import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus

HIDDEN = "***"
SHORTEST = 4  # a shorter value would take half of every sentence with it
SECRET_FROM = 8  # characters of a value in a query; shorter ones are words such as true
_HARMLESS = re.compile(r"(?i)(api-?)?version|model|deployment|region|project|location")  # names in a query
_known: dict[str, None] = {}  # secrets of this process, the longest first

_NAME = (
    r"(?:[\w.-]*(?:api[_-]?key|apikey|access[_-]?key|token(?!s)|secret|passw(?:or)?d|passwd|pwd|credential|signature)"
    r"[\w.-]*|key|sig|auth|authorization|pass)"
)
_USER_INFO = re.compile(
    r"(?i)\b([a-z][a-z0-9+.-]+://?)[^\s/?#'\"<>]+@"
)  # a path keeps one slash of an address
_QUERY = re.compile(rf"(?i)([?&;]{_NAME}=)[^&#;\s'\"<>]+?(?=:?(?:[&#;\s'\"<>]|$))")
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|x-[\w-]*(?:key|token|secret|auth)[\w-]*|api-key|apikey|cookie|set-cookie)"
    r"(['\"]?\s*[:=]\s*['\"]?)(?!@|\$)(?:(bearer|basic|token|digest)\s+)?[^\s'\",;}]+?(?=:?(?:[\s'\",;}]|$))"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s+)(?!token\b|auth)[A-Za-z0-9+/._~-]{8,}=*")
_SECRET_OPTION = re.compile(rf"(?i)^--?{_NAME}$")
_SECRET_NAME = re.compile(
    r"(?i)(?<!per_)(?<!max_)(?<!min_)(?<!num_)TOKEN$|SECRET|PASSWORD|API[-_]?KEY|CREDENTIAL|^(?:proxy-)?AUTHORIZATION$"
)
_NAMES_A_PLACE = re.compile(
    r"(?i:[_-](?:FILE|PATH|DIR|NAME|REF|URL|URI|ENABLED|HEADER|TTL)$)|[a-z](?:File|Path|Dir|Name|Ref)$"
)
_FILE_OPTION = re.compile(r"(?i)-file$")
# In the text of a command; @FILE, $VARIABLE and what stands for a value (NAME, ...) are none.
_ASSIGNED = re.compile(r"(?<![\w-])([A-Za-z]\w*)=(?![@$*\s])(?:'[^']*'|\"[^\"]*\"|[^\s'\",;&]+)")
_OPTION_VALUE = re.compile(
    rf"(?i)(?<!\S)(--{_NAME}(?<!-file)(?:=|\s+))(?!['\"]?(?:[@$]|\.\.\.|(?-i:[A-Z]+)\b|--))('[^']*'|\"[^\"]*\"|[^\s'\",;]+)"
)
_HEADER_OPTION = re.compile(
    r"(?<!\S)(['\"]?--header(?:=|\s+)['\"]?[\w-]+:\s*(?!\s))(?![@$*]|\.\.\.|[A-Z]+\b|value\b)(?:(?<=: )[^'\"\n]+|[^\s'\"]+)"
)
_IS_HEADER = re.compile(r"[A-Za-z][\w-]*:(?!\d+(?:/|$))")  # and no HOST:PORT


def remember(*values: str) -> None:
    """From now on `redact` replaces these values, and their URL, JSON, Python and basic-auth spellings, in any text."""
    for value in values:
        for form in _spellings(value):
            if len(form) >= SHORTEST:
                _known[form] = None
    ordered = sorted(_known, key=len, reverse=True)
    _known.clear()
    _known.update(dict.fromkeys(ordered))


def _spellings(value: str) -> set[str]:
    data = value.encode("utf-8", "surrogatepass")  # bytes that are no text among it: this must not fail
    escaped = {repr(value)[1:-1], json.dumps(value)[1:-1], value.encode("unicode_escape").decode()}
    return {
        value,
        value.strip(),
        quote(data, safe=""),
        quote_plus(data),
        b64encode(data).decode("ascii"),
    } | escaped


def remember_query(query: str) -> None:
    """From now on the values of keys in this query of a URL, and of whatever is long and not known as harmless, are
    secrets: a server may repeat them in any form."""
    for name, value in parse_qsl(query):
        unknown = len(value) >= SECRET_FROM and not _HARMLESS.fullmatch(name)
        if unknown or _SECRET_OPTION.match(f"-{name}"):
            remember(value)


def hide(text: str) -> str:
    """The text with the remembered values replaced, and nothing else: for pages whose code a pattern could break."""
    for value in _known:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def redact(text: str) -> str:
    """The text with every secret in it replaced by ***."""
    text = hide(text)
    text = _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    text = _HEADER.sub(lambda m: f"{m[1]}{m[2]}{m[3] + ' ' if m[3] else ''}{HIDDEN}", text)
    text = _ASSIGNED.sub(lambda m: f"{m[1]}={HIDDEN}" if names_a_secret(m[1]) else m[0], text)
    text = _OPTION_VALUE.sub(rf"\g<1>{HIDDEN}", text)
    text = _HEADER_OPTION.sub(rf"\g<1>{HIDDEN}", text)
    return _SCHEME.sub(rf"\g<1>\g<2>{HIDDEN}", text)


def names_a_secret(name: str) -> bool:
    """Whether a variable, key or header of this name holds a secret, rather than the place of one."""
    return bool(_SECRET_NAME.search(name)) and not _NAMES_A_PLACE.search(name)


def redacted(content: Any) -> Any:
    """Plain data (JSON) with every text in it redacted; keys stay.

    What stands under a key that names a secret is replaced, be it `{"API_KEY": value}` or, as in a container's environment,
    `{"name": "API_KEY", "value": value}`; a list of texts is read as the words of a command, a text of JSON as what it holds.
    """
    if isinstance(content, str):
        return _text(content)
    if isinstance(content, Mapping):
        of_pair = names_a_secret(str(content.get("name") or ""))
        return {
            key: _value("", str(value))
            if _is_plain(value) and (_is_key(str(key), value) or (of_pair and key == "value"))
            else redacted(value)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        if content and all(isinstance(word, str) for word in content):
            return list(_words(content))
        return [redacted(value) for value in content]
    return content


def _is_key(name: str, value: object) -> bool:
    """Whether the value under this key is a secret; a number of something per token is none."""
    return names_a_secret(name) and (isinstance(value, str) or not name.lower().endswith("token"))


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _text(text: str) -> str:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(redacted(json.loads(text)))
        except (ValueError, RecursionError):
            pass
    return redact(text)


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
