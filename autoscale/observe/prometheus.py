"""The HTTP API of one Prometheus, or of what speaks like it: Mimir, Thanos, VictoriaMetrics, Google Managed Prometheus.

What is asked, until it is granted:

    raw samples of all names     a range vector with {__name__=~"a|b"}: every row is a scrape, at its own time
    raw samples, name by name    Google takes only whole names
    range queries, all names     not every server gives range vectors; repeated values cannot be told apart then
    range queries, name by name
    ... at whole seconds         of a --step below 1

The names are those that the server knows in the window and that mean a column (metric_names). Chunks bound the memory
of an answer, and range queries stay below Prometheus' limit of 11,000 points; where a server allows less, chunks are halved.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from analysis.access import Access
from analysis.errors import BadInput, SourceUnavailable
from analysis.numbers import told_number
from analysis.redact import redact
from autoscale.observe import metric_names
from autoscale.observe.header import LONGEST_S
from autoscale.observe.prometheus_words import bad_words, warnings_of
from autoscale.observe.web import Session, address, reason_of, unreachable, way_out

T = TypeVar("T")
Series = tuple[dict[str, str], list[list[Any]]]
MAX_POINTS = 10_000  # per range query; Prometheus refuses more than 11,000
LEAST_CHUNK_S = 300.0  # to which a chunk is halved where the server refuses so much at once
RAW_CHUNK_S = 600  # bounds the memory of one answer: 16 pods at 1 s are about 125,000 samples
ANSWER_S = 120.0  # for one answer, Prometheus' own limit of a query
CLOCKS_AGREE_S = 1.0
GOOGLE = "monitoring.googleapis.com"
KEY_OPTION = "--token-file"
PATHS = "Mimir: add /prometheus; VictoriaMetrics' cluster: /select/0/prometheus"
_PAGES = re.compile(r"/(?:api/v1(?:/query(?:_range)?)?|graph|query)/?$")  # addresses that people copy
# Prometheus, Thanos: "too many samples", "timed out"; Mimir: "exceeded the maximum number of chunks"; VictoriaMetrics: "cannot process more than"
_TOO_MUCH = re.compile(r"too many|exceed|limit|more than|timed out")
_EXPECTED = "the Prometheus HTTP API under /api/v1"


class Refused(Exception):
    """A query that the server understood and refused, with what it said."""

    @property
    def asks_too_much(self) -> bool:
        """Whether it may answer a part of it."""
        return _TOO_MUCH.search(str(self)) is not None


class _Retry(Retry):
    """What waited for ANSWER_S is not asked for again: it would be silent for three times as long."""

    def increment(self, *args: Any, **options: Any) -> Self:
        error = options.get("error")
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(*args, **options)


class Prometheus:
    """One server; its failures are our errors. `warnings` collects those that came with its answers."""

    def __init__(self, url: str, access: Access) -> None:
        url, access = address(url, "http://HOST:9090", access)
        self.url = _PAGES.sub("", url.rstrip("/"))
        host = urlsplit(self.url).hostname or ""
        if host == GOOGLE and not access.has_key:
            access = access.with_header("Authorization", f"Bearer {_google_token()}")
        self.shown = redact(self.url)
        # (raw samples, all names at once)
        self.ways = [(True, True), (True, False), (False, True), (False, False)]
        self.warnings: set[str] = set()
        retry = _Retry(
            total=2,
            backoff_factor=0.2,
            status_forcelist=[502, 503, 504],
            raise_on_status=False,
            respect_retry_after_header=False,  # it may ask for an hour
        )
        self.client = PrometheusConnect(self.url, retry=retry, session=Session(access, ANSWER_S, self._check))

    @property
    def raw(self) -> bool:
        """Whether the samples are scrapes, not values at every step."""
        return self.ways[0][0]

    def query(self, promql: str, at: float | None = None) -> Any:
        """The result of an instant query. Raises Refused, SourceUnavailable."""
        params = {} if at is None else {"time": f"{at:.3f}"}
        return self._ask(lambda: self.client.custom_query(promql, params))

    def vector(self, promql: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each element of an instant query's vector. Raises Refused, SourceUnavailable."""
        try:
            found = [(one["metric"], told_number(one["value"][1])) for one in self.query(promql, at)]
        except (LookupError, TypeError):
            raise self._not_prometheus(": a result has no labels or no value") from None
        return [(self._labels(labels), value) for labels, value in found]

    def of_a_name(self, name: str, matchers: str, ask: Callable[[str], T]) -> T:
        """What `ask` gives for the selector of one of vLLM's metrics, however that is prefixed; by the name itself where the
        server takes only whole names. Raises Refused, SourceUnavailable."""
        more = f",{matchers}" if matchers else ""
        try:
            return ask(f'{{__name__=~"(?:.+_)?vllm[:_]{name}"{more}}}')
        except Refused as refused:
            if refused.asks_too_much:
                raise
            return ask(f"vllm:{name}{{{matchers}}}")

    def _ask(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except PrometheusApiClientException as refused:
            raise Refused(redact(str(refused))[:300]) from None
        except requests.exceptions.JSONDecodeError:  # a RequestException, too
            raise self._not_prometheus() from None
        except requests.RequestException as error:
            raise unreachable(f"cannot reach Prometheus at {self.shown}", error, KEY_OPTION) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._not_prometheus() from None

    def _check(self, response: requests.Response) -> None:
        """What an answer's status and warnings say, before its result is looked at."""
        status, said = response.status_code, bad_words(response)
        if status in (401, 403, 407, 429) or (status >= 500 and "query timed out" not in said):
            error = requests.HTTPError(response=response)
            raise SourceUnavailable(
                f"Prometheus at {self.shown} answers {reason_of(error)}{said}",
                next_step=way_out(error, KEY_OPTION),
            )
        if status == 404:
            raise SourceUnavailable(
                f"{self.shown} is not Prometheus: HTTP 404", expected=_EXPECTED, next_step=PATHS
            )
        if status >= 400 or said:
            raise Refused(redact(f"HTTP {status}{said}"))
        self.warnings |= warnings_of(response.content)

    def _not_prometheus(self, what: str = "") -> SourceUnavailable:
        return SourceUnavailable(
            f"{self.shown} answers, but not like Prometheus{what}", expected=_EXPECTED, next_step=PATHS
        )

    def clock_offset_s(self) -> float:
        """Seconds (to 0.1) by which the server's clock is ahead; 0 within a second. Also finds out whether it is Prometheus."""
        before = time.time()
        try:
            answer = self.query("time()")
        except Refused as refused:
            raise SourceUnavailable(f"{self.shown} refused a query: {refused}") from None
        after = time.time()
        try:
            offset_s = told_number(answer[1]) - (before + after) / 2
        except (IndexError, KeyError, TypeError):
            return 0.0
        if abs(offset_s) > LONGEST_S:
            raise SourceUnavailable(
                f"the clock of {self.shown} is {offset_s:+.0f} s from the client's", next_step="set it"
            )
        agrees = not abs(offset_s) > max(CLOCKS_AGREE_S, after - before)
        return 0.0 if agrees or not math.isfinite(offset_s) else round(offset_s, 1)

    def names(self, window: tuple[float, float]) -> list[str]:
        """The metric names of the window that may hold a column; the plain ones where the server lists none."""
        known = sorted(name for name in self.all_names(window) if metric_names.is_known(name))
        return known or metric_names.plain_names()

    def all_names(self, window: tuple[float, float]) -> list[str]:
        """The names of all metrics of the window; none where the server lists none."""
        params = {"start": f"{window[0]:.3f}", "end": f"{window[1]:.3f}"}
        try:
            found = self._ask(lambda: self.client.get_label_values("__name__", params))
        except (Refused, SourceUnavailable):
            return []
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    def samples(
        self,
        names: list[str],
        matchers: str,
        window: tuple[float, float],
        step_s: float,
        chunk_s: float = RAW_CHUNK_S,
    ) -> Iterator[tuple[float, list[Series]]]:
        """(share done, series with their [time, value] pairs) chunk by chunk; a sample lies in exactly one chunk.

        `chunk_s` bounds an answer with raw samples.
        """
        start, end = window
        at, share = start, 1.0
        while at < end:
            raw, together = self.ways[0]
            whole_s = chunk_s if raw else MAX_POINTS * step_s
            until = min(at + share * whole_s, end)
            found: list[Series] = []
            try:
                for promql in _selectors(names, matchers, together):
                    found += self._raw(promql, at, until) if raw else self._range(promql, at, until, step_s)
            except Refused as refused:
                if refused.asks_too_much and share * whole_s / 2 >= LEAST_CHUNK_S:
                    share /= 2
                else:
                    share, step_s = 1.0, self._next_way(str(refused), matchers, step_s)
                continue
            yield (
                (until - start) / (end - start),
                [(labels, self._within(v, at, until, at == start)) for labels, v in found],
            )
            at = until

    def over_time(
        self, promql: str, window: tuple[float, float], step_s: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """The series of a range query, from the window's start to its end, with (unix s, value) that are both finite.

        Raises Refused, SourceUnavailable.
        """
        told = self._range(promql, *window, step_s)
        series = [
            (labels, [(told_number(t), told_number(value)) for t, value in pairs]) for labels, pairs in told
        ]
        return [(labels, [p for p in pairs if all(map(math.isfinite, p))]) for labels, pairs in series]

    def _next_way(self, said: str, matchers: str, step_s: float) -> float:
        """Go on to the next way of asking; returns its step. Raises the refusal when there is none."""
        if matchers and "parse error" in said:
            raise BadInput(
                "--selector is refused", value=matchers, expected=f'label matchers such as job="vllm": {said}'
            )
        if len(self.ways) > 1:
            self.ways.pop(0)
            return step_s
        if step_s % 1:
            return float(math.ceil(step_s))
        raise self.refusal(said)

    def refusal(self, said: str) -> SourceUnavailable:
        """That a query was refused in every way that there is."""
        return SourceUnavailable(
            f"{self.shown} refused the query: {said}",
            next_step="narrow it with --namespace or --selector, or raise the server's limit",
        )

    def _within(self, pairs: list[list[Any]], after: float, until: float, first: bool) -> list[list[Any]]:
        """The samples of one chunk: a range vector is closed at both ends in older servers, and its first instant
        belongs to the chunk before."""
        try:
            return [p for p in pairs if after < p[0] <= until or (first and p[0] == after)]
        except TypeError:
            raise self._not_prometheus(": a sample has no time") from None

    def _raw(self, promql: str, at: float, until: float) -> list[Series]:
        return self._series(self.query(f"{promql}[{max(round((until - at) * 1000), 1)}ms]", until))

    def _range(self, promql: str, at: float, until: float, step_s: float) -> list[Series]:
        first, last = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(until, UTC)
        exact = {"start": f"{at:.3f}", "end": f"{until:.3f}"}  # the client would round them
        step = f"{step_s:g}"  # a number: Prometheus before 2.53 takes no "0.1s"
        return self._series(
            self._ask(lambda: self.client.custom_query_range(promql, first, last, step, exact))
        )

    def _series(self, result: Any) -> list[Series]:
        """The series of an answer, each with pairs of a time and a value. Raises SourceUnavailable when it is none."""
        try:
            found = [(one["metric"], one["values"]) for one in result if one.get("values")]
            sound = all(
                len(pair) == 2 and not isinstance(pair[1], list | dict)
                for _, values in found
                for pair in values
            )
        except (KeyError, TypeError, AttributeError, IndexError):
            sound, found = False, []
        if not sound:
            raise self._not_prometheus(": a result has no labels or no samples")
        return [(self._labels(labels), values) for labels, values in found]

    def _labels(self, told: Any) -> dict[str, str]:
        """Labels such as files can hold: JSON can hold half a surrogate pair. Raises SourceUnavailable where they are none."""
        if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
            raise self._not_prometheus(": a result has no labels or no samples")
        return {name: text.encode("utf-8", "replace").decode() for name, text in told.items()}


def _selectors(names: list[str], matchers: str, together: bool) -> list[str]:
    """The series selectors that ask for the names, at once or one by one."""
    if not together:
        return [f"{name}{{{matchers}}}" if matchers else name for name in names]
    more = f",{matchers}" if matchers else ""
    return [f'{{__name__=~"{"|".join(names)}"{more}}}']


def _google_token() -> str:
    """An access token of the environment's Google credentials."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        raise BadInput(
            "Google Managed Prometheus needs google-auth",
            next_step="pip install 'llm-autoscale[gcp]', or give --token-file",
        ) from None
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/monitoring.read"])
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        raise SourceUnavailable(
            f"no Google credentials: {error}",
            next_step="run `gcloud auth application-default login` or give --token-file",
        ) from None
    return str(credentials.token)
