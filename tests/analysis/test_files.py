"""Files that a user names: whatever is wrong with one is one sentence, with the place, and never a crash or a hang."""

import math
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from analysis import documents, files, run
from analysis.access import access
from analysis.errors import BadInput
from analysis.files import json_text, json_value, read_documents, read_json, read_text, read_yaml
from autoscale.show.textfile import write_textfile

DEEP = 5000
BLOCK = "".join(f"{' ' * level}a:\n" for level in range(1500))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300))
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.fixture(params=["libyaml", "python"])
def parser(request, monkeypatch):
    """With the parser in C, and with the one in Python that PyYAML falls back to."""
    if request.param == "python":
        monkeypatch.setattr(documents, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("[" * DEEP, "line 1, column 101: nested more than 100 levels deep", id="brackets"),
        pytest.param("[" * 150 + "]" * 150, "line 1, column 101: nested more than 100", id="brackets that close again"),
        pytest.param("{a: " * DEEP, "line 1, column 401: nested more than 100", id="braces"),
        pytest.param("- " * DEEP, "line 1, column 201: nested more than 100", id="lists within lists in block style"),
        pytest.param(BLOCK, "line 101, column 101: nested more than 100", id="mappings in block style"),
        pytest.param("a: 1\n---\n" + "[" * DEEP, "line 3, column 101: nested more than 100", id="in the second document"),
        pytest.param(CHAIN, "nested more than 100 levels deep", id="levels that come from aliases of aliases"),
        pytest.param(BOMB, "line 6, column .*aliases unfold into more than", id="aliases that unfold without end"),
        pytest.param("a: &a [*a]", "alias \\*a contains itself", id="an alias inside itself"),
        pytest.param("a: [1\nb: 2\n", "line 2, column 2", id="broken syntax"),
        pytest.param("a: 1\na: 2\n", 'line 2, column 1: key "a" is there twice, first in line 1', id="a key twice"),
        pytest.param("a: !!python/object/apply:os.system [x]\n", "tag !!python.* is not plain data", id="a tag that runs code"),
        pytest.param("- 1\n", "holds a list; expected a mapping", id="a list"),
        pytest.param("text\n", "holds text; expected a mapping", id="text"),
        pytest.param("2024-01-01\n", "holds text; expected a mapping", id="a date"),
        pytest.param("3\n", "holds a number; expected a mapping", id="a number"),
        pytest.param("# only this\n", "is empty; expected a mapping", id="a comment alone"),
        pytest.param("a: 1\n---\nb: 2\n", "holds 2 documents; expected one", id="two documents"),
        pytest.param("a: \x01\n", "character that YAML does not allow", id="a control character"),
    ],
)  # fmt: skip
def test_yaml_that_is_no_mapping_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=f"the thing {re.escape(str(file))}.*{sentence}") as caught:
        read_yaml(file, "thing")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param('{"a": ' * DEEP, "nested more than 100 levels deep|is not JSON", id="braces that do not close"),
        pytest.param("[" * DEEP + "]" * DEEP, "nested more than 100 levels deep", id="deeper than Python follows"),
        pytest.param("[" * 101 + "]" * 101, "nested more than 100 levels deep", id="one level too many"),
        pytest.param("kind: X\n", r"is not JSON: Expecting value \(line 1, column 1\)", id="YAML"),
        pytest.param('{"a": 1}}', r"is not JSON: Extra data \(line 1, column 9\)", id="something behind it"),
        pytest.param("[1]", "holds a list; expected a JSON object", id="a list"),
        pytest.param("null", "is empty; expected a JSON object", id="null"),
        pytest.param(" \n", "is empty; expected a JSON object", id="white space"),
        pytest.param('{"a": {"b": 1, "c": 2, "b": 3}}', "cannot read the thing .*: the key 'b' is there twice", id="a key twice"),
        pytest.param(f'{{"a": {"9" * 5000}}}', "cannot read the thing", id="a number of five thousand digits"),
    ],
)  # fmt: skip
def test_json_that_is_no_object_is_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=sentence) as caught:
        read_json(file, "thing")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("read", [read_text, read_documents, read_yaml, read_json])
