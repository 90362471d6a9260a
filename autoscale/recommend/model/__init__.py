"""One replica learned from runs: step time, its uncertainty, what it predicts."""
