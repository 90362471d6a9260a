"""Kubeconfig files, looked at before the client library reads them: what is wrong is one sentence that names the file.

The library trusts what is in them: of another shape they end in its internals, and its sentences repeat what they hold.
"""

from __future__ import annotations

import binascii
import logging
import os
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from analysis.errors import BadInput, SourceUnavailable
from analysis.files import mapping_in, read_documents
from analysis.redact import names_a_secret, redact, remember

LOGIN_S = 120.0  # a program that fetches credentials may open a browser and wait for somebody
PARTS = {"clusters": "cluster", "contexts": "context", "users": "user"}


def check_kubeconfig(kubeconfig: str | None) -> str:
    """The kubeconfig in words: its files (None: those of KUBECONFIG, which may name several). Each that is there is sound.

    Their secrets are known from now on (analysis.redact). Raises BadInput naming the file and the entry.
    """
    from kubernetes.config import kube_config

    named = str(kubeconfig or kube_config.KUBE_CONFIG_DEFAULT_LOCATION)
    paths = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    there = [path for path in paths if path.exists()]
    for path in there:
        for content in read_documents(path, "kubeconfig"):
            if content is not None:
                _sound(mapping_in(content, path, "kubeconfig", "clusters, contexts and users"), path)
    return f"the kubeconfig {', '.join(map(str, there))}" if there else f"no usable kubeconfig in {named}"


def _sound(content: dict[str, Any], path: Path) -> None:
    _remember_secrets(content)
    for many, one in PARTS.items():
        where = f"the kubeconfig {path}, {many}"
        for entry in _list(content.get(many), where):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise BadInput(where, expected=f"a list of a name and its {one}")
            inner, where_one = entry.get(one), f"the kubeconfig {path}, {one} {entry['name']}"
            if not isinstance(inner, dict | None):
                raise BadInput(where_one, expected="a mapping")
            for key, value in (inner or {}).items():
                _sound_value(key, value, where_one)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | None):
        raise BadInput(where, expected="a list")
    return value or []


def _sound_value(key: str, value: Any, where: str) -> None:
    """Raises BadInput, without the value: it may be a secret."""
    if key in ("server", "token", "tokenFile", "username", "password") and not isinstance(value, str | None):
        raise BadInput(f"{where}: {key} is no text", next_step="put it in quotes")
    if key == "server" and value is not None:
        _check_server(value, where)
    if key.endswith("-data"):
        try:
            b64decode(str(value), validate=True)
        except (binascii.Error, ValueError):
            raise BadInput(
                f"{where}: {key} is no base64", expected="a certificate or key in PEM, as base64 on one line"
            ) from None


def _check_server(url: str, where: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or any(c.isspace() for c in url):
        raise BadInput(f"{where}: server is no address", value=redact(url), expected="https://HOST:PORT")


def _remember_secrets(content: Any) -> None:
    for name, value in _texts(content, ""):
        if names_a_secret(name):
            remember(value, " ".join(value.split()))


def _texts(content: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every text, with the key under which it stands; of a variable of a program, with the variable's name."""
    if isinstance(content, dict):
        of_pair = str(content.get("name") or "")
        for key, value in content.items():
            yield from _texts(value, of_pair if key == "value" else str(key))
    elif isinstance(content, list):
        for value in content:
            yield from _texts(value, name)
    elif isinstance(content, str):
        yield name, content


class _Told(logging.Handler):
    """What the library says of the program that fetches credentials, which it then does without."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def logged_in(load: Callable[[], None]) -> None:
    """Call `load`, which may start a program that fetches credentials. Raises what it raises, SourceUnavailable where the
    program fails or does not come back."""
    raised: list[BaseException] = []
    told, root = _Told(), logging.getLogger()

    def call() -> None:
        try:
            load()
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised.append(error)

    thread = threading.Thread(target=call, name="kubeconfig", daemon=True)
    root.addHandler(told)
    try:
        thread.start()
        thread.join(LOGIN_S)
    finally:
        root.removeHandler(told)
    if thread.is_alive():
        raise SourceUnavailable(
            f"the program of the kubeconfig that fetches credentials (exec) has not ended within {LOGIN_S:.0f} s",
            next_step="log in with kubectl first, for example kubectl get pods",
        )
    for error in raised:
        raise error
    if told.lines:
        raise SourceUnavailable(
            f"the program of the kubeconfig that fetches credentials failed: {told.lines[0]}",
            next_step="log in with kubectl first, for example kubectl get pods",
        )
