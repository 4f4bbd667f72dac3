"""Programs that an action runs: their output goes to the run's log, and they end with the action."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from noa.sdk import Context

__all__ = ["Ended", "clean_environment", "run_program"]

_TAIL_LINES = 40
_LINE_BYTES = 1 << 20
_NOT_PASSED_ON = ("NOA_", "PYTEST_", "PYTHON", "COV_")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status, and the end of what it said (stdout and stderr)."""

    status: int
    tail: str


def clean_environment(*path: Path, **more: str) -> dict[str, str]:
    """The environment of the engine without what would change a build or a test.

    Args:
        path: Folders that Python looks into before what is installed.
        more: Variables beside.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_PASSED_ON)}
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if path:
        own["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return {**kept, **own, **more}


async def run_program(ctx: Context, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Ended:
    """Run a program to its end. Where the action is cancelled, the program and all that it started are killed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=_LINE_BYTES,
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        if process.stdout is None:  # never: it is a pipe
            raise RuntimeError("the program has no output")
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            tail.append(text)
            ctx.debug(text)
        return Ended(await process.wait(), "\n".join(tail))
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
