"""The kernel's arrival stamps against readings of this process, and the clients that do without them."""

import math
import socket
import struct
import time

import numpy as np
import pytest

from loadgen import reading
from loadgen.client import Client, Limits, Target, now_s
from loadgen.reading import NOTE_BYTES, KernelClock, ask_for_stamps
from tests.loadgen.test_client import HEAD, STREAM, ask, server

AHEAD_NS = 1_700_000_000_000_000_000
NONE = b""


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time of day is ahead of now_s() by AHEAD_NS."""
    monkeypatch.setattr(reading, "_ahead_ns", lambda: AHEAD_NS)
    return KernelClock()


def note(at_s: float) -> bytes:
    ns = AHEAD_NS + round(at_s * 1e9)
    return struct.pack("qq", ns // 1_000_000_000, ns % 1_000_000_000)


# sent at 10 s, read at 11, 12 and 13 s
ROWS = [
    ("stamps tell when it came", [note(10.5), note(11.5), note(12.5)], [10.5, 11.5, 12.5], [0.5, 0.5, 0.5]),
    ("no stamp at all", [NONE, NONE, NONE], [11, 12, 13], [math.nan] * 3),
    ("one without a stamp", [note(10.5), NONE, note(12.5)], [10.5, 12, 12.5], [0.5, math.nan, 0.5]),
    ("a stamp from before the request", [note(9.9), note(11.5), note(12.5)], [11, 11.5, 12.5], [math.nan, 0.5, 0.5]),
    ("a stamp from after the read", [note(10.5), note(12.1), note(12.5)], [10.5, 12, 12.5], [0.5, math.nan, 0.5]),
    ("a stamp from before an earlier one", [note(10.9), note(10.8), note(12.5)], [10.9, 12, 12.5], [0.1, math.nan, 0.5]),
    ("what follows an unstamped read does not come before it", [NONE, note(10.9), note(12.5)], [11, 11, 12.5], [math.nan, 1.1, 0.5]),
    ("a stamp of a 32-bit system", [note(10.5)[:8], note(11.5), note(12.5)], [11, 11.5, 12.5], [math.nan, 0.5, 0.5]),
    ("a client that collected none", [], [11, 12, 13], [math.nan] * 3),
]  # fmt: skip


@pytest.mark.parametrize(("notes", "times", "waits"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_impossible_stamps_give_way_to_the_time_of_the_read(clock, notes, times, waits):
    got_times, got_waits = clock.arrivals(10.0, [11.0, 12.0, 13.0], notes)
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


def test_the_kernel_stamps_the_arrival_however_late_the_read():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        if not ask_for_stamps(client):
            pytest.skip("this system does not stamp")
        client.connect(listener.getsockname())
        peer, _ = listener.accept()
        sent_s = now_s()
        peer.send(b"token")
        sent_until_s = now_s()  # on the loopback, what was sent has arrived
        time.sleep(0.02)
        _, notes, _, _ = client.recvmsg(100, NOTE_BYTES)
        peer.close()
        if not notes:
            pytest.skip("this system takes the option and does not stamp")
        times, waits = KernelClock().arrivals(sent_s - 0.001, [now_s()], [notes[0][2]])
        assert sent_s - 1e-4 < times[0] < sent_until_s + 1e-4
        assert waits[0] >= 0.0199


@pytest.mark.parametrize("stamps", [True, False], ids=["epoll", "watchers"])
def test_both_ways_of_reading_give_the_same_answers(monkeypatch, stamps):
    if not stamps:
        monkeypatch.setattr(reading, "_epoll", None)
    events = STREAM[len(HEAD) :]
    with server(HEAD, *[events[at : at + 7] for at in range(0, len(events), 7)]) as (url, accepted):
        client = Client(Target.from_url(url), Limits(max_connections=1))
        for _ in range(3):
            exchange = ask(client)
            answer = exchange.answer()
            assert (answer.status, len(answer.token_times_s)) == ("ok", 3)
            assert exchange.sent_s <= answer.token_times_s[0] <= answer.token_times_s[-1] <= now_s()
            if not stamps:
                assert np.all(np.isnan(exchange.waits_s))
        client.close()
        assert len(accepted) == 1
