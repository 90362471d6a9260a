"""`python -m autoscale`: the same as the command `autoscale`."""

import sys
from pathlib import Path

# Python puts the working directory first on the path: a folder named analysis there is not this package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoscale.cli import main

main()
