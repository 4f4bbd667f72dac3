"""Faults of Execute: how work ends, is repeated, refused, and what lies in files."""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any

from noa.agent.v1 import agent_service_pb2 as pb
from noa.agent.v1.payload_pb2 import Artifact, Payload

from .actions import Actions
from .agent import ReferenceAgent
from .executions import Execution
from .fault import fault
from .messages import WorkFailed, failed
from .payloads import Payloads


@fault("execute.failure", "retryable")
class ForgetsWhatIsRetryable(Actions):
    """Loses whether another attempt may succeed."""

    def fail(self, how: dict[str, Any]) -> None:
        super().fail(how | {"retryable": False})


@fault("execute.failure:code", "code")
class HasOneCode(Actions):
    """Fails with a code of its own whatever the work says."""

    def fail(self, how: dict[str, Any]) -> None:
        super().fail(how | {"code": "FAILED"})


@fault("execute.panic", "retryable")
class HopesForNoPanic(ReferenceAgent):
    """Has the engine try again what panicked."""

    def panicked(self, error: Exception) -> pb.ExecuteResponse:
        return failed(WorkFailed("INTERNAL", str(error), retryable=True))


@fault("execute.panic:dies", "unavailable", "ended with status 101")
class DiesOfAPanic(Actions):
    """One execution's panic ends the process, and all others with it."""

    def panic(self) -> None:
        os._exit(101)


@fault("execute.deadline-met", "deadline")
class HasNoTimeLeft(ReferenceAgent):
    """Calls every answer late that has a deadline."""

    def on_work_done(self, execution: Execution, work: asyncio.Task[pb.ExecuteResponse]) -> None:
        if execution.deadline is not None and execution.why is None:
            execution.why = self.too_late()
        super().on_work_done(execution, work)


@fault(
    "execute.deadline-missed",
    "sleeps past its deadline",
    also={"cancel.finished": "it cancels, among others, an execution that its deadline has ended"},
)
class KnowsNoDeadline(ReferenceAgent):
    """Goes on after the deadline."""

    def on_deadline(self, execution: Execution) -> None:
        pass


@fault("execute.deadline-missed:code", "deadline_exceeded")
class CancelsAtTheDeadline(ReferenceAgent):
    """Ends work at its deadline as if it had been cancelled."""

    def on_deadline(self, execution: Execution) -> None:
        self.executions.tell_to_end(execution, WorkFailed("CANCELLED", "the deadline passed"), 5)


@fault("execute.deadline-past", "deadline")
class TakesThePastForNever(ReferenceAgent):
    """Takes a deadline that is past for none."""

    def remaining_s(self, request: pb.ExecuteRequest) -> float:
        remaining_s = super().remaining_s(request)
        return remaining_s if remaining_s > 0 else float("inf")


@fault("execute.join", "done twice")
class WorksTwiceAtOnce(ReferenceAgent):
    """Begins the work again while it goes on, and says that it joined."""

    def find(self, request: pb.ExecuteRequest) -> Execution | None:
        if request.execution_id in self.executions.active and not self.draining:
            return self.begin(request)
        return super().find(request)


class _Forgetful(ReferenceAgent):
    """Keeps only those results that a Cancel has asked about."""

    asked_for: set[str] = set()

    def cancel_execution(self, execution_id: str, why: WorkFailed, grace_s: float) -> pb.CancelResponse:
        self.asked_for.add(execution_id)
        return super().cancel_execution(execution_id, why, grace_s)

    def forgot(self, request: pb.ExecuteRequest) -> bool:
        """Whether an execution has ended and its result is not kept."""
        return request.execution_id in self.executions.results and request.execution_id not in self.asked_for


@fault("execute.repeat", "has ended", "joined=false")
class ForgetsAtOnce(_Forgetful):
    """Forgets an execution when it has ended, and does the work again."""

    def find(self, request: pb.ExecuteRequest) -> Execution | None:
        return None if self.forgot(request) else super().find(request)


