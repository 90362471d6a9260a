"""The server before the load: its model, what it takes, how long its requests may be, how it counts tokens."""
