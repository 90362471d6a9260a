"""Every reader of what others wrote answers, or raises an error of ours: a few inputs each here, many by `make fuzz`."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from tests.fuzz import targets
from tests.fuzz.run_targets import checked, run_of, swept
from tests.fuzz.targets import TARGETS, taken

EXAMPLES = {"runs": 10, "learnt runs": 2, "reported runs": 3, "replayed checks": 30}


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_is_answered_or_refused_with_a_sentence(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=EXAMPLES.get(name, 60), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(target.inputs)
    def each(one: Any) -> None:
        taken(target, one)

    each()


SEEDS = {
    "answers": ("answers", lambda data: (data, [])),
    "pages": ("pages", lambda data: data),
    "loads": ("load files", lambda data: data),
    "manifests": ("manifest files", lambda data: data),
    "queries": ("queries", bytes.decode),
    "formulas": ("formulas", bytes.decode),
    "profiles": ("profiles", yaml.safe_load),
    "recommendations": ("recommendations", json.loads),
    "runs": ("runs", run_of),
}
FINDINGS = [(kind, file.name) for kind in SEEDS for file in sorted((targets.CORPUS / kind).glob("*"))]
FINDINGS += [("traces", name) for name, _ in targets.TRACES]


@pytest.mark.parametrize(("kind", "name"), FINDINGS, ids=[f"{kind}: {name}" for kind, name in FINDINGS])
def test_a_seed_is_answered_or_refused_with_a_sentence(kind: str, name: str) -> None:
    """What the fuzzers found stays in the corpus."""
    data = (targets.CORPUS / kind / name).read_bytes()
    target, read = SEEDS.get(kind, ("traces", lambda data: (name, data)))
    taken(TARGETS[target], read(data))


def test_the_inputs_are_not_all_refused() -> None:
    """A seed that nothing was done to is answered: the targets reach what lies behind the first check."""

    def answered(name: str, given_: Any) -> object:
        return TARGETS[name].take(given_)

    for data in targets.seeds("answers"):
        answered("answers", (data, []))
    for name in ("azure.csv", "mooncake.jsonl"):
        answered("traces", (name, (targets.CORPUS / "traces" / name).read_bytes()))
    answered("load files", targets.LOAD)
    answered("profiles", targets.PROFILE)
    answered("recommendations", targets.MADE.as_json())
    answered("manifest files", targets.seeds("manifests")[0])
    for query in targets.seeds("queries"):
        answered("queries", query.decode())
    for scaled in targets.scaled_objects():
        answered("scaled objects", scaled)
    answered("learnt runs", swept())
    answered("replayed checks", checked())
