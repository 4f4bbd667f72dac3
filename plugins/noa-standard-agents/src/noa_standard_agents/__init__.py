"""The agents python, worker, storage and notification, which run in noa's own process."""

__version__ = "0.1.0"
