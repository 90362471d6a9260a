"""Load on /v1/completions: `locust -f loadgen/completions.py --host URL`; `--help-llm` lists the options."""

from loadgen.in_locust.users import LlmUser


class CompletionsUser(LlmUser):
    """A user of the completions endpoint."""

    endpoint = "completions"
