"""The kernel's arrival stamps against readings of this process, and the clients that do without them."""

import errno
import math
import socket
import struct
import time

import gevent
import numpy as np
import pytest

from loadgen.wire import receive as reading
from loadgen.wire.client import Client, Limits
from loadgen.wire.clock import now_s
from loadgen.wire.receive import READ_BYTES, KernelClock, Reader, ask_for_stamps
from loadgen.wire.target import HttpTarget
from tests.loadgen.test_client import HEAD, STREAM, ask, server

AHEAD_NS = 1_700_000_000_000_000_000
NONE = 0


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time of day is ahead of now_s() by AHEAD_NS."""
    monkeypatch.setattr(reading, "_ahead_ns", lambda: AHEAD_NS)
    return KernelClock()


def note(at_s: float) -> int:
    return AHEAD_NS + round(at_s * 1e9)


# sent at 10 s, read at 11, 12 and 13 s
ROWS = [
    ("stamps tell when it came", [note(10.5), note(11.5), note(12.5)], [10.5, 11.5, 12.5], [0.5, 0.5, 0.5]),
    ("no stamp at all", [NONE, NONE, NONE], [11, 12, 13], [math.nan] * 3),
    ("one without a stamp", [note(10.5), NONE, note(12.5)], [10.5, 12, 12.5], [0.5, math.nan, 0.5]),
    ("a stamp from before the request", [note(9.9), note(11.5), note(12.5)], [11, 11.5, 12.5], [math.nan, 0.5, 0.5]),
    ("a stamp from after the read", [note(10.5), note(12.1), note(12.5)], [10.5, 12, 12.5], [0.5, math.nan, 0.5]),
    ("a stamp from before an earlier one", [note(10.9), note(10.8), note(12.5)], [10.9, 12, 12.5], [0.1, math.nan, 0.5]),
    ("what follows an unstamped read does not come before it", [NONE, note(10.9), note(12.5)], [11, 11, 12.5], [math.nan, 1.1, 0.5]),
]  # fmt: skip


@pytest.mark.parametrize(("stamps", "times", "waits"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_impossible_stamps_give_way_to_the_time_of_the_read(clock, stamps, times, waits):
    got_times, got_waits = clock.arrivals(10.0, [11.0, 12.0, 13.0], stamps)
    np.testing.assert_allclose(got_times, times, atol=1e-6)
    np.testing.assert_allclose(got_waits, waits, atol=1e-6)


def test_stamps_of_requests_under_way_when_the_clock_was_set_are_not_used(clock, monkeypatch):
    before_s = now_s() - 1  # sent before the step
    stamped = [note(before_s + 0.5)]
    monkeypatch.setattr(reading, "_ahead_ns", lambda: AHEAD_NS - 300_000_000)  # set back by 0.3 s
    times, waits = clock.arrivals(before_s, [before_s + 0.9], stamped)
    assert times[0] == before_s + 0.9
    assert np.isnan(waits[0])
    after_s = now_s() + 1  # sent after it was noticed: note() is of the old clock, 0.3 s later on the new one
    times, _ = clock.arrivals(after_s, [after_s + 0.9], [note(after_s + 0.2)])
    assert times[0] == pytest.approx(after_s + 0.5, abs=1e-6)


def test_slewing_and_the_cost_of_reading_the_clocks_are_no_step(clock, monkeypatch):
    monkeypatch.setattr(reading, "_ahead_ns", lambda: AHEAD_NS + reading.STEP_NS)
    sent_s = now_s() - 1
    assert not np.isnan(clock.arrivals(sent_s, [sent_s + 0.9], [note(sent_s + 0.5)])[1][0])


@pytest.fixture
def pair():
    """(a socket that is read, its peer), connected over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        if not ask_for_stamps(client):
            pytest.skip("this system does not stamp")
        time.sleep(0.05)  # the first to ask on a machine switches the stamps on, a moment later
        client.connect(listener.getsockname())
        client.setblocking(False)
        peer, _ = listener.accept()
        with peer:
            yield client, peer


class Rounds:
    """A reader of one socket, turned by hand."""

    def __init__(self, connection: socket.socket) -> None:
        self.reader = Reader()
        self.taken: list[tuple[bytes, float, int]] = []
        self.errors: list[OSError] = []
        self.reader.add(connection, lambda *read: self.taken.append(read), self.errors.append)

    def until(self, done) -> None:
        deadline_s = now_s() + 5
        while not done() and now_s() < deadline_s:
            gevent.sleep(0.001)
        assert done()


