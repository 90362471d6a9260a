"""What External and Object metrics read of a simulated fleet: what it exports, a Prometheus of it, and its queries."""
