"""Whatever answers where a simulated fleet was meant: what it told, or a sentence with the address and the next step."""

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from analysis.errors import BadInput
from autoscale.kube.cluster import ClusterError
from autoscale.local_servers import free_ports
from autoscale.observe import fleet_answers
from autoscale.observe.fleet_door import FleetDoor
from tests.observe import servers

FACTS = {"speed": 60.0, "started_at": 1.8e9, "namespace": "default", "replicas": [], "hpa": None}
POD = {"metadata": {"name": "p"}}


def row(**changes: Any) -> str:
    told = {"seq": 0, "time_s": 1.8e9, "resource": "pods", "type": "ADDED", "object": POD, **changes}
    return json.dumps(told)


@pytest.mark.parametrize(
    "told",
    ["<html>log in</html>", "5", "null", "[]", "[" * 200_000]
    + [
        json.dumps(FACTS | changes)
        for changes in (
            {"speed": "fast"}, {"speed": None}, {"speed": 0}, {"speed": -5}, {"speed": 1e308}, {"speed": float("nan")},
            {"started_at": "today"}, {"started_at": 1e18}, {"control_s": [1]}, {"namespace": ["x"]},
            {"hpa": {"spec": 5}}, {"hpa": "h"}, {"replicas": [5]}, {"replicas": [{"name": "p", "metrics_url": 7}]},
        )
    ],
    ids=lambda told: told[:60],
)  # fmt: skip
def test_what_is_no_fleet_is_said_to_be_none(told: str):
    with (
        servers.serving(lambda *_: (200, told)) as server,
        pytest.raises(
            BadInput, match=r"not a simulated fleet: 'http.*'; expected the address of `autoscale serve`"
        ),
    ):
        FleetDoor(server.url)


@pytest.mark.parametrize(
    "line",
    [
        "5", "[]", "null", "{", "[" * 200_000, row(seq="x"), row(seq=10**400), row(seq=-1), row(seq=None), row(time_s="x"),
        row(time_s=float("nan")), row(time_s=1e300), row(resource=["x"]), row(type=5), row(object=[1]), row(object={}),
        row(object={"metadata": "x"}), row(object={"metadata": {"name": ["x"]}}), row(object=POD | {"x": "\ud800"}),
    ],
    ids=lambda line: line[:80],
)  # fmt: skip
def test_a_row_that_is_none_is_a_sentence(line: str):
    facts = json.dumps(FACTS)
    with (
        servers.serving(lambda path, _: (200, facts if path == "/fleet" else f"{line}\n")) as server,
        pytest.raises(ClusterError, match=r"what the fleet at http\S+ sent is no"),
    ):
        FleetDoor(server.url).list("pods")


def test_a_value_that_is_no_quantity_is_a_sentence():
    answer = row(resource="custommetrics", object={"metric": "m", "values": {"p": "many"}})
    facts = json.dumps(FACTS)
    with servers.serving(lambda path, _: (200, facts if path == "/fleet" else f"{answer}\n")) as server:
        door = FleetDoor(server.url)
        with pytest.raises(ClusterError, match="value of m is no quantity"):
            door.custom_metric("default", "m", "")
        with pytest.raises(ClusterError, match="no value of other"):
            door.custom_metric("default", "other", "")


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        pytest.param(None, "connection refused", id="nobody"),
        pytest.param(b"", "the connection broke in mid-answer", id="a connection that is closed"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "the connection broke in mid-answer", id="half an answer"),
        pytest.param(b"HTTP/1.1 500 No\r\n\r\n\x1b[31mboom", r"answered 500 to /fleet: \\x1b\[31mboom", id="an error"),
    ],
)  # fmt: skip
def test_a_fleet_that_does_not_answer_is_named_with_the_reason(sent: bytes | None, sentence: str):
    if sent is None:
        with pytest.raises(
            ClusterError,
            match=r"no fleet answers at http\S+: connection refused. Start one with `autoscale serve`",
        ):
            FleetDoor(f"http://127.0.0.1:{free_ports(1)}")
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError), listener.accept()[0] as taken:
                taken.recv(10_000)
                taken.sendall(sent)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ClusterError, match=sentence):
            FleetDoor(f"http://127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["a header", "a body"]
)
def test_a_fleet_that_sends_a_byte_now_and_then_is_given_up(monkeypatch, begin: bytes):
    monkeypatch.setattr(fleet_answers, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with suppress(OSError), listener.accept()[0] as taken:
                taken.sendall(begin)
                while True:
                    taken.sendall(b"1")
                    time.sleep(0.05)

        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(ClusterError, match=r"timed out|does not come to an end"):
            FleetDoor(f"http://127.0.0.1:{listener.getsockname()[1]}")
