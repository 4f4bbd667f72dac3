"""The core with simulated shells: seeded, in virtual time, without I/O."""

from noa.testing.simulation.single import Asked, Simulation, StuckError

__all__ = ["Asked", "Simulation", "StuckError"]
