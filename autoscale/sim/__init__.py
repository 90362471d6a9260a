"""The simulator: engine, routing, pods, the fleet in virtual time, and the same fleet over HTTP."""
