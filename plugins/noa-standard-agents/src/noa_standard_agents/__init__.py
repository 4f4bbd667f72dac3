"""The agents python, worker, storage, notification and deployment, which run in noa's own process."""

__version__ = "0.1.0"
