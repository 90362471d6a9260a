"""`python -m autoscale`: the same as the command `autoscale`."""

from autoscale.cli import main

main()
