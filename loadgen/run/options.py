"""The command-line options of the load generator, and what they mean together. Imports no locust."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.access import Access, access
from analysis.errors import BadInput
from analysis.slo import parse_slo
from loadgen.plan.own_prompts import read_prompts
from loadgen.plan.traffic import LoadPlan
from loadgen.run.capacity_search import parse_budget
from loadgen.run.stopping import parse_rules
from loadgen.wire.client import Limits

LENGTHS = "N | uniform:A,B | normal:M,S | lognormal:M,S"
WANTED = (
    "rate", "arrivals", "stages", "load", "trace", "trace_time_unit", "prompt_tokens", "output_tokens", "shared_prefix_tokens", "seed",
    "clamp_lengths", "prompts", "ignore_eos", "stream", "model", "max_in_flight", "timeout", "idle_timeout", "grace", "reconnect_every",
    "insecure", "slo", "stop_when", "find_capacity", "prometheus", "run_dir", "run_time",
)  # fmt: skip


class _Help(argparse.Action):
    """Prints these options and ends: Locust's own --help is printed before the locustfile is read."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        ours = argparse.ArgumentParser(
            prog=parser.prog, usage="locust -f loadgen/completions.py [options]", add_help=False
        )
        add_arguments(ours)
        ours.print_help()
        parser.exit(0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to Locust's parser."""
    parser.add_argument(
        "--help-llm", action=_Help, nargs=0, help="list the options of the LLM load generator"
    )
    load = parser.add_argument_group(
        "LLM load", "Without --rate, --stages, --load or --trace the run is a closed loop of -u users."
    )
    load.add_argument(
        "--rate", type=float, metavar="R", help="open loop: offered requests/s for the whole run"
    )
    load.add_argument(
        "--arrivals", default="poisson", metavar="HOW", help="constant | poisson | gamma:CV (default poisson)"
    )
    load.add_argument(
        "--stages", metavar="R:S,...", help="open loop in steps of rate:seconds, for example 1:60,2:60,4:60"
    )
    load.add_argument(
        "--load",
        metavar="FILE",
        help="open loop from a YAML file: stages, ramps, spikes, sine, trace, lengths",
    )
    load.add_argument("--trace", metavar="FILE", help="open loop: replay a recorded trace")
    load.add_argument(
        "--trace-time-unit",
        metavar="UNIT",
        help="unit of the trace's timestamps: s, ms, us or ns (default the format's own, or that of Unix time)",
    )
    load.add_argument(
        "--prompt-tokens", metavar="LEN", help=f"tokens per prompt: {LENGTHS} | trace (default fixed:512)"
    )
    load.add_argument(
        "--output-tokens", metavar="LEN", help=f"tokens per answer: {LENGTHS} | trace (default fixed:128)"
    )
    load.add_argument(
        "--shared-prefix-tokens",
        type=int,
        default=0,
        metavar="N",
        help="leading tokens that all prompts share (default 0: every prompt is unique)",
    )
    load.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of arrivals, lengths and prompts (default 0); never sent to the server",
    )
    load.add_argument(
        "--clamp-lengths",
        action="store_true",
        help="cut requests to the server's max_model_len; without it a load of which one does not fit is refused",
    )
    request = parser.add_argument_group("LLM requests")
    request.add_argument(
        "--model",
        metavar="ID",
        help="model id; by default the only one in /v1/models, adapters and further names of it aside",
    )
    request.add_argument(
        "--prompts",
        metavar="HOW",
        help="ids (token ids, exact), words (text), or a JSONL file of your own prompts; default ids for completions, words for chat",
    )
    request.add_argument(
        "--ignore-eos",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="answers have exactly the asked tokens (vLLM); default on",
    )
    request.add_argument(
        "--stream", action=argparse.BooleanOptionalAction, default=True, help="stream the answers; default on"
    )
    connection = parser.add_argument_group("LLM client")
    connection.add_argument(
        "--max-in-flight",
        type=int,
        default=4096,
        metavar="N",
        help="requests in flight at most, over all workers; others wait for a seat (default 4096)",
    )
    connection.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="a request without complete answer fails after this (default 600)",
    )
    connection.add_argument(
        "--idle-timeout",
        type=float,
        default=120.0,
        metavar="S",
        help="a stream silent for this long fails (default 120)",
    )
    connection.add_argument(
        "--grace",
        type=float,
        default=60.0,
        metavar="S",
        help="wait this long for answers after the end of the load (default 60)",
    )
    connection.add_argument(
        "--reconnect-every",
        default="30s",
        metavar="WHEN",
        help="replace connections after this age (30s) or number of requests (100), so that new replicas get traffic; never = keep (default 30s)",
    )
    sent = parser.add_argument_group(
        "LLM access",
        "Keys are never written down or shown. http://user:password@HOST is sent as basic authorization.",
    )
    sent.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="file with the key, sent as `Authorization: Bearer`; without it the environment's OPENAI_API_KEY, then VLLM_API_KEY",
    )
    sent.add_argument(
        "--header",
        action="append",
        metavar="'NAME: VALUE'",
        help="header of every request, any number; a value @FILE is read from the file, $NAME from the environment",
    )
    sent.add_argument(
        "--ca-file",
        metavar="FILE",
        help="trusted certificates in PEM format; without it SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, then the system's",
    )
    sent.add_argument("--insecure", action="store_true", help="accept any TLS certificate")
    record = parser.add_argument_group("LLM results")
    record.add_argument(
        "--run-dir", metavar="DIR", help="where the run is recorded (default runs/<time>-<endpoint>)"
    )
    record.add_argument(
        "--slo", metavar="TERMS", help="judge each stage, for example ttft_p95=2s,tpot_p95=100ms"
    )
    record.add_argument(
        "--stop-when",
        metavar="RULES",
        help="end the run early: errors=10%%, slo (a term of --slo breaks), saturated (in flight keeps growing)",
    )
    record.add_argument(
        "--find-capacity",
        metavar="TIME",
        help="search the highest rate that holds --slo within this time (10m, 600s), from --rate on (default 1); one process",
    )
    record.add_argument(
        "--prometheus",
        metavar="URL",
        help="noted in run.json as the place of the server's metrics; `autoscale collect` uses it",
    )


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


