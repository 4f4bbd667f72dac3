"""How an engine starts and ends a sidecar: environment, standard input, signals, and the processes it started."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["EXIT_TERMINATED", "EXIT_USAGE", "Launch", "LaunchError", "end_children", "leave", "watch_stdin"]

EXIT_USAGE = 64
"""Exit status where the environment of the contract is missing or of another version."""

EXIT_TERMINATED = 143
"""Exit status after a second SIGTERM, as a shell shows a process that the signal ended."""

_PROTOCOL = 1
_LOOPBACK = re.compile(r"^(127\.0\.0\.1|localhost|\[::1\]):\d{1,5}$")


class LaunchError(Exception):
    """The process cannot be a sidecar; the message is one line for stderr, and the status is 64."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What the engine gave.

    Attributes:
        listen: `unix:/absolute/path.sock` or `127.0.0.1:PORT`.
        token: That every call must carry.
    """

    listen: str
    token: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Launch:
        """Read the variables of the contract.

        Raises:
            LaunchError: One is missing or wrong, or the engine speaks another version of the contract.
        """
        protocol = environment.get("NOA_AGENT_PROTOCOL", "")
        if protocol not in {"", str(_PROTOCOL)}:  # first: an engine of another version may set other variables
            raise LaunchError(
                f"NOA_AGENT_PROTOCOL is {protocol!r}, but this agent speaks version {_PROTOCOL} of the agent contract"
            )
        for name in ("NOA_AGENT_PROTOCOL", "NOA_AGENT_LISTEN", "NOA_AGENT_TOKEN"):
            if not environment.get(name):
                raise LaunchError(f"{name} is not set: a sidecar is started by an engine, see agents/CONTRACT.md")
        listen = environment["NOA_AGENT_LISTEN"]
        if not listen.startswith("unix:/") and not _LOOPBACK.match(listen):
            raise LaunchError(f"NOA_AGENT_LISTEN is {listen!r}: expected unix:/absolute/path.sock or 127.0.0.1:PORT")
        return cls(listen, environment["NOA_AGENT_TOKEN"])


def watch_stdin(ended: Callable[[], None], descriptor: int = 0) -> None:
    """Call `ended` from a thread when standard input reaches its end: the engine is gone."""

    def watch() -> None:
        with suppress(OSError):  # a closed descriptor is an end too
            while os.read(descriptor, 4096):
                pass
        ended()

    threading.Thread(target=watch, name="noa-stdin", daemon=True).start()


def end_children() -> None:
    """Kill every process that this one started and that still lives, their children too."""
    import psutil  # not needed until the end

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()


def leave(status: int) -> None:
    """End the process now, without waiting for threads of actions that do not end."""
    with suppress(Exception):  # a stream may be closed already
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
