"""Prompts: exact lengths, no shared cache block unless asked, and the body's fields."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import BadInput
from loadgen.plan.own_prompts import by_jsonl
from loadgen.plan.prompts import by_ids, by_words
from loadgen.plan.request_template import RequestTemplate
from loadgen.plan.words import WORDS
from loadgen.run.endpoint.counting import Uncountable, by_tokenize, by_usage

COMPLETIONS = RequestTemplate("m")
CHAT = RequestTemplate("m", "chat")
BLOCK = 16  # smallest prefix-cache block of a server


def ids(request_id, n, source=None, **how):
    return (source or by_ids(COMPLETIONS)).prompt(request_id, n, **how)


def shared_start(a, b) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


# --- the body --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "output_tokens", "fields"),
    [
        (
            COMPLETIONS,
            128,
            {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
            | {"max_tokens": 128, "min_tokens": 128},
        ),
        (
            RequestTemplate("m", stream=False),
            5,
            {"stream": False, "ignore_eos": True, "max_tokens": 5, "min_tokens": 5},
        ),
        (
            RequestTemplate("m", ignore_eos=False, extra={"temperature": 0.5}),
            7,
            {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "max_tokens": 7},
        ),
        (RequestTemplate("m", stream=False, ignore_eos=False), 0, {"stream": False}),
    ],
    ids=["streamed", "not streamed", "the model ends when it likes", "the server's own limit"],
)
def test_a_body_holds_these_fields_and_never_a_seed(template, output_tokens, fields):
    for source in (by_ids(template, seed=4), by_words(template, seed=4)):
        body = json.loads(source.body(1, 20, output_tokens))
        body.pop("prompt")
        assert body == {"model": "m", **fields}


def test_chat_sends_one_user_message():
    body = json.loads(by_words(CHAT).body(1, 20, 5))
    assert body["messages"][0]["role"] == "user"
    assert len(body["messages"][0]["content"].split()) == 20
    assert "prompt" not in body


# --- lengths ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**40),
    st.one_of(st.integers(1, 3000), st.integers(130_000, 140_000)),
    st.integers(0, 4000),
)
def test_ids_and_words_have_exactly_the_asked_length(request_id, n, prefix):
    for source in IDS_SOURCE, WORDS_SOURCE:
        prompt = source.prompt(request_id, n, prefix_tokens=prefix)
        assert len(prompt if isinstance(prompt, list) else prompt.split()) == n


IDS_SOURCE, WORDS_SOURCE = by_ids(COMPLETIONS, seed=1), by_words(COMPLETIONS, seed=1)


def test_ids_are_those_of_the_vocabulary():
    prompt = ids(0, 5000, by_ids(COMPLETIONS, vocabulary=(2000, 3000)))
    assert min(prompt) == 2000
    assert max(prompt) == 2999
    assert len(set(prompt)) > 900


@pytest.mark.parametrize("vocabulary", [(99, 101), (5, 5), (-1, 9)])
def test_a_vocabulary_of_unequal_widths_is_refused(vocabulary):
    with pytest.raises(BadInput, match="equally many digits"):
        by_ids(COMPLETIONS, vocabulary=vocabulary)


def test_ids_need_the_completions_endpoint():
    with pytest.raises(BadInput, match="token ids as prompt: 'chat'; expected the completions endpoint"):
        by_ids(CHAT)


SPLIT = {"yard", "tiny", "wolf", "able"}  # words that a tokenizer below cuts in two


@pytest.mark.parametrize("added", [0, 1, 37], ids=["nothing added", "BOS", "a chat template"])
def test_words_are_exact_by_the_servers_own_count(added):
    calls = []

    def count(text: str) -> int:
        calls.append(text)
        return added + sum(2 if word in SPLIT else 1 for word in text.split())

    source = by_words(CHAT, counted=by_tokenize(count))
    assert source.exact
    assert source.overhead_tokens == added
    assert len(calls) < 100  # a few requests, not one per word
    for n in (50, 333, 2000):
        assert count(source.prompt(3, n)) == n


def test_a_tokenizer_without_whole_words_is_measured_and_said_to_be_inexact():
    source = by_words(CHAT, counted=by_tokenize(lambda text: 3 + len(text)))  # one token per byte
    assert not source.exact
    assert source.tokens_per_symbol == 5
    assert 3 + len(source.prompt(1, 512)) == pytest.approx(512, abs=2.5)


LIES = [
    ("the same for every text", lambda text: 7),
    ("nothing", lambda text: 0),
    ("less than nothing", lambda text: -len(text.split())),
    ("fewer for longer texts", lambda text: 1000 - len(text.split())),
    ("not evenly more", lambda text: len(text.split()) ** 2 // 16),
    ("more than words can have", lambda text: 100 * len(text.split())),
    ("an overhead beyond any template", lambda text: 10**6 + len(text.split())),
]


@pytest.mark.parametrize("count", [row[1] for row in LIES], ids=[row[0] for row in LIES])
def test_a_server_that_does_not_count_is_not_believed(count):
    with pytest.raises(Uncountable, match="words do not add tokens evenly"):
        by_tokenize(count)


def test_the_usage_of_two_answers_tells_tokens_per_word_and_what_the_server_adds():
    counted = by_usage(11 + 24, 11 + 216)  # 1.5 tokens a word for 16 and 144 words, 11 of a template
    assert (counted.by, counted.tokens_per_word, counted.overhead_tokens) == ("words", 1.5, 11)
    for few, many in ((None, 9), (8, 8), (16, 10**6), (-5, 123)):
        with pytest.raises(Uncountable):
            by_usage(few, many)


# --- what a prefix cache sees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [by_ids, by_words], ids=["ids", "words"])
def test_no_two_requests_share_a_cache_block(make):
    source = make(COMPLETIONS, seed=3)
    prompts = [source.prompt(i, 64) for i in [*range(3000), 10**6, 2**40]]
    heads = {tuple((p if isinstance(p, list) else p.split())[:BLOCK]) for p in prompts}
    assert len(heads) == len(prompts)


def test_neighbours_differ_in_their_first_token():
    source = by_ids(COMPLETIONS, seed=3)
    first = [ids(i, 8, source)[0] for i in range(900)]  # the vocabulary has 900 ids
    assert len(set(first)) == 900


@pytest.mark.parametrize("other", [{"seed": 4}, {"salt": 1}], ids=["another seed", "another salt"])
def test_another_run_shares_no_block_with_this_one(other):
    here, there = by_ids(COMPLETIONS, seed=3), by_ids(COMPLETIONS, **({"seed": 3} | other))
    mine = {tuple(ids(i, BLOCK, here)) for i in range(2000)}
    assert not mine & {tuple(ids(i, BLOCK, there)) for i in range(2000)}


def test_the_same_seed_and_salt_give_the_same_bytes():
    a, b = by_ids(COMPLETIONS, 3, 5), by_ids(COMPLETIONS, 3, 5)
    assert [a.body(i, 300, 9) for i in range(50)] == [b.body(i, 300, 9) for i in range(50)]


def test_the_shared_prefix_is_shared_and_the_rest_is_not():
    source = by_ids(COMPLETIONS, seed=3)
    a, b = ids(1, 600, source, prefix_tokens=256), ids(2, 900, source, prefix_tokens=256)
    assert 256 <= shared_start(a, b) < 256 + BLOCK
    short = ids(3, 100, source, prefix_tokens=256)  # shorter than the prefix: all but its last token
    assert shared_start(short, a) >= 99


def test_block_ids_of_a_trace_become_equal_prompt_parts():
    source = by_ids(COMPLETIONS, block_tokens=32)
    a = ids(1, 90, source, blocks=(7, 8, 9))
    b = ids(2, 90, source, blocks=(7, 8, 11))
    assert len(a) == len(b) == 90
    assert 64 <= shared_start(a, b) < 64 + BLOCK
    assert a == ids(3, 90, source, blocks=(7, 8, 9))
    assert ids(4, 200, source, blocks=(7, 8, 9))[:90] == a  # more tokens than blocks: filled up
    assert shared_start(ids(5, 90, source, blocks=()), ids(6, 90, source, blocks=(1,))) < BLOCK


def test_a_later_turn_contains_the_earlier_one():
    source = by_ids(COMPLETIONS, turns=3, conversations=4)
    turns = [ids(i, n, source, prefix_tokens=n // 2) for i, n in ((1, 100), (5, 260), (9, 400))]
    assert turns[1][:100] == turns[0]
    assert turns[2][:260] == turns[1]
    assert shared_start(ids(13, 400, source), turns[2]) < BLOCK  # the next conversation on that seat
    assert shared_start(ids(2, 400, source), turns[2]) < BLOCK  # another seat


def test_a_conversation_stays_one_text_around_the_end_of_the_pool():
    source = by_ids(COMPLETIONS, turns=2, conversations=1)
    for i in range(0, 40, 2):
        assert ids(i + 1, 200_000, source)[:90_000] == ids(i, 90_000, source)


def test_words_are_four_letters_and_different():
    assert {len(word) for word in WORDS} == {4}
    assert len(set(WORDS)) == len(WORDS)


# --- the user's own --------------------------------------------------------------------------------------------------


def test_own_prompts_are_sent_in_turn(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(
        '{"prompt": "say \\"hé\\""}\n\n{"messages": [{"role": "system", "content": "s"}], "output_tokens": 9}\n'
    )
    source = by_jsonl(CHAT, file)
    first, second, third = (json.loads(source.body(i, 512, 30)) for i in range(3))
    assert first["messages"] == [{"role": "user", "content": 'say "hé"'}]
    assert first["max_tokens"] == 30
    assert second["messages"] == [{"role": "system", "content": "s"}]
    assert second["max_tokens"] == 9
    assert third == first


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"prompt": "a"}\n{"prompt": 3}\n', "own.jsonl line 2: .*expected"),
        ('{"prompt": "a"}\n{"prompt"\n', "own.jsonl line 2 is not JSON"),
        ('{"messages": []}\n', "line 1 holds messages. Use loadgen/chat.py"),
        ('{"prompt": "a", "output_tokens": "x"}\n', "line 1, output_tokens: 'x'"),
        ('{"prompt": "a", "output_tokens": true}\n', "line 1, output_tokens: 'True'"),
        (
            '{"prompt": "a", "output_tokens": 1%s}\n' % ("0" * 30),
            "expected a whole number of tokens up to 1,073,741,824",
        ),
        (
            '{"prompt": "a", "messages": %s}\n' % ("[" * 100_000),
            "own.jsonl line 1 is not JSON: nested more than 100",
        ),
        ('{"prompt": "%s"}\n' % ("a" * 5_000_000), "own.jsonl line 1 is longer than 4,000,000 characters"),
        ('{"prompt": "a\0"}\n', "line 1 holds a NUL byte"),
        ("", "no prompts in"),
    ],
)
def test_a_bad_prompt_file_is_named_by_line(tmp_path, text, sentence):
    file = tmp_path / "own.jsonl"
    file.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        by_jsonl(COMPLETIONS, file)
    with pytest.raises(BadInput, match="cannot read the prompts"):
        by_jsonl(COMPLETIONS, tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="the prompts /dev/zero is a device; expected a regular file"):
        by_jsonl(COMPLETIONS, "/dev/zero")