@dataclass(frozen=True)
class LoadOptions:
    """The options as given; properties are what follows from them. All of it travels to workers as plain values."""

    values: Mapping[str, Any]
    _plan: list[LoadPlan] = field(
        default_factory=list, repr=False, compare=False
    )  # read once: files may be long

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> LoadOptions:
        """The load generator's part of Locust's parsed options. Raises BadInput.

        The web form gives text for what had no default, and empty text for what was left open.
        """
        values = {name: getattr(parsed, name, None) for name in WANTED}
        values["run_time"] = getattr(parsed, "offered_time", None) or values["run_time"]
        values = {name: None if value == "" else value for name, value in values.items()}
        try:
            values["rate"] = None if values["rate"] is None else float(values["rate"])
        except ValueError:
            raise BadInput("--rate", value=values["rate"], expected="requests/s above 0") from None
        return cls(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def open_loop(self) -> bool:
        """Whether requests arrive by a plan of their own, not by users."""
        return any(
            self.values[name] is not None for name in ("rate", "stages", "load", "trace", "find_capacity")
        )

    def plan(self) -> LoadPlan:
        """What is offered; for a closed loop only its lengths and seed count. Raises BadInput."""
        if not self._plan:
            self._plan.append(self._read_plan().within(self.values.get("most_tokens")))
        return self._plan[0]

    def _read_plan(self) -> LoadPlan:
        lengths = {
            "arrivals": self.arrivals,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "shared_prefix_tokens": self.shared_prefix_tokens,
            "seed": self.seed,
        }
        if self.find_capacity is not None:  # the rates are found on the way; this is their room in time
            return LoadPlan.from_options(
                rate=self.first_rps, duration_s=parse_budget(self.find_capacity), **lengths
            )
        if not self.open_loop:
            return LoadPlan.from_options(rate=1000.0, **lengths)
        return LoadPlan.from_options(
            rate=self.rate,
            stages=self.stages,
            load_file=self.load,
            trace=self.trace,
            time_unit=self.trace_time_unit,
            duration_s=float(self.run_time) if self.run_time else None,
            **lengths,
        )

    @property
    def first_rps(self) -> float:
        """The rate at which a search for the capacity begins."""
        return 1.0 if self.rate is None else float(self.rate)

    def limits(self, workers: int = 1) -> Limits:
        """The limits of one of so many workers. Raises BadInput."""
        for name in ("timeout", "idle_timeout", "max_in_flight"):
            if not self.values[name] > 0:
                raise BadInput(
                    f"--{name.replace('_', '-')}", value=self.values[name], expected="a number above 0"
                )
        if not self.grace >= 0:
            raise BadInput("--grace", value=self.grace, expected="seconds of at least 0")
        age_s, requests = parse_reconnect(self.reconnect_every)
        return Limits(
            max(1, math.ceil(self.max_in_flight / workers)), self.timeout, self.idle_timeout, age_s, requests
        )

    def check(self) -> None:
        """Raises BadInput with one sentence for the first thing that is wrong."""
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
        if self.run_dir is not None and (Path(self.run_dir) / "run.json").exists():
            raise BadInput(
                "--run-dir already holds a run", value=self.run_dir, next_step="choose another directory"
            )

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
        for name in ("stages", "load", "trace", "stop_when", "run_time"):
            if self.values[name] is not None:
                raise BadInput(
                    f"--find-capacity and --{name.replace('_', '-')}",
                    next_step="leave out one: the search chooses rates and times itself",
                )


def parse_reconnect(text: str) -> tuple[float, float]:
    """(age in s, requests) after which a connection is replaced, from `30s`, `100` or `never`. Raises BadInput."""
    if text == "never":
        return math.inf, math.inf
    try:
        number = float(text.removesuffix("s"))
    except ValueError:
        number = math.nan
    if not number > 0:
        raise BadInput(
            "--reconnect-every", value=text, expected="an age such as 30s, a number of requests, or never"
        )
    return (number, math.inf) if text.endswith("s") else (math.inf, number)
