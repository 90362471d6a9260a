"""Load on /v1/chat/completions: `autoscale load chat` or `locust -f loadgen/chat.py --host URL`; `--help` lists the options."""

import sys
from pathlib import Path

# Locust puts the working directory first on the path: a folder named analysis or loadgen there is not these packages.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadgen.in_locust.users import LlmUser


class ChatUser(LlmUser):
    """A user of the chat endpoint."""

    endpoint = "chat"
