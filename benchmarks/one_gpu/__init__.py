"""A real vLLM on this machine: measured, predicted, loaded again, and the prediction put beside what happened.

    python -m benchmarks.one_gpu                 an accelerator, vLLM in this Python or in that of --python: ten minutes
    make test-vllm                               the same on PyPI's CPU build with a tiny model, in an environment of its own

A server with random weights is started with a Prometheus beside it. A sweep of one mix of lengths is measured with the
project's own load generator and collected; a replica is learnt from it; the other mix is predicted and the prediction is
written down; only then the other mix is offered. benchmarks/ledger keeps every prediction with what came of it.
"""
