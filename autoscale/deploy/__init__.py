"""Manifests: `write_set` and `objects` for one profile, `reference_files` for the committed sets, `preview` and `commit`
to apply a set. Modules are imported by name by whoever needs more, so that the linter's room loads on its own."""

from autoscale.deploy.apply import ApiServer, Change, commit, preview
from autoscale.deploy.options import PATHS, MetricsPath, Options
from autoscale.deploy.writer import load_files, objects, reference_files, write_files, write_set

__all__ = [
    "PATHS",
    "ApiServer",
    "Change",
    "MetricsPath",
    "Options",
    "commit",
    "load_files",
    "objects",
    "preview",
    "reference_files",
    "write_files",
    "write_set",
]
