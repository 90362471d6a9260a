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
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from analysis.errors import BadInput
from analysis.redact import remember

KEY_VARIABLES = ("OPENAI_API_KEY", "VLLM_API_KEY")
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MOST_BYTES = 64 << 10  # of a key or header value in a file: servers refuse a head much shorter than this
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
        """The address without user info, and the access with it as basic authorization."""
        try:
            parts = urlsplit(url)
            user, password, host = parts.username, parts.password, parts.netloc.rpartition("@")[2]
        except ValueError:
            return url, self
        if user is None and password is None:
            return url, self
        user, password = unquote(user or ""), unquote(password or "")
        remember(password, f"{user}:{password}")
        text = b64encode(f"{user}:{password}".encode()).decode("ascii")
        remember(text)
        return urlunsplit(parts._replace(netloc=host)), self.with_header("Authorization", f"Basic {text}")


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
    for text in headers:
        name, value = _header(text, environ)
        if name.lower() in (known.lower() for known in found):
            raise BadInput(f"--header names {name} twice", next_step="leave out one")
        found[name] = value
    if not any(name.lower() == "authorization" for name in found):
        key = _key(key_file, key_option, key_variables, environ)
        if key is not None:
            found["Authorization"] = f"Bearer {key}"
    elif key_file is not None:
        raise BadInput(f"{key_option} and --header 'Authorization: ...'", next_step="leave out one")
    return Access(found, _ca_file(ca_file, environ), insecure)


def _key(
    file: Path | str | None, option: str, variables: Sequence[str], environ: Mapping[str, str]
) -> str | None:
    if file is not None:
        return _sendable(_read(file, option), f"the key in {file}")
    for name in variables:
        if value := environ.get(name, "").strip():
            return _sendable(value, f"the key in the environment's {name}")
    return None


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
        value = _read(value[1:], f"--header {name}")
    elif value.startswith("$"):
        variable = value[1:].strip("{}")
        if not environ.get(variable):
            raise BadInput(f"--header {name}: the environment has no", value=variable, next_step="export it")
        value = environ[variable]
    return name, _sendable(value, f"the value of --header {name}")


def _read(file: Path | str, option: str) -> str:
    try:
        with open(Path(file).expanduser(), "rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{option}: cannot read {file}: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise BadInput(f"{option}: {file} holds more than {MOST_BYTES} bytes", expected="one line")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise BadInput(f"{option}: {file} is not text", expected="one line of printable ASCII") from None


def _sendable(value: str, what: str) -> str:
    """The value, once it can be a header's: one line of printable ASCII. It is a secret from now on."""
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
        if not Path(file).is_file():
            raise BadInput("--ca-file is no file", value=str(file), expected="certificates in PEM format")
        return str(file)
    return next(
        (environ[name] for name in CA_VARIABLES if environ.get(name) and Path(environ[name]).is_file()), None
    )
