"""The command-line options of the load generator as a table: what Locust's parser, its web form and the documents show."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

LENGTHS = "N | uniform:A,B | normal:M,S | lognormal:M,S | quantiles:A,B,..."


class Option(NamedTuple):
    """One option: its flag, what it does, and what argparse must know of its value."""

    flag: str
    help: str
    metavar: str | None = None
    default: Any = None
    type: type | None = None
    action: Any = None
    in_form: bool = True  # of the web UI


class Group(NamedTuple):
    """Options that belong together."""

    title: str
    options: tuple[Option, ...]
    description: str | None = None


YES_NO = argparse.BooleanOptionalAction

LOAD = Group(
    "LLM load",
    (
        Option("--rate", "open loop: offered requests/s for the whole run", "R", type=float),
        Option("--arrivals", "constant | poisson | gamma:CV (default poisson)", "HOW", "poisson"),
        Option("--stages", "open loop in steps of rate:seconds, for example 1:60,2:60,4:60", "R:S,..."),
        Option(
            "--interleave",
            "cut --stages into pieces of this length (20s), which take turns in an order drawn by --seed",
            "TIME",
        ),
        Option("--load", "open loop from a YAML file: stages, ramps, spikes, sine, trace, lengths", "FILE"),
        Option("--trace", "open loop: replay a recorded trace", "FILE"),
        Option(
            "--trace-time-unit",
            "unit of the trace's timestamps: s, ms, us or ns (default the format's own, or that of Unix time)",
            "UNIT",
        ),
        Option("--prompt-tokens", f"tokens per prompt: {LENGTHS} | trace (default fixed:512)", "LEN"),
        Option("--output-tokens", f"tokens per answer: {LENGTHS} | trace (default fixed:128)", "LEN"),
        Option(
            "--shared-prefix-tokens",
            "leading tokens that all prompts share (default 0: every prompt is unique)",
            "N",
            0,
            int,
        ),
        Option(
            "--seed",
            "seed of arrivals, lengths and prompts (default 0); never sent to the server",
            default=0,
            type=int,
        ),
        Option(
            "--clamp-lengths",
            "cut requests to the server's max_model_len; without it a load of which one does not fit is refused",
            default=False,
            action="store_true",
        ),
    ),
    "Without --rate, --stages, --load or --trace the run is a closed loop of -u users.",
)
REQUESTS = Group(
    "LLM requests",
    (
        Option(
            "--model",
            "model id; by default the only one in /v1/models, adapters and further names of it aside",
            "ID",
        ),
        Option(
            "--prompts",
            "ids (token ids, exact), words (text), or a JSONL file of your own prompts; default ids for completions, words for chat",
            "HOW",
        ),
        Option(
            "--ignore-eos",
            "answers have exactly the asked tokens (vLLM); default on",
            default=True,
            action=YES_NO,
        ),
        Option("--stream", "stream the answers; default on", default=True, action=YES_NO),
    ),
)
CLIENT = Group(
    "LLM client",
    (
        Option(
            "--max-in-flight",
            "requests in flight at most, over all workers; others wait for a seat (default 4096)",
            "N",
            4096,
            int,
        ),
        Option(
            "--timeout",
            "a request without complete answer fails after this (default 600)",
            "S",
            600.0,
            float,
        ),
        Option("--idle-timeout", "a stream silent for this long fails (default 120)", "S", 120.0, float),
        Option(
            "--grace",
            "wait this long for answers after the end of the load (default 60)",
            "S",
            60.0,
            float,
        ),
        Option(
            "--reconnect-every",
            "replace connections after this age (30s) or number of requests (100), so that new replicas get traffic; never = keep (default 30s)",
            "WHEN",
            "30s",
        ),
    ),
)
ACCESS = Group(
    "LLM access",
    (
        Option(
            "--api-key-file",
            "file with the key, sent as `Authorization: Bearer`; without it the environment's OPENAI_API_KEY, then VLLM_API_KEY",
            "FILE",
            in_form=False,
        ),
        Option(
            "--header",
            "header of every request, any number; a value @FILE is read from the file, $NAME from the environment",
            "'NAME: VALUE'",
            action="append",
            in_form=False,
        ),
        Option(
            "--ca-file",
            "trusted certificates in PEM format; without it SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, then the system's",
            "FILE",
            in_form=False,
        ),
        Option("--insecure", "accept any TLS certificate", default=False, action="store_true"),
    ),
    "Keys are never written down or shown. http://user:password@HOST is sent as basic authorization.",
)
RESULTS = Group(
    "LLM results",
    (
        Option("--run-dir", "where the run is recorded (default runs/<time>-<endpoint>)", "DIR"),
        Option(
            "--details",
            "end with every percentile and Locust's own tables, too; later: `autoscale report RUN --details`",
            default=False,
            action="store_true",
            in_form=False,
        ),
        Option("--slo", "judge each stage, for example ttft_p95=2s,tpot_p95=100ms", "TERMS"),
        Option(
            "--stop-when",
            "end the run early: errors=10%%, slo (a term of --slo breaks), saturated (in flight keeps growing)",
            "RULES",
        ),
        Option(
            "--find-capacity",
            "search the highest rate that holds --slo within this time (10m, 600s), from --rate on (default 1); one process",
            "TIME",
        ),
        Option(
            "--prometheus",
            "noted in run.json as the place of the server's metrics; `autoscale collect` uses it",
            "URL",
        ),
    ),
)
GROUPS = (LOAD, REQUESTS, CLIENT, ACCESS, RESULTS)
FIRST_IN_FORM = ("stages", "rate", "prompt_tokens", "output_tokens", "slo")  # what most loads need


def field_name(option: Option) -> str:
    """Where the parser puts the option's value."""
    return option.flag.removeprefix("--").replace("-", "_")


def in_form() -> dict[str, bool]:
    """Whether the web UI's form shows an option, by its name: not how a server is let in."""
    return {field_name(option): option.in_form for group in GROUPS for option in group.options}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to Locust's parser; its help shows them before Locust's own."""
    before = len(parser._action_groups)
    for group in GROUPS:
        section = parser.add_argument_group(group.title, group.description)
        for option in group.options:
            given = option._asdict()
            named = {name: given[name] for name in ("metavar", "type", "action") if given[name] is not None}
            section.add_argument(option.flag, help=option.help, default=option.default, **named)
    groups = parser._action_groups
    groups[:] = groups[before:] + groups[:before]
