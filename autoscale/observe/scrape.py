"""A scraper that runs beside a load run: reads /metrics of each replica at fixed instants into the run directory.

One thread per address; instants are k * interval from the start. A row exists only for a scrape that was answered, what
is missing is recorded as a gap event when the scraper stops. Parts are written as it goes, so that an interrupted run
keeps what was seen.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from analysis import run
from analysis.errors import BadInput, SourceUnavailable
from autoscale.observe import tidy, vllm_metrics

FLUSH_S = 10.0


class Scraper:
    """Scrapes `urls` every `interval_s` from start() to stop(); also a context manager."""

    def __init__(
        self,
        run_dir: Path | str,
        urls: Sequence[str],
        *,
        interval_s: float = 1.0,
        model: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if not urls:
            raise BadInput("no address to scrape", expected="at least one URL such as http://10.0.0.5:8000")
        self.run_dir = Path(run_dir)
        header = run.read_header(run_dir)
        self.started_at = float(header["started_at"])
        self.model = model or header.get("model")
        self.urls = [metrics_url(url) for url in urls]
        self.interval_s = interval_s
        self.headers = headers
        self.facts: dict[str, object] = {}
        self.other_models: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._parts = itertools.count()
        self._from_s = 0.0

    def start(self) -> Scraper:
        """Look once at every address, then scrape in the background.

        Raises SourceUnavailable when none answers, or when one that answers is not a vLLM server. An address that does
        not answer yet is tried again at every instant: replicas come and go.
        """
        refused = []
        for url in self.urls:
            try:
                reading = read_once(url, self.model, self.headers)
            except requests.RequestException as error:
                refused.append(f"{url} ({reason_of(error)})")
                continue
            self._note(reading)
        if len(refused) == len(self.urls):
            raise SourceUnavailable(
                f"no server answered at {', '.join(refused)}",
                next_step="check address and port of the vLLM server",
            )
        self.facts |= served_version(self.urls, self.headers)
        self._from_s = max(time.time() - self.started_at, 0.0)
        self._threads = [
            threading.Thread(target=self._scrape, args=(url,), name=f"scrape {url}", daemon=True)
            for url in self.urls
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> dict[str, Any]:
        """Stop, fold the parts into metrics.parquet, record gaps; returns the summary (see tidy.finish)."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._flush()
        if not run.read(self.run_dir).has("metrics"):
            raise SourceUnavailable("no scrape was answered", value=", ".join(self.urls))
        run.merge_parts(self.run_dir, "metrics")
        frame = run.read(self.run_dir).metrics
        window = (self._from_s, time.time() - self.started_at)
        return tidy.finish(
            self.run_dir,
            frame,
            window,
            self.facts,
            self.other_models,
            source=self.urls,
            step_s=self.interval_s,
        )

    def __enter__(self) -> Scraper:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _scrape(self, url: str) -> None:
        start = time.monotonic()
        pod = urlsplit(url).netloc
        session = requests.Session()
        flushed = 0.0
        for k in itertools.count():
            if self._stop.wait(max(start + k * self.interval_s - time.monotonic(), 0.0)):
                break
            if time.monotonic() > start + (k + 1) * self.interval_s:
                continue  # the last scrape took longer than an interval: skip the instants that are past
            try:
                reading = read_once(url, self.model, self.headers, session)
            except (requests.RequestException, SourceUnavailable):
                continue  # no row; recorded as a gap at the end
            time_s = time.time() - self.started_at
            if time_s < 0:
                continue  # the header of a load test is written a moment before its first instant
            with self._lock:
                self._note(reading)
                self._rows += [
                    {"time_s": time_s, "pod": pod, "engine": engine, **row}
                    for engine, row in reading.rows.items()
                ]
            if k * self.interval_s - flushed >= FLUSH_S:
                self._flush()
                flushed = k * self.interval_s
        session.close()

    def _note(self, reading: vllm_metrics.Reading) -> None:
        self.facts |= reading.facts
        self.other_models |= reading.other_models

    def _flush(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
            if rows:
                columns = {
                    name: [row.get(name) for row in rows]
                    for name in ("time_s", "pod", "engine", *vllm_metrics.COLUMNS)
                }
                run.write_table(self.run_dir, "metrics", columns, part=f"scrape.{next(self._parts):06d}")


def metrics_url(url: str) -> str:
    """The address of the exposition page: /metrics is added when the URL has no path. Raises BadInput."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadInput("not a URL", value=url, expected="http://HOST:PORT or https://HOST:PORT")
    return url if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/metrics"


def read_once(
    url: str,
    model: str | None,
    headers: dict[str, str] | None = None,
    session: requests.Session | None = None,
) -> vllm_metrics.Reading:
    """One look at a metrics page. Raises requests' errors, and SourceUnavailable when it is not a vLLM server's."""
    response = (session or requests).get(url, headers=headers, timeout=5.0)
    response.raise_for_status()
    try:
        reading = vllm_metrics.read(vllm_metrics.parse(response.text), model)
    except ValueError as error:
        raise SourceUnavailable(f"{url} is not a metrics page: {error}") from None
    if not reading.rows and not reading.other_models:
        raise SourceUnavailable(
            f"{url} answers but has no vLLM metrics", expected="vllm:num_requests_running among its names"
        )
    if not reading.rows:
        raise SourceUnavailable(
            f"{url} serves {', '.join(sorted(reading.other_models))}, not the run's model", value=model
        )
    return reading


def served_version(urls: Sequence[str], headers: dict[str, str] | None = None) -> dict[str, object]:
    """The version that a vLLM server names at /version; empty when none does."""
    for url in urls:
        try:
            answer = requests.get(url.removesuffix("/metrics") + "/version", headers=headers, timeout=2.0)
            return {"vllm_version": str(answer.json()["version"])}
        except (requests.RequestException, ValueError, KeyError, TypeError):
            continue
    return {}


def reason_of(error: Exception) -> str:
    """A network error in a few words."""
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("resolve", "unknown host"),
        ("Name or service", "unknown host"),
        ("timed out", "timed out"),
        ("Max retries", "no connection"),
    ):
        if sign in text:
            return words
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else text[:120]