@fault("execute.repeat:work", "done twice")
class WorksAgainAndSaysItJoined(_Forgetful):
    """Says that it repeats the result, and does the work again."""

    def find(self, request: pb.ExecuteRequest) -> Execution | None:
        return self.begin(request) if self.forgot(request) else super().find(request)


@fault("execute.hang-up", "cancelled", "the client has gone")
class EndsWithItsClient(ReferenceAgent):
    """Cancels the work when the stream breaks."""

    def on_stream_end(self, execution: Execution, context: Any) -> None:
        if execution.terminal is None:
            self.executions.tell_to_end(execution, WorkFailed("CANCELLED", "the client has gone"), 0)


@fault("execute.input-reference", "size")
class TrustsTheReference(Payloads):
    """Does not look at the size of what it reads."""

    def read_artifact(self, artifact: Artifact) -> bytes:
        return self.path_of(artifact.uri).read_bytes()


@fault("execute.input-reference:unread", "by reference")
class ReadsNoArtifact(Payloads):
    """Knows inline inputs only, and takes an artifact for nothing."""

    def read_artifact(self, artifact: Artifact) -> bytes:
        return b"{}"


@fault("execute.output-reference", "sha256")
class NamesAnotherHash(Payloads):
    """Names a hash that is not the content's."""

    def write_artifact(self, data: bytes, prefix: str) -> Artifact:
        artifact = super().write_artifact(data, prefix)
        artifact.sha256 = hashlib.sha256(b"").hexdigest()
        return artifact


@fault("execute.output-reference:inline", "inline", "262144")
class SendsAllInline(Payloads):
    """Has no limit for inline outputs."""

    def write_output(self, output: dict[str, Any], prefix: str) -> Payload:
        import json

        return Payload(inline=json.dumps(output).encode()[:4_000_000])


@fault("execute.output-reference:name", "name")
class NamesFilesAsItLikes(Payloads):
    """Puts the artifact where it likes."""

    def write_artifact(self, data: bytes, prefix: str) -> Artifact:
        sha256 = hashlib.sha256(data).hexdigest()
        self.write_file(data, self.path_of(prefix) / "out" / sha256)
        return Artifact(uri=f"{prefix}out/{sha256}", size_bytes=len(data), sha256=sha256)


@fault("execute.output-reference:size", "size")
class CountsCharacters(Payloads):
    """Announces another size than the file has."""

    def write_artifact(self, data: bytes, prefix: str) -> Artifact:
        artifact = super().write_artifact(data, prefix)
        artifact.size_bytes -= 1
        return artifact


@fault("execute.many", "another one's answer")
class MixesUpAnswers(Actions):
    """Under load, an answer goes to somebody else."""

    latest: dict[str, Any] = {}
    going_on = 0

    async def echo(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        self.latest, self.going_on = inputs, self.going_on + 1
        try:
            output = await super().echo(execution, inputs)
            return {"echo": self.latest} if self.going_on > 4 else output
        finally:
            self.going_on -= 1


@fault("execute.capacity", "retry_after")
class DoesNotSayWhenToComeBack(ReferenceAgent):
    """Refuses without saying how long to wait."""

    def overloaded(self, why: str) -> WorkFailed:
        if "capacity" in why:
            return WorkFailed("OVERLOADED", why, retryable=True)
        return super().overloaded(why)


@fault("execute.capacity:final", "retryable")
class RefusesForEver(ReferenceAgent):
    """Refuses as if it made no sense to ask again."""

    def overloaded(self, why: str) -> WorkFailed:
        if "capacity" in why:
            return WorkFailed("OVERLOADED", why, retry_after_s=0.5)
        return super().overloaded(why)


@fault("execute.capacity:unbounded", "capacity of 64", "completed")
class TakesAllThatComes(ReferenceAgent):
    """Announces a capacity and takes more."""

    def is_full(self) -> bool:
        return False


@fault("execute.overloaded-again", "again")
class RemembersRefusals(ReferenceAgent):
    """Repeats a refusal when there is room."""

    def on_refused(self, request: pb.ExecuteRequest, refusal: WorkFailed) -> None:
        if "capacity" in refusal.message:
            self.executions.finish(self.executions.begin(request), failed(refusal))
