"""The core with simulated engines: seeded, in virtual time, without I/O. Any schedule can be played again by its seed.

`Simulation` plays one plan with outcomes that the caller gives. `Schedules` plays random workflows to which everything
happens that can: crashes at any moment, lost leases, late results, people who answer wrongly, runs that are reopened.
`python -m noa.testing.simulation` plays them from the command line.
"""

from noa.testing.simulation.schedules import Failed, Schedules, Script, SimulationError
from noa.testing.simulation.single import Asked, Simulation, StuckError

__all__ = ["Asked", "Failed", "Schedules", "Script", "Simulation", "SimulationError", "StuckError"]
