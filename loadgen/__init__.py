"""Load: what arrives when, and what came back."""
