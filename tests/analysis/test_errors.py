"""The sentence of an error: one line, without markup, with what the user must read."""

import json

import pytest

from analysis.errors import AutoscaleError, BadInput
from analysis.redact import redact, remember


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            "collect it: autoscale collect <run-dir> --prometheus <URL>",
            "collect it: autoscale collect <run-dir> --prometheus <URL>",
            id="placeholders stay",
        ),
        pytest.param(
            "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title>\n<style>p {color: red}</style></head>"
            '<body bgcolor="white"><center><h1>502 Bad Gateway</h1></center><hr/></body></html>',
            "502 Bad Gateway 502 Bad Gateway",
            id="a proxy's page becomes its text",
        ),
        pytest.param("tokens < 16 and > 4\n\nat once", "tokens < 16 and > 4 at once", id="comparisons stay"),
        pytest.param(
            "no \x1b[31mred\x07, no \ud800",
            r"no \x1b[31mred\x07, no \ud800",
            id="what moves a terminal is escaped",
        ),
    ],
)
def test_a_sentence_is_one_line_without_markup(text, sentence) -> None:
    assert str(AutoscaleError(text)) == sentence


def test_value_expectation_and_next_step_are_woven_in() -> None:
    error = BadInput("rate", value=-1, expected="above 0", next_step="give --rate <requests per second>")
    assert str(error) == "rate: -1; expected above 0. Give --rate <requests per second>"
    assert (error.value, error.expected, error.exit_code) == (-1, "above 0", 2)


def test_a_sentence_of_a_name_without_end_keeps_its_begin_and_its_next_step() -> None:
    said = str(BadInput("no host at http://" + "a" * 70_000, next_step="check the address"))
    assert len(said) < 3010
    assert said.startswith("no host at http://aaa")
    assert said.endswith("aaa. Check the address")


def test_a_secret_is_hidden_however_python_and_json_spell_it_and_the_reason_stays() -> None:
    secret = 'pl4nted\\ "q" \udcff'
    remember(secret)
    for said in (secret, repr(secret), json.dumps(secret), secret.encode("unicode_escape").decode()):
        assert "pl4nted" not in redact(f"no: {said}")
    told = "http://h/?x-api-key=abcdefgh: connection refused"
    assert redact(told) == "http://h/?x-api-key=***: connection refused"
