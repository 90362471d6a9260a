"""Lives of pods, from what kube-state-metrics tells, in a real Prometheus."""

import math

import numpy as np
import pytest

from autoscale.history.pod_moments import pod_moments
from autoscale.history.service import find_service
from benchmarks import backfill
from tests.history.test_learned import needs_prometheus

ZERO, HOURS = 1_790_000_000 // 86_400 * 86_400, 2
LIVES = {  # (pod, uid): s created, ready (None: never), last seen
    ("vllm-0", "a"): (0, 600, 7200),
    ("vllm-1", "b"): (600, 1200, 2400),
    ("vllm-1", "c"): (3600, None, 4200),
    ("vllm-1", "d"): (4800, 5400, 7200),
    ("other-0", "e"): (0, 60, 7200),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    needs_prometheus()
    folder = tmp_path_factory.mktemp("lives")
    scrapes = range(600, HOURS * 3600, 15)
    lines = []
    for family, kind, value in (
        ("request_success", "counter", "_total{} 7"),
        ("num_requests_running", "gauge", "{} 1"),
    ):
        lines.append(f"# TYPE vllm:{family} {kind}")
        for pod in ("vllm-0", "vllm-1"):
            told = value.replace("{}", f'{{pod="{pod}",model_name="m"}}')
            lines += [f"vllm:{family}{told} {ZERO + t}" for t in scrapes]
    for name, moment in (("created", 0), ("status_ready_time", 1)):
        lines.append(f"# TYPE kube_pod_{name} gauge")
        for (pod, uid), life in LIVES.items():
            told = f'kube_pod_{name}{{pod="{pod}",uid="{uid}",namespace="default"}}'
            if life[moment] is not None:
                lines += [
                    f"{told} {ZERO + life[moment]} {ZERO + t}" for t in range(life[moment], life[2], 60)
                ]
    (folder / "text").write_text("\n".join([*lines, "# EOF", ""]))
    with backfill.prometheus(folder / "text", folder) as url:
        yield find_service(url, HOURS * 3600.0, until=ZERO + HOURS * 3600.0)


def test_a_name_that_comes_back_has_several_lives(service):
    found = pod_moments(service)
    assert [(one.pod, one.created_s - ZERO) for one in found] == [
        ("vllm-0", 0),
        ("vllm-1", 600),
        ("vllm-1", 3600),
        ("vllm-1", 4800),
    ], "other-0 is of another set"
    assert [one.ready_s - ZERO for one in found] == pytest.approx([600, 1200, math.nan, 5400], nan_ok=True)


def test_a_pod_that_was_never_ready_is_starting_until_it_was_last_seen(service):
    at = ZERO + np.arange(0, 7200, 300)
    starting = [sum(one.starting(t) for one in pod_moments(service)) for t in at]
    # vllm-0 to 600 s, vllm-1 from 600 to 1200, from 3600 to 4140 (its last sample), from 4800 to 5400
    spans = ((0, 600), (600, 1200), (3600, 4141), (4800, 5400))
    assert starting == [sum(begin <= t - ZERO < end for begin, end in spans) for t in at]
