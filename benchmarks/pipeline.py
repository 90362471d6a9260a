"""What pipeline parallelism costs: Llama 3.1 405B on 2 x 8 H100, one replica, Poisson arrivals of its profile's lengths.

    python -m benchmarks.pipeline

1. TTFT and TPOT against the rate: two batches in flight as vLLM keeps them, the same with asynchronous scheduling, and what
   the two stages would do if every batch were split evenly between them (micro-batches that move in lockstep).
2. Simulated requests per second of processor time, 8 replicas.
"""

import time
from dataclasses import replace

import numpy as np

from autoscale.profiles import profile
from autoscale.sim.engine.replicas import EngineParams, Replicas, replay
from loadgen.plan import lengths, rates
from loadgen.plan.traffic import LoadPlan, parse_arrivals
from tests.sim.reference_lockstep import lockstep

NAME, RATES, REQUESTS = "llama-3.1-405b-2x8h100", (0.5, 1.0, 1.6, 2.2), 20_000
