"""The past of a simulated fleet as a Prometheus and its kube-state-metrics would have it."""
