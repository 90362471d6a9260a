"""Profiles of served systems: `load(name_or_path)`, `names()`, `overlay(profile, changes)`, `from_content(content)`."""

from autoscale.profiles.content import names
from autoscale.profiles.profile import Profile, from_content, load, overlay

__all__ = ["Profile", "from_content", "load", "names", "overlay"]
