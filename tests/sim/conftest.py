"""Chunks of requests for engine tests."""

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def chunk():
    """Build a chunk from due times, prompt, output and prefix tokens (scalars are repeated)."""

    def build(due_s, prompt, output, prefix=0):
        due_s = np.asarray(due_s, float)
        prompt, output, prefix = (
            np.broadcast_to(np.asarray(v, np.int32), due_s.shape) for v in (prompt, output, prefix)
        )
        return SimpleNamespace(due_s=due_s, prompt_tokens=prompt, output_tokens=output, prefix_tokens=prefix)

    return build
