"""The objects that guides hand out load, or are refused by a field; the page says the same."""

import pytest

from tests.house import ROOT
from tests.keda.public_examples import EXAMPLES, Example, result_of, table

PAGE = ROOT / "docs" / "keda.md"
HEAD = "| project | place | reads | result |"


def test_the_page_shows_what_becomes_of_every_example() -> None:
    shown = PAGE.read_text(encoding="utf-8")
    assert table() in shown, f"write this into {PAGE.name}:\n{table()}"
    assert shown.count(HEAD) == 1


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.project}, {e.place}")
def test_an_example_loads_or_is_refused_by_a_field(example: Example) -> None:
    result = result_of(example.object)
    assert result.startswith(("loads", "refused: `spec", "refused: `kind`"))


def test_the_places_that_must_be_there_are() -> None:
    assert {"llm-d", "production-stack", "KServe", "OpenShift AI", "EKS", "KAITO"} <= {
        e.project for e in EXAMPLES
    }
    assert {"kubernetes/examples", "accelerated-platforms"} <= {e.project for e in EXAMPLES}
