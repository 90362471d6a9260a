"""Fill metrics.parquet of a run: from Prometheus after the run, or by scraping the replicas while it runs.

Prometheus is asked for the raw samples of the window (a range vector), so that every row is a scrape that exists, at its
own time. A server that does not answer range vectors is asked for range queries at `step_s` instead, in chunks below
Prometheus' limit of 11,000 points; repeated values between scrapes cannot be told apart then, and the summary says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from analysis import run
from analysis.errors import BadInput, BadRun, SourceUnavailable, TooLittleData
from autoscale.observe import tidy, vllm_metrics
from autoscale.observe.scrape import Scraper, reason_of

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float, str], None]
MAX_POINTS = 10_000  # per range query; Prometheus refuses more than 11,000
RAW_CHUNK_S = 600  # bounds the memory of one answer: 16 pods at 1 s are about 125,000 samples
CLOCKS_AGREE_S = 1.0
APPEARS_S = 60.0  # a load test that is started beside the scraper writes its header within this
GOOGLE = "monitoring.googleapis.com"
Series = tuple[dict[str, str], list[list[Any]]]


def collect(
    run_dir: Path | str,
    prometheus: str | None = None,
    scrape: Sequence[str] = (),
    *,
    step_s: float = 1.0,
    namespace: str | None = None,
    selector: str = "",
    model: str | None = None,
    token: str | None = None,
    headers: dict[str, str] | None = None,
    stop: threading.Event | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write metrics.parquet, gap events and engine facts of a run; returns the summary (see tidy.finish).

    `prometheus` is the server's URL and covers the run's window; `scrape` are vLLM servers, read every `step_s` until the
    run ends or `stop` is set; a run that is about to start is waited for. `selector` holds further PromQL label matchers such as 'job="vllm"'. `model` replaces the
    run's model as the filter.

    Raises BadInput (both or no source), BadRun (nothing to wait for), SourceUnavailable (not reachable, not Prometheus, not vLLM), TooLittleData
    (nothing in the window, naming what is there).
    """
    if (prometheus is None) == (not scrape):
        raise BadInput(
            "one source of metrics is needed", expected="either a Prometheus URL or addresses to scrape"
        )
    headers = dict(headers or {})
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if prometheus is None:
        return _scrape_until_end(run_dir, scrape, step_s, model, headers, stop, progress)
    return _from_prometheus(run_dir, prometheus, step_s, namespace, selector, model, headers, progress)


def _scrape_until_end(
    run_dir: Path | str,
    urls: Sequence[str],
    step_s: float,
    model: str | None,
    headers: dict[str, str],
    stop: threading.Event | None,
    progress: Progress | None,
) -> dict[str, Any]:
    stop = stop or threading.Event()
    _await_header(Path(run_dir), stop, progress)
    if run.read_header(run_dir).get("ended_at") is not None:
        raise BadInput(
            "the run has ended, scraping only sees the present",
            value=str(run_dir),
            next_step="start the scraper with the run, or collect from Prometheus",
        )
    scraper = Scraper(run_dir, urls, interval_s=step_s, model=model, headers=headers).start()
    began = time.monotonic()
    try:
        while not stop.wait(0.5) and run.read_header(run_dir).get("ended_at") is None:
            if progress:
                progress(0.0, f"scraping until the run ends, for {time.monotonic() - began:.0f} s so far")
    finally:
        summary = scraper.stop()
    return summary


def _await_header(run_dir: Path, stop: threading.Event, progress: Progress | None) -> None:
    """Until the load test has written its header; after APPEARS_S without one BadRun."""
    began = time.monotonic()
    while not (run_dir / run.HEADER).exists() and not stop.is_set():
        if time.monotonic() - began > APPEARS_S:
            raise BadRun(
                f"no load test wrote to {run_dir} within {APPEARS_S:.0f} s",
                next_step="start one with `locust ... --run-dir` and collect beside it",
            )
        if progress:
            progress(0.0, f"waiting for a load test to write to {run_dir}")
        stop.wait(0.1)


