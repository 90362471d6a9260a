"""The simulator: engine, routing, pods, the fleet in virtual time, and the same fleet over HTTP."""

from autoscale.sim.engine.replicas import EngineParams
from autoscale.sim.fleet.control import FleetOptions
from autoscale.sim.fleet.outcome import Outcome
from autoscale.sim.fleet.replica import Nodes
from autoscale.sim.fleet.run_writer import write_run
from autoscale.sim.fleet.scalers import read_scaler
from autoscale.sim.fleet.simulate import simulate
from autoscale.sim.fleet.tally import Tally

__all__ = [
    "EngineParams",
    "FleetOptions",
    "Nodes",
    "Outcome",
    "Tally",
    "read_scaler",
    "simulate",
    "write_run",
]
