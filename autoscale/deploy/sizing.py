"""Seconds, nodes and chips that a profile implies for its manifests; every figure comes with its arithmetic.

The arithmetic is text because it is printed where the figure is used: a reader of the YAML can check it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.errors import BadInput
from analysis.numbers import known
from analysis.slo import parse_slo
from autoscale.kube.vllm_names import version_tuple
from autoscale.profiles import Profile
from loadgen.plan.lengths import parse_lengths

MARGIN = (
    1.5  # a slow start is waited for; a stuck one is restarted this much later than it should have been ready
)
HUB_RATE_BYTES_S = 0.15e9  # weights from the hub, seen with 811.7 GB in about 90 min
ENDPOINT_S = 15  # until every kube-proxy and load balancer has dropped a deleted pod
RAY_DEFAULT_S = 300  # the serving script's own --ray_init_timeout

# shutdown-timeout came with 0.18; 0.19 is the first release in which it is sure to be there
SHUTDOWN_TIMEOUT_SINCE = (0, 19)


@dataclass(frozen=True)
class Figure:
    """A whole number (s unless the name says otherwise) and how it came about."""

    value: int
    how: str


def version_of(profile: Profile) -> tuple[int, ...]:
    """The profile's vLLM version as numbers: 0.11.0 is (0, 11, 0). Raises BadInput when there are none."""
    version = version_tuple(profile.engine.vllm_version)
    if not version:
        raise BadInput(
            "unreadable vLLM version", value=profile.engine.vllm_version, expected="such as 0.11.0"
        )
    return version


def ray_init(profile: Profile) -> Figure:
    """How long leader and workers of one group wait for each other.

    The nodes of a group arrive apart: the first pod may run while the other still waits for its node and its image.
    """
    cold = profile.cold_start
    spread = cold.node.p95_s + cold.image.p95_s + cold.group_join.p95_s
    value = max(RAY_DEFAULT_S, _up(MARGIN * spread, 60))
    how = (
        f"{MARGIN} x (node {cold.node.p95_s:.0f} s + image {cold.image.p95_s:.0f} s + join {cold.group_join.p95_s:.0f} s, "
        f"95th percentiles), at least {RAY_DEFAULT_S} s"
    )
    return Figure(value, how)


def startup(profile: Profile, max_replicas: int, *, group_wait: bool = True) -> Figure:
    """Budget from container started to healthy, nodes and image excluded because the probe starts after them."""
    cold, weight_bytes = profile.cold_start, profile.model.weight_bytes
    together = max_replicas if cold.weights_shared else 1
    weights_s = together * weight_bytes / cold.weights_rate_bytes_s
    first_s = weight_bytes / HUB_RATE_BYTES_S if profile.deploy.storage == "gcsfuse" else 0.0
    engine_s = cold.engine_init.p95_s + cold.compile.p95_s
    grouped = group_wait and profile.replica.nodes > 1
    wait_s = ray_init(profile).value if grouped else 0
    parts = [
        f"weights {weights_s:.0f} s ({weight_bytes / 1e9:.1f} GB at {cold.weights_rate_bytes_s / 1e9:.2g} GB/s"
    ]
    parts[0] += f", shared by {together} replicas)" if together > 1 else ")"
    if first_s:
        parts.append(f"first download from the hub {first_s:.0f} s")
    parts.append(
        f"engine {engine_s:.0f} s" if not cold.compile.p95_s else f"engine and compile {engine_s:.0f} s"
    )
    how = f"{MARGIN} x ({' + '.join(parts)})" + (
        f" + {wait_s} s for the group to assemble" if grouped else ""
    )
    return Figure(_up(MARGIN * (weights_s + first_s + engine_s) + wait_s, 10), how)


def first_ready(profile: Profile, max_replicas: int) -> Figure:
    """How long to wait for the first replica: node and image, then all of its start-up budget, so that the probe decides."""
    cold, budget = profile.cold_start, startup(profile, max_replicas)
    before_s = _up(MARGIN * (cold.node.p95_s + cold.image.p95_s), 60)
    how = f"{before_s} s for node and image ({MARGIN} x their 95th percentiles) + the start-up budget of {budget.value} s"
    return Figure(before_s + budget.value, how)


def drain(profile: Profile, longest_output_s: float | None = None) -> Figure:
    """How long the longest generation takes: measured when given, else the 99th percentile of the default workload."""
    if longest_output_s is not None:
        if not 0 < longest_output_s < 24 * 3600:
            raise BadInput(
                "longest output", value=longest_output_s, expected="seconds above 0 and below a day"
            )
        return Figure(_up(longest_output_s, 10), "measured duration of the longest generation")
    tokens = min(_p99(profile.workload.output_tokens), profile.engine.max_model_len)
    tpot_s = _bound_s(profile.workload.slo, "tpot") or 0.1
    how = f"{tokens:.0f} output tokens (p99 of {profile.workload.output_tokens}) x {tpot_s * 1000:.0f} ms per token"
    return Figure(max(30, _up(tokens * tpot_s, 10)), how)


def grace(profile: Profile, longest_output_s: float | None = None) -> Figure:
    """terminationGracePeriodSeconds: endpoints forget the pod, the longest generation ends, vLLM exits."""
    drained = drain(profile, longest_output_s).value
    return Figure(
        ENDPOINT_S + drained + 15, f"{ENDPOINT_S} s endpoint removal + {drained} s drain + 15 s to exit"
    )


def loading(profile: Profile) -> Figure:
    """From desired to serving, all phases at their 95th percentile: longer than this is worth an alert."""
    cold = profile.cold_start
    phases = (cold.node, cold.image, cold.engine_init, cold.group_join, cold.compile)
    total = sum(phase.p95_s for phase in phases) + profile.model.weight_bytes / cold.weights_rate_bytes_s
    return Figure(
        _up(MARGIN * total, 60), f"{MARGIN} x the sum of the start-up phases at their 95th percentile"
    )


def nodes(profile: Profile, replicas: int) -> int:
    """Accelerator nodes that hold this many replicas; no node is shared between replicas."""
    return replicas * profile.replica.nodes


def chips(profile: Profile, replicas: int) -> int:
    """Accelerator chips that this many replicas hold."""
    return replicas * profile.replica.chips


def weights_gib(profile: Profile) -> int:
    """Size of the weights in GiB, rounded up."""
    return math.ceil(profile.model.weight_bytes / 2**30)


def ttft_bound_s(profile: Profile) -> float | None:
    """The SLO's bound on time to first token in s, None when it has none."""
    return _bound_s(profile.workload.slo, "ttft")


def _up(value: float, step: int) -> int:
    return math.ceil(value / step) * step


def _bound_s(slo: str, metric: str) -> float | None:
    return next((term.bound_s for term in parse_slo(slo).terms if term.metric == metric), None)


def _p99(output_tokens: str) -> float:
    tokens = parse_lengths(output_tokens).p99()
    if not known(tokens):
        raise BadInput("output lengths", value=output_tokens, expected="a distribution, not those of a trace")
    return tokens
