"""Recorded responses of a real vLLM server, cut anywhere, give the same tokens, classes and order."""

import itertools
import json
import math
import random
import re
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import LONGEST_TOLD
from analysis.run import STATUSES
from loadgen.run.measured import measured
from loadgen.wire import http_response, openai_body, scan, stream
from loadgen.wire.exchange import Exchange

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "vllm" / "http.tar.gz"


@cache
def recordings() -> dict[str, bytes]:
    with tarfile.open(ARCHIVE) as archive:
        return {
            Path(member.name).stem: archive.extractfile(member).read()
            for member in archive
            if member.name.endswith(".raw")
        }


def read(raw: bytes, cuts: list[int], failure=None) -> stream.ParsedAnswer:
    """The answer when `raw` arrives in reads that end at `cuts`, the k-th at time k."""
    edges = [0, *cuts, len(raw)]
    reads = [raw[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return stream.parse_answer([float(k) for k in range(len(reads))], reads, failure)


def essence(answer: stream.ParsedAnswer):
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
    assert (answer.status, answer.error) == ("http_error", " ".join(said.split()))
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
    ("text of null is no token", sse(TOKEN, '{"choices":[{"index":0,"text":null}]}', "[DONE]"), None, "ok", 1),
    ("an empty error beside a token", sse(TOKEN, TOKEN[:-1] + ',"error":""}', TOKEN, "[DONE]"), None, "ok", 3),
    ("a byte order mark", b"HTTP/1.1 200 OK\r\ncontent-length: 29\r\n\r\n\xef\xbb\xbf" + b'{"choices":[{"text":"a"}]}', None, "ok", 0),
    ("a whole answer that ends with the connection", b'HTTP/1.0 200 OK\r\n\r\n{"choices":[{"text":"a"}]}', None, "ok", 0),
    ("the same, cut off by this side", b'HTTP/1.0 200 OK\r\n\r\n{"choices":[{"text":"a"}]}', ("timeout", "late"), "timeout", 0),
    ("a head whose lines end with LF alone", sse(TOKEN, "[DONE]").replace(b"\r\n", b"\n"), None, "ok", 1),
    ("what follows [DONE] does not count", sse(TOKEN, "[DONE]", TOKEN, TOKEN, TOKEN), None, "incomplete", 1),
    ("[DONE] said twice", sse(TOKEN, "[DONE]", "[DONE]") + b": bye\n\n", None, "ok", 1),
    ("an error whose name follows its data", sse(TOKEN, TOKEN, TOKEN + "\nevent: error", TOKEN, "[DONE]"), None, "incomplete", 3),
    ("a number that follows each token", sse(TOKEN + "\nid: 1", TOKEN + "\nid: 2", TOKEN + "\nid: 3", "[DONE]"), None, "ok", 3),
    ("lines that end with CR alone", sse() + sse(TOKEN, TOKEN, "[DONE]", head="").replace(b"\n", b"\r"), None, "ok", 2),
    ("a stream under another content type", sse(TOKEN, TOKEN, "[DONE]", head="HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"), None, "ok", 2),
    ("a stream without a content type", sse(TOKEN, TOKEN, "[DONE]", head="HTTP/1.1 200 OK\r\n\r\n"), None, "ok", 2),
    ("an error by the name of its event alone", sse(TOKEN, TOKEN, "[DONE]").replace(b"data: [DONE]", b"event: error\ndata: the engine is dead\n\ndata: [DONE]"), None, "incomplete", 2),
    ("a header that comes twice", sse(TOKEN, "[DONE]", head="HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\ncontent-type: text/event-stream\r\ntransfer-encoding: \r\n\r\n"), None, "ok", 1),
    ("a length that two proxies wrote", b'HTTP/1.1 200 OK\r\ncontent-length: 26, 26\r\n\r\n{"choices":[{"text":"a"}]}', None, "ok", 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "failure", "status", "tokens"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS]
)
def test_classes(raw, failure, status, tokens):
    answer = read(raw, [], failure)
    assert (answer.status, len(answer.token_times_s)) == (status, tokens)


WHOLE = '{"choices":[{"text":"a"}]}'
REASONS = [
    # head lines after the status, body, the reason
    ("200 OK", "content-encoding: gzip", "\x1f\x8b", "incomplete", "the body is compressed (gzip), which was not asked for"),
    ("500 No", "content-encoding: br", "\x1f\x8b", "http_error", "the body is compressed (br), which was not asked for"),
    ("500 No", "content-encoding: identity", "no", "http_error", "no"),
    ("301 Moved", "location: http://user:word-planted@h/x?key=1", "", "http_error", "answered 301: it sends to http://***@h/x"),
    ("200 OK", "content-length: abc", WHOLE, "connection_error", "no length of an answer: Content-Length is b'abc'"),
    ("200 OK", "content-length: 26, 27", WHOLE, "connection_error", "no length of an answer: Content-Length is b'26, 27'"),
    ("200 OK", "content-length: 26\r\ncontent-length: 27", WHOLE, "connection_error", "no length of an answer: Content-Length is b'26, 27'"),
    ("200 OK", "x: y", WHOLE[:-1] + ',"usage":{"completion_tokens":2000000000}}', "incomplete", "usage.completion_tokens is 2000000000, of 3 that were asked, in an answer of 92 bytes"),
    ("200 OK", "x: y", WHOLE[:-1] + ',"usage":{"completion_tokens":20}}', "ok", None),
    ("200 OK", f"content-length: 1{'0' * 5000}", WHOLE, "connection_error", f"no length of an answer: Content-Length is b'1{'0' * 39}'"),
    ("abc OK", "x: y", WHOLE, "connection_error", "not an HTTP response: its status line is b'http/1.1 abc ok'"),
    ("-20 OK", "x: y", WHOLE, "connection_error", "not an HTTP response: its status line is b'http/1.1 -20 ok'"),
    ("200 OK", "content-length: 14", '{"choices":[]}', "incomplete", "choices are []; expected objects with text or message"),
    ("200 OK", "x: y", WHOLE[:-3] + ',"finish_reason":"error"}]}', "incomplete", "the server ended its answer with finish_reason error"),
    ("200 OK", "x: y", '{"object":"error","message":"too long","code":400}', "incomplete", "error in the answer: too long"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "header", "body", "status", "said"), REASONS, ids=[str(r[-1])[:60] for r in REASONS])  # fmt: skip
def test_a_refusal_and_an_odd_head_have_a_reason_that_can_be_read(line, header, body, status, said):
    exchange = Exchange(1, b"", 0.0, lambda _: None, 0, (7, 3), sent_s=0.0)
    exchange.reads, exchange.stamps_s = (
        [f"HTTP/1.1 {line}\r\n{header}\r\n\r\n{body}".encode("latin-1")],
        [1.0],
    )
    answer = measured(exchange).answer
    assert (answer.status, answer.error) == (status, said)


def test_half_a_head_is_said_to_be_one():
    assert read(b"HTTP/1.1 200 OK\r\ncontent-le", []).error == "closed in the headers of its answer"


def test_usage_in_each_event_counts_by_the_last_one():
    events = [f'{TOKEN[:-1]},"usage":{{"prompt_tokens":7,"completion_tokens":{n}}}}}' for n in (1, 2, 3)]
    answer = read(sse(*events, "[DONE]"), [])
    assert (answer.status, len(answer.token_times_s), answer.output_tokens) == ("ok", 3, 3)


def test_a_closing_event_without_token_is_told_by_usage():
    usage = '{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    closing = '{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}'
    answer = read(sse(TOKEN, closing, usage, "[DONE]"), [])
    assert len(answer.token_times_s) == answer.output_tokens == 1


def test_the_end_of_a_chunked_body_is_not_guessed_from_a_payload_that_looks_like_it():
    payload = b"data: 0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    raw = head + b"%x\r\n%s\r\n" % (len(payload), payload)
    parsed = http_response.parse_head(raw)
    assert not http_response.is_complete(parsed, raw[:-2])
    assert not http_response.is_complete(parsed, raw)
    assert http_response.is_complete(parsed, raw + b"0\r\n\r\n")


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FRAMES = [
    # what stands in the place of the second chunk's size; the reason, None where it is a size
    ("a size with zeros before it", "%020x", None),
    ("a size with an extension", "%x;a=b", None),
    ("a prefix of hexadecimal numbers", "0x%x", "'0x41' is no chunk size"),
    ("more digits than any size has", "fffffffffffffffff", "'fffffffffffffffff' is no chunk size"),
    ("no digit", "", "'' is no chunk size"),
    ("a line of text", "x" * 50, f"'{'x' * 37}...' is no chunk size"),
]


@pytest.mark.parametrize(("size", "said"), [row[1:] for row in FRAMES], ids=[row[0] for row in FRAMES])
def test_a_line_that_is_no_chunk_size_ends_the_answer_with_its_text(size, said):
    event = f"data: {TOKEN}\n\n".encode()
    sizes = ["%x", size, "%x"]
    lines = [(s % len(event) if "%" in s else s).encode() for s in sizes]
    raw = CHUNKED + b"".join(line + b"\r\n" + event + b"\r\n" for line in lines)
    answer = read(raw, list(range(len(CHUNKED), len(raw), 7)))
    head = http_response.parse_head(raw)
    assert http_response.body_fault([raw]) == said
    if said is None:
        assert (answer.error, len(answer.token_times_s)) == ("the response ended without [DONE]", 3)
        assert http_response.is_complete(head, raw + b"0\r\n\r\n")
        return
    assert (answer.status, answer.error, len(answer.token_times_s)) == ("incomplete", said, 1)
    with pytest.raises(ValueError, match=re.escape(said)):
        http_response.is_complete(head, raw)


def test_chunks_whose_lines_end_with_lf_alone_are_none():
    assert http_response.body_fault([CHUNKED + b"40\ndata"]) == "'40' is no chunk size"
    assert http_response.body_fault([CHUNKED + b"40\r"]) is None  # the rest is on its way


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


USAGE = '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":%s}}'
DEEP = "[" * 100_000
ODD = [
    # what the server sends before [DONE], beside a good token; the reason in the row
    *((f"choices are {odd}", f'{{"choices":{odd}}}', "expected choices with text or delta")
      for odd in ("[null]", "[1]", '{"a":1}', '"abc"', "7", "[[1]]", '[{"delta":"hi"}]', '[{"delta":["hi"]}]')),
    *((f"usage is {odd}", USAGE % odd, "usage.completion_tokens is .*; expected a whole number of tokens from 0 to 2147483647")
      for odd in ("-7", '"7"', "{}", "true", "7.5", "1e999", "99999999999999999999999", "2147483648")),
    ("usage is a list", '{"choices":[],"usage":[1]}', r"usage is \[1\]; expected an object"),
    ("an event nested too deeply", DEEP, r"an event of the stream is \[+; expected an object in JSON"),
    ("choices nested too deeply", '{"choices":' + DEEP, "an event of the stream is "),
    ("an error with half a surrogate pair", '{"error":{"message":"bad \\ud800 \\u001b[31m \\u202e text"}}',
     r"error in the stream: bad \\ud800 \\x1b\[31m \\u202e text$"),
    ("an error that is a number", f'{{"error":1{"0" * 4000}}}', "error in the stream: 1000"),
    ("an error of a megabyte", '{"error":{"message":"%s"}}' % ("x" * 1_000_000), r"^error in the stream: x+\.\.\.$"),
    ("an error of its own kind of event", "x\n\nevent: error\ndata: {\"message\":\"engine died\"}", "error in the stream: engine died"),
    ("an error as old servers write it", '{"object":"error","message":"old","code":400}', "error in the stream: old"),
    *((f"a choice that ended by {why}", f'{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"{why}"}}]}}', f"finish_reason {why}")
      for why in ("abort", "error")),
    ("an error without message", '{"error":{"code":5}}', "error in the stream: {.error.:{.code.:5}}"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "said"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
@pytest.mark.parametrize("head", ["stream", "whole"])
def test_an_odd_answer_is_incomplete_with_the_reason_and_keeps_its_tokens(event, said, head):
    raw = sse(TOKEN, event, "[DONE]")
    if head == "whole":
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(event), event.encode())
    exchange = Exchange(1, b"", 0.0, lambda _: None, 0, (7, 3), sent_s=0.0)
    exchange.reads, exchange.stamps_s = [raw], [1.0]
    answer = measured(exchange).answer
    assert answer.status == "incomplete"
    assert len(answer.error.encode()) <= LONGEST_TOLD
    assert answer.error.isprintable()
    assert answer.output_tokens is None
    if head == "stream":
        assert re.search(said, answer.error)
        assert len(answer.token_times_s) == 1


HARMLESS = [
    ("no choices", '{"choices":null}'),
    ("choices left out", '{"object":"ping"}'),
    ("a delta of null", '{"choices":[{"delta":null,"finish_reason":"stop"}]}'),
    ("usage of null", '{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":null}}'),
    ("a comment as data", "keep-alive"),
    ("a number as data", "7"),
]


@pytest.mark.parametrize("event", [row[1] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_what_servers_send_besides_tokens_is_no_reason(event):
    assert essence(read(sse(TOKEN, event, TOKEN, "[DONE]"), [])) == ("ok", 200, None, 2, None, None)


def check_total(raw: bytes, cuts: list[int]) -> None:
    answer = read(raw, cuts)
    assert answer.status in STATUSES
    assert (answer.error is None) == (answer.status == "ok")
    assert (answer.error or "-").isprintable()
    for tokens in (answer.prompt_tokens, answer.output_tokens):
        assert tokens is None or 0 <= tokens <= openai_body.MOST_TOKENS
    assert np.all(np.diff(answer.token_times_s) >= 0)
    assert math.isnan(answer.last_s) or answer.last_s >= 0


HEADS = [
    b"",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -40\r\n\r\n",
    b"HTTP/1.1 500 No\r\n\r\n",
]
pieces = st.binary(max_size=12) | st.sampled_from(
    [b"data:", b"data: ", b"\n\n", b"\r\n", b'"text":"', b'"content":"', b'"', b"\\", b'{"choices":[', b"[DONE]", b"0\r\n", b"f\r\n",
     b'{"error":', b'"usage":{"completion_tokens":', b"1e999", b"null", b"}", b"]", b"]}", b"\xff", b"\0", TOKEN.encode()]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(HEADS), st.lists(pieces, max_size=30), st.integers(1, 40))
def test_any_bytes_give_a_status_a_record_and_no_exception(head, parts, step):
    raw = head + b"".join(parts)
    check_total(raw, list(range(step, len(raw), step)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "text", "content", "role", "usage", "error", "completion_tokens"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(json_values, max_size=5), st.booleans())
def test_any_json_gives_a_status_a_record_and_no_exception(values, streamed):
    if streamed:
        check_total(sse(TOKEN, *map(json.dumps, values), "[DONE]"), [])
    for value in values:
        body = json.dumps(value).encode()
        check_total(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body), [])


@pytest.mark.parametrize("name", recordings())
def test_recordings_with_bytes_changed_lost_and_doubled_are_read_without_exception(name):
    chance = random.Random(name)
    raw = recordings()[name]
    for _ in range(25):
        changed = bytearray(raw)
        for _ in range(chance.choice([1, 3, 30])):
            at = chance.randrange(len(changed))
            kind = chance.randrange(3)
            if kind == 0:
                changed[at] = chance.randrange(256)
            elif kind == 1:
                del changed[at : at + chance.choice([1, 5, 200])]
            else:
                changed[at:at] = changed[at : at + chance.choice([1, 5, 200])]
            if not changed:
                break
        check_total(bytes(changed), [])


odd_choices = st.sampled_from(
    [None, 7, "text", [], {}, [None], [1], ["text"], [[]], [None, {"text": "a"}], {"index": 0, "text": "a"},
     [{"text": None}], [{"text": 5}], [{"text": []}], [{"delta": "hi"}], [{"delta": ["hi"]}], [{"delta": None}],
     [{"delta": {"content": 5}}], [{"delta": [{"content": "a"}]}], [{"delta": {"content": "a"}}, 7], [{"text": "a", "delta": 5}]]
)  # fmt: skip
counts = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)
odd_events = st.fixed_dictionaries(
    {"id": st.just("c"), "choices": odd_choices}, optional={"error": st.none() | st.text(max_size=3)}
) | st.fixed_dictionaries(  # of a token's event the usage is not looked at
    {"choices": st.just([]), "usage": counts | st.fixed_dictionaries({"completion_tokens": counts})}
)


@settings(max_examples=300, deadline=None)
@given(st.lists(token_events.map(lambda event: event[0]) | odd_events, min_size=1, max_size=8), st.data())
def test_the_compiled_reading_of_plain_events_agrees_with_decoding_each(events, data):
    separators = data.draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    raw = sse(*(json.dumps(event, separators=separators) for event in events), "[DONE]")
    fast = read(raw, list(range(1, len(raw))))
    compiled = scan.events

    def none_plain(*arguments):
        starts, ends, plain = compiled(*arguments)
        return starts, ends, np.zeros_like(plain)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "events", none_plain)
        slow = read(raw, list(range(1, len(raw))))
    assert essence(fast) == essence(slow)
    assert fast.token_times_s.tolist() == slow.token_times_s.tolist()
