"""The table of faults names tests that are there, holds every test of faults, and its page shows every kind."""

import ast

import pytest

from tests.faults import KINDS, LOAD, ROOT, shown

NAMED = [test for kinds in KINDS.values() for tests in kinds.values() for test in tests]


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("test", NAMED)
def test_a_kind_has_the_test_that_it_names(test: str) -> None:
    file, _, name = test.partition("::")
    assert name in functions(file)


def test_every_test_of_faults_stands_for_a_kind() -> None:
    tests = {name for name in functions(LOAD) if name.startswith("test_")}
    assert tests <= {test.partition("::")[2] for test in NAMED if test.startswith(LOAD)}


def test_the_page_shows_every_kind_and_none_that_did_not_hold() -> None:
    rows = shown()
    assert list(rows) == ["fault", *(kind for kinds in KINDS.values() for kind in kinds)], (
        "run `make test-faults`"
    )
    assert not [kind for kind, outcome in rows.items() if "did not hold" in outcome]