def test_the_kernel_stamps_the_arrival_however_late_the_read(pair):
    client, peer = pair
    rounds = Rounds(client)
    sent_s = now_s()
    peer.send(b"token")
    sent_until_s = now_s()  # on the loopback, what was sent has arrived
    time.sleep(0.02)
    rounds.until(lambda: rounds.taken)
    [(data, read_s, stamp_ns)] = rounds.taken
    rounds.reader.close()
    assert data == b"token"
    assert sent_until_s + 0.02 < read_s < now_s()
    if not stamp_ns:
        pytest.skip("this system takes the option and does not stamp")
    times, waits = KernelClock().arrivals(sent_s - 0.001, [read_s], [stamp_ns])
    assert sent_s - 1e-4 < times[0] < sent_until_s + 1e-4
    assert waits[0] >= 0.0199


def test_a_reset_is_told_from_an_end(pair):
    client, peer = pair
    rounds = Rounds(client)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    rounds.until(lambda: rounds.errors)
    assert rounds.errors[0].errno == errno.ECONNRESET
    rounds.reader.close()


def test_an_end_is_no_bytes(pair):
    client, peer = pair
    rounds = Rounds(client)
    peer.send(b"last")
    peer.close()
    rounds.until(lambda: len(rounds.taken) > 1)
    assert [data for data, _, _ in rounds.taken[:2]] == [b"last", b""]
    rounds.reader.close()


def test_more_than_a_round_holds_is_read_in_the_next(pair, monkeypatch):
    monkeypatch.setattr(reading, "ARENA_BYTES", READ_BYTES + 10)
    client, peer = pair
    rounds = Rounds(client)
    sent = bytes(range(256)) * 400
    peer.sendall(sent)
    rounds.until(lambda: sum(len(data) for data, _, _ in rounds.taken) == len(sent))
    assert b"".join(data for data, _, _ in rounds.taken) == sent
    rounds.reader.close()


def test_what_a_closed_socket_got_is_not_handed_to_the_one_that_takes_its_number(pair):
    client, peer = pair
    rounds = Rounds(client)
    got: list[bytes] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as other,
    ):
        other.setblocking(False)
        far, _ = listener.accept()
        reader = Reader()

        called: list[socket.socket] = []

        def replace(connection: socket.socket) -> None:
            """Both sockets were read in this round; the first that is called puts a new handler in the other's place."""
            called.append(connection)
            reader.remove(connection.fileno())
            reader.add(connection, lambda data, *_: got.append(data), rounds.errors.append)

        rounds.reader.close()
        reader.add(client, lambda *_: replace(other), rounds.errors.append)
        reader.add(other, lambda *_: replace(client), rounds.errors.append)
        peer.send(b"old")
        far.send(b"old")
        gevent.sleep(0.05)
        assert len(called) == 1
        assert got == []
        reader.close()
        far.close()


@pytest.mark.parametrize("stamps", [True, False], ids=["epoll", "watchers"])
def test_both_ways_of_reading_give_the_same_answers(monkeypatch, stamps):
    if not stamps:
        monkeypatch.setattr(reading, "_epoll", None)
    events = STREAM[len(HEAD) :]
    with server(HEAD, *[events[at : at + 7] for at in range(0, len(events), 7)]) as (url, accepted):
        client = Client(HttpTarget.from_url(url), Limits(max_connections=1))
        for _ in range(3):
            exchange = ask(client)
            answer = exchange.answer()
            assert (answer.status, len(answer.token_times_s)) == ("ok", 3)
            assert exchange.sent_s <= answer.token_times_s[0] <= answer.token_times_s[-1] <= now_s()
            if not stamps:
                assert np.all(np.isnan(exchange.waits_s))
        client.close()
        assert len(accepted) == 1


def test_a_long_queue_does_not_delay_the_next_read(pair):
    """Handing out takes 4 ms per read here: what came last is read, and stamped, long before its turn."""
    client, peer = pair
    reader, taken = Reader(), []

    def slow(data: bytes, read_s: float, _stamp_ns: int) -> None:
        time.sleep(0.004)
        taken.append((data, read_s, now_s()))

    others = [socket.socketpair() for _ in range(8)]
    for near, far in others:
        near.setblocking(False)
        reader.add(near, slow, taken.append)
        far.send(b"other")
    reader.add(client, slow, taken.append)
    gevent.get_hub().loop.run_callback(reader._round)
    gevent.get_hub().loop.run_callback(lambda: peer.send(b"late"))
    deadline_s = now_s() + 5
    while len(taken) < 9 and now_s() < deadline_s:
        gevent.sleep(0.001)
    assert sorted(data for data, _, _ in taken) == [b"late"] + 8 * [b"other"]
    [(_, read_s, handed_s)] = [row for row in taken if row[0] == b"late"]
    assert taken[-1][0] == b"late"
    assert (
        handed_s - read_s > 3 * 0.004
    )  # a sleep is never shorter: so many of the others were handed out after it
    reader.close()
    for near, far in others:
        near.close()
        far.close()