def _from_prometheus(
    run_dir: Path | str,
    url: str,
    step_s: float,
    namespace: str | None,
    selector: str,
    model: str | None,
    headers: dict[str, str],
    progress: Progress | None,
) -> dict[str, Any]:
    import pandas as pd

    header = run.read_header(run_dir)
    started_at = float(header["started_at"])
    ended_at = _ended_at(run_dir, header)
    model = model or header.get("model")
    door = _Prometheus(url, headers)
    offset_s = door.clock_offset_s()
    matchers = ",".join(
        filter(None, [f'namespace="{namespace}"' if namespace else "", selector.strip("{} ")])
    )
    frames: list[pd.DataFrame] = []
    facts: dict[str, object] = {}
    models: set[str] = set()
    window = (started_at + offset_s, ended_at + offset_s)
    for done, series in door.samples(matchers, window, step_s):
        models |= {labels["model_name"] for labels, _ in series if labels.get("model_name")}
        for labels, _ in series:
            if labels.get("__name__") == vllm_metrics.FACTS:
                facts |= vllm_metrics.engine_facts(labels)
        chosen = [one for one in series if model is None or one[0].get("model_name", model) == model]
        facts |= vllm_metrics.version_facts({labels.get("__name__", "") for labels, _ in chosen})
        frames.append(_frame(chosen, started_at + offset_s))
        if progress:
            progress(done, f"{url}: {done:.0%} of the window")
    if model is None and len(models) > 1:
        raise BadInput(
            f"Prometheus holds several models ({', '.join(sorted(models))}) and the run names none",
            next_step="choose one with --model",
        )
    frame = pd.concat([f for f in frames if len(f)], ignore_index=True) if any(map(len, frames)) else None
    if frame is None:
        raise _nothing_found(door, url, model, models, matchers, window)
    frame = frame.drop_duplicates(["time_s", "pod", "engine"], ignore_index=True)
    if offset_s:
        run.append_event(
            run_dir, 0.0, "clock_offset", f"Prometheus' clock is {offset_s:+.2f} s from the client's"
        )
    summary = tidy.finish(
        run_dir,
        frame,
        (0.0, ended_at - started_at),
        facts,
        models - {model} if model else (),
        source=url,
        step_s=step_s,
        offset_s=offset_s,
    )
    return {**summary, "raw_samples": door.raw}


class _Prometheus:
    """The HTTP API of one Prometheus, its failures turned into our errors."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadInput("not a URL", value=url, expected="http://HOST:9090")
        if GOOGLE in url and "Authorization" not in headers:
            headers = {**headers, "Authorization": f"Bearer {_google_token()}"}
        self.url = url.rstrip("/")
        self.raw = True  # range vectors are answered
        retry = Retry(total=2, backoff_factor=0.2, status_forcelist=[502, 503, 504])
        self.client = PrometheusConnect(self.url, headers=headers, retry=retry, timeout=60)

    def query(self, promql: str, at: float | None = None) -> Any:
        """The result of an instant query. Raises SourceUnavailable; a refused query is a PrometheusApiClientException."""
        params = {} if at is None else {"time": f"{at:.3f}"}
        return self._answer(lambda: self.client.custom_query(promql, params))

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (ValueError, KeyError, TypeError):
            raise SourceUnavailable(
                f"{self.url} answers, but not like Prometheus",
                expected="the Prometheus HTTP API under /api/v1",
            ) from None
        except requests.RequestException as error:
            raise SourceUnavailable(
                f"cannot reach Prometheus at {self.url}: {reason_of(error)}",
                next_step="check the address and port",
            ) from None

    def clock_offset_s(self) -> float:
        """Seconds (to 0.1) by which the server's clock is ahead; 0 within a second. Also finds out whether it is Prometheus."""
        before = time.time()
        try:
            answer = self.query("time()")
        except PrometheusApiClientException as refused:
            if "404" in str(refused) or "405" in str(refused):
                self.raw = False  # only range queries, perhaps; they will tell
                return 0.0
            raise SourceUnavailable(f"{self.url} refused a query: {str(refused)[:160]}") from None
        after = time.time()
        try:
            offset_s = float(answer[1]) - (before + after) / 2
        except (IndexError, TypeError, ValueError):
            return 0.0
        return round(offset_s, 1) if abs(offset_s) > max(CLOCKS_AGREE_S, after - before) else 0.0

    def samples(
        self, matchers: str, window: tuple[float, float], step_s: float
    ) -> Iterator[tuple[float, list[Series]]]:
        """(share done, series with their [time, value] pairs) chunk by chunk; a sample lies in exactly one chunk."""
        names = "|".join([*vllm_metrics.COLUMN_OF, vllm_metrics.FACTS])
        promql = f'{{__name__=~"{names}"{"," + matchers if matchers else ""}}}'
        start, end = window
        at = start
        while at < end:
            if self.raw:
                until = min(at + RAW_CHUNK_S, end)
                try:
                    result = self.query(f"{promql}[{max(round((until - at) * 1000), 1)}ms]", until)
                except PrometheusApiClientException:
                    self.raw = False
                    continue
                # a range vector is closed at both ends in older servers: the first instant belongs to the chunk before
                found = [
                    (one["metric"], [p for p in one["values"] if p[0] > at or at == start])
                    for one in result
                    if one.get("values")
                ]
            else:
                until = min(at + MAX_POINTS * step_s, end)
                found = self._range(promql, at, until, step_s)
            at = until
            yield (at - start) / (end - start), found

    def _range(self, promql: str, start: float, end: float, step_s: float) -> list[Series]:
        first, last = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
        try:
            result = self._answer(lambda: self.client.custom_query_range(promql, first, last, f"{step_s:g}s"))
        except PrometheusApiClientException as refused:
            raise SourceUnavailable(
                f"{self.url} is not Prometheus or refused the query: {str(refused)[:160]}"
            ) from None
        return [(one["metric"], [p for p in one["values"] if start <= p[0] <= end]) for one in result]


