"""Which version of this project runs: results say what computed them."""

from __future__ import annotations

from importlib import metadata


def own_version() -> str:
    """The installed version; "not installed" of files that only lie on the path."""
    try:
        return metadata.version("llm-autoscale")
    except metadata.PackageNotFoundError:
        return "not installed"
