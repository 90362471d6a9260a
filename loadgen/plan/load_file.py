"""The load file: everything that is offered, declared in one YAML, for `--load FILE` and `--traffic FILE` alike.

    seed: 7
    arrivals: gamma:3                      # constant | poisson | gamma:CV
    prompt_tokens: lognormal:1020,1.0      # fixed:N | uniform:A,B | normal:M,S | lognormal:M,S | quantiles:A,B,... | trace
    output_tokens: lognormal:129,0.9
    repeat: 2                              # the whole load, this many times
    begins: Tue 08:30                      # moment of the week (UTC), which schedules go by
    load:                                  # one after another, joined without gaps
      - {stages: "1:60,2:60", interleave_s: 20}  # RATE:SECONDS; cut into pieces that take turns
      - ramp: {from_rps: 2, to_rps: 8, duration_s: 300}
      - spike: {base_rps: 2, peak_rps: 20, at_s: 60, hold_s: 30, duration_s: 300}
      - sum:                               # at the same time, added
          - diurnal: {peak_rps: 10, duration_s: 86400}
          - sine: {mean_rps: 2, amplitude_rps: 1, period_s: 600, duration_s: 86400}

or, instead of `load`, a trace (loadgen.plan.traces):

    trace: {path: conv.csv.gz, from_s: 600, to_s: 1200, time_scale: 0.5, rate_scale: 2}

Paths are relative to the load file. Times are seconds, rates requests/s. The JSON Schema is docs/load-file.schema.json.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from analysis.errors import BadInput, did_you_mean
from analysis.files import mapping_in
from analysis.numbers import no_truth_value
from loadgen.plan import rates
from loadgen.plan.lengths import MOST
from loadgen.plan.programme import Rate
from loadgen.plan.text_files import PlainNumbers, yaml_text, yaml_value
from loadgen.plan.time_units import since_monday_s

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**12)]
Some = Annotated[int, Field(ge=1, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _numbers = field_validator("*", mode="before")(no_truth_value)


class Constant(_Section):
    """The same rate throughout."""

    rate_rps: NotNegative
    duration_s: Positive


class Ramp(_Section):
    """A straight line from one rate to another."""

    from_rps: NotNegative
    to_rps: NotNegative
    duration_s: Positive


class Spike(_Section):
    """A base rate and a trapezoid on it: rise from at_s over rise_s, hold for hold_s, fall over fall_s."""

    base_rps: NotNegative
    peak_rps: NotNegative
    at_s: NotNegative
    hold_s: NotNegative
    duration_s: Positive
    rise_s: NotNegative = 0
    fall_s: NotNegative = 0


class Sine(_Section):
    """mean_rps + amplitude_rps * sin(2 pi t / period_s + phase_rad)."""

    mean_rps: NotNegative
    amplitude_rps: NotNegative
    period_s: Positive
    duration_s: Positive
    phase_rad: Annotated[float, Field(allow_inf_nan=False)] = 0


class Diurnal(_Section):
    """A daily curve whose busiest hour offers peak_rps; `shape` are equal parts of a day, relative to each other."""

    peak_rps: NotNegative
    duration_s: Positive = 86_400
    start_hour: Annotated[float, Field(ge=0, lt=24)] = 0
    day_s: Positive = 86_400
    shape: list[NotNegative] | None = None

    @model_validator(mode="after")
    def _has_shape(self) -> Diurnal:
        if self.shape is not None and (len(self.shape) < 2 or max(self.shape) == 0):
            raise ValueError("shape needs at least two parts, not all 0")
        return self


class Curve(_Section):
    """Straight lines between [seconds, requests/s] points; the first lies at 0 s."""

    points: Annotated[list[tuple[NotNegative, NotNegative]], Field(min_length=2)]


class Segment(_Section):
    """One part of the load: exactly one of these."""

    stages: str | None = Field(None, description="RATE:SECONDS,RATE:SECONDS,... in requests/s")
    interleave_s: Positive | None = Field(None, description="stages are cut into pieces that take turns")
    constant: Constant | None = None
    ramp: Ramp | None = None
    spike: Spike | None = None
    sine: Sine | None = None
    diurnal: Diurnal | None = None
    curve: Curve | None = None
    sum: Annotated[list[Segment], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Segment:
        kinds = [name for name in type(self).model_fields if name != "interleave_s"]
        if sum(getattr(self, name) is not None for name in kinds) != 1:
            raise ValueError(f"needs exactly one of {', '.join(kinds)}")
        if self.interleave_s is not None and self.stages is None:
            raise ValueError("interleave_s goes with stages only")
        return self

    def rate(self, seed: int) -> Rate:
        """The segment as a rate programme; `seed` draws the order of pieces that take turns."""
        if self.stages is not None:
            steps = rates.parse_stages(self.stages, "stages")
            return steps if self.interleave_s is None else rates.interleaved(steps, self.interleave_s, seed)
        if self.curve is not None:
            times, values = zip(*self.curve.points, strict=True)
            return rates.points(times, values)
        if self.sum is not None:
            return rates.summed(part.rate(seed) for part in self.sum)
        kind, section = next((name, section) for name, section in self if section is not None)
        return _RATES[kind](**section.model_dump(exclude_none=True))


_RATES: dict[str, Callable[..., Rate]] = {
    "constant": rates.constant,
    "ramp": rates.ramp,
    "spike": rates.spike,
    "sine": rates.sine,
    "diurnal": rates.diurnal,
}


class TraceSection(_Section):
    """A recorded trace and how it is replayed; see loadgen.plan.traces."""

    path: str
    format: Literal["azure", "burstgpt", "mooncake", "qwen", "sessions", "servegen"] | None = Field(
        None, description="told from the file when absent"
    )
    time_scale: Positive = Field(
        1.0, description="run seconds per trace second: 0.1 replays ten times as fast"
    )
    from_s: NotNegative = Field(0.0, description="start of the window, trace seconds after the first request")
    to_s: Positive | None = Field(
        None, description="end of the window, trace seconds after the first request"
    )
    rate_scale: Positive = Field(
        1.0, description="below 1 keeps this share of requests, above 1 adds displaced copies"
    )
    jitter_s: NotNegative = Field(30.0, description="run seconds over which copies are displaced")
    bucket_s: NotNegative | None = Field(
        None, description="width of coarse stamps in trace seconds; found when absent"
    )
    time_unit: Literal["s", "ms", "us", "ns"] | None = Field(
        None,
        description="unit of the timestamps and delays; the format's own, or that of Unix time, when absent",
    )
    turn_tokens: Literal["added", "whole"] = Field(
        "added", description="session rows: input_length is what the turn adds, or the whole prompt"
    )


class Conversations(_Section):
    """Multi-turn load: each prompt holds the earlier prompts and answers of its conversation."""

    turns: Annotated[int, Field(ge=2, le=1_000_000)]
    concurrent: Some = Field(8, description="turn k + 1 comes this many requests after turn k")


class LoadFile(_Section):
    """A load file; see the module docstring."""

    load: Annotated[list[Segment], Field(min_length=1)] | None = None
    trace: TraceSection | None = None
    arrivals: str = Field("poisson", description="constant | poisson | gamma:CV; a trace brings its own")
    prompt_tokens: str | None = Field(
        None,
        description="fixed:N | uniform:A,B | normal:M,S | lognormal:M,S | quantiles:A,B,... | trace; default fixed:512, or trace",
    )
    output_tokens: str | None = Field(None, description="as prompt_tokens; default fixed:128, or trace")
    shared_prefix_tokens: Annotated[int, Field(ge=0, le=MOST)] = 0
    conversations: Conversations | None = None
    repeat: Count = 1
    begins: str = Field(
        "Mon 00:00", description="moment of the week (UTC) at which it begins, for schedules: Tue 08:30"
    )
    duration_s: Positive | None = Field(None, description="ends the load earlier")
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("begins")
    @classmethod
    def _moment(cls, begins: str) -> str:
        since_monday_s(begins)
        return begins

    @model_validator(mode="after")
    def _one_load(self) -> LoadFile:
        if (self.load is None) == (self.trace is None):
            raise ValueError("needs exactly one of load, trace")
        if self.trace is not None and "arrivals" in self.model_fields_set:
            raise ValueError("arrivals do not go with a trace, which brings its own times")
        return self

    @property
    def begins_s(self) -> float:
        """When it begins, in s after a Monday 00:00 UTC."""
        return since_monday_s(self.begins)

    def programme(self) -> Rate | None:
        """The rate of `load`; None with a trace. Raises BadInput when a part does not hold together."""
        if self.load is None:
            return None
        return rates.repeated(rates.joined(segment.rate(self.seed) for segment in self.load), self.repeat)

    def trace_path(self) -> str:
        """The trace's path as written."""
        assert self.trace is not None
        return self.trace.path

    def trace_options(self) -> dict[str, Any]:
        """How the trace is replayed: the keywords of loadgen.plan.traces.Trace.open."""
        assert self.trace is not None
        return {**self.trace.model_dump(exclude={"path"}), "repeat": self.repeat}


