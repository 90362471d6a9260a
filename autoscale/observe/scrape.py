"""A scraper that runs beside a load run: reads /metrics of each replica at fixed instants into the run directory.

One thread per address; instants are k * interval from the start. A row exists only for a scrape that was answered, what
is missing is recorded as a gap event when the scraper stops. Parts are written as it goes, so that an interrupted run
keeps what was seen.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

from analysis import run
from analysis.access import Access
from analysis.errors import AutoscaleError, BadInput, BadRun, SourceUnavailable, printable
from analysis.redact import redact
from analysis.run import read_unix_clock, unix_now_s
from autoscale.observe import tidy, vllm_metrics
from autoscale.observe.header import instant, wanted_model
from autoscale.observe.metric_names import COLUMNS
from autoscale.observe.series import Notes
from autoscale.observe.vllm_metrics import PageReading
from autoscale.observe.web import Session, address, reason_of, way_out

FLUSH_S = 10.0
PAGE_S = 5.0  # for one page, whatever a server does
KEY_OPTION = "--api-key-file"


class Scraper:
    """Scrapes `urls` every `interval_s` from start() to stop(); also a context manager."""

    def __init__(
        self,
        run_dir: Path | str,
        urls: Sequence[str],
        *,
        interval_s: float = 1.0,
        model: str | None = None,
        access: Access | None = None,
    ) -> None:
        if not urls:
            raise BadInput("no address to scrape", expected="at least one URL such as http://10.0.0.5:8000")
        self.run_dir = Path(run_dir)
        header = run.read_header(run_dir)
        self.started_at = instant(run_dir, "started_at", header["started_at"])
        self.model = model or wanted_model(header)
        asked = dict(metrics_url(url, access or Access()) for url in urls)
        self.urls = list(asked)
        self.interval_s = interval_s
        self.notes = Notes()
        self._sessions = {url: Session(own, PAGE_S) for url, own in asked.items()}
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

        Raises SourceUnavailable when none answers, or when one that answers is no replica's page. An address that does
        not answer yet is tried again at every instant: replicas come and go.
        """
        read_unix_clock()
        refused: dict[str, requests.RequestException] = {}
        for url, session in self._sessions.items():
            try:
                reading = read_once(url, self.model, session)
            except requests.RequestException as error:
                refused[url] = error
                continue
            self._note(reading, max(unix_now_s() - self.started_at, 0.0))
        if len(refused) == len(self.urls):
            reasons = ", ".join(f"{redact(url)} ({reason_of(error)})" for url, error in refused.items())
            raise SourceUnavailable(
                f"no server answered at {reasons}",
                next_step=way_out(next(iter(refused.values())), KEY_OPTION),
            )
        if self.facts.get("engine_kind") == "vllm":
            self.facts |= served_version(self._sessions)
        self._from_s = max(unix_now_s() - self.started_at, 0.0)
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
        until_s = (
            unix_now_s() - self.started_at
        )  # what follows takes its time, and is no silence of the server
        for thread in self._threads:
            thread.join()
        try:
            self._flush()
        except OSError as error:
            raise BadRun(
                f"{len(self._rows)} rows of metrics could not be written to {self.run_dir}: {os.strerror(error.errno or 0)}",
                next_step="what was written before stays readable in its parts",
            ) from None
        for session in self._sessions.values():
            session.close()
        if not run.read(self.run_dir).has("metrics"):
            why = "; ".join(self.notes.sentences()) or ", ".join(map(redact, self.urls))
            raise SourceUnavailable(f"no scrape was answered: {why}")
        run.merge_parts(self.run_dir, "metrics")
        frame = run.read(self.run_dir).metrics
        window = (self._from_s, until_s)
        return tidy.finish(
            self.run_dir,
            frame,
            window,
            self.facts,
            self.other_models,
            source=self.urls,
            step_s=self.interval_s,
            notes=self.notes,
        )

    def __enter__(self) -> Scraper:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _scrape(self, url: str) -> None:
        start = time.monotonic()
        pod = urlsplit(url).netloc
        flushed = 0.0
        for k in itertools.count():
            if self._stop.wait(max(start + k * self.interval_s - time.monotonic(), 0.0)):
                break
            if time.monotonic() > start + (k + 1) * self.interval_s:
                continue  # the last scrape took longer than an interval: skip the instants that are past
            time_s = unix_now_s() - self.started_at
            try:
                reading = read_once(url, self.model, self._sessions[url])
            except (requests.RequestException, AutoscaleError) as error:  # no row; a gap at the end
                why = reason_of(error) if isinstance(error, requests.RequestException) else error
                with self._lock:
                    self.notes.add("scrape_failed", f"{pod} {why}", f"{pod} was not read: {why}", time_s, 1)
                continue
            time_s = unix_now_s() - self.started_at
            if time_s < 0:
                continue  # the header of a load test is written a moment before its first instant
            with self._lock:
                self._note(reading, time_s)
                self._rows += [
                    {"time_s": time_s, "pod": replica, "engine": engine, **row}
                    for (replica, engine), row in reading.rows.items()
                ]
            if k * self.interval_s - flushed >= FLUSH_S:
                with suppress(OSError):  # a full disk: the rows stay, and are tried again
                    self._flush()
                flushed = k * self.interval_s

    def _note(self, reading: PageReading, time_s: float) -> None:
        self.notes.update(reading.notes, time_s)
        self.facts |= reading.facts
        self.other_models |= reading.other_models

    def _flush(self) -> None:
        """Write what was read since the last time. Raises OSError, and keeps it."""
        with self._lock:
            if not (rows := self._rows):
                return
            columns = {
                name: [row.get(name) for row in rows] for name in ("time_s", "pod", "engine", *COLUMNS)
            }
            run.write_table(self.run_dir, "metrics", columns, part=f"scrape.{next(self._parts):06d}")
            self._rows = []


