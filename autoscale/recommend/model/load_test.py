"""What a short load test of one replica would add to what production showed: by how much the capacity's interval would shrink."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import yaml

from analysis.numbers import Z975, known
from autoscale.recommend.answer import Decision
from autoscale.recommend.choice.scenario import Scenario
from autoscale.recommend.effort import DOUBTING
from autoscale.recommend.model.evidence import FIGURES, Evidence
from autoscale.recommend.model.one_replica import shape
from autoscale.recommend.model.production import information
from autoscale.recommend.model.replaying import Offered
from autoscale.recommend.model.replica_model import ReplicaModel
from autoscale.recommend.watching import WATCHING
from autoscale.recommendation import WorthOfARun


def load_test_worth(
    model: ReplicaModel, scenario: Scenario, decision: Decision, file: Path
) -> WorthOfARun | None:
    """Rates around the capacity as the load file of a ready command, the interval that they would leave, and what the certainty would save.

    None without an answer, and where the test would hardly narrow it (a tenth).
    """
    if decision.capacity is None or decision.chosen is None or not known(decision.as_fitted_h):
        return None
    rate = decision.capacity.rate_rps
    rates = [share * rate for share in WATCHING.stages]
    prompt, output = shape(scenario.plan)
    low, high = model.spread_at(prompt.mean(), output.mean())
    rng = np.random.default_rng(0)
    stages = []
    for one in rates:
        count = max(round(2 * WATCHING.stage_s * one), 2)
        due_s = np.sort(rng.random(count)) * 2 * WATCHING.stage_s  # the first half fills the batch
        offered = Offered.at(due_s, prompt.draw(rng, count), output.draw(rng, count))
        nothing = np.full(len(FIGURES), math.nan)
        stages.append(Evidence((offered,), nothing, WATCHING.stage_s, 2 * WATCHING.stage_s))
    added = information(stages, model.engine, max(model.usual.wander, WATCHING.least_wander))[:-1, :-1]
    shares = model.usual.full
    left = np.linalg.inv(np.linalg.inv(model.usual.covariances[0]) + added)
    spread = math.sqrt(float(shares @ left @ shares) + model.error**2)
    then = Z975 * max(spread, DOUBTING.model_error)
    now = max(1 - low, high - 1)
    if then > 0.9 * now:
        return None
    saves = max(0.0, decision.chosen.cost - decision.as_fitted_h)
    minutes = WATCHING.stage_s * len(rates) / 60
    command = ",".join(f"{one:.2g}:{WATCHING.stage_s:.0f}" for one in rates)
    return WorthOfARun(
        minutes,
        saves,
        f"one replica's speed is known to {now:.1%} from production; a load test of {minutes:.0f} minutes would narrow that to "
        f"{then:.1%}: autoscale load --headless --host URL --load {file}",
        load=yaml.safe_dump(
            {"prompt_tokens": str(prompt), "output_tokens": str(output), "load": [{"stages": command}]},
            sort_keys=False,
            width=10_000,
        ),
    )
