"""Committed files that a program writes are what it writes now (manifests and the load schema: in their rooms' tests)."""

import json
from pathlib import Path

import pytest
import yaml

from tests.generated import ROOT, documents

PROFILES = sorted((ROOT / "autoscale" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_a_generated_document_is_not_stale(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == documents()[path], "run `make generated`"


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_shipped_profile_uses_only_keys_of_the_schema(path: Path) -> None:
    schema = json.loads((ROOT / "docs" / "profile.schema.json").read_text(encoding="utf-8"))
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(content) <= set(schema["properties"])
    for section, keys in content.items():
        reference = schema["properties"][section].get("$ref", "")
        if reference:
            assert set(keys) <= set(schema["$defs"][reference.rsplit("/", 1)[1]]["properties"]), section
