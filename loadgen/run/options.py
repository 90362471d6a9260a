"""What the options of the load generator mean together. Imports no locust."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from analysis.access import Access, access
from analysis.errors import BadInput, check_utf8
from analysis.numbers import parse_seconds, read_number
from analysis.run import check_unused
from analysis.slo import parse_slo
from loadgen.plan.own_prompts import read_prompts
from loadgen.plan.traffic import LoadPlan
from loadgen.run.capacity_search import parse_budget
from loadgen.run.stopping import parse_rules
from loadgen.wire.client import Limits


def read_access(parsed: argparse.Namespace) -> Access:
    """What goes with every request; from here on the parsed options hold none of it, since Locust passes them on and
    shows them. Raises BadInput."""
    found = access(
        key_file=parsed.api_key_file,
        headers=parsed.header or (),
        ca_file=parsed.ca_file,
        insecure=parsed.insecure,
    )
    parsed.header = None
    return found


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The options as given, by their names (loadgen.run.option_table); properties are what follows from them."""

    rate: float | None = None
    arrivals: str = "poisson"
    stages: str | None = None
    interleave: str | None = None
    load: str | None = None
    trace: str | None = None
    trace_time_unit: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    shared_prefix_tokens: int = 0
    seed: int = 0
    clamp_lengths: bool = False
    model: str | None = None
    prompts: str | None = None
    ignore_eos: bool = True
    stream: bool = True
    max_in_flight: int = 4096
    timeout: float = 600.0
    idle_timeout: float = 120.0
    grace: float = 60.0
    reconnect_every: str = "30s"
    insecure: bool = False
    details: bool = False
    slo: str | None = None
    stop_when: str | None = None
    find_capacity: str | None = None
    prometheus: str | None = None
    run_dir: str | None = None
    run_time: float | None = None  # Locust's own --run-time, in s
    most_tokens: int | None = None  # to which --clamp-lengths cuts requests
    _plan: list[LoadPlan] = field(
        default_factory=list, init=False, repr=False, compare=False
    )  # read once: files may be long

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> LoadOptions:
        """The load generator's part of Locust's parsed options. Raises BadInput.

        The web form gives text for what had no default, and empty text for what was left open.
        """
        values: dict[str, Any] = {
            name: getattr(parsed, name, None) for name in _NAMES if name != "most_tokens"
        }
        values["run_time"] = getattr(parsed, "offered_time", None) or values["run_time"]
        values = {name: None if value == "" else value for name, value in values.items()}
        try:
            values["rate"] = None if values["rate"] is None else float(values["rate"])
        except ValueError:
            raise BadInput("--rate", value=values["rate"], expected="requests/s above 0") from None
        return cls(**values)

    def message(self) -> dict[str, object]:
        """Plain values for a worker."""
        return {name: getattr(self, name) for name in _NAMES}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> LoadOptions:
        """What `message` said. Raises ValueError when it has other options than this version."""
        if set(message) != set(_NAMES):
            raise ValueError(f"options {', '.join(sorted(set(message) ^ set(_NAMES)))}")
        return cls(**message)

    @property
    def open_loop(self) -> bool:
        """Whether requests arrive by a plan of their own, not by users."""
        return any(
            given is not None for given in (self.rate, self.stages, self.load, self.trace, self.find_capacity)
        )

    def plan(self) -> LoadPlan:
        """What is offered; for a closed loop only its lengths and seed count. Raises BadInput."""
        if not self._plan:
            self._plan.append(self._read_plan().within(self.most_tokens))
        return self._plan[0]

    def _read_plan(self) -> LoadPlan:
        offered = partial(
            LoadPlan.from_options,
            arrivals=self.arrivals,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            shared_prefix_tokens=self.shared_prefix_tokens,
            seed=self.seed,
            interleave_s=self._interleave_s(),
        )
        if self.find_capacity is not None:  # the rates are found on the way; this is their room in time
            return offered(
                rate=self.first_rps, duration_s=parse_budget(self.find_capacity), interleave_s=None
            )
        if not self.open_loop:
            return offered(rate=1000.0)
        return offered(
            rate=self.rate,
            stages=self.stages,
            load_file=self.load,
            trace=self.trace,
            time_unit=self.trace_time_unit,
            duration_s=float(self.run_time) if self.run_time else None,
        )

    def _interleave_s(self) -> float | None:
        if self.interleave is None:
            return None
        piece_s = parse_seconds(self.interleave)
        if not 0 < piece_s < math.inf:
            raise BadInput(
                "--interleave", value=self.interleave, expected="a length above 0 s, for example 20s"
            )
        return piece_s

    @property
    def first_rps(self) -> float:
        """The rate at which a search for the capacity begins."""
        return 1.0 if self.rate is None else float(self.rate)

    def limits(self, workers: int = 1) -> Limits:
        """The limits of one of so many workers. Raises BadInput."""
        for name in ("timeout", "idle_timeout", "max_in_flight"):
            if not getattr(self, name) > 0:
                raise BadInput(
                    f"--{name.replace('_', '-')}", value=getattr(self, name), expected="a number above 0"
                )
        if not self.grace >= 0:
            raise BadInput("--grace", value=self.grace, expected="seconds of at least 0")
        age_s, requests = parse_reconnect(self.reconnect_every)
        return Limits(
            max(1, math.ceil(self.max_in_flight / workers)), self.timeout, self.idle_timeout, age_s, requests
        )

    def check(self) -> None:
        """Raises BadInput with one sentence for the first thing that is wrong."""
        for name in _NAMES:
            if isinstance(given := getattr(self, name), str):
                check_utf8(given, f"--{name.replace('_', '-')}", given)
        self.plan()
        self.limits()
        self._check_slo()
        parse_rules(self.stop_when, self.slo)
        self._check_search()
        if self.prompts not in (None, "ids", "words"):
            if not Path(self.prompts).is_file():
                raise BadInput(
                    "--prompts", value=self.prompts, expected="ids, words or a JSONL file that exists"
                )
            read_prompts(self.prompts)
        if self.prometheus is not None and not self.prometheus.startswith(("http://", "https://")):
            raise BadInput("--prometheus is not a URL", value=self.prometheus, expected="http://HOST:PORT")
        if self.run_dir is not None:
            check_unused(self.run_dir)

    def _check_slo(self) -> None:
        if self.slo is None:
            return
        streamed = [t.name for t in parse_slo(self.slo).terms if t.metric in ("ttft", "tpot", "itl")]
        if streamed and not self.stream:
            raise BadInput(
                f"--no-stream and --slo {', '.join(streamed)}: an answer that is not streamed has no such time",
                next_step="bound e2e, or leave out --no-stream",
            )

    def _check_search(self) -> None:
        if self.find_capacity is None:
            return
        if self.slo is None:
            raise BadInput(
                "--find-capacity without --slo",
                next_step="say what has to hold, for example --slo ttft_p95=2s",
            )
        for name in ("stages", "interleave", "load", "trace", "stop_when", "run_time"):
            if getattr(self, name) is not None:
                raise BadInput(
                    f"--find-capacity and --{name.replace('_', '-')}",
                    next_step="leave out one: the search chooses rates and times itself",
                )


_NAMES = tuple(f.name for f in fields(LoadOptions) if f.init)


def parse_reconnect(text: str) -> tuple[float, float]:
    """(age in s, requests) after which a connection is replaced, from `30s`, `100` or `never`. Raises BadInput."""
    if text == "never":
        return math.inf, math.inf
    try:
        number = read_number(text.removesuffix("s"))
    except ValueError:
        number = math.nan
    if not number > 0:
        raise BadInput(
            "--reconnect-every", value=text, expected="an age such as 30s, a number of requests, or never"
        )
    return (number, math.inf) if text.endswith("s") else (math.inf, number)
