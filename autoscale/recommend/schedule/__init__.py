"""Minimum replicas by hour and weekday, learned from one part of the traffic and judged on the next."""
