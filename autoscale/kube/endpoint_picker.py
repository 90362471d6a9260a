"""What llm-d's endpoint picker does where nobody says otherwise: the simulator, the manifests and the linter stand on it.

Sources: llm-d/llm-d-router after v0.10.0, pkg/epp/config/loader/defaults.go and pkg/epp/flowcontrol; llm-d
guides/optimized-baseline.
"""

from __future__ import annotations

SCORERS = {  # option of --gateway -> the picker's scorer, and its weight
    "queue_weight": ("queue-scorer", 2.0),
    "kv_weight": ("kv-cache-utilization-scorer", 2.0),
    "prefix_weight": ("prefix-cache-scorer", 3.0),
    "lru_weight": ("no-hit-lru-scorer", 0.0),
}
LRU_WEIGHT = 2.0  # in the optimized baseline
REQUEST_TTL_S = 60.0  # how long flow control holds a request
