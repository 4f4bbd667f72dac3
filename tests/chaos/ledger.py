"""What agents did, written down outside of the run, so that a test can say what was done twice and what was lost.

A ledger is a file to which every effect is appended when it begins and when it ends, each entry on disk before the
agent goes on. Agents in the engine's process and agents in processes of their own write the same file; the order of
its lines is the order in which things happened (one machine, one clock).

`LedgerAgent` does what its inputs say, and nothing else decides how it ends: the same attempt ends the same way in
whichever process and however often it is asked for. Serve it with `python -m noa.sdk tests.chaos.ledger:LedgerAgent`;
the variable NOA_CHAOS_LEDGER names the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from noa.sdk import ActionFailed, Agent, Context, action

__all__ = ["Effect", "Entry", "Ledger", "LedgerAgent", "effects_of"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        what: "begin"; or how it ended: "done", "failed", "cancelled".
        at_ns: Of the machine's monotonic clock, which all its processes share.
        pid: Of the process in which the agent lives; `engine` is the process that started it.
        digest: Of the inputs.
    """

    what: str
    execution: str
    key: str
    task: str
    attempt: int
    action: str
    digest: str
    at_ns: int
    pid: int
    engine: int


@dataclass(frozen=True, slots=True)
class Effect:
    """One execution in one process: how it began, and how it ended, if it did."""

    begin: Entry
    end: Entry | None


class Ledger:
    """The file. Once `frozen`, nothing is written any more: whoever would write belongs to a dead engine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frozen = False
        self._engine = os.getppid()  # now: once the engine is dead, somebody else is the parent
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, what: str, context: Context, action: str, inputs: dict[str, Any]) -> None:
        """Write down that an execution begins or ended; on disk when it returns."""
        if self.frozen:
            raise RuntimeError("this ledger's engine is dead")
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        entry = Entry(
            what, context.execution_id, context.idempotency_key, context.task, context.attempt, action, digest,
            time.monotonic_ns(), os.getpid(), self._engine,
        )  # fmt: skip
        os.write(self._file, json.dumps(asdict(entry)).encode() + b"\n")  # one write to an O_APPEND file is whole
        os.fdatasync(self._file)

    def close(self) -> None:
        """Give the file back."""
        self.frozen = True
        os.close(self._file)

    @property
    def length(self) -> int:
        """Bytes written until now: a mark for `entries`."""
        return self.path.stat().st_size

    def entries(self, after: int = 0) -> list[Entry]:
        """All of them, or those after a mark."""
        return read(self.path, after)


def read(path: Path, after: int = 0) -> list[Entry]:
    """The entries of a file, where it is there; all of them, or those after a mark."""
    if not path.exists():
        return []
    lines = path.read_bytes()[after:].splitlines(keepends=True)
    return [Entry(**json.loads(line)) for line in lines if line.endswith(b"\n")]


def effects_of(entries: Iterable[Entry]) -> list[Effect]:
    """Begins paired with their ends, in the order in which they began."""
    found: list[Effect] = []
    going: dict[tuple[int, str], int] = {}
    for entry in entries:
        at = (entry.pid, entry.execution)
        if entry.what == "begin":
            going[at] = len(found)
            found.append(Effect(entry, None))
        elif at in going:
            number = going.pop(at)
            found[number] = Effect(found[number].begin, entry)
    return found


class LedgerAgent(Agent):
    """Its actions differ in name only.

    Inputs that say what is done:

    * `value`: given back as it is; `size`: that many characters are given back as `text`;
    * `sleep_ms`: how long it takes;
    * `fail`: code with which it fails for good, empty for none;
    * `fail_first`: so many attempts fail and may be tried again;
    * `hang_first`: so many attempts never end by themselves; `hang`: none does.
    """

    name = "ledger"
    version = "1"

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger or Ledger(Path(os.environ["NOA_CHAOS_LEDGER"]))

    @action(idempotent=True)
    async def work(self, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Do something."""
        return await self._effect("work", ctx, inputs)

    @action(idempotent=True)
    async def other(self, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Do it in another way."""
        return await self._effect("other", ctx, inputs)

    @action(idempotent=True)
    async def undo(self, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Undo it."""
        return await self._effect("undo", ctx, inputs)

    async def _effect(self, action: str, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        self._ledger.note("begin", ctx, action, inputs)
        what = "cancelled"
        try:
            outputs = await _do(ctx.attempt, inputs)
            what = "done"
            return outputs
        except ActionFailed:
            what = "failed"
            raise
        finally:
            with contextlib.suppress(RuntimeError):
                self._ledger.note(what, ctx, action, inputs)


async def _do(attempt: int, inputs: dict[str, Any]) -> dict[str, Any]:
    if inputs.get("hang") or attempt <= inputs.get("hang_first", 0):
        await asyncio.Event().wait()
    await asyncio.sleep(inputs.get("sleep_ms", 0) / 1000)
    if inputs.get("fail"):
        raise ActionFailed(inputs["fail"], "told to fail")
    if attempt <= inputs.get("fail_first", 0):
        raise ActionFailed("FLAKY", f"told to fail until attempt {inputs['fail_first']}", retryable=True)
    outputs: dict[str, Any] = {"value": inputs.get("value")}
    if "size" in inputs:
        outputs["text"] = "x" * inputs["size"]
    return outputs
