"""Manifests: `write_set` and `objects` for one profile, `reference_files` for the committed sets, `apply` to
ask or change a cluster. Modules are imported by name by whoever needs more."""

from autoscale.deploy.changes import ApiServer, Change, apply, commit, preview
from autoscale.deploy.choices import Options, options
from autoscale.deploy.writer import (
    load_files,
    objects,
    reference_files,
    set_directory,
    write_files,
    write_set,
)

__all__ = [
    "ApiServer",
    "Change",
    "Options",
    "apply",
    "commit",
    "load_files",
    "objects",
    "options",
    "preview",
    "reference_files",
    "set_directory",
    "write_files",
    "write_set",
]
