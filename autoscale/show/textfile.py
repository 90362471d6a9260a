"""What a watch found, for the textfile collector of Prometheus' node_exporter: metrics with HELP and TYPE, written at once."""

from __future__ import annotations

from pathlib import Path

from analysis.errors import BadInput
from analysis.files import replacing
from analysis.numbers import known
from autoscale.recommendation import Drift, Recommendation

METRICS = {
    "autoscale_target_holds": "1 where the recommended setting keeps its SLO on the traffic it was held against, else 0.",
    "autoscale_target_confident": "1 where it does so for a replica as slow as its runs allow, else 0.",
    "autoscale_target_attainment_ratio": "Share of the requests that keep every bound.",
    "autoscale_target_accelerator_hours": "Accelerator-hours that the setting takes for this traffic.",
    "autoscale_target_traffic_hours": "Hours of this traffic.",
    "autoscale_target_checked_timestamp_seconds": "When this was found, in seconds since 1970.",
}


def exposition(old: Recommendation, found: Drift, hours: float, now_s: float) -> str:
    """The file; figures that are not known are left out."""
    values = (
        float(bool(found.holds)),
        float(bool(found.confident)),
        found.attainment,
        found.accelerator_hours,
        hours,
        now_s,
    )
    label = f'{{profile="{_escaped(old.profile or "")}"}}'
    lines = []
    for (name, about), value in zip(METRICS.items(), values, strict=True):
        if value is not None and known(value):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge", f"{name}{label} {value!r}"]
    return "\n".join(lines) + "\n"


def check_textfile(path: Path) -> None:
    """Raises BadInput for another ending than .prom, which is not collected, and for a directory that is none."""
    if path.suffix != ".prom":
        raise BadInput(
            "--textfile", value=str(path), expected="a name that ends in .prom: others are not collected"
        )
    if not path.parent.is_dir():
        raise BadInput("--textfile", value=str(path), expected="a file in a directory that is there")


def write_textfile(path: Path, text: str) -> None:
    """Write it so that nobody reads half of it. Raises BadInput where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o644)
    except OSError as error:
        raise BadInput(
            f"cannot write {path}: {error.strerror}", next_step="choose another --textfile"
        ) from None


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
