"""What is offered: rates, arrivals, lengths, traces, load files, prompts. Pure."""
