"""Every reader of what others wrote answers, or raises an error of ours: a few inputs each here, many by `make fuzz`."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.targets import TARGETS, taken

EXAMPLES = {"runs": 15}


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_is_answered_or_refused_with_a_sentence(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 60), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(target.inputs)
    def each(one: Any) -> None:
        taken(target, one)

    each()


def test_the_inputs_are_not_all_refused() -> None:
    """A seed that nothing was done to is answered: the targets reach what lies behind the first check."""

    def answered(name: str, given_: Any) -> object:
        return TARGETS[name].take(given_)

    from tests.fuzz import targets

    for data in targets.seeds("answers"):
        answered("answers", (data, []))
    for name, data in targets.TRACES:
        answered("traces", (name, data))
    answered("load files", targets.seeds("loads")[0])
    answered("profiles", targets.PROFILE)
    answered("recommendations", targets.MADE.as_json())
    answered("manifest files", targets.seeds("manifests")[0])
    answered("runs", (targets.RUN_HEADER, targets.tables(), {}))
