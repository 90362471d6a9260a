"""recommendation.json: the answer of `autoscale recommend`, as it is written and as everything after it reads it.

Numbers that nothing is known of are NaN here and null in the file; a null that means "there is none" is None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from analysis.errors import BadInput
from analysis.files import read_json
from analysis.numbers import known
from autoscale.bill import Bill
from autoscale.schedule import Scheduled
from autoscale.signal_target import SignalTarget
from autoscale.typed_json import LeftOut, Name, Reading, as_plain, decoded, whole

SCHEMA_VERSION = 1
EXPECTED = "a recommendation.json of `autoscale recommend`"

Answer = Literal["autoscale", "do_not_autoscale", "infeasible", "need_more_data"]
KubernetesObject = Mapping[str, Any]


def _count(value: Any) -> int:
    if whole(value) < 1:
        raise ValueError
    return whole(value)


Count = Annotated[int, Reading("a whole number of at least 1", _count)]


@dataclass(frozen=True)
class Estimated:
    """A figure and its 95 % interval."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def interval(self) -> tuple[float, float] | None:
        """(low, high), or the value twice when it has no interval; None when nothing is known."""
        if known(self.low) and known(self.high):
            return self.low, self.high
        return (self.value, self.value) if known(self.value) else None


@dataclass(frozen=True)
class EstimatedRate(Estimated):
    """Requests/s per replica, and how they were found. NaN: open to that side; a NaN value: only the bounds are known."""

    how: str = ""


@dataclass(frozen=True)
class Forecast:
    """What a setting does on the traffic: means over `seeds` simulations. Shares 0-1, times in s, cost in the price's unit.

    `latencies` are the percentiles that the SLO asks about, in s: `ttft_p95`.
    `days_kept` is the share of the simulated `periods` that kept the SLO, its `low` end what they show with 95 %
    confidence; `worst_stretch_s` the longest time over the SLO in any of them. The last three are of one simulation, not
    means: the middle, the least and the most of them all (`ready_s`: of starts drawn), since a check sees one course of things.
    `from_zero` are requests that waited on a start from zero, the longest for `longest_from_zero_s`; only where that happened.
    """

    setting: str
    holds: bool
    seeds: int
    slo_attainment: Estimated = Estimated()
    days_kept: Estimated = Estimated()
    periods: int = 0
    worst_stretch_s: float = math.nan
    replica_hours: Estimated = Estimated()
    accelerator_hours: Estimated = Estimated()
    latencies: Mapping[str, Estimated] = field(default_factory=dict)
    wasted_scale_outs: Estimated = Estimated()
    flaps: Estimated = Estimated()
    longest_breach_s: Estimated = Estimated()
    cost: Estimated | None = None
    peak_replicas: Annotated[Estimated | None, LeftOut] = None
    ready_s: Annotated[Estimated | None, LeftOut] = None
    recovery_s: Annotated[Estimated | None, LeftOut] = None
    from_zero: Annotated[Estimated | None, LeftOut] = None
    longest_from_zero_s: Annotated[float | None, LeftOut] = None


@dataclass(frozen=True)
class BestOfSignal:
    """The best that one signal alone can do; when no target of it holds, what comes nearest, with `holds` false."""

    quantity: Annotated[str | None, Name("averageValue")] = None
    setting: str | None = None
    holds: bool | None = None
    slo_attainment: float | None = None
    accelerator_hours: float | None = None
    sentence: str = ""


@dataclass(frozen=True)
class AskedSlo:
    """What was asked: the SLO, the share that must keep every bound where one was given, the term that binds first; the
    share of periods of `period_s` that must keep it, and the longest stretch over it where one was given; the TTFT that a request may have which waits on a start from zero."""

    text: str = ""
    attainment: float | None = None
    binding: str | None = None
    days_kept: float | None = None
    longest_breach_s: float | None = None
    period_s: float | None = None
    cold_start_s: Annotated[float | None, LeftOut] = None


