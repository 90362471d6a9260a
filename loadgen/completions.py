"""Load on /v1/completions: `autoscale load` or `locust -f loadgen/completions.py --host URL`; `--help` lists the options."""

import sys
from pathlib import Path

# Locust puts the working directory first on the path: a folder named analysis or loadgen there is not these packages.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadgen.in_locust.users import LlmUser


class CompletionsUser(LlmUser):
    """A user of the completions endpoint."""

    endpoint = "completions"
