"""What nobody foresaw is told; pauses after failures; descriptors."""

import errno
import math
import socket
import subprocess
import sys

import gevent
import gevent.event
import pytest

from analysis.errors import BadInput
from loadgen import failing
from loadgen.run import backoff
from loadgen.run.generator import Generator
from loadgen.wire import http_response
from loadgen.wire.client import Client, Limits
from loadgen.wire.target import HttpTarget

CODE = """
import gevent
from loadgen import failing
from loadgen.run.generator import Generator
from loadgen.wire.clock import Alarm, now_s

heard = []
failing.hear_of(lambda error: heard.append(failing.failure_of(error)))
class Odd(Generator):
    def __init__(self): pass
gevent.spawn(Odd()._check_finished)
def odd(): raise RuntimeError("in the hub")
Alarm(odd).set(now_s())
gevent.sleep(0.2)
for said in sorted(heard, key=lambda s: s.sentence):
    print(said.exit_code, said.sentence)
"""


def test_an_exception_in_a_greenlet_and_one_in_the_hub_are_told_once_each():
    said = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    lines = said.stdout.splitlines()
    assert len(lines) == 2, said.stderr
    assert lines[0].startswith("1 internal error: AttributeError in generator.py line ")
    assert lines[1].startswith("1 internal error: RuntimeError in <string> line ")
    assert "Traceback" not in said.stderr


RESOLVED = """
import socket
import gevent.socket
from loadgen import failing

heard = []
failing.hear_of(heard.append)
try:
    gevent.socket.getaddrinfo("nosuch.invalid", 80)
except socket.gaierror:
    gevent.sleep(0.1)
    print(len(heard))
"""


def test_what_a_thread_of_gevent_raised_for_its_caller_is_not_told():
    said = subprocess.run([sys.executable, "-c", RESOLVED], capture_output=True, text=True, timeout=60)
    assert (said.stdout, said.stderr) == ("0\n", "")


def test_an_error_that_was_foreseen_keeps_its_sentence_and_code():
    assert failing.failure_of(BadInput("no")) == ("no", 2, None)


def test_a_traceback_is_kept_in_the_run_directory_or_else_in_a_temporary_file(tmp_path):
    assert failing.keep("why", tmp_path) == tmp_path / "traceback.txt"
    elsewhere = failing.keep("why", tmp_path / "gone")
    assert elsewhere.read_text() == "why"
    elsewhere.unlink()


@pytest.mark.parametrize(
    ("failures", "asked_s", "chance", "pause_s"),
    [
        (0, math.nan, 0.0, 0.25),
        (0, math.nan, 1.0, 0.5),
        (3, math.nan, 1.0, 4.0),  # 0.5 * 2^3
        (100, math.nan, 1.0, 30.0),
        (0, 7.0, 0.5, 7.25),
        (0, 1e9, 0.0, 300.0),
    ],
)
def test_users_pause_longer_after_each_failure_and_as_long_as_the_server_asks(
    failures, asked_s, chance, pause_s
):
    assert backoff.pause_s(failures, asked_s, chance) == pause_s


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("12", 12.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),  # 100 s after the epoch, asked 10 s after it
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", math.nan),
        ("-5", math.nan),
        ("86400", 86_400.0),
        ("86401", math.nan),  # more than a day
        ("9" * 400, math.nan),
        ("Wed, 21 Oct 2099 07:28:00 GMT", math.nan),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, wait_s):
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\n\r\n".encode()
    assert http_response.retry_after_s([head], 10.0) == pytest.approx(wait_s, nan_ok=True)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, int(sys.argv[1])))
from loadgen.wire import descriptors
print(descriptors.provide(200))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
try:
    descriptors.check_descriptor(290)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize(
    ("hard", "lines"),
    [
        (
            1000,
            ["None", "328", str(errno.EMFILE)],
        ),  # raised to 200 + 64 + 64; the last 64 are for other files
        (200, ["only 200 files may be open and 200 requests in flight need 328", "200", str(errno.EMFILE)]),
    ],
)
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(hard, lines):
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, str(hard)], capture_output=True, text=True, timeout=60
    )
    got = said.stdout.splitlines()
    assert len(got) == 3, said.stderr
    assert all(g.startswith(line) for g, line in zip(got, lines, strict=True))


def test_the_end_of_a_run_waits_for_the_report_that_is_under_way():
    told, begun, through = [], gevent.event.Event(), gevent.event.Event()

    def report(measured, _samples):
        if not begun.is_set():
            begun.set()
            through.wait()  # a busy machine: the last batch comes before the one before it is taken
        told.extend(measured.rows)

    with socket.create_server(("127.0.0.1", 0)) as server:
        target = HttpTarget.from_url(f"http://127.0.0.1:{server.getsockname()[1]}")
        generator = Generator(Client(target, Limits()), None, "/v1/completions", "local", report, print)
        generator._batch.rows += [(0,), (1,)]
        generator._greenlets.append(gevent.spawn(generator.flush))  # as its own loop does every second
        begun.wait()
        generator._batch.rows.append((2,))
        gevent.spawn_later(0.05, through.set)
        generator.stop(0.0, 0.0)
    assert told == [(0,), (1,), (2,)]
