"""Load on /v1/chat/completions: `locust -f loadgen/chat.py --host URL`; `--help-llm` lists the options."""

from loadgen.in_locust.users import LlmUser


class ChatUser(LlmUser):
    """A user of the chat endpoint."""

    endpoint = "chat"