def test_a_path_that_is_no_text_file_is_one_sentence(tmp_path, read, monkeypatch):
    (tmp_path / "binary").write_bytes(b"a: 1\n\xff\xfe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    rows = {
        "absent": "no such thing: '.*absent'",
        "binary/below": "no such thing: .*expected a path through directories",
        ".": "the thing is a directory: .*expected a file",
        "binary": "is not text: byte 0xff at offset 5 is not UTF-8",
        "loop": "cannot read the thing .*loop: Too many levels of symbolic links",
    }
    for name, sentence in rows.items():
        with pytest.raises(BadInput, match=sentence):
            read(tmp_path / name, "thing")
    monkeypatch.setattr(files, "MAX_BYTES", 3_000_000)
    with pytest.raises(BadInput, match="/dev/zero is too large; expected at most 3 MB"):  # no end of its own
        read("/dev/zero", "thing")


@pytest.mark.parametrize("read", [read_text, read_documents, read_yaml, read_json])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        BadInput, match=r"the thing .*pipe is a pipe; expected a regular file\. Save it to one"
    ):
        read(tmp_path / "pipe", "thing")


def test_a_key_is_read_from_a_pipe_that_somebody_writes_to_and_not_waited_for_elsewhere(
    tmp_path, monkeypatch
):
    reading, writing = os.pipe()
    os.write(writing, b"pl4nted-key\n")
    os.close(writing)
    given = access(key_file=f"/dev/fd/{reading}", environ={})
    assert given.headers == {"Authorization": "Bearer pl4nted-key"}
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("analysis.access.PIPE_S", 0.05)
    for asked in ({"key_file": tmp_path / "pipe"}, {"headers": [f"X-T: @{tmp_path / 'pipe'}"]}):
        with pytest.raises(
            BadInput, match=r"nothing came from .*pipe within 0 s; expected a file with one line"
        ):
            access(environ={}, **asked)


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a", "thing") == read_yaml(tmp_path / "a", "thing") == {"a": 1}


@pytest.mark.usefixtures("parser")
def test_a_hundred_levels_and_many_written_values_are_read(tmp_path):
    value = "[" * 99 + "7" + "]" * 99
    (tmp_path / "a").write_text(f'{{"a": {value}}}')
    assert read_yaml(tmp_path / "a", "thing") == read_json(tmp_path / "a", "thing")
    many = documents.MAX_UNFOLDED + 10  # only aliases are held to a number of values
    (tmp_path / "b").write_text("a: [" + "1," * many + "]")
    if documents._LOADER is not yaml.SafeLoader:  # half a minute with the parser in Python
        assert len(read_yaml(tmp_path / "b", "thing")["a"]) == many
    assert json_value(b"[" * 100 + b"]" * 100) is not None


def test_half_a_surrogate_pair_is_no_text() -> None:
    assert json_value('{"model": "\\ud83d\\ude00"}') == {"model": "\U0001f600"}
    assert json_value(json_text({"a\ud800": ["\udfff", math.inf, math.nan, 1.5, "\U0001f600"]})) == {
        r"a\ud800": [r"\udfff", None, None, 1.5, "\U0001f600"]
    }
    for text in ('{"model": "a\\ud800"}', b'["\\uDFFF"]'):
        with pytest.raises(ValueError, match="half a surrogate pair"):
            json_value(text)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process may be longer than 2 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_what_does_not_fit_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    long = "x" * 5000
    for name, write in (
        ("a.prom", lambda path: write_textfile(path, long)),
        ("a.json", lambda path: run.write_header(path.parent, {"kind": "live", "model": long})),
    ):
        path = tmp_path / ("run.json" if name == "a.json" else name)
        path.write_text("earlier")
        with pytest.raises((OSError, BadInput)):
            write(path)
        assert path.read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.prom", "run.json"]
