"""Kubernetes as ground: quantities, selectors, kinds, metric names, objects seen, the API."""