def read_load_file(path: Path | str) -> LoadFile:
    """The load file, validated. Raises BadInput naming the file, the line and the field."""
    path = Path(path)
    node, value = yaml_value(path, yaml_text(path, "the load file"), PlainNumbers)
    content = mapping_in(value, path, "load file", "a mapping with load or trace")
    try:
        return LoadFile.model_validate(content)
    except ValidationError as error:
        raise _explained(path, node, error) from None


def schema() -> dict[str, Any]:
    """JSON Schema of a load file, for editors; docs/load-file.schema.json is this, and a test keeps it so."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **LoadFile.model_json_schema(),
        "title": "Load file",
    }


def _explained(path: Path, node: yaml.Node | None, error: ValidationError) -> BadInput:
    # A mistyped name is reported twice, as unknown and as missing: the unknown one says more.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    names = [str(part) for part in first["loc"]]
    where = f"{path} line {_line(node, first['loc'])}, field {'.'.join(names) or 'top level'}"
    if first["type"] != "extra_forbidden":
        message = first["msg"].removeprefix("Value error, ")
        value = first.get("input") if not isinstance(first.get("input"), dict | list) else None
        value = f"{value[:60]}..." if isinstance(value, str) and len(value) > 80 else value
        return BadInput(f"{where}: {message}", value=value)
    models = (LoadFile, Segment, Constant, Ramp, Spike, Sine, Diurnal, Curve, TraceSection, Conversations)
    known = {name for model in models for name in model.model_fields}
    return BadInput(f"{where}: unknown field", next_step=did_you_mean(names[-1], known))


def _line(node: yaml.Node | None, where: tuple[int | str, ...]) -> int:
    """Line, from 1, of the innermost part of `where` that the file holds."""
    line = node.start_mark.line if node else 0
    for part in where:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return line + 1
