"""What a Prometheus tells of a service that is in production: its traffic, and how well that is known."""
