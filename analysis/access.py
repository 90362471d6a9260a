"""What goes with every request to a server: its key, further headers, and which certificates are trusted.

    key       --api-key-file FILE, else the environment: OPENAI_API_KEY, then VLLM_API_KEY (only for the server under load)
    headers   --header 'Name: value', any number; a value `@FILE` is read from the file, `$ENV` from the environment
    address   http://user:password@host is sent as basic authorization, and the address goes on without it
    TLS       --ca-file FILE (else SSL_CERT_FILE, REQUESTS_CA_BUNDLE, the system's), --insecure

Whatever is read here is a secret from then on (analysis.redact).
"""

from __future__ import annotations

import os
import re
import select
import stat
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from analysis.errors import BadInput, check_utf8
from analysis.redact import remember, remember_query

KEY_VARIABLES = ("OPENAI_API_KEY", "VLLM_API_KEY")
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MOST_BYTES = 64 << 10  # of a key or header value in a file: servers refuse a head much shorter than this
PIPE_S = 20.0  # for the whole of what a pipe gives: somebody may type a passphrase meanwhile
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OURS = {
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "content-type",
    "expect",
    "upgrade",
    "te",
    "trailer",
}


@dataclass(frozen=True)
class Access:
    """Headers of every request (name -> value, never shown) and TLS trust."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    insecure: bool = False
    key_from: str | None = None  # where the Authorization came from, in words
    ca_pem: str | None = field(default=None, repr=False)  # what ca_file holds, where another machine read it

    @property
    def has_key(self) -> bool:
        """Whether an Authorization goes with the requests."""
        return any(name.lower() == "authorization" for name in self.headers)

    @property
    def verify(self) -> bool | str:
        """For requests: False, the CA file, or True."""
        return False if self.insecure else (self.ca_file or True)

    def with_header(self, name: str, value: str) -> Access:
        """The same with one more header; an existing one of this name stays as it is."""
        if any(name.lower() == known.lower() for known in self.headers):
            return self
        return replace(self, headers={**self.headers, name: value})

    def of_url(self, url: str) -> tuple[str, Access]:
        """The address without user info, and the access with it as basic authorization. Raises BadInput where it is not
        UTF-8."""
        try:
            parts = urlsplit(url)
            user, password, (login, _, host) = parts.username, parts.password, parts.netloc.rpartition("@")
        except ValueError:
            return url, self
        remember_query(parts.query)
        remember(password or "")  # as it stands there
        plain = urlunsplit(parts._replace(netloc=host))
        check_utf8(login, "the user or the password of the address", shown=plain)
        check_utf8(plain, "the address", shown=plain)
        if user is None and password is None:
            return url, self
        user, password = unquote(user or ""), unquote(password or "")
        remember(password, f"{user}:{password}")
        text = b64encode(f"{user}:{password}".encode()).decode("ascii")
        remember(text)
        found = self.with_header("Authorization", f"Basic {text}")
        if found is not self:
            found = replace(found, key_from="the user and password of the address")
        return plain, found

    def described(self) -> dict[str, Any]:
        """What may be written down: where the key came from (None: none is sent) and the names of the headers."""
        return {"key": self.key_from, "headers": sorted(self.headers)}

    def message(self) -> dict[str, Any]:
        """Plain values for a worker on this or another machine, which has neither the files nor the environment.

        Raises BadInput when the certificates cannot be read.
        """
        return {
            "headers": dict(self.headers),
            "ca_pem": self.certificates(),
            "insecure": self.insecure,
            "key_from": self.key_from,
        }

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> Access:
        """What `message` said; the values are secrets in this process, too."""
        remember(*message["headers"].values())
        remember(*(value.partition(" ")[2] for value in message["headers"].values() if " " in value))
        return Access(
            message["headers"],
            insecure=message["insecure"],
            key_from=message["key_from"],
            ca_pem=message["ca_pem"],
        )

    def certificates(self) -> str | None:
        """The trusted certificates in PEM format; None: the system's. Raises BadInput."""
        if self.ca_pem is not None or self.ca_file is None:
            return self.ca_pem
        try:
            return Path(self.ca_file).read_text(encoding="ascii", errors="replace")
        except OSError as error:
            raise BadInput(f"--ca-file: cannot read {self.ca_file}: {error.strerror or error}") from None


