"""The agent that is checked, and how it is reached."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noa.errors import UsageError

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """An agent: a command that is launched as an engine launches it, or an address where it listens already.

    Attributes:
        command: Program and arguments; one string is split as a shell does. A program without a slash is looked for in
            PATH and beside this interpreter.
        address: `host:port` or `unix:/path`, where there is no command.
        token: That an agent at an address wants.
        env: Variables for a launched agent beside PATH, HOME, LANG, LC_ALL, TZ, a TMPDIR of its own, and NOA_AGENT_*.
            Of these NOA_AGENT_CONFORMANCE may be given otherwise.
        cwd: Working folder of a launched agent; None is this process's.
        actions: Actions with an input that each ends well with, for an agent without `echo` or beside it.
        ca_file: Certificates that an agent at an address may be signed by; given, the call is made over TLS.
        cert_file: Certificate chain of the caller, for mutual TLS.
        key_file: Its private key.
        server_name: Name in the agent's certificate, where it is not the host of the address.
        step_timeout_s: How long one answer may take before the agent counts as hanging.
        start_timeout_s: How long a launched agent may take until it says SERVING.

    Raises:
        UsageError: Neither or both of command and address are given.
    """

    command: str | Sequence[str] = ()
    address: str = ""
    token: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    actions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    step_timeout_s: float = 10.0
    start_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.address):
            raise UsageError("give either a command that launches the agent, or the address where it listens")

    @property
    def name(self) -> str:
        """For reports."""
        return self.address or shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        """The command's words; empty where there is none.

        Raises:
            UsageError: A quote in the command is not closed.
        """
        if not isinstance(self.command, str):
            return list(self.command)
        try:
            return shlex.split(self.command)
        except ValueError as error:
            raise UsageError(f"the command {self.command!r} cannot be split into words: {error}") from error

    def resolved(self) -> list[str]:
        """The command with its program's full path.

        Raises:
            UsageError: There is no such program, or it may not be executed.
        """
        program, *arguments = self.words
        if os.sep in program:
            path = Path(self.cwd or Path.cwd()) / program
            if not path.is_file():
                raise UsageError(f"the agent's program {path} does not exist: build it, or give another --command")
            if not os.access(path, os.X_OK):
                raise UsageError(f"{path} may not be executed: chmod +x it, or name its interpreter first")
            return [str(path.absolute()), *arguments]
        search = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        found = shutil.which(program, path=search)
        if found is None:
            raise UsageError(
                f"the agent's program '{program}' was not found in PATH ({search}): install it, or give its path such "
                f"as ./{program}"
            )
        return [found, *arguments]
