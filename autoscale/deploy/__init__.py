"""Manifests: `write_set` and `objects` for one profile, `reference_files` for the committed sets, `apply` to
ask or change a cluster; `lint_files`, `lint_cluster` and `lint_objects` find what kubectl accepts and the HPA never
forgives. Modules are imported by name by whoever needs more, so that the linter's room loads on its own."""

from autoscale.deploy.changes import ApiServer, Change, apply, commit, preview
from autoscale.deploy.choices import PATHS, MetricsPath, Options, options
from autoscale.deploy.writer import load_files, objects, reference_files, write_files, write_set
from autoscale.lint.findings import Finding, Located, Report
from autoscale.lint.linter import lint_cluster, lint_files, lint_objects

__all__ = [
    "PATHS",
    "ApiServer",
    "Change",
    "Finding",
    "Located",
    "MetricsPath",
    "Options",
    "Report",
    "apply",
    "commit",
    "lint_cluster",
    "lint_files",
    "lint_objects",
    "load_files",
    "objects",
    "options",
    "preview",
    "reference_files",
    "write_files",
    "write_set",
]
