"""How fast a load is drawn: arrivals per CPU second by process and programme, and request bodies per CPU second.

    python benchmarks/traffic.py

One core. Budgets: 5 million arrivals/s, lengths included, and 20,000 bodies/s of
512 tokens. Waves (sine) cost a Newton step each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from loadgen.plan import rates
from loadgen.plan.arrivals import parse_arrivals
from loadgen.plan.lengths import parse_lengths
from loadgen.plan.programme import Rate
from loadgen.plan.prompts import by_ids, by_words
from loadgen.plan.request_template import RequestTemplate
from loadgen.plan.traffic import LoadPlan

REQUESTS = 3_000_000
BODIES = 50_000


def rated(work: Callable[[], int]) -> float:
    """Units of work per CPU second, best of three."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        done = work()
        best = max(best, done / (time.process_time() - start))
    return best


def drawn(rate: Rate, process: str, tokens: str) -> Callable[[], int]:
    """Draws a whole plan and returns its number of requests."""
    plan = LoadPlan(rate, parse_arrivals(process), parse_lengths(tokens), parse_lengths(tokens))
    return lambda: sum(len(chunk.due_s) for chunk in plan.arrivals())


def main() -> None:
    day_s = 86_400.0
    mean = REQUESTS / day_s
    programmes = {
        "constant rate": rates.constant(mean, day_s),
        "default day": rates.diurnal(mean / 0.62, day_s),
        "sine, 1 h": rates.sine(mean, mean / 2, 3600, day_s),
    }
    print(f"{'programme':<16}{'arrivals':<12}{'lengths':<22}{'million arrivals / CPU s':>26}")
    for name, rate in programmes.items():
        for process, tokens in (("poisson", "fixed:512"), ("gamma:3", "lognormal:1020,1.0")):
            speed = rated(drawn(rate, process, tokens)) / 1e6
            print(f"{name:<16}{process:<12}{tokens:<22}{speed:>26.1f}")
    print(f"\n{'prompt':<28}{'endpoint':<22}{'thousand bodies / CPU s':>26}")
    sources = {
        ("512 token ids", "completions"): by_ids(RequestTemplate("model")),
        ("512 words", "chat"): by_words(RequestTemplate("model", "chat")),
    }
    for (name, endpoint), source in sources.items():

        def bodies(source=source) -> int:  # type: ignore[no-untyped-def]  # bound per round
            for i in range(BODIES):
                source.body(i, 512, 128)
            return BODIES

        print(f"{name:<28}{endpoint:<22}{rated(bodies) / 1e3:>26.0f}")


if __name__ == "__main__":
    main()
