"""The traffic of a service in production, out of its Prometheus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from analysis.errors import BadInput
from autoscale.history.arrivals import CameIn, came_in
from autoscale.history.burstiness import LEAST_BLOCKS, Burstiness, burstiness
from autoscale.history.pod_moments import PodMoments
from autoscale.history.service import Service
from autoscale.history.silences import with_stand_ins
from autoscale.history.token_counts import TokenCounts, shares, token_counts
from autoscale.history.traffic_file import curve, traffic_yaml
from loadgen.plan.lengths import Lengths
from loadgen.plan.time_units import duration, moment_of

BIN_S = 60.0  # of the curve that is shown
BINS_OF_A_SCRAPE = 4
MOST_OF = 0.95  # of the window that was asked for, less than which is said
NAMELESS = "a model without a name"


@dataclass(frozen=True)
class LearnedTraffic:
    """What was learned.

    source      the server's address, without secrets
    model       the model's name
    window      unix s from and to, by the server's clock: first and last scrape that was seen
    came        requests per minute
    burstiness  of the gaps between requests; None where too little came
    prompt, output  tokens; None where the server has no histogram of them
    prefix_hit_share, aborted_share   of prompt tokens and of requests; NaN where not told
    notes       what was noticed, a sentence each
    """

    source: str
    model: str
    window: tuple[float, float]
    came: CameIn
    burstiness: Burstiness | None
    prompt: TokenCounts | None
    output: TokenCounts | None
    prefix_hit_share: float
    aborted_share: float
    notes: tuple[str, ...]

    @property
    def gap_share(self) -> float:
        """Share of the window in which nothing was scraped."""
        return float(self.came.gap.mean())

    def sentences(self) -> list[str]:
        """What is known, for a terminal and for the head of the file."""
        rate, (start, end) = self.came.rate_rps, self.window
        days = (end - start) / 86_400
        when = " to ".join(datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M") for t in self.window)
        told = [
            f"{self.model}, from {self.source}: {when} UTC, {days:.1f} days",
            f"{self.came.counts.sum():,.0f} requests, {rate.mean():.3g}/s on average, "
            f"{np.quantile(rate, 0.99):.3g}/s in the busiest of 100 minutes"
            + ("" if math.isnan(on := self.came.mean_replicas) else f", on {on:.1f} replicas"),
        ]
        if (b := self.burstiness) is not None and b.told:
            told.append(
                f"gaps between requests vary by {b.cv:.2f} ({b.low:.2f} to {b.high:.2f}) of their mean; 1 is Poisson"
            )
        for what, tokens in (("prompt", self.prompt), ("output", self.output)):
            if tokens is None:
                told.append(f"nothing tells {what} tokens")
                continue
            known = tokens.by_hour[np.isfinite(tokens.by_hour)]
            told.append(
                f"{what} tokens: mean {tokens.mean:,.0f}, p99 {tokens.lengths.p99():,.0f}; "
                f"by hour of the day {known.min():,.0f} to {known.max():,.0f} on average"
            )
        for share, what in ((self.prefix_hit_share, "of prompt tokens came from the prefix cache"), (self.aborted_share, "of requests were aborted")):  # fmt: skip
            if math.isfinite(share):
                told.append(f"{share:.1%} {what}")
        return [*told, *self.caveats(), *self.notes]

    def caveats(self) -> list[str]:
        """What the window does not tell, a sentence each."""
        told = []
        if self.window[1] - self.window[0] < 86_400:
            told.append("less than a day: what comes in its other hours is not known")
        below = f"scrapes {self.came.interval_s:g} s apart" if self.came.interval_s else "a minute"
        if self.burstiness is None:
            told.append(
                f"too few requests, or fewer than {LEAST_BLOCKS} hours of them, to tell how bursty they are below {below}: taken as Poisson"
            )
        elif not self.burstiness.told:
            told.append(
                f"{below} leave open how bursty requests are (gaps vary by {self.burstiness.low:.2f} to {self.burstiness.high:.2f} of "
                "their mean): taken as Poisson, 1"
            )
        if self.gap_share > 0:
            told.append(
                f"nothing was scraped in {self.gap_share:.1%} of the time; where that is less than an hour its requests are spread evenly"
            )
        return told

    @property
    def cv(self) -> float:
        """The coefficient of variation of the gaps between requests; that of Poisson's where it is not told."""
        return 1.0 if self.burstiness is None or not self.burstiness.told else self.burstiness.cv

    def yaml(self, prompt: Lengths | None = None, output: Lengths | None = None) -> str:
        """The load file, with these lengths where they are given. Raises BadInput where they are not known."""
        prompt = prompt or (self.prompt.lengths if self.prompt else None)
        output = output or (self.output.lengths if self.output else None)
        if prompt is None or output is None:
            missing = "prompt" if prompt is None else "output"
            raise BadInput(
                f"{self.source} does not tell {missing} tokens, so a load file would have to guess them",
                next_step=f"give --{missing}-tokens",
            )
        cv = self.cv
        arrivals = "poisson" if cv == 1.0 else f"gamma:{cv:.3g}"
        lengths, begins = (str(prompt), str(output)), moment_of(self.window[0])
        return traffic_yaml(curve(self.came, cv), arrivals, lengths, begins, self.sentences())

    def as_json(self) -> dict[str, Any]:
        """Everything, with the curve of minutes."""
        b = self.burstiness
        return {
            "source": self.source,
            "model": self.model,
            "window": list(self.window),
            "requests": float(self.came.counts.sum()),
            "mean_rps": float(self.came.rate_rps.mean()),
            "rate_rps": self.came.rate_rps.tolist(),
            "step_s": self.came.step_s,
            "replicas": self.came.replicas.tolist(),
            "gap_share": self.gap_share,
            "burstiness": None if b is None else {"cv": b.cv, "low": b.low, "high": b.high, "hours": b.hours},
            "prompt_tokens": _tokens(self.prompt),
            "output_tokens": _tokens(self.output),
            "prefix_hit_share": self.prefix_hit_share,
            "aborted_share": self.aborted_share,
            "notes": list(self.notes),
        }