@dataclass(frozen=True)
class System:
    """What the recommendation is for, whole: `check --expect` simulates a check's own load on it.

    content     the profile with every key, measured starts included (profiles.from_content)
    slower      relative half width of the 95 % interval of the replica's step time (model_error.engine)
    version     of the program that wrote the document
    """

    profile: str
    model: str
    accelerator: str
    content: KubernetesObject
    slower: float = 0.0
    version: str = ""

    @property
    def node_selector(self) -> Mapping[str, str]:
        """The labels of the nodes that hold its accelerators."""
        found = (self.content.get("deploy") or {}).get("node_selector")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class Provenance:
    """Where runs, profile and traffic came from, the command that was run, and of which version."""

    runs: tuple[str, ...] = ()
    profile: str = ""
    traffic: str = ""
    command: str = ""
    version: str = ""


@dataclass(frozen=True)
class MeasuredCapacity:
    """What the first run says about one replica, without any model of the engine."""

    knee: EstimatedRate = EstimatedRate()
    saturated: EstimatedRate = EstimatedRate()
    slo: EstimatedRate = EstimatedRate()
    binds: str | None = None
    per_term: Mapping[str, EstimatedRate] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    next_command: str | None = None


@dataclass(frozen=True)
class ModelledCapacity(Estimated):
    """The highest steady rate (requests/s) at which one replica holds the SLO by the model, and its mean signals there."""

    waiting: float = math.nan
    running: float = math.nan
    kv_usage: float = math.nan


@dataclass(frozen=True)
class ReplicaCapacity:
    """One replica under the SLO: by the run, by the model."""

    measured: MeasuredCapacity | None = None
    model: Annotated[ModelledCapacity | None, LeftOut] = None


@dataclass(frozen=True)
class ReplayedFigure:
    """One figure of one stage of one run: measured, and by the fitted model."""

    stage: int
    figure: str
    measured: float
    modelled: float
    error: float
    run: int


@dataclass(frozen=True)
class EngineModel:
    """Where the engine's parameters come from, the parameters, and, where they were fitted, how well they fit."""

    source: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)
    replay_median_error: Annotated[Mapping[str, float] | None, LeftOut] = None
    intervals: Annotated[Mapping[str, tuple[float, float]] | None, LeftOut] = None
    confounded: Annotated[tuple[tuple[str, str], ...] | None, LeftOut] = None
    stages_used: Annotated[tuple[int, ...] | None, LeftOut] = None
    replay: Annotated[tuple[ReplayedFigure, ...] | None, LeftOut] = None


