"""Agents in this process: a Python object is called without gRPC, through the same three methods."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any

from noa.errors import AgentStartError, NoaError
from noa.model.execution import Assignment, Outcome
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.plugin import AgentConnection, AgentContext, AgentDeclaration, AgentHealth, AgentKind, Observe

if TYPE_CHECKING:
    from noa.sdk.runner import ActionRunner

__all__ = ["InProcessKind"]

log = logging.getLogger("noa.orchestration")


class InProcessKind(AgentKind):
    """An agent object in the engine's process, made by the declaration's `factory`."""

    name = "in-process"

    def check(self, declaration: AgentDeclaration) -> str | None:
        """What is wrong with a declaration."""
        if not callable(declaration.factory):
            return f"agent '{declaration.name}' is in-process and has no factory: give the agent's class as `factory`"
        return None

    def connect(self, declaration: AgentDeclaration, replica: int, context: AgentContext) -> AgentConnection:
        """A connection that is not started yet."""
        return InProcessConnection(declaration, context)

    def describe(self, declaration: AgentDeclaration) -> AgentHealth | None:
        """Who the agent is; makes the object and does not load it. None where it cannot be made."""
        try:
            return _runner(declaration).describe()
        except AgentStartError:
            return None


class InProcessConnection(AgentConnection):
    """An agent object of this process. Heartbeats have no meaning here: nothing can go silent on its own."""

    def __init__(self, declaration: AgentDeclaration, context: AgentContext) -> None:
        self._declaration = declaration
        self._prefix = context.artifacts.prefix
        self._runner: ActionRunner | None = None
        self._guards: dict[ExecutionId, _Guard] = {}

    async def start(self) -> AgentHealth:
        """Make the object and let it prepare."""
        name = self._declaration.name
        runner = _runner(self._declaration)
        limit_s = self._declaration.start_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await runner.load()
        except TimeoutError:
            raise AgentStartError(
                f"agent '{name}' was not loaded within {limit_s:g} s: mend its load, or raise start_timeout_s",
                agent=name,
            ) from None
        health = runner.describe()
        if health.status != "serving":
            raise AgentStartError(f"agent '{name}' cannot work: {health.message or health.status}", agent=name)
        self._runner = runner
        return health

    async def execute(self, assignment: Assignment, observe: Observe) -> Outcome:
        """Do the work in this task (async actions) or in a thread (sync ones)."""
        limit_ms = assignment.timeouts.execution_ms
        guard = _Guard(
            self._ready.execute(
                assignment,
                observe=observe,
                artifact_prefix=self._prefix,
                deadline_s=None if limit_ms is None else time.time() + limit_ms / 1000,
            )
        )
        self._guards[assignment.execution_id] = guard
        try:
            return await guard
        except asyncio.CancelledError:
            if not guard.abandoned:
                raise
            guard.settle()
            return Failure("CANCELLED", "the execution did not end when it was cancelled, and was abandoned")
        finally:
            del self._guards[assignment.execution_id]

    async def health(self) -> AgentHealth:
        """Who the agent is."""
        return self._ready.describe()

    async def cancel(
        self, *, execution: ExecutionId | None = None, run: RunId | None = None, grace_s: float = 5.0, reason: str = ""
    ) -> int:
        """Cancel; work that does not end within the grace is abandoned: a coroutine is closed, a thread runs on."""
        if self._runner is None:
            return 0
        count = await self._runner.cancel(execution=execution, run=run, grace_s=grace_s, reason=reason)
        if execution is not None and (guard := self._guards.get(execution)) is not None:
            guard.abandon()
        return count

    async def close(self, *, grace_s: float = 5.0) -> None:
        """Cancel what still goes on."""
        if self._runner is None:
            return
        for execution in list(self._guards):
            await self.cancel(execution=execution, grace_s=grace_s, reason="the engine ends")

    @property
    def _ready(self) -> ActionRunner:
        if self._runner is None:
            raise AgentStartError(f"agent '{self._declaration.name}' is not started", agent=self._declaration.name)
        return self._runner


class _Guard:
    """Awaits a coroutine in the same task, and can be taken away from it when it ignores its cancellation."""

    __slots__ = ("_before", "_coroutine", "_task", "abandoned")

    def __init__(self, coroutine: Coroutine[Any, Any, Outcome]) -> None:
        self._coroutine = coroutine
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task is not None else 0
        self.abandoned = False

    def abandon(self) -> None:
        """End the wait, whatever the coroutine does."""
        self.abandoned = True
        if self._task is not None:
            self._task.cancel()

    def settle(self) -> None:
        """Undo the cancellations that were tried on the coroutine."""
        while self._task is not None and self._task.cancelling() > self._before:
            self._task.uncancel()

    def __await__(self) -> Generator[Any, Any, Outcome]:
        coroutine = self._coroutine
        error: BaseException | None = None
        while True:
            try:
                waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                result: Outcome = stop.value
                return result
            error = None
            try:
                yield waits_for
            except BaseException as thrown:  # handed on to the coroutine, whatever it is
                if self.abandoned:
                    self._close()
                    raise
                error = thrown

    def _close(self) -> None:
        try:
            self._coroutine.close()
        except RuntimeError:
            log.warning("an action ignores its end: it awaits on while it is closed")


def _runner(declaration: AgentDeclaration) -> ActionRunner:
    from noa.sdk.runner import ActionRunner

    name = declaration.name
    if declaration.factory is None:
        raise AgentStartError(f"agent '{name}' is in-process and has no factory", agent=name, permanent=True)
    try:
        return ActionRunner(declaration.factory())
    except NoaError as error:
        raise AgentStartError(f"agent '{name}': {error.message}", agent=name, permanent=True) from error
    except Exception as error:  # foreign code: an agent's constructor
        raise AgentStartError(
            f"agent '{name}' cannot be made: its factory raised {type(error).__name__}: {error}", agent=name
        ) from error
