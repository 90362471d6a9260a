"""The linter: what kubectl accepts and the HPA never forgives."""
