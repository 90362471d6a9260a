"""vLLM replicas in virtual time: scheduler, requests, steps."""
