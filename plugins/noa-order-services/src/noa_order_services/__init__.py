"""The sidecars inventory, payment and shipping: a small shop whose orders can be undone."""

__version__ = "0.1.0"
