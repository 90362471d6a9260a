"""YAML with comments: what is parsed back is what was written, and comments stand where they belong."""

import yaml
from hypothesis import given
from hypothesis import strategies as st

from autoscale.deploy.yaml_out import Note, dump, dump_all, plain_yaml

leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
)
keys = st.text(min_size=1, max_size=8)


def nested(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Note, st.text(max_size=20), inner),
    )


@given(st.dictionaries(keys, st.recursive(leaf, nested, max_leaves=12), min_size=1, max_size=5))
def test_any_document_reads_back_as_it_was(document):
    assert yaml.safe_load(dump(document)) == plain_yaml(document)


def test_a_note_stands_above_what_it_explains():
    document = {
        "spec": Note(
            "why a spec", {"ports": [Note("why a port", {"name": "http"}), {"port": Note("a number", 8080)}]}
        ),
        "args": ["-c", Note("two\nparagraphs", "line one\nline two")],
    }
    assert dump(document, "at the top") == (
        "# at the top\n"
        "# why a spec\n"
        "spec:\n"
        "  ports:\n"
        "  # why a port\n"
        "  - name: http\n"
        "  # a number\n"
        "  - port: 8080\n"
        "args:\n"
        "- -c\n"
        "# two\n"
        "# paragraphs\n"
        "- |-\n"
        "  line one\n"
        "  line two\n"
    )


def test_texts_that_look_like_other_types_stay_texts():
    values = {"a": "8", "b": "true", "c": "1e3", "d": "null", "e": "0x10", "f": "2x4", "g": "12:30", "h": ""}
    assert yaml.safe_load(dump(values)) == values


def test_several_documents_are_separated():
    text = dump_all([({"a": 1}, "first"), ({"b": 2}, "")])
    assert text == "# first\na: 1\n---\nb: 2\n"
