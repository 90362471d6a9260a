"""What the client counts about itself."""

from types import SimpleNamespace

import gevent
import numpy as np
import pytest

from loadgen.run import vitals
from loadgen.run.vitals import Vitals


def done(times, waits, tokens):
    """An answer read at `times` after `waits` in the kernel, whose tokens came at `tokens` (ms)."""
    exchange = SimpleNamespace(times_s=np.array(times) / 1e3, waits_s=np.array(waits) / 1e3)
    tokens_s = np.array(tokens) / 1e3
    return SimpleNamespace(
        exchange=exchange, answer=SimpleNamespace(token_times_s=tokens_s), gaps_s=np.diff(tokens_s)
    )


NAN = float("nan")
ROWS = [
    # reads, stamped, late, events, shared, blurred
    ("one token per read, in time", [1, 2, 3], [0.5, 0.5, 0.5], [2, 3], (3, 3, 0, 2, 0, 0)),
    ("one read 20 ms late", [1, 2, 3], [0.5, 20, 0.5], [2, 3], (3, 3, 1, 2, 0, 0)),
    ("two tokens in a read in time", [1, 2, 3], [0.5, 0.5, 0.5], [2, 2, 3], (3, 3, 0, 3, 1, 0)),
    ("three tokens in a read 3 ms late", [1, 2, 3], [0.5, 3, 0.5], [2, 2, 2, 3], (3, 3, 0, 4, 2, 2)),
    ("no stamps", [1, 2, 3], [NAN, NAN, NAN], [2, 2, 3], (3, 0, 0, 3, 1, 0)),
    ("not streamed", [1, 2], [0.5, 0.5], [], (2, 2, 0, 0, 0, 0)),
    ("no answer", [], [], [], (0, 0, 0, 0, 0, 0)),
]


@pytest.mark.parametrize(
    ("times", "waits", "tokens", "counts"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_reads_and_tokens_are_counted(times, waits, tokens, counts):
    counting = Vitals()
    counting.saw(done(times, waits, tokens))
    counting.saw(done(times, waits, tokens))
    first, second = (counting.take(0.0, 0, 0, 0, 0) for _ in range(2))
    counting.close()
    names = ("reads", "stamped", "late_reads", "events", "shared", "blurred")
    assert tuple(getattr(first, name) for name in names) == tuple(2 * count for count in counts)
    assert all(getattr(second, name) == 0 for name in names)


def test_a_loop_that_stood_still_is_noticed():
    counting = Vitals()
    gevent.sleep(0.03)
    until_s = vitals.now_s() + 0.2
    while vitals.now_s() < until_s:
        pass
    gevent.sleep(0.03)
    sample = counting.take(0.0, 0, 0, 0, 0)
    counting.close()
    assert sample.stalled_s >= 0.2 - vitals.TICK_S - 0.001
    assert sample.interval_s >= 0.26


CGROUPS = [
    ("version 2", "0::/kubepods/pod1\n", "kubepods/pod1/cpu.stat", "usage_usec 5\nthrottled_usec 2500000\n", 2.5),
    ("version 1", "3:memory:/\n1:cpu,cpuacct:/docker/a\n", "cpu/docker/a/cpu.stat", "nr_throttled 3\nthrottled_time 1500000000\n", 1.5),
    ("seen from inside a container", "0::/../host/path\n", "cpu.stat", "throttled_usec 1000000\n", 1.0),
    ("no limit in version 2's root", "0::/\n", "cpu.stat", "usage_usec 5\n", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("groups", "file", "content", "seconds"), [r[1:] for r in CGROUPS], ids=[r[0] for r in CGROUPS]
)
def test_throttling_is_read_from_the_control_group(tmp_path, monkeypatch, groups, file, content, seconds):
    (tmp_path / "groups").write_text(groups)
    stat = tmp_path / "fs" / file
    stat.parent.mkdir(parents=True)
    stat.write_text(content)
    monkeypatch.setattr(vitals, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(vitals, "GROUP_FOLDERS", tmp_path / "fs")
    folder, got = vitals._throttling()
    assert (got == seconds) if seconds else np.isnan(got)
    assert folder == (stat.parent if seconds else None)


def test_throttling_before_the_process_joined_a_group_is_not_its_own(monkeypatch):
    readings = iter([("old", 7.0), ("new", 50.0), ("new", 50.5)])
    monkeypatch.setattr(vitals, "_throttling", lambda: next(readings))
    counting = Vitals()
    moved, within = (counting.take(0.0, 0, 0, 0, 0).throttled_s for _ in range(2))
    counting.close()
    assert np.isnan(moved)
    assert within == 0.5
