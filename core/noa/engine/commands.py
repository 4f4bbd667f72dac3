"""What the core wants done. Decisions are answered by the pure decider; effects by the shell, after the append.

Each command stays in `RunState.pending` under its `key` until an event gives its outcome.
Resume re-issues what is left.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from noa.model.ids import TaskPath

__all__ = [
    "AdvanceStage",
    "CancelAttempt",
    "ChooseRecovery",
    "CloseStage",
    "Command",
    "Decide",
    "Effect",
    "Execute",
    "FinishRun",
    "LookUp",
    "OpenStage",
    "SetTimer",
    "StartTask",
]


class _Command(msgspec.Struct, frozen=True, gc=False):
    @property
    def key(self) -> str:
        raise NotImplementedError


class OpenStage(_Command, frozen=True, gc=False):
    """Decide whether a stage begins, and with which blocks."""

    stage: str

    @property
    def key(self) -> str:
        return f"stage:{self.stage}"


class AdvanceStage(_Command, frozen=True, gc=False):
    """Ask a stage type what opens after a block finished."""

    stage: str
    block: str

    @property
    def key(self) -> str:
        return f"block:{self.stage}[{self.block}]"


class CloseStage(_Command, frozen=True, gc=False):
    """Say how a stage ended."""

    stage: str

    @property
    def key(self) -> str:
        return f"stage:{self.stage}"


class StartTask(_Command, frozen=True, gc=False):
    """Decide whether a task runs, and with which inputs."""

    task: TaskPath

    @property
    def key(self) -> str:
        return self.task


class ChooseRecovery(_Command, frozen=True, gc=False):
    """Ask the recovery chain about a failed attempt."""

    task: TaskPath

    @property
    def key(self) -> str:
        return self.task


class FinishRun(_Command, frozen=True, gc=False):
    """Say how the run ended, and with which outputs."""

    @property
    def key(self) -> str:
        return "run"


class Execute(_Command, frozen=True, gc=False):
    """Have an agent (or a sub-workflow) do an attempt. `hedge`: it goes on beside another one of the same task."""

    task: TaskPath
    attempt: int
    hedge: bool = False

    @property
    def key(self) -> str:
        return f"hedge:{self.task}" if self.hedge else self.task


class CancelAttempt(_Command, frozen=True, gc=False):
    """End an attempt that is going on."""

    task: TaskPath
    attempt: int
    reason: str
    hedge: bool = False

    @property
    def key(self) -> str:
        return f"hedge:{self.task}" if self.hedge else self.task


class LookUp(_Command, frozen=True, gc=False):
    """Ask the store for outputs that are kept under a key and not older than `not_before_ms`; send Recalled."""

    task: TaskPath
    attempt: int
    kept: str
    not_before_ms: int = 0

    @property
    def key(self) -> str:
        return self.task


class SetTimer(_Command, frozen=True, gc=False):
    """Send TimerFired(timer) at `due_ms` (epoch milliseconds)."""

    timer: str
    due_ms: int

    @property
    def key(self) -> str:
        return f"timer:{self.timer}"


Decide: TypeAlias = OpenStage | AdvanceStage | CloseStage | StartTask | ChooseRecovery | FinishRun
Effect: TypeAlias = Execute | CancelAttempt | LookUp | SetTimer
Command: TypeAlias = Decide | Effect
