"""The load generator inside Locust: users and workers, the coordinator, statistics, web page."""
