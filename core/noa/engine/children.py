"""Sub-workflows: a task that names a workflow is a run of its own, journaled and resumable like any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

from noa.engine.live import Running
from noa.engine.run import LiveRun
from noa.engine.state import RunState
from noa.errors import ConflictError, RunNotFoundError, RunStateError
from noa.model.execution import Assignment, Outcome, Succeeded
from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId, execution_id, parse_execution_id
from noa.model.plan import Plan

__all__ = ["Children"]


class _Runs(Protocol):
    """What is needed of the engine."""

    async def start(
        self, plan: Plan, inputs: Mapping[str, Any], *, run_id: RunId, parent: str, output_uri: str, mode: str
    ) -> Running: ...

    async def resume(self, run: RunId, *, plan: Plan) -> Running: ...

    async def reopen(self, run: RunId, *, rollback: bool = False, reason: str = "", plan: Plan) -> Running: ...

    async def folded(self, run: RunId, plan: Plan) -> RunState: ...


class Children:
    """Runs sub-workflows for the tasks that name them.

    A child's id is made from its execution's, so that an engine that resumes the parent finds the child again.
    """

    def __init__(self, runs: _Runs) -> None:
        self._runs = runs
        self._going: dict[ExecutionId, Running | None] = {}
        self._cancelled: dict[ExecutionId, str] = {}

    async def execute(self, parent: LiveRun, assignment: Assignment, name: str) -> Outcome:
        """Run the child of this name to its end, or go on with it where it was begun before."""
        execution = assignment.execution_id
        plan = parent.state.plan.children[name]
        node = parent.state.tasks[assignment.task]
        run = _child_of(execution_id(assignment.run_id, assignment.task, node.child) if node.child else execution)
        inputs = assignment.inputs
        if parent.state.tasks[assignment.task].plan.inputs is None and not plan.open_inputs:
            inputs = {key: value for key, value in inputs.items() if key in plan.inputs}
        self._going[execution] = None
        try:
            begin = self._reopen if node.child else self._begin
            if node.child and await self._undone(run, plan):
                run, begin = _child_of(execution), self._begin
            child = self._going[execution] = await begin(run, plan, assignment, inputs, parent.state.mode)
            if execution in self._cancelled:
                await child.cancel(reason=self._cancelled[execution])
            state = await child.wait()
        except RunStateError:
            state = await self._runs.folded(run, plan)
        finally:
            del self._going[execution]
            self._cancelled.pop(execution, None)
        return _outcome(state)

    async def cancel(self, execution: ExecutionId, reason: str) -> None:
        """Ask the child of an execution to end, also one that only begins; `execute` then gives CANCELLED."""
        self._cancelled[execution] = reason
        child = self._going.get(execution)
        if child is not None:
            await child.cancel(reason=reason)

    async def undo(self, parent: LiveRun, assignment: Assignment, name: str) -> Outcome:
        """Undo every child that attempts of the undone task have begun; what was undone already stays so."""
        plan = parent.state.plan.children[name]
        task = parent.state.tasks[assignment.task].undoes
        assert task is not None
        for attempt in range(task.attempt, 0, -1):
            run = _child_of(execution_id(assignment.run_id, task.path, attempt))
            try:
                state = await self._rolled_back(run, plan, assignment.execution_id)
            except RunNotFoundError:
                continue  # the attempt ended before it had begun a run
            if state.status != "rolled_back":
                return _outcome(state)
        return Succeeded()

    async def _rolled_back(self, run: RunId, plan: Plan, execution: ExecutionId) -> RunState:
        try:
            state = await self._runs.folded(run, plan)
            if not state.finished:
                child = await self._runs.resume(run, plan=plan)
                state = await self._ended(child, execution)
            if state.status == "rolled_back":
                return state
            child = await self._runs.reopen(run, rollback=True, reason="its parent is undone", plan=plan)
            return await self._ended(child, execution)
        except RunStateError:
            return await self._runs.folded(run, plan)

    async def _ended(self, child: Running, execution: ExecutionId) -> RunState:
        self._going[execution] = child
        try:
            return await child.wait()
        finally:
            del self._going[execution]

    async def _undone(self, run: RunId, plan: Plan) -> bool:
        """Whether nothing of a child is left to go on with."""
        try:
            return (await self._runs.folded(run, plan)).status == "rolled_back"
        except RunNotFoundError:
            return False

    async def _reopen(
        self, run: RunId, plan: Plan, assignment: Assignment, inputs: dict[str, Any], mode: str
    ) -> Running:
        """Go on with the child of an earlier attempt, whose own work that succeeded is then kept."""
        try:
            return await self._runs.reopen(run, reason="its parent is tried again", plan=plan)
        except RunNotFoundError:
            return await self._begin(run, plan, assignment, inputs, mode)
        except RunStateError:
            return await self._runs.resume(run, plan=plan)

    async def _begin(
        self, run: RunId, plan: Plan, assignment: Assignment, inputs: dict[str, Any], mode: str
    ) -> Running:
        try:
            return await self._runs.start(
                plan,
                inputs,
                run_id=run,
                parent=assignment.execution_id,
                output_uri=assignment.output_uri,
                mode=mode,
            )
        except ConflictError:
            return await self._runs.resume(run, plan=plan)


def _child_of(execution: ExecutionId) -> RunId:
    """The run that does an execution; made from its id, so that an engine that resumes the parent finds it again."""
    run = parse_execution_id(execution)[0]
    return RunId(f"{run}.{hashlib.sha256(execution.encode()).hexdigest()[:10]}")


def _outcome(state: RunState) -> Outcome:
    if state.status == "succeeded":
        return Succeeded(state.outputs)
    name = f"sub-workflow '{state.plan.name}' (run {state.run_id})"
    if state.status == "cancelled":
        return Failure("CANCELLED", f"{name} was cancelled", details={"run": state.run_id})
    return Failure("SUBWORKFLOW_FAILED", f"{name} {state.status}", details={"run": state.run_id}, cause=state.failure)
