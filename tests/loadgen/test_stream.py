"""Recorded responses of a real vLLM server, cut anywhere, give the same tokens, classes and order."""

import itertools
import json
import re
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen import stream

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "vllm" / "http.tar.gz"


@cache
def recordings() -> dict[str, bytes]:
    with tarfile.open(ARCHIVE) as archive:
        return {
            Path(member.name).stem: archive.extractfile(member).read()
            for member in archive
            if member.name.endswith(".raw")
        }


def read(raw: bytes, cuts: list[int], failure=None) -> stream.Answer:
    """The answer when `raw` arrives in reads that end at `cuts`, the k-th at time k."""
    edges = [0, *cuts, len(raw)]
    reads = [raw[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return stream.read_answer([float(k) for k in range(len(reads))], reads, failure)


def essence(answer: stream.Answer):
    return (
        answer.status,
        answer.http_status,
        answer.error,
        len(answer.token_times_s),
        answer.prompt_tokens,
        answer.output_tokens,
    )


def tokens_by_hand(raw: bytes) -> int:
    """Token events by the plainest reading: chunk sizes removed by a pattern, every event decoded."""
    body = re.sub(rb"(?m)^[0-9a-f]+\r\n|\r\n", b"", raw.split(b"\r\n\r\n", 1)[1])
    count = 0
    for line in body.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", []):
            delta = choice.get("delta", {})
            count += "text" in choice or ("content" in delta and "role" not in delta)
    return count


STREAMED = [
    # name, status, token events, usage (prompt, output)
    ("completion_stream_usage", "ok", 12, (6, 12)),
    ("completion_stream_nousage", "ok", 12, (None, None)),
    ("completion_stream_400tok", "ok", 400, (6, 400)),
    ("completion_stream_continuous_usage", "ok", 12, (6, 12)),
    ("completion_stream_tokenids", "ok", 12, (6, 12)),
    ("completion_batch_prompts_n2", "ok", 48, (8, 48)),
    ("chat_stream_usage", "ok", 12, (17, 12)),
    ("chat_stream_nousage", "ok", 12, (None, None)),
    ("stop_string_stream", "ok", 3, (6, 3)),
    ("eos_first_token_stream", "ok", 1, (6, 1)),
    ("stream_interval4", "ok", 4, (20, 11)),
    ("engine_death_midstream", "incomplete", 110, (None, None)),
    ("sigterm_midstream", "incomplete", 86, (None, None)),
]


@pytest.mark.parametrize(("name", "status", "tokens", "usage"), STREAMED, ids=[row[0] for row in STREAMED])
def test_recorded_streams_give_their_tokens_usage_and_class(name, status, tokens, usage):
    answer = read(recordings()[name], [])
    assert (answer.status, len(answer.token_times_s)) == (status, tokens)
    assert (answer.prompt_tokens, answer.output_tokens) == usage
    assert tokens == tokens_by_hand(recordings()[name])


@pytest.mark.parametrize("name", [name for name in recordings() if name.startswith("err_")])
def test_recorded_errors_are_http_errors_with_the_servers_sentence(name):
    answer = read(recordings()[name], [])
    body = json.loads(recordings()[name].split(b"\r\n\r\n", 1)[1])
    said = body["error"]["message"] if "error" in body else body["detail"]
    assert (answer.status, answer.error) == ("http_error", said)
    assert answer.http_status in (400, 404, 405, 503)


@pytest.mark.parametrize("name", recordings())
def test_reading_byte_by_byte_changes_nothing(name):
    raw = recordings()[name]
    assert essence(read(raw, list(range(1, len(raw))))) == essence(read(raw, []))


@pytest.mark.parametrize("name", [name for name, raw in recordings().items() if len(raw) < 1300])
def test_one_cut_at_every_boundary_changes_nothing(name):
    raw = recordings()[name]
    whole = essence(read(raw, []))
    assert all(essence(read(raw, [cut])) == whole for cut in range(1, len(raw)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(recordings())), st.data())
def test_any_cuts_give_the_same_tokens_in_order_of_time(name, data):
    raw = recordings()[name]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=40)))
    answer = read(raw, cuts)
    assert essence(answer) == essence(read(raw, []))
    assert np.all(np.diff(answer.token_times_s) >= 0)


@pytest.mark.parametrize("name", [row[0] for row in STREAMED])
def test_a_token_has_the_time_of_the_read_that_held_its_last_byte(name):
    raw = recordings()[name]
    answer = read(raw, list(range(1, len(raw))))  # the k-th byte arrives at time k
    body_times = answer.token_times_s.astype(int)
    assert all(raw[at : at + 1] == b"}" for at in body_times)


@pytest.mark.parametrize("name", [row[0] for row in STREAMED if row[1] == "ok"])
def test_a_stream_cut_short_is_incomplete_and_keeps_its_tokens(name):
    raw = recordings()[name]
    for cut in range(raw.index(b"data:"), len(raw) - 30, 997):
        answer = read(raw[:cut], [])
        assert answer.status == "incomplete"
        # an event that lacks only its terminator counts when its JSON is whole: at most one more than terminated ones
        terminated = (
            tokens_by_hand(raw[: raw.rfind(b"\n\n", 0, cut)] + b"\n\n") if b"\n\n" in raw[:cut] else 0
        )
        assert terminated <= len(answer.token_times_s) <= terminated + 1


