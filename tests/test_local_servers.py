"""Ports that are given to servers: nobody else's, and not what the system gives to outgoing connections."""

from pathlib import Path
from socket import socket

import pytest

from autoscale import local_servers
from autoscale.local_servers import free_ports

SYSTEM_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(not SYSTEM_RANGE.exists(), reason="only Linux says its range")
def test_no_outgoing_connection_can_take_a_port_that_was_given():
    first, last = map(int, SYSTEM_RANGE.read_text().split())
    assert all(not first <= free_ports(1) <= last for _ in range(50))


def test_no_port_is_given_twice_and_what_is_listened_on_is_not_given(monkeypatch):
    monkeypatch.setattr(local_servers, "_END", local_servers._FIRST + 40)
    given = {free_ports(1) for _ in range(10)}
    with socket() as held:
        first = free_ports(3)
        held.bind(("127.0.0.1", first))
        assert len(given) == 10
        assert given.isdisjoint(range(first, first + 3))
    with socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody else's, whatever runs beside
        port = held.getsockname()[1]
        for name, value in (("_FIRST", port), ("_END", port + 2), ("_GIVEN", {port + 1})):
            monkeypatch.setattr(local_servers, name, value)
        with pytest.raises(OSError, match=r"no 1 free port\(s\) in a row between"):
            free_ports(1)
