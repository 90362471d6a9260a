"""The rules of the linter, one module per thing that they look at."""
