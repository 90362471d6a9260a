"""A synthetic server whose truth is known, and run directories as a load generator and a scraper would leave them.

`seats` requests are served together, first come first served; with n in service each takes S(n) = a straight line
from `alone_s` to `alone_s * stretch` at all seats, times its own relative size (mean 1). All in service advance at the
same speed, so a request ends when the shared progress has grown by its size.
"""

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import run


@dataclass(frozen=True)
class Server:
    seats: int
    alone_s: float
    stretch: float = 1.0
    size_cv: float = 0.3  # log-normal sizes
    first_token_s: float = 0.05

    def service_s(self, busy: int) -> float:
        step = (self.stretch - 1) / max(self.seats - 1, 1)
        return self.alone_s * (1 + step * (busy - 1))

    @property
    def saturated_rps(self) -> float:
        return self.seats / self.service_s(self.seats)


def serve(server: Server, due_s: np.ndarray, size: np.ndarray, speed=lambda t: 1.0):
    """Start and end of service of each request, in s; exact, event by event."""
    start, end = np.full(due_s.size, np.nan), np.full(due_s.size, np.nan)
    now = progress = 0.0
    batch: list[tuple[float, int]] = []
    waiting: list[int] = []
    head = arrived = 0
    while arrived < due_s.size or batch:
        rate = speed(now) / server.service_s(len(batch)) if batch else 0.0
        done_s = now + (batch[0][0] - progress) / rate if batch else np.inf
        if arrived < due_s.size and due_s[arrived] <= done_s:
            progress += rate * (due_s[arrived] - now)
            now = due_s[arrived]
            waiting.append(arrived)
            arrived += 1
        else:
            progress, now = batch[0][0], done_s
            end[heapq.heappop(batch)[1]] = now
        while head < len(waiting) and len(batch) < server.seats:
            request = waiting[head]
            head += 1
            start[request] = now
            heapq.heappush(batch, (progress + size[request], request))
    return start, end


def sizes(server: Server, count: int, rng: np.random.Generator) -> np.ndarray:
    sigma = np.sqrt(np.log1p(server.size_cv**2))
    return rng.lognormal(-(sigma**2) / 2, sigma, count)


def sweep(
    server: Server,
    out: Path,
    rates: list[float],
    stage_s: float = 75.0,
    seed: int = 0,
    scrape_s: float | None = 1.0,
    wander: float = 0.0,
    every_s: float = 10.0,
    header: dict | None = None,
) -> Path:
    """A run directory of Poisson stages one after the other; `wander` moves the server's speed `every_s`."""
    rng = np.random.default_rng(seed)
    due, stage = [], []
    for k, rate in enumerate(rates):
        arrivals = np.sort(rng.uniform(k * stage_s, (k + 1) * stage_s, rng.poisson(rate * stage_s)))
        due.append(arrivals)
        stage += [k] * arrivals.size
    due_s = np.concatenate(due)
    size = sizes(server, due_s.size, rng)
    speeds = np.exp(wander * rng.standard_normal(100_000))
    start, end = serve(server, due_s, size, lambda t: speeds[int(t / every_s) % speeds.size])
    late = rng.uniform(0, 0.001, due_s.size)
    first = np.minimum(start + server.first_token_s * rng.uniform(0.9, 1.1, due_s.size), end)
    first = np.maximum(first, due_s + late)
    tokens = np.maximum(np.round(100 * size), 2).astype(int)
    stages = [
        {"start_s": k * stage_s, "end_s": (k + 1) * stage_s, "rate": rate} for k, rate in enumerate(rates)
    ]
    run.create(
        out,
        {
            "kind": "simulated",
            "started_at": 1e9,
            "ended_at": 1e9 + end.max(),
            "stages": stages,
            **(header or {}),
        },
    )
    table = pd.DataFrame(
        {
            "request_id": np.arange(due_s.size),
            "stage": stage,
            "due_s": due_s,
            "sent_s": due_s + late,
            "first_token_s": first,
            "last_token_s": end,
            "prompt_tokens": 100,
            "output_tokens": tokens,
            "status": "ok",
        }
    )
    run.write_table(out, "requests", table)
    if scrape_s:
        run.write_table(out, "metrics", scrape(server, due_s, start, end, scrape_s))
    return out


def scrape(server: Server, due_s, start, end, every_s: float) -> pd.DataFrame:
    times = np.arange(0, np.nanmax(end), every_s)

    def count(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(np.sort(values), times, side="right")

    running = count(start) - count(end)
    return pd.DataFrame(
        {
            "time_s": times,
            "pod": "pod-0",
            "engine": "0",
            "waiting": (count(due_s) - count(start)).astype(float),
            "running": running.astype(float),
            "kv_usage": running / server.seats * 0.9,
        }
    )
