from math import factorial

import pytest

from analysis.queueing import ReplicaQueue


def erlang_c(servers: int, offered: float) -> float:
    last = offered**servers / factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(
    ("seats", "utilisation"), [(1, 0.5), (7, 0.8), (15, 0.9), (40, 0.3)], ids=lambda v: f"{v}"
)
def test_without_stretch_it_is_the_m_m_c_queue(seats: int, utilisation: float) -> None:
    replica = ReplicaQueue(seats, saturated_rps=seats / 2.0)  # 2 s of service
    assert replica.wait_probability(utilisation * seats / 2) == pytest.approx(
        erlang_c(seats, utilisation * seats)
    )
    assert replica.busy(utilisation * seats / 2) == pytest.approx(utilisation * seats)  # Little
    assert replica.service_at(utilisation * seats / 2) == pytest.approx(2.0)


def test_the_knee_is_where_every_second_request_waits() -> None:
    # one seat is M/M/1: P(wait) = utilisation
    assert ReplicaQueue(1, 4.0).knee_rps == pytest.approx(2.0)
    assert ReplicaQueue(15, 1.0).knee_rps == pytest.approx(0.868, abs=1e-3)


def test_a_batch_that_slows_down_serves_light_load_faster_than_its_full_batch() -> None:
    replica = ReplicaQueue(10, saturated_rps=5.0, stretch=2.0)  # S(10) = 2 s, S(1) = 1 s
    assert replica.service_at(0.01) == pytest.approx(1.0, rel=0.01)
    assert (replica.wait_probability(5.0), replica.busy(6.0)) == (1.0, 10.0)
    assert replica.knee_rps > ReplicaQueue(10, 5.0).knee_rps
