"""Faults of Cancel."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

from noa.agent.v1 import agent_service_pb2 as pb

from .actions import Actions
from .agent import GRACE_S, ReferenceAgent
from .executions import Execution, Executions
from .fault import fault
from .messages import WorkFailed, failed


@fault(
    "cancel.running:code",
    "aborted",
    "not failed(cancelled)",
    also={
        "cancel.at-once": "it looks at how the stream of a cancelled execution ends, as cancel.running does",
        "cancel.grace": "it looks at how the stream of a cancelled execution ends, as cancel.running does",
    },
)
class HasACodeOfItsOwn(ReferenceAgent):
    """Work that was cancelled by its id ends with another code."""

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        return super().cancel_execution(execution_id, WorkFailed("ABORTED", why.message), grace_s)


@fault("cancel.running", "already_finished")
class SaysItWhenItHasEnded(ReferenceAgent):
    """Without a grace it answers a Cancel as if it had come after the end."""

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        answer = super().cancel_execution(execution_id, why, grace_s)
        if grace_s == GRACE_S and answer.outcome == pb.CANCEL_OUTCOME_CANCELLED:
            answer.outcome = pb.CANCEL_OUTCOME_ALREADY_FINISHED
        return answer


@fault("cancel.twice", "second cancel", "unknown")
class KnowsItNoMore(ReferenceAgent):
    """Cancels, and says at the second time that it never knew the execution."""

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        execution = self.executions.find(execution_id)
        if execution is not None and execution.why is not None and execution.why.code == "CANCELLED":
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)
        return super().cancel_execution(execution_id, why, grace_s)


@fault("cancel.finished", "already_finished")
class CancelsWhatHasEnded(ReferenceAgent):
    """Says of what has ended that it cancelled it."""

    def on_cancel_finished(self, execution: Execution) -> pb.CancelResponse:
        if execution.why is None:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)
        return super().on_cancel_finished(execution)


@fault("cancel.finished:result", "another result")
class ForgetsTheResult(ReferenceAgent):
    """Turns the result of work that had ended by itself into a cancellation."""

    def on_cancel_finished(self, execution: Execution) -> pb.CancelResponse:
        if execution.why is None:
            execution.terminal = failed(WorkFailed("CANCELLED", "cancelled after the end"))
        return super().on_cancel_finished(execution)


@fault("cancel.unknown", "cancelled before it came")
class RemembersWhatItNeverKnew(ReferenceAgent):
    """Takes a Cancel that comes first for one of the execution that comes later."""

    asked_for: set[str] = set()

    def on_cancel_unknown(self, target: str) -> pb.CancelResponse:
        self.asked_for.add(target)
        return super().on_cancel_unknown(target)

    def begin(self, request: pb.ExecuteRequest) -> Execution:
        execution = super().begin(request)
        if request.execution_id in self.asked_for:
            self.executions.tell_to_end(execution, WorkFailed("CANCELLED", "cancelled before it came"), 0)
        return execution


@fault("cancel.unknown:outcome", "never seen", "already_finished")
class HasFinishedEverything(ReferenceAgent):
    """Says of what it never saw that it has ended."""

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        if self.executions.find(execution_id) is None:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_ALREADY_FINISHED)
        return super().cancel_execution(execution_id, why, grace_s)


@fault("cancel.run", "count 3", "2 executions")
class CancelsEveryRun(Executions):
    """Cancels what goes on for any run."""

    def of_run(self, run_id: str) -> list[Execution]:
        return list(self.active.values())


@fault("cancel.run:count", "count 1", "2 executions")
class CountsTheRun(ReferenceAgent):
    """Counts the run and not its executions."""

    async def cancel_run(self, run_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        answer = await super().cancel_run(run_id, why, grace_s)
        answer.cancelled = min(answer.cancelled, 1)
        return answer


@fault("cancel.run:again", "second cancel of a run", "unknown")
class AlwaysFindsSomething(ReferenceAgent):
    """Says again and again that it has cancelled a run whose executions it once cancelled."""

    cancelled: set[str] = set()

    async def cancel_run(self, run_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        if self.executions.of_run(run_id):
            self.cancelled.add(run_id)
        answer = await super().cancel_run(run_id, why, grace_s)
        if run_id in self.cancelled:
            answer.outcome = pb.CANCEL_OUTCOME_CANCELLED
        return answer


@fault("cancel.run-children", "child process", "still ran")
class ReleasesAtItsOwnEnd(Actions):
    """Keeps what a run held until the agent ends."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[subprocess.Popen[bytes]] = []

    def release(self, run_id: str) -> None:
        self.kept += self.held.pop(run_id, [])

    def release_all(self) -> None:
        super().release_all()
        for child in self.kept:
            self.end_child(child)


@fault("cancel.at-once", "ten cancels at once counted")
class LooksThenCounts(ReferenceAgent):
    """Looks whether it was cancelled, does something else, then counts."""

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        execution = self.executions.active.get(request.execution_id)
        first = execution is not None and execution.why is None
        await asyncio.sleep(0.2)
        answer = await super().Cancel(request, context)
        if first:
            answer = pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)
        return answer


@fault("cancel.target", "invalid_argument")
class NeedsNoTarget(ReferenceAgent):
    """Finds nothing where nothing was named."""

    async def on_no_target(self, context: Any) -> pb.CancelResponse:
        return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_UNKNOWN)


@fault("cancel.grace", "after its cancel", "arrived")
class TakesNoGraceForEver(ReferenceAgent):
    """Takes a grace of zero for time without end."""

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        if grace_s == 0 and execution_id in self.executions.active:
            return pb.CancelResponse(outcome=pb.CANCEL_OUTCOME_CANCELLED, cancelled=1)
        return super().cancel_execution(execution_id, why, grace_s)
