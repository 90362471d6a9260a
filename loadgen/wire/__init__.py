"""The wire: connections, the read loop, and what the bytes of an answer mean."""
