"""Executes the actions of one agent object, without gRPC: what the sidecar server and the in-process kind share.

A runner belongs to one event loop. Async actions run in the task that calls `execute`, sync actions in a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import difflib
import inspect
import logging
import os
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from noa.errors import NoaError
from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId
from noa.plugin import ActionInfo, AgentHealth, Observe
from noa.sdk.agent import Agent, Marked, marked_actions
from noa.sdk.context import Context
from noa.sdk.failures import ActionCancelled, ActionFailed, printable
from noa.sdk.signature import Inputs, Outputs, invalid_input, type_hints
from noa.sdk.threads import ThreadPool

__all__ = ["ActionRunner"]

log = logging.getLogger("noa.sdk")
_TRACEBACK_LINES = 20


class _Action:
    """An action, ready to be called."""

    __slots__ = ("bind", "context", "function", "info", "is_async", "outputs")

    def __init__(self, agent: Agent, mark: Marked, function: Callable[..., Any]) -> None:
        where = f"agent '{agent.name}', action '{mark.name}'"
        hints = type_hints(function, where)
        inputs = Inputs(function, hints, where)
        self.function = function
        self.bind = inputs.bind
        self.context = inputs.context
        self.outputs = Outputs(hints.get("return", Any), where)
        self.is_async = inspect.iscoroutinefunction(function)
        self.info = ActionInfo(mark.name, mark.description, inputs.schema, self.outputs.schema, mark.idempotent)


class _Execution:
    """An execution that goes on, as `cancel` needs it.

    Attributes:
        task: Where an async action runs; `asked` counts how often it was cancelled here.
        abandon: The result of an action in a thread, to be set in its place where it does not end.
        begun: Whether a thread has taken it up.
        ended: Made by the first who waits for the end.
    """

    __slots__ = ("abandon", "asked", "begun", "context", "ended", "run_id", "task")

    def __init__(self, context: Context, run_id: RunId) -> None:
        self.context = context
        self.run_id = run_id
        self.task: asyncio.Task[Any] | None = None
        self.asked = 0
        self.begun = False
        self.abandon: asyncio.Future[Outcome] | None = None
        self.ended: asyncio.Future[None] | None = None

    def cancel_task(self) -> None:
        """Cancel an async action."""
        if self.task is not None:
            self.asked += 1
            self.task.cancel()

    def uncancel_task(self) -> None:
        """Take back what `cancel_task` did, because the task is the caller's and goes on."""
        while self.task is not None and self.asked and self.task.cancelling():
            self.asked -= 1
            self.task.uncancel()


