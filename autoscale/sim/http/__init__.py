"""The fleet over HTTP: gateway, /metrics per replica, a Kubernetes-shaped view."""