def _tokens(counts: TokenCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {"lengths": str(counts.lengths), "mean": counts.mean, "by_hour": counts.by_hour.tolist()}


def learn_traffic(service: Service, lives: Sequence[PodMoments]) -> LearnedTraffic:
    """The traffic of a service over its window, of whose pods the `lives` are told.

    Raises TooLittleData where no replica told its requests twice.
    """
    born: dict[str, list[float]] = {}
    for life in lives:
        born.setdefault(life.pod, []).append(life.created_s - service.start_s)
    step_s = BIN_S / math.ceil(BINS_OF_A_SCRAPE * BIN_S / service.interval_s)
    fine = came_in(service.frame, step_s, born)
    begins = service.start_s + fine.start_s
    came, stand_ins = with_stand_ins(fine.wider(BIN_S), begins)
    window = begins, begins + came.step_s * len(came.counts)
    hits, aborted = shares(service.door, window, service.matchers)
    return LearnedTraffic(
        source=service.door.shown,
        model=service.model or NAMELESS,
        window=window,
        came=came,
        burstiness=burstiness(fine),
        prompt=token_counts(service.door, window, service.matchers, "prompt"),
        output=token_counts(service.door, window, service.matchers, "output"),
        prefix_hit_share=hits,
        aborted_share=aborted,
        notes=tuple(
            dict.fromkeys(
                [*_part_of(service, window), *stand_ins, *service.read.choice.notes.sentences(), *came.notes]
            )
        ),
    )


def _part_of(service: Service, window: tuple[float, float]) -> list[str]:
    """A sentence where much less of the window is told than was asked for."""
    asked_s, told_s = service.end_s - service.start_s, window[1] - window[0]
    if told_s >= MOST_OF * asked_s:
        return []
    first, last = (datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M") for t in window)
    return [
        f"of the {duration(asked_s)} that were asked for {duration(told_s)} are told: {first} to {last} UTC"
    ]