class ActionRunner:
    """Executes the actions of an agent.

    Args:
        agent: The agent object.
        also: Others whose actions are offered too where the agent has none of that name, and who release with it.

    Raises:
        PluginError: The agent is declared wrongly; the message names the action and the parameter.
    """

    def __init__(self, agent: Agent, *, also: Sequence[Agent] = ()) -> None:
        self.agent = agent
        self._actions: dict[str, _Action] = {}
        for one in (agent, *also):
            for name, (mark, function) in marked_actions(one).items():
                if name not in self._actions:
                    self._actions[name] = _Action(one, mark, function)
        self._releasing = [one for one in (agent, *also) if one.on_release is not None]
        self._executions: dict[ExecutionId, _Execution] = {}
        self._releases: dict[RunId, asyncio.Future[None]] = {}
        self._threads = ThreadPool(agent.capacity or min(32, (os.cpu_count() or 1) + 4), f"noa-{agent.name}")
        self._loaded = agent.load is None
        self._load_error = ""

    def describe(self) -> AgentHealth:
        """Who the agent is and whether it can take work."""
        agent = self.agent
        status = "not_serving" if self._load_error else "serving" if self._loaded else "starting"
        return AgentHealth(
            status=status,  # type: ignore[arg-type]  # a conditional of literals is a str to the checker
            name=agent.name,
            language=agent.language,
            version=agent.version,
            message=self._load_error,
            actions=tuple(action.info for action in self._actions.values()),
            capacity=agent.capacity,
            in_flight=len(self._executions),
        )

    @property
    def can_hold(self) -> bool:
        """Whether something may be held for a run."""
        return bool(self._releasing)

    async def load(self) -> None:
        """Prepare the agent: its own `load`, once. Where that raises, `describe` says not_serving and why."""
        if self._loaded:
            return
        try:
            await _call_hook(self.agent, "load")
        except Exception as error:  # foreign code: whatever the agent's load raises
            self._load_error = f"{self.agent.name} could not be loaded: {type(error).__name__}: {error}"
            log.exception("%s", self._load_error)
        else:
            self._loaded, self._load_error = True, ""

    async def execute(
        self,
        assignment: Assignment,
        *,
        observe: Observe,
        artifact_prefix: str = "",
        deadline_s: float | None = None,
    ) -> Outcome:
        """Do the work. Never raises for failing work.

        Args:
            assignment: What is asked.
            observe: Takes what is seen on the way; called on this event loop's thread.
            artifact_prefix: `file:///…/` below which artifacts are created; empty where there is no store.
            deadline_s: Shown to the action (seconds since the epoch); who calls enforces it.

        Raises:
            asyncio.CancelledError: The calling task was cancelled, not the execution; the action was told to end.
        """
        action = self._actions.get(assignment.action)
        if action is None:
            return self._unknown(assignment.action)
        try:
            arguments = {} if action.bind is None else action.bind(assignment.inputs)
        except ValidationError as error:
            return invalid_input(assignment.action, error).to_failure(source=self.agent.name)
        context = Context(assignment, observe, artifact_prefix, deadline_s)
        if action.context:
            arguments[action.context] = context
        execution = _Execution(context, assignment.run_id)
        self._executions[assignment.execution_id] = execution
        try:
            if action.is_async:
                return await self._run_async(action, execution, arguments)
            return await self._run_in_thread(action, execution, arguments)
        finally:
            if self._executions.get(assignment.execution_id) is execution:
                del self._executions[assignment.execution_id]
            if context._pending:
                context._flush()
            if execution.ended is not None:
                execution.ended.set_result(None)

    async def _run_async(self, action: _Action, execution: _Execution, arguments: dict[str, Any]) -> Outcome:
        context = execution.context
        task = execution.task = asyncio.current_task()
        try:
            outputs = action.outputs.to_json(await action.function(**arguments))
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling() > execution.asked:
                context._cancel("the caller went away")
                raise
            if not context._cancelled:  # nobody asked: the action awaited something that was cancelled
                return self._failure(error)
            outcome: Outcome = self._was_cancelled(context)
        except (Exception, SystemExit) as error:  # foreign code: whatever an action raises
            outcome = self._failure(error)
        else:
            outcome = Succeeded(outputs)
        if not context._cancelled:
            return outcome
        execution.uncancel_task()
        return self._was_cancelled(context)

    async def _run_in_thread(self, action: _Action, execution: _Execution, arguments: dict[str, Any]) -> Outcome:
        context = execution.context
        loop = context._loop
        finished: asyncio.Future[Outcome] = loop.create_future()
        execution.abandon = finished
        variables = contextvars.copy_context()

        def work() -> None:
            execution.begun = True
            outcome = variables.run(self._call_sync, action, context, arguments)
            try:
                loop.call_soon_threadsafe(_resolve, finished, outcome)
            except RuntimeError:
                log.warning("%s ended after its event loop was closed", context.execution_id)

        self._threads.submit(work)
        try:
            outcome = await finished
        except asyncio.CancelledError:
            context._cancel("the caller went away")
            raise
        return self._was_cancelled(context) if context._cancelled else outcome

    def _call_sync(self, action: _Action, context: Context, arguments: dict[str, Any]) -> Outcome:
        """Call a sync action. In a worker thread."""
        try:
            context.check_cancelled()
            return Succeeded(action.outputs.to_json(action.function(**arguments)))
        except BaseException as error:  # foreign code; in a thread of ours nothing may pass
            return self._failure(error)

    def has(self, execution: ExecutionId) -> bool:
        """Whether an action works on this execution now."""
        return execution in self._executions

    async def cancel(
        self, *, execution: ExecutionId | None = None, run: RunId | None = None, grace_s: float = 5.0, reason: str = ""
    ) -> int:
        """Cancel one execution, or release everything held for a run; returns when it has ended, at most after grace.

        An execution in a thread that has not ended by then is abandoned: `execute` returns, the thread ends when it
        can.

        Args:
            execution: What to cancel; else
            run: the run of which everything is released (`Agent.on_release` included).
            grace_s: How long the work may take to end by itself, in seconds.
            reason: Why, for the failure's message.

        Returns:
            How many executions and held things were told to end and had not been told before.
        """
        found = [
            one for key, one in self._executions.items() if key == execution or (run is not None and one.run_id == run)
        ]
        told = 0
        for one in found:
            if not one.context._cancelled:
                told += 1
                one.context._cancel(reason)
                one.cancel_task()
                if one.abandon is not None and not one.begun:
                    # It waits for a thread; the thread that takes it up finds it cancelled and does nothing.
                    _resolve(one.abandon, self._was_cancelled(one.context))
        await self._wait_ended(found, grace_s)
        if run is not None and self._releasing:
            told += await self._release(run)
        return told

    async def _release(self, run: RunId) -> int:
        """Call `on_release`, for one run once at a time: a second call waits and finds what the first one left."""
        while (before := self._releases.get(run)) is not None:
            await asyncio.wait([before])
        going = self._releases[run] = asyncio.get_running_loop().create_future()
        try:
            return sum([await self._release_one(agent, run) for agent in self._releasing])
        finally:
            del self._releases[run]
            going.set_result(None)

    async def _release_one(self, agent: Agent, run: RunId) -> int:
        """Call an agent's `on_release`. What raises counts as released: nobody can say that nothing was held."""
        try:
            released = await _call_hook(agent, "on_release", run)
        except Exception:  # foreign code: whatever the agent's on_release raises
            log.exception("%s: on_release(%r) failed", agent.name, run)
            return 1
        return max(0, released) if isinstance(released, int) else 0

    async def _wait_ended(self, found: list[_Execution], grace_s: float) -> None:
        own = asyncio.current_task()
        waiting = []
        for one in found:
            if one.task is own and own is not None:
                continue  # an action that cancels its own run must not wait for itself
            if one.ended is None:
                one.ended = asyncio.get_running_loop().create_future()
            waiting.append(one.ended)
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=grace_s)
        if not late:
            return
        for one in found:
            if one.ended in late:
                self._abandon(one)
        await asyncio.sleep(0)

    def _abandon(self, one: _Execution) -> None:
        log.warning("%s: %s did not end within its grace and was abandoned", self.agent.name, one.context.execution_id)
        if one.abandon is not None:
            _resolve(one.abandon, self._was_cancelled(one.context))
        else:
            one.cancel_task()  # it kept the first one to itself

    def _unknown(self, name: str) -> Failure:
        known = sorted(self._actions)
        near = difflib.get_close_matches(name, known, 1)
        return Failure(
            code="UNKNOWN_ACTION",
            message=f"agent '{self.agent.name}' has no action '{name}'. Known: {', '.join(known)}."
            + (f" Did you mean '{near[0]}'?" if near else ""),
            details={"action": name, "known": known},
            source=self.agent.name,
        )

    def _was_cancelled(self, context: Context) -> Failure:
        reason = f": {context._reason}" if context._reason else ""
        return Failure(code="CANCELLED", message=f"the execution was cancelled{reason}", source=self.agent.name)

    def _failure(self, error: BaseException) -> Failure:
        source = self.agent.name
        if isinstance(error, ActionFailed):
            return error.to_failure(source=source)
        if isinstance(error, NoaError):
            return Failure(error.code, error.message, details=dict(error.parts), source=source)
        if isinstance(error, ActionCancelled):
            return Failure(code="CANCELLED", message="the execution was cancelled", source=source)
        kind = type(error).__name__
        lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
        return Failure(
            code="INTERNAL",
            message=printable(f"{kind}: {error}" if str(error) else kind),
            details={"type": kind, "traceback": [printable(line) for line in lines[-_TRACEBACK_LINES:]]},
            source=source,
        )


def _resolve(finished: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not finished.done():
        finished.set_result(outcome)


async def _call_hook(agent: Agent, name: str, *arguments: Any) -> Any:
    hook = getattr(agent, name)
    if inspect.iscoroutinefunction(hook):
        return await hook(*arguments)
    # Not in the actions' pool: a full pool must not delay a release.
    return await ThreadPool(1, f"noa-{agent.name}-{name}").run(partial(hook, *arguments))
