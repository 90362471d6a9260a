"""The simulator: engine, routing, pods, the fleet in virtual time, and the same fleet over HTTP."""

from autoscale.sim.control import Options
from autoscale.sim.engine import EngineParams
from autoscale.sim.fleet import read_hpa, simulate
from autoscale.sim.outcome import Outcome, Tally
from autoscale.sim.replica import Nodes
from autoscale.sim.written import write_run

__all__ = ["EngineParams", "Nodes", "Options", "Outcome", "Tally", "read_hpa", "simulate", "write_run"]
