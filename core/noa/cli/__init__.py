"""The `noa` program: one module for each command, imported when it is called.

Importing this package costs click and the standard library, so that `noa --help` answers at once.
"""

from noa.cli.app import main

__all__ = ["main"]