def _frame(series: list[Series], zero_s: float) -> pd.DataFrame:
    """One row per scrape, pod and engine, with the columns of metrics.parquet."""
    import numpy as np
    import pandas as pd

    parts: dict[tuple[str, str, str], list[pd.Series]] = {}
    for labels, values in series:
        name = labels.get("__name__", "")
        if name not in vllm_metrics.COLUMN_OF or not values:
            continue
        pod = labels.get("pod") or labels.get("instance") or "unknown"
        pairs = np.array([(t, float(v)) for t, v in values])
        key = (pod, labels.get("engine", "0"), name)
        parts.setdefault(key, []).append(pd.Series(pairs[:, 1], index=pairs[:, 0]))
    engines: dict[tuple[str, str], dict[str, pd.Series]] = {}
    for (pod, engine, name), found in parts.items():
        total = found[0] if len(found) == 1 else pd.concat(found).groupby(level=0).sum()
        engines.setdefault((pod, engine), {})[name] = total
    frames = []
    for (pod, engine), by_name in engines.items():
        columns = {}
        for column, names in vllm_metrics.NAMES.items():
            present = [by_name[name] for name in names if name in by_name]
            if present:  # both names of a renamed gauge: the new one
                columns[column] = present[0] if len(present) == 1 else present[0].combine_first(present[1])
        rows = pd.DataFrame(columns).reindex(columns=list(vllm_metrics.COLUMNS))
        rows.insert(0, "time_s", rows.index - zero_s)
        frames.append(rows.assign(pod=pod, engine=engine))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _ended_at(run_dir: Path | str, header: dict[str, Any]) -> float:
    """When the run ended (unix s): its header, or for an interrupted run its last request."""
    if header.get("ended_at") is not None:
        return float(header["ended_at"])
    recorded = run.read(run_dir)
    if recorded.has("requests") and len(recorded.requests):
        return recorded.started_at + float(recorded.requests[["due_s", "last_token_s"]].max().max())
    raise TooLittleData(
        "the run has no end and no requests", value=str(run_dir), next_step="collect after the run has ended"
    )


def _nothing_found(
    door: _Prometheus,
    url: str,
    model: str | None,
    models: set[str],
    matchers: str,
    window: tuple[float, float],
) -> TooLittleData:
    """The sentence that says what is there instead of the metrics that were sought."""
    sought = f"model {model}" if model else "any vLLM server"
    sought += f" with {matchers}" if matchers else ""
    when = " to ".join(datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S") for t in window) + " UTC"
    if models:
        there = f"it has {', '.join(sorted(models))}"
        return TooLittleData(
            f"{url} has no metrics of {sought} from {when}: {there}", next_step="choose with --model"
        )
    try:
        now = door.query("count by (model_name) (vllm:num_requests_running)")
        elsewhere = sorted(one["metric"].get("model_name", "?") for one in now)
        jobs = sorted({one["metric"].get("job", "?") for one in door.query("up")})
    except PrometheusApiClientException:
        elsewhere, jobs = [], []
    there = (
        f"it has vLLM metrics of {', '.join(elsewhere)} at present" if elsewhere else "it has no vLLM metrics"
    )
    there += f", and scrapes the jobs {', '.join(jobs)}" if jobs else ""
    return TooLittleData(
        f"{url} has no metrics of {sought} from {when}: {there}",
        next_step="check the scrape configuration, the namespace and the run's window",
    )


def _google_token() -> str:
    """An access token of the environment's Google credentials."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
    except ImportError:
        raise BadInput(
            "Google Managed Prometheus needs google-auth",
            next_step="pip install 'llm-autoscale[gcp]', or give --token",
        ) from None
    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/monitoring.read"])
        credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.GoogleAuthError as error:
        raise SourceUnavailable(
            f"no Google credentials: {error}",
            next_step="run `gcloud auth application-default login` or give --token",
        ) from None
    return str(credentials.token)
