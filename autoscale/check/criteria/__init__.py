"""The questions of a check: each a pure function of a timeline and its history."""