def access(
    *,
    key_file: Path | str | None = None,
    key_option: str = "--api-key-file",
    headers: Sequence[str] = (),
    ca_file: Path | str | None = None,
    insecure: bool = False,
    key_variables: Sequence[str] = KEY_VARIABLES,
    environ: Mapping[str, str] = os.environ,
) -> Access:
    """What the options ask for; `key_option` is the name of the one that gave `key_file`; `key_variables` is empty where the environment's keys are not meant (Prometheus).

    An Authorization among `headers` wins over a key file, and that over the environment. Raises BadInput naming the
    option, file or variable, never the value.
    """
    found: dict[str, str] = {}
    key_from = "--header Authorization"
    for text in headers:
        name, value = _header(text, environ)
        if name.lower() in (known.lower() for known in found):
            raise BadInput(f"--header names {name} twice", next_step="leave out one")
        found[name] = value
    if not any(name.lower() == "authorization" for name in found):
        key, key_from = _key(key_file, key_option, key_variables, environ)
        if key is not None:
            found["Authorization"] = f"Bearer {key}"
    elif key_file is not None:
        raise BadInput(f"{key_option} and --header 'Authorization: ...'", next_step="leave out one")
    made = Access(found, _ca_file(ca_file, environ), insecure)
    return replace(made, key_from=key_from) if made.has_key else made


def _key(
    file: Path | str | None, option: str, variables: Sequence[str], environ: Mapping[str, str]
) -> tuple[str | None, str]:
    """The key, and where it was found in words."""
    if file is not None:
        where = f"the key in {file}"
        return sendable(_read(file, option), where), where
    for name in variables:
        if value := environ.get(name, "").strip():
            where = f"the key in the environment's {name}"
            return sendable(value, where), where
    return None, ""


def _header(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _TOKEN.fullmatch(name):
        raise BadInput(
            "--header is not a header", expected="'Name: value', where the value may be @FILE or $VARIABLE"
        )
    if name.lower() in _OURS:
        raise BadInput("--header", value=name, expected="a header that the client does not set itself")
    if value.startswith("@"):
        value = _read(value[1:], f"the {name} of --header")
    elif value.startswith("$"):
        variable = value[1:].strip("{}")
        if not environ.get(variable):
            raise BadInput(
                f"--header {name} names a variable that the environment lacks",
                value=variable,
                next_step="export it",
            )
        value = environ[variable]
    return name, sendable(value, f"the value of --header {name}")


def _read(file: Path | str, option: str) -> str:
    try:
        data = _bytes_in(Path(file).expanduser())
    except TimeoutError:
        raise BadInput(
            f"{option}: nothing came from {file} within {PIPE_S:.0f} s",
            expected="a file with one line, or a pipe that somebody writes to",
        ) from None
    except OSError as error:
        raise BadInput(f"{option}: cannot read {file}: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise BadInput(f"{option}: {file} holds more than {MOST_BYTES} bytes", expected="one line")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BadInput(f"{option}: {file} is not text", expected="one line of printable ASCII") from None


def _bytes_in(file: Path) -> bytes:
    """The first MOST_BYTES + 1 of a file, or of a pipe such as `<(pass show key)`, whose writer may be slow or missing.

    Raises TimeoutError, OSError.
    """
    until_s, data = time.monotonic() + PIPE_S, b""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        waits = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        while len(data) <= MOST_BYTES:
            if waits and not select.select([descriptor], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(descriptor, MOST_BYTES + 1 - len(data))
            if not piece:
                break
            data += piece
        return data
    finally:
        os.close(descriptor)


def sendable(value: str, what: str) -> str:
    """The value, once it can be a header's: one line of printable ASCII. It is a secret from now on. Raises BadInput naming
    `what` it is, without it."""
    value = value.strip()
    remember(value)
    if " " in value:  # "Bearer abc": the part that is secret, too
        remember(value.partition(" ")[2])
    if not value:
        raise BadInput(f"{what} is empty")
    odd = next((c for c in value if not 0x20 <= ord(c) < 0x7F), None)
    if odd is not None:
        name = "a line break" if odd in "\r\n" else f"the character U+{ord(odd):04X}"
        raise BadInput(f"{what} has {name}", expected="one line of printable ASCII")
    return value


def _ca_file(file: Path | str | None, environ: Mapping[str, str]) -> str | None:
    if file is not None:
        file = Path(file).expanduser()
        if not file.is_file():
            raise BadInput("--ca-file is no file", value=str(file), expected="certificates in PEM format")
        return str(file)
    return next(
        (environ[name] for name in CA_VARIABLES if environ.get(name) and Path(environ[name]).is_file()), None
    )
