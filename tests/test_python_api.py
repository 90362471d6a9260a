"""The names of `import autoscale` are those that the page documents, load nothing before their use, and do what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import autoscale
from tests.test_layers import HEAVY

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
TRAFFIC = (
    "load:\n  - stages: 3:600,9:900,3:600\nprompt_tokens: uniform:48,96\noutput_tokens: uniform:96,160\n"
)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = f"import sys, autoscale; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there_and_on_the_page() -> None:
    assert set(autoscale.__all__) == set(autoscale._PLACES)
    for name in autoscale.__all__:
        assert callable(getattr(autoscale, name))
        assert name == "OpenedRun" or f"`{name}" in PAGE
    assert not hasattr(autoscale, "no_such_name")


def test_every_package_carries_its_types() -> None:
    assert all((ROOT / package / "py.typed").exists() for package in ("analysis", "autoscale", "loadgen"))


def test_what_the_page_shows_runs(sweep_run, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "runs").mkdir()
    sweep_run("sweep_A").rename(tmp_path / "runs" / "first")
    (tmp_path / "traffic.yaml").write_text(TRAFFIC)
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "requests, TTFT p95" in said
    assert "queue of 5: " in said
    assert "3 standing: " in said
