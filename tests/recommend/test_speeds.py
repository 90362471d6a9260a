"""How fast a server usually is: what a run shows of it, and what one is too short to show."""

import numpy as np
import pytest

from autoscale.recommend.effort import SPEEDS
from autoscale.recommend.model.speeds import UsualSpeed


@pytest.mark.parametrize("seen_s", [1.0, 48.0, 160.0])
def test_a_server_may_have_kept_another_speed_for_all_of_a_short_run(seen_s: float) -> None:
    known = UsualSpeed.exact().or_kept(seen_s)
    kept = np.exp(-seen_s / SPEEDS.keeps_s) * sum(share * s**2 for s, share in SPEEDS.strengths)
    logs = known.draw(np.random.default_rng(0), 200_000)
    assert known.weight.sum() == pytest.approx(1)
    assert logs.mean() == pytest.approx(0, abs=3 * np.sqrt(kept / len(logs)))
    assert logs.var() == pytest.approx(kept, rel=0.05)
    assert np.ptp(logs, axis=1).max() < 1e-4  # the whole server, not one coefficient


def test_a_long_run_shows_its_wander_itself() -> None:
    known = UsualSpeed.exact()
    assert known.or_kept(3600.0) is known
