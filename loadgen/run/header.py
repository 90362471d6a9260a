"""What run.json says of a load, one type per block: known when the run begins, and when it has ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from analysis.errors import LONGEST_NAME, printable
from loadgen.plan.traffic import LoadPlan
from loadgen.run.capacity_search import FoundCapacity
from loadgen.run.client_health import ClientHealth
from loadgen.run.endpoint.manner import prompt_kind
from loadgen.run.endpoint.server_facts import ServerFacts
from loadgen.run.measured import Pause
from loadgen.run.messages import Offset
from loadgen.run.options import LoadOptions

Stage = Mapping[str, float | int | None]  # stage, start_s, end_s, and rate or users


@dataclass(frozen=True)
class LengthsBlock:
    """`lengths`: what was asked of prompts and answers, and how the tokens of prompts are known."""

    prompts: str | None  # the user's own file
    prompt_tokens: str
    output_tokens: str
    shared_prefix_tokens: int
    counted_by: str | None  # these three None for the user's own prompts
    tokens_per_word: float | None
    overhead_tokens: int | None
    most_tokens: int | None  # to which requests were cut
    ignore_eos: bool

    @classmethod
    def of(cls, options: LoadOptions, plan: LoadPlan, endpoint: str, server: ServerFacts) -> LengthsBlock:
        """The block of a load on this server."""
        how, counted = prompt_kind(options, endpoint), server.manner.counted
        return cls(
            prompts=None if options.prompts in ("ids", "words") else options.prompts,
            prompt_tokens=str(plan.prompt),
            output_tokens=str(plan.output),
            shared_prefix_tokens=plan.shared_prefix_tokens,
            counted_by=counted.by if how in ("ids", "words") else None,
            tokens_per_word=counted.tokens_per_word if how == "words" else None,
            overhead_tokens=counted.overhead_tokens if how == "words" else None,
            most_tokens=plan.most_tokens,
            ignore_eos=options.ignore_eos,
        )


@dataclass(frozen=True)
class WorkerBlock:
    """One of `workers`, at the end of a run; None where it was not lost, or its clock not measured."""

    name: str
    lost_at_s: float | None
    clock_offset_s: float | None
    clock_uncertainty_s: float | None

    @classmethod
    def of(cls, name: str, lost_at_s: float | None, offset: Offset | None) -> WorkerBlock:
        """The block of the worker with this name."""
        ahead_s, uncertainty_s = offset or (None, None)
        return cls(name, lost_at_s, ahead_s, uncertainty_s)


@dataclass(frozen=True)
class ClientBlock:
    """`client`: whether the client limited the run, and what it did not do."""

    health: ClientHealth | None  # None: no request was planned
    lost_at_s: Mapping[str, float]  # by worker
    unsent: int
    rate_limited: Mapping[str, object] | None
    cpu_s: Mapping[str, float]  # by worker

    def as_json(self) -> dict[str, object]:
        """The block as it is written."""
        lost = [{"worker": worker, "time_s": round(at_s, 3)} for worker, at_s in self.lost_at_s.items()]
        known: dict[str, object]
        if self.health is None:
            known = {"verdict": "ok", "stages": [], "sentence": "no request was planned"}
        else:
            known = {
                "verdict": self.health.verdict,
                "read_clock": self.health.read_clock,
                "stages": [stage.as_json() for stage in self.health.stages],
            }
        if lost:
            known |= {"verdict": "limited", "lost_workers": lost}
        known["unsent"] = self.unsent
        if self.health is not None:
            known["rate_limited"] = self.rate_limited
        return {**known, "cpu_s": dict(self.cpu_s)}


@dataclass(frozen=True)
class PausesBlock:
    """`pauses`: how often and how long users waited after failures, and how often because the server asked."""

    number: int
    seconds: float
    retry_after: int

    @classmethod
    def of(cls, pauses: Sequence[Pause]) -> PausesBlock:
        """These pauses, summed."""
        asked = sum(pause.asked for pause in pauses)
        return cls(len(pauses), round(sum(pause.length_s for pause in pauses), 3), asked)


@dataclass(frozen=True)
class FirstHeader:
    """The header of a run that begins."""

    started_at: float  # unix time in s
    command: str
    versions: Mapping[str, str]
    options: LoadOptions
    endpoint: str
    server: ServerFacts
    request_tag: str  # X-Request-Id is tag-request_id
    prometheus: str | None
    workers: Sequence[str]

    def as_json(self) -> dict[str, object]:
        """The header as it is written."""
        options, server, plan = self.options, self.server, self.options.plan()
        planned = options.open_loop and options.find_capacity is None
        stages = list(plan.stages) if planned else []
        return {
            "kind": "live",
            "started_at": self.started_at,
            "ended_at": None,
            "command": self.command,
            "versions": dict(self.versions),
            "target": str(server.target),
            "access": server.target.access.described(),
            "endpoint": server.manner.path,
            "model": printable(server.manner.model, LONGEST_NAME),
            "metrics_model": server.metrics_model and printable(server.metrics_model, LONGEST_NAME),
            "notes": list(server.notes),
            "test_requests": server.test_requests,
            "request_tag": self.request_tag,
            "load": {
                "loop": "open" if options.open_loop else "closed",
                **(plan.describe() if options.open_loop else {}),
                "stages": stages,
                "max_in_flight": options.max_in_flight,
            },
            "stages": stages,
            "lengths": asdict(LengthsBlock.of(options, plan, self.endpoint, server)),
            "seed": plan.seed,
            "engine": dict(server.engine),
            "slo": options.slo,
            "prometheus": self.prometheus,
            "workers": [{"name": name} for name in self.workers],
            "client": None,
        }


@dataclass(frozen=True)
class LastHeader:
    """What the header of a run that has ended says beyond, or instead of, the first one."""

    ended_at: float  # unix time in s
    clock_set_by_s: float  # by which the machine's clock was set while the run went on
    stages: Sequence[Stage]
    load: Mapping[str, object]  # that of the first header
    client: ClientBlock
    stopped: str | None  # why it ended early
    pauses: PausesBlock | None  # of a closed loop
    find_capacity: FoundCapacity | None
    workers: Sequence[WorkerBlock]

    def as_json(self) -> dict[str, object]:
        """The changes as they are written."""
        stages = [dict(stage) for stage in self.stages]
        return {
            "ended_at": self.ended_at,
            **({"clock_set_by_s": self.clock_set_by_s} if self.clock_set_by_s else {}),
            "stages": stages,
            "load": {**self.load, "stages": stages},
            "client": self.client.as_json(),
            "stopped": self.stopped,
            **({} if self.pauses is None else {"pauses": asdict(self.pauses)}),
            **({} if self.find_capacity is None else {"find_capacity": self.find_capacity.as_json()}),
            "workers": [asdict(worker) for worker in self.workers],
        }