def sse(*events: str, head: str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n") -> bytes:
    return (head + "".join(f"data: {event}\n\n" for event in events)).encode()


TOKEN = '{"choices":[{"index":0,"text":"a","finish_reason":null}]}'
ROWS = [
    ("missing [DONE]", sse(TOKEN), None, "incomplete", 1),
    ("[DONE] and nothing else", sse("[DONE]"), None, "incomplete", 0),
    ("an error event before [DONE]", sse(TOKEN, '{"error":{"message":"x","code":500}}', "[DONE]"), None, "incomplete", 1),
    ("a token that says error and role in its text", sse(TOKEN.replace('"a"', '"\\"error\\" \\"role\\": "'), "[DONE]"), None, "ok", 1),
    ("spaces after colons", sse(TOKEN.replace('":', '": '), TOKEN.replace('":', '": '), "[DONE]"), None, "ok", 2),
    ("comments between events", sse(TOKEN, "[DONE]").replace(b"data: [DONE]", b": ping\n\ndata: [DONE]"), None, "ok", 1),
    ("CRLF line ends", sse(TOKEN, TOKEN, "[DONE]").replace(b"\n\n", b"\r\n\r\n"), None, "ok", 2),
    ("a role chunk with text carries a token", sse('{"choices":[{"delta":{"role":"assistant","content":"hi"}}]}', "[DONE]"), None, "ok", 1),
    ("a reasoning token", sse('{"choices":[{"delta":{"reasoning_content":"hm"}}]}', "[DONE]"), None, "ok", 1),
    ("the client's timeout wins", sse(TOKEN), ("timeout", "late"), "timeout", 1),
    ("cancelled by the run's end", sse(TOKEN), ("cancelled", "end"), "cancelled", 1),
    ("no byte at all", b"", None, "connection_error", 0),
    ("not HTTP", b"SSH-2.0-OpenSSH\r\n", None, "connection_error", 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "failure", "status", "tokens"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_classes(raw, failure, status, tokens):
    answer = read(raw, [], failure)
    assert (answer.status, len(answer.token_times_s)) == (status, tokens)


def test_a_closing_event_without_token_is_told_by_usage():
    usage = '{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    closing = '{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}'
    answer = read(sse(TOKEN, closing, usage, "[DONE]"), [])
    assert len(answer.token_times_s) == answer.output_tokens == 1


def test_the_end_of_a_chunked_body_is_not_guessed_from_a_payload_that_looks_like_it():
    payload = b"data: 0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    raw = head + b"%x\r\n%s\r\n" % (len(payload), payload)
    parsed = stream.parse_head(raw)
    assert not stream.is_complete(parsed, raw[:-2])
    assert not stream.is_complete(parsed, raw)
    assert stream.is_complete(parsed, raw + b"0\r\n\r\n")


def chunked(body: bytes, cuts: list[int], extension: str) -> tuple[bytes, list[int]]:
    """(a chunked response whose chunks end at `cuts`, the offset in it of each byte of the body)."""
    raw = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    places: list[int] = []
    for a, b in itertools.pairwise([0, *cuts, len(body)]):
        if b > a:
            raw += f"{b - a:X}{extension}\r\n".encode()
            places += range(len(raw), len(raw) + b - a)
            raw += body[a:b] + b"\r\n"
    return raw + b"0\r\n\r\n", places


texts = st.text(max_size=6) | st.sampled_from(
    ['","role":"', '"error"', "\\", '\\"', "data: ", "\n\n", "\r\n\r\n"]
)
choices = st.one_of(
    texts.map(lambda text: {"index": 0, "text": text, "finish_reason": None}),
    texts.map(lambda text: {"index": 1, "text": text, "finish_reason": "stop"}),
    texts.map(lambda text: {"delta": {"content": text}, "finish_reason": None}),
    texts.map(lambda text: {"delta": {"reasoning_content": text}, "index": 0}),
)
token_events = choices.map(lambda choice: ({"id": "c", "choices": [choice], "usage": None}, True))
other_events = st.sampled_from(
    [
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, False),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, False),
        ({"choices": [], "usage": None}, False),
        (": ping", False),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_tokens_and_their_times_whatever_the_layout_and_the_framing(data):
    written = data.draw(st.lists(token_events | token_events | other_events, max_size=12))
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    body, ends = b"", []
    for event, is_token in [*written, ("data: [DONE]", False)]:
        if isinstance(event, dict):
            event = "data: " + json.dumps(event, separators=separators, ensure_ascii=data.draw(st.booleans()))
        body += event.encode()
        if is_token:
            ends.append(len(body) - 1)
        body += data.draw(st.sampled_from([b"\n\n", b"\r\n\r\n"]))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=8)))
    raw, places = chunked(body, cuts, data.draw(st.sampled_from(["", ";a=b", " "])))
    answer = read(raw, list(range(1, len(raw))))  # the k-th byte arrives at time k
    assert answer.token_times_s.tolist() == [places[end] for end in ends]
    assert answer.status == ("ok" if ends else "incomplete")
