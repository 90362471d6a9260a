"""How far the prior was from what others measured, on models that its constants were not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoscale.profiles.profile import Profile

Family = Literal["dense", "experts"]


@dataclass(frozen=True)
class Error:
    """Median and 90th percentile of |predicted / measured - 1| over so many published figures; shares."""

    median: float
    p90: float
    figures: int

    @property
    def half_width_95(self) -> float:
        """Half width of the 95 % interval, were the errors normal: 1.960 / 1.645 of the 90th percentile."""
        return self.p90 * 1.960 / 1.645


@dataclass(frozen=True)
class PriorError:
    """Of the step time (as TPOT), of TTFT where nobody queues, and of the KV capacity in tokens."""

    step: Error
    ttft: Error
    kv: Error


_KV = Error(0.003, 0.012, 6)  # six capacities that vLLM reported on H100 (tests/profiles/test_prior.py)
ERRORS: dict[Family, PriorError] = {
    # vLLM on H100, A100 and TPU v6e, each model left out of the fit: `python -m benchmarks.prior_fit`
    "dense": PriorError(step=Error(0.033, 0.082, 194), ttft=Error(0.103, 0.219, 18), kv=_KV),
    # Mixtral 8x7B on H100 (vLLM) and DeepSeek-R1 on H200 (SGLang, of which one constant was fitted): `python -m benchmarks.league`
    "experts": PriorError(step=Error(0.038, 0.099, 20), ttft=Error(0.112, 0.122, 5), kv=_KV),
}


def prior_error(profile: Profile) -> PriorError:
    """What to expect of the prior for this system, by its model's family."""
    return ERRORS["dense" if profile.model.active_params is None else "experts"]
