"""One way to ask a server for a page: bounded in time and size, with its key, and failures in a few words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from analysis.access import Access
from analysis.errors import BadInput, SourceUnavailable
from analysis.redact import redact, remember_query
from autoscale.observe.in_time import InTime

MOST_BYTES = 512 << 20  # of one answer: ten minutes of 100 pods at 1 s are about 100 MB
PIECE = 1 << 18
CONNECT_S = 5.0
# exceptions in which a name or certificate fails tell it in their text only
_SIGNS = (
    ("refused", "connection refused"),
    ("resolve", "unknown host"),
    ("Name or service", "unknown host"),
    ("timed out", "timed out"),
    ("Connection broken", "the connection broke in mid-answer"),
    ("failed to decode", "its body is not compressed as it says"),
    ("Max retries", "no connection"),
)


class _Pool(urllib3.HTTPConnectionPool):
    class ConnectionCls(InTime, HTTPConnection):
        """Over TCP."""


class _TlsPool(urllib3.HTTPSConnectionPool):
    class ConnectionCls(InTime, HTTPSConnection):
        """Over TLS."""


class _Adapter(HTTPAdapter):
    """Connections of the kinds above, straight and through a proxy."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        _in_time(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        return _in_time(super().proxy_manager_for(*args, **options))


def _in_time(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


class Session(requests.Session):
    """Requests with the headers and trust of `access`; an answer is read whole within `total_s`, redirections and all, or
    not at all.

    Environment proxies are used; ~/.netrc is not: it would replace the key that was given. Headers of `access` do not
    follow a redirect to another host. `check` looks at every answer first and raises what it likes.
    """

    def __init__(
        self, access: Access, total_s: float, check: Callable[[requests.Response], None] | None = None
    ) -> None:
        super().__init__()
        self.access, self.total_s, self.check = access, total_s, check
        self.headers.update(access.headers)
        self.verify = access.verify
        self.auth = _no_netrc
        self._until = 0.0
        if access.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def request(self, method: str, url: str | bytes, *args: Any, **options: Any) -> requests.Response:
        """As requests.Session.request, the body read. Raises requests.RequestException."""
        self._until = time.monotonic() + self.total_s
        options |= {"stream": True, "verify": self.verify, "auth": self.auth}
        try:
            response = super().request(method, url, *args, **options)
        except UnicodeError:
            raise requests.exceptions.InvalidURL("it redirects to an address that is none") from None
        except requests.RequestException as error:
            error.add_note(_elsewhere(error, url))
            raise
        pieces, size = [], 0
        for piece in _as_it_comes(response):
            pieces.append(piece)
            size += len(piece)
            if size > MOST_BYTES:
                response.close()
                raise requests.RequestException(f"it sends more than {MOST_BYTES >> 20} MB")
            if time.monotonic() > self._until:
                response.close()
                raise self._too_late("sending")
        response._content, response._content_consumed = b"".join(pieces), True
        if self.check is not None:
            self.check(response)
        return response

    def mount(self, prefix: Any, adapter: BaseAdapter) -> None:
        """As requests.Session.mount, with connections of our own."""
        retries = adapter.max_retries if isinstance(adapter, HTTPAdapter) else 0
        super().mount(prefix, _Adapter(max_retries=retries))

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """As requests.Session.send, which every redirection passes, too, in what is left of the time."""
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise self._too_late("redirecting")
        return super().send(request, **(options | {"timeout": (min(CONNECT_S, left_s), left_s)}))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where it redirects to, its body unread: it would be read to its end, if it has one."""
        if (target := super().get_redirect_target(resp)) is not None and not resp._content_consumed:
            resp._content, resp._content_consumed = b"", True
            resp.raw.close()
        return target

    def _too_late(self, doing: str) -> requests.Timeout:
        return requests.Timeout(f"timed out: it was still {doing} after {self.total_s:.0f} s")

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Called for every redirect: take our headers off a request to another host."""
        if self.should_strip_auth(str(response.request.url), str(prepared_request.url)):
            for name in ("Authorization", *self.access.headers):
                prepared_request.headers.pop(name, None)


def _elsewhere(error: requests.RequestException, url: str | bytes) -> str:
    """Where the request that failed went, if it was redirected to another place; else empty."""
    asked = str(getattr(error.request, "url", None) or url)
    there, here = (urlsplit(one) for one in (asked, url if isinstance(url, str) else url.decode()))
    if (there.scheme, there.hostname, there.port) == (here.scheme, here.hostname, here.port):
        return ""
    return f"it redirects to {there.scheme}://{there.netloc.rpartition('@')[2]}: "


def _as_it_comes(response: requests.Response) -> Iterator[bytes]:
    """The body in pieces of what is there: whoever sends a byte per second is asked for the time after each."""
    try:
        while piece := response.raw.read1(PIECE, decode_content=True):
            yield piece
    except urllib3.exceptions.DecodeError as error:
        raise requests.exceptions.ContentDecodingError(error) from None
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from None


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def address(url: str, what: str, access: Access) -> tuple[str, Access]:
    """The address without user info and the access with it. Raises BadInput, naming `what` it should be."""
    remember_query(url.partition("?")[2].partition("#")[0])
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad or any(c.isspace() or ord(c) < 32 for c in url):
        raise BadInput("not a URL", value=redact(url), expected=what)
    if parts.fragment:
        raise BadInput("the address has a part after #, which no server gets", expected=what)
    return access.of_url(url)


def reason_of(error: Exception) -> str:
    """A network error in a few words, and where it was met, if that is not where was asked."""
    return "".join(getattr(error, "__notes__", [])) + _reason(error)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return status_of(response)
    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = (
                text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it is not trusted"
            )
            return f"TLS: its certificate was refused ({why})"
        return (
            "TLS: it does not speak it" if "WRONG_VERSION" in text or "record layer" in text else "TLS failed"
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy of http_proxy/https_proxy does not pass it on"
    return next((words for sign, words in _SIGNS if sign in text), redact(text)[:120])


def status_of(response: requests.Response) -> str:
    """An answer's status in a few words."""
    sent = response.request is not None and "Authorization" in response.request.headers
    wants = "it does not accept the key" if sent else "it wants a key"
    forbids = "the key does not allow it" if sent else "forbidden; no key was sent"
    said = {401: wants, 403: forbids, 407: "the proxy wants a key"}
    words = said.get(response.status_code) or response.reason or ""
    return f"HTTP {response.status_code}" + (f" ({words})" if words else "")


def way_out(error: Exception, key_option: str) -> str:
    """The next step after a network error; `key_option` is the option that takes a key there."""
    response = getattr(error, "response", None)
    status = response.status_code if response is not None else 0
    if isinstance(error, requests.exceptions.SSLError):
        if "TLS: its certificate" in reason_of(error):
            return "give the certificate of its CA with --ca-file FILE, or do without with --insecure"
        return "check whether the address is http:// or https://"
    if status in (401, 403):
        return f"give its key with {key_option} FILE or --header 'NAME: VALUE'; a tenant with --header 'X-Scope-OrgID: NAME'"
    if isinstance(error, requests.exceptions.ProxyError):
        return "check http_proxy, https_proxy and no_proxy"
    if status in (429, 502, 503, 504):
        return "it is up but does not answer now: try again later"
    return "check the address and port"


def unreachable(what: str, error: Exception, key_option: str) -> SourceUnavailable:
    """`what` ("cannot reach Prometheus at ...") with the reason and the next step."""
    return SourceUnavailable(f"{what}: {reason_of(error)}", next_step=way_out(error, key_option))
