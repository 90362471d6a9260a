"""Rules that only a live cluster can be asked: each module looks at one thing, pure over a snapshot."""
