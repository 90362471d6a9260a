"""Profiles of served systems: `load(name_or_path)`, `names()`, `overlay(profile, changes)`."""

from autoscale.profiles.content import names
from autoscale.profiles.profile import Profile, load, overlay

__all__ = ["Profile", "load", "names", "overlay"]