def metrics_url(url: str, access: Access) -> tuple[str, Access]:
    """The address of the exposition page (/metrics is added when the URL has no path) and its access. Raises BadInput."""
    url, access = address(url, "http://HOST:PORT or https://HOST:PORT", access)
    parts = urlsplit(url)
    return url if parts.path not in ("", "/") else urlunsplit(parts._replace(path="/metrics")), access


def read_once(url: str, model: str | None, session: requests.Session | None = None) -> PageReading:
    """One look at a metrics page. Raises requests' errors, and SourceUnavailable when no replica's metrics are there."""
    with nullcontext(session) if session else Session(Access(), PAGE_S) as using:
        response = using.get(url)
    response.raise_for_status()
    text = response.content.decode("utf-8-sig", "replace")
    page = urlsplit(url).netloc
    if "openmetrics" in response.headers.get("Content-Type", "") and text.rstrip()[-5:] != "# EOF":
        raise SourceUnavailable(f"{redact(url)} is cut off: it has no # EOF at its end")
    whole, _, begun = text.rpartition("\n")
    reading = vllm_metrics.read_page(vllm_metrics.parse_exposition(whole), model, page)
    if begun and vllm_metrics.parse_exposition(begun):  # 123 may be the beginning of 123456
        said = (
            f"{page} ends within a line, which is left out: the page is cut off, or lacks its last line feed"
        )
        reading.notes.add("metrics_cut", page, said, times=1)
    if not reading.rows:
        why, next_step = vllm_metrics.fault(text, reading, model)
        raise SourceUnavailable(f"{redact(url)} {why}", next_step=next_step)
    return reading


def served_version(sessions: Mapping[str, requests.Session]) -> dict[str, object]:
    """The version that a vLLM server names at /version; empty when none does."""
    for url, session in sessions.items():
        parts = urlsplit(url)
        path = parts.path.removesuffix("/metrics").removesuffix("/v1") + "/version"
        try:
            answer = session.get(urlunsplit(parts._replace(path=path)))
            return {"vllm_version": printable(str(answer.json()["version"]), 80)}
        except (requests.RequestException, ValueError, KeyError, TypeError, RecursionError):
            continue
    return {}
