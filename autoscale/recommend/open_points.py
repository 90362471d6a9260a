"""What runs leave open, as reasons: each with the command that would settle it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.capacity import Capacity
from analysis.numbers import known
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.reasons import hours
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommendation import Reason, WorthOfARun

SWEEP_MIN = 10.0  # that fixes one replica's speed to a few per cent (docs/method.md, section 5)


def worth_of_a_run(decision: Decision) -> WorthOfARun | None:
    """What a sweep of one replica would save of an answer that rests on a data sheet; None without an answer."""
    chosen = decision.chosen
    if chosen is None or not known(decision.as_fitted_h):
        return None
    saves = max(0.0, chosen.cost - decision.as_fitted_h)
    of = f"of {hours(chosen.cost)}"
    gain = f"to save {hours(saves)} accelerator-hours {of}" if saves >= 0.05 else "to know it"
    sentence = f"prediction, no run: measure one replica for {SWEEP_MIN:.0f} minutes {gain}"
    return WorthOfARun(SWEEP_MIN, saves, sentence)


def more_data(model: ReplicaModel) -> Iterator[Reason]:
    """Why the model must not be used, what its run cannot tell apart, and what to measure."""
    for sentence in model.untrusted():
        yield Reason("model_error", sentence)
    for a, b in model.confounded:
        yield Reason(
            "confounded",
            f"the run cannot tell {a} from {b}: add stages with other prompt and output lengths",
        )
    if not model.capacities:  # learned from production
        yield Reason(
            "measure_again",
            "measure one quiet replica: autoscale load --host URL --headless, then autoscale recommend of that run",
        )
        return
    command = next((c.next_command for c in model.capacities if c.next_command), None)
    yield Reason(
        "measure_again",
        f"measure again on one quiet replica: {command or _sweep(model.capacities[0])} "
        "--prompt-tokens uniform:100,1500 --output-tokens uniform:50,250",
    )


def of_runs(capacities: Sequence[Capacity], *, one_sided: bool) -> Iterator[Reason]:
    """What was set aside in the runs; and, where asked for, what rests on the model alone."""
    for capacity in capacities:
        for note in capacity.notes:
            yield Reason("run", note)
    for capacity in capacities if one_sided else ():
        if (reason := _one_sided(capacity)) is not None:
            yield reason


def _one_sided(capacity: Capacity) -> Reason | None:
    """What rests on the model alone because the run lies on one side of the knee, and the sweep that would settle it."""
    if capacity.next_command is None:
        return None
    usable = [w for w in capacity.windows if w.usable]
    stages = (
        f"the only usable stage was {usable[0].state}"
        if len(usable) == 1
        else f"all {len(usable)} usable stages were {usable[0].state}"
    )
    if usable[0].state == "queued":
        what = "latencies below the knee are the model's, nothing was measured there"
    else:
        what = "where the replica saturates is the model's, nothing was measured there"
    return Reason(
        "one_sided", f"{stages}: {what}; measure on both sides of the knee: {capacity.next_command}"
    )


def _sweep(capacity: Capacity) -> str:
    """A sweep across the knee of what was measured, as a command."""
    top = float(capacity.points["throughput_rps"].max())
    stages = ",".join(f"{share * top:.2g}:120" for share in (0.3, 0.5, 0.7, 0.9, 1.2))
    return f"autoscale load --headless --host URL --stages {stages}"
