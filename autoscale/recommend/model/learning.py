"""What runs teach about one replica: read, analysed, and the engine model calibrated on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.capacity import Capacity, analyse
from analysis.errors import BadInput, BadRun, TooLittleData
from analysis.files import read_yaml
from analysis.run import Run, newest, read
from analysis.slo import parse_slo
from analysis.steady import observe
from autoscale.profiles import Profile, load, names, overlay
from autoscale.recommend.model.calibrate import Calibration, calibrate, limits_from_run
from autoscale.sim.engine.replicas import EngineParams

DEFAULT_PROFILE = "llama-3.1-8b-1xl4"

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Learned:
    """Runs of one replica and what they say: `capacities` measured, one per run, and the engine fitted to all of them.

    Without a run the engine is the profile's prior and `calibration` is None.
    """

    profile: Profile
    slo: str
    engine: EngineParams
    runs: tuple[Run, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    calibration: Calibration | None = None

    def spread(self, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """95 % interval of the capacity at these mean lengths, relative to what the engine gives; (1, 1) without a run.

        That of the calibration, and never narrower than what was measured at the run's own lengths (in stages that were
        long enough for that): a server that wandered between stages will do so again.
        """
        if self.calibration is None:
            return 1.0, 1.0
        low, high = self.calibration.spread(prompt_tokens, output_tokens)
        own = self.calibration.spread(*self.calibration.shape)
        found = [
            c.saturated
            for c in self.capacities
            if c.settled and math.isfinite(c.saturated.high) and c.saturated.low > 0
        ]
        below = max(((1 - f.low / f.value) ** 2 - (1 - own[0]) ** 2 for f in found), default=0.0)
        above = max(((f.high / f.value - 1) ** 2 - (own[1] - 1) ** 2 for f in found), default=0.0)
        return 1 - math.hypot(1 - low, max(below, 0.0) ** 0.5), 1 + math.hypot(
            high - 1, max(above, 0.0) ** 0.5
        )


def learn(runs: Sequence[Run], profile: Profile, slo: str | None, report: Progress) -> Learned:
    """Analyse the runs and calibrate the engine on them; the SLO is the asked, else the first run's, else the profile's.

    Raises BadRun, TooLittleData.
    """
    asked = slo or (runs[0].header.get("slo") if runs else None) or profile.workload.slo
    engine = EngineParams.from_profile(profile)
    if not runs:
        return Learned(profile, asked, engine)
    observed = [observe(run) for run in runs]
    capacities = [analyse(one, parse_slo(asked)) for one in observed]
    try:
        calibration = calibrate(
            runs,
            limits_from_run(runs[0].header, engine),
            replicas=_replicas(capacities),
            exclude=[_set_aside(capacity) for capacity in capacities],
            gauges=[one.metrics for one in observed],
            saturated=[capacity.saturated for capacity in capacities],
            progress=report,
        )
    except TooLittleData as error:
        raise _what_was_left(error, capacities) from None
    return Learned(profile, asked, calibration.engine, tuple(runs), tuple(capacities), calibration)


def runs_of(paths: Sequence[Path] | None) -> list[Run]:
    if paths is None:
        latest = newest()
        return [_checked(read(latest))] if latest else []
    return [_checked(read(path)) for path in paths]


def _checked(run: Run) -> Run:
    if not run.has("metrics"):
        raise BadRun(
            f"the run {run.path} has no metrics.parquet",
            next_step=f"collect it: autoscale collect {run.path} --prometheus URL",
        )
    status = run.requests["status"].value_counts()
    if status.get("ok", 0) == 0:
        first = run.requests["error"].dropna()
        raise TooLittleData(
            f"every request of {run.path} failed",
            value=", ".join(f"{count} {name}" for name, count in status.items()),
            expected="completed requests",
            next_step=f"the first error was: {first.iloc[0]}" if len(first) else None,
        )
    return run


def system_of(name: str | None, runs: Sequence[Run], price: float | None, measured: Path | None) -> Profile:
    if name is None and runs:
        header = runs[0].header
        by_model = [n for n in names() if load(n).model.id == header.get("model")]
        if not header.get("profile") and len(by_model) > 1:
            raise BadInput(
                "several profiles serve the run's model",
                value=header.get("model"),
                expected=f"--profile with one of {', '.join(by_model)}",
            )
        name = header.get("profile") or (by_model[0] if by_model else None)
    system = load(name or DEFAULT_PROFILE)
    if price is not None:
        system = overlay(system, {"accelerator": {"price_per_chip_hour": price}})
    if measured is not None:
        system = overlay(system, read_yaml(measured, "measured overlay"))
    return system


def _set_aside(capacity: Capacity) -> set[int]:
    """Stages that say nothing about one replica: the client limited them, or several replicas (or a changing number) served."""
    single = _replicas([capacity]) == 1
    return {
        int(window.stage)
        for window in capacity.windows
        if window.client or (single and not 0 < window.replicas <= 1)
    }


def _what_was_left(error: TooLittleData, capacities: Sequence[Capacity]) -> TooLittleData:
    """The error, and why so little was left when stages were limited by the client."""
    windows = [window for capacity in capacities for window in capacity.windows]
    limited = [window for window in windows if window.client]
    if not limited:
        return error
    return TooLittleData(
        error.what,
        value=error.value,
        expected=error.expected,
        next_step=f"{len(limited)} of {len(windows)} stages were set aside because the load generator was their limit"
        f" ({'; '.join(limited[0].client)}): give it a core of its own, or --processes, and measure again",
    )


def _replicas(capacities: Sequence[Capacity]) -> int:
    """How many replicas served the usable stages at least: 1 when some can be used on their own."""
    counts = [w.replicas for c in capacities for w in c.windows if w.usable and w.replicas > 0]
    return math.ceil(min(counts, default=1.0))


def run_lengths(runs: Sequence[Run]) -> tuple[str, str] | None:
    """Lengths of the load that was sent, to be assumed for the default traffic; None when the run does not say."""
    lengths = runs[0].header.get("lengths") or {} if runs else {}
    prompt, output = lengths.get("prompt_tokens"), lengths.get("output_tokens")
    if not prompt or not output or "trace" in (prompt, output):
        return None
    return str(prompt), str(output)