@dataclass(frozen=True)
class Reason:
    """Why, as a code for machines and a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True)
class Tried:
    """A setting that the search looked at, on its own seeds; `stopped` says why it was not run to its end, `why_not` why
    one that held there for less than what is recommended is not recommended."""

    setting: str
    family: str
    holds: bool
    stopped: str | None
    margin: float
    accelerator_hours: float
    wasted_scale_outs: int
    why_not: Annotated[str | None, LeftOut] = None


@dataclass(frozen=True)
class Robustness:
    """How far things may move until the recommended setting breaks, each held by `simulations`: shares of traffic and of
    a start, and that start in s."""

    traffic: float
    start: float
    start_s: float
    simulations: int


@dataclass(frozen=True)
class WorthOfARun:
    """What measuring one replica for so many minutes would save at most, when the recommendation rests on no run; `load` is the
    load file of that test."""

    minutes: float
    accelerator_hours: float
    sentence: str
    load: Annotated[str | None, LeftOut] = None


@dataclass(frozen=True)
class Drift:
    """Whether the target of an older recommendation still holds.

    holds      on average over seeds, with nothing started in vain; None: the old answer had no target
    confident  with 95 % confidence, and for a replica as slow as the run allows, as a choice has to
    """

    holds: bool | None
    confident: Annotated[bool | None, LeftOut] = None
    sentence: str = ""
    attainment: Annotated[float | None, LeftOut] = None
    accelerator_hours: Annotated[float | None, LeftOut] = None


@dataclass(frozen=True)
class Recommendation:
    """The whole document. Only the answer must be there: a file of another hand may hold less than ours do.

    predicted            the recommended setting on replicas that are `slower_than_fitted`, by that share
    predicted_as_fitted  the same on replicas as fitted, where that differs
    guides               HPAs by the rules of others
    hpa                  autoscaling/v2, as `autoscale recommend` writes it to hpa.yaml; None when nothing scales, or KEDA
    scaled_object        keda.sh/v1alpha1, as it writes it to scaledobject.yaml, when KEDA was asked for
    gateway              the options of --gateway behind which it was judged; None: none
    """

    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
    answer: Answer
    profile: str | None = None
    system: Annotated[System | None, LeftOut] = None
    provenance: Provenance = Provenance()
    slo: AskedSlo = AskedSlo()
    metrics: tuple[SignalTarget, ...] = ()
    min_replicas: Annotated[Count | None, Name("minReplicas")] = None
    max_replicas: Annotated[Count | None, Name("maxReplicas")] = None
    behavior: KubernetesObject | None = None
    hpa: KubernetesObject | None = None
    scaled_object: Annotated[KubernetesObject | None, LeftOut] = None
    gateway: Annotated[str | None, LeftOut] = None
    predicted: Forecast | None = None
    slower_than_fitted: float = 0.0
    predicted_as_fitted: Forecast | None = None
    robust: Robustness | None = None
    measuring: Annotated[WorthOfARun | None, LeftOut] = None
    static_fleet: Forecast | None = None
    tutorial_default: Forecast | None = None
    guides: Mapping[str, Forecast] = field(default_factory=dict)
    current: Forecast | None = None
    best_hpa: Forecast | None = None
    alternatives: Mapping[str, BestOfSignal] = field(default_factory=dict)
    capacity_rps: ReplicaCapacity = ReplicaCapacity()
    model_error: EngineModel = EngineModel()
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()
    candidates: tuple[Tried, ...] = ()
    traffic: Mapping[str, Any] = field(default_factory=dict)
    drift: Annotated[Drift | None, LeftOut] = None
    bill: Annotated[Bill | None, LeftOut] = None
    schedule: Annotated[Scheduled | None, LeftOut] = None

    @property
    def scaler(self) -> KubernetesObject | None:
        """The object that scales: the ScaledObject or the HPA."""
        return self.scaled_object or self.hpa

    @property
    def holds(self) -> bool:
        """Whether what is recommended keeps the SLO."""
        return self.predicted is not None and self.predicted.holds

    @property
    def achieved(self) -> bool:
        """Whether there is something to run, an HPA or a standing fleet, and it keeps the SLO."""
        return self.answer in ("autoscale", "do_not_autoscale") and self.holds

    def served(self) -> dict[str, Any]:
        """What it asks of a server: the engine's limits, and the model and nodes where it holds its system."""
        of = (
            {}
            if self.system is None
            else {"model": self.system.model, "node_selector": self.system.node_selector}
        )
        return {**self.model_error.engine, **of}

    def as_json(self) -> dict[str, Any]:
        """The document as recommendation.json holds it."""
        return dict(as_plain(self))


def refuse_other(
    recommendation: Recommendation, *, profile: str, model: str, accelerator: str | None = None
) -> None:
    """Raises BadInput, naming both, when it is of another profile, model or accelerator (None: not known) than these."""
    system = recommendation.system
    ours = (recommendation.profile, system and system.model, system and system.accelerator)
    for what, own, other in zip(
        ("profile", "model", "accelerator"), ours, (profile, model, accelerator), strict=True
    ):
        if None not in (own, other) and own != other:
            raise BadInput(
                f"the recommendation is of another {what}",
                value=own,
                expected=other,
                next_step=f"take the one of {profile}, or run `autoscale recommend --profile {profile}`",
            )


def recommendation_text(recommendation: Recommendation) -> str:
    """What recommendation.json holds."""
    return json.dumps(recommendation.as_json(), indent=2, allow_nan=False) + "\n"


def read_recommendation(path: Path | str) -> Recommendation:
    """A recommendation.json. Raises BadInput, naming the field, when it is not one."""
    content = read_json(path, "recommendation", EXPECTED)
    if "answer" not in content:
        raise BadInput(f"{path} is not a recommendation", expected=EXPECTED)
    if (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise BadInput(
            f"{path}: schema_version",
            value=version,
            expected=f"{SCHEMA_VERSION}, which this version writes and reads",
            next_step="run `autoscale recommend` again",
        )
    return parse_recommendation(content, f"{path}:")


def parse_recommendation(content: object, source: str = "recommendation") -> Recommendation:
    """The object of a recommendation.json; `source` opens the sentence of what is refused. Raises BadInput."""
    return decoded(Recommendation, content, source)
