"""The agents builder, deployer, monitor and advisor: the release of a plugin package, and the way back."""

__version__ = "0.1.0"
