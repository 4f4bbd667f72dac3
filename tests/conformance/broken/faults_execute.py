"""Faults of Execute: streams and inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

from noa.agent.v1 import agent_service_pb2 as pb

from .actions import Action, Actions
from .agent import ReferenceAgent
from .executions import Execution
from .fault import fault
from .messages import WorkFailed, heartbeat, is_terminal
from .payloads import Payloads


@fault("execute.accepted", "first message", "heartbeat")
class BeginsWithAHeartbeat(ReferenceAgent):
    """Says something before `accepted`."""

    def first_message(self, joined: bool) -> pb.ExecuteResponse:
        return super().first_message(joined) if joined else heartbeat()


@fault("execute.accepted:joined", "first message", "joined=true")
class JoinsWhatIsNew(ReferenceAgent):
    """Says of new work that it was there already."""

    def first_message(self, joined: bool) -> pb.ExecuteResponse:
        return super().first_message(True)


@fault("execute.terminal", "2 terminal messages")
class SaysItTwice(ReferenceAgent):
    """Sends the terminal message of work that went well a second time."""

    async def messages(
        self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float
    ) -> AsyncIterator[pb.ExecuteResponse]:
        async for message in super().messages(queue, interval_s):
            yield message
            if message.WhichOneof("event") == "completed":
                yield message


@fault("execute.terminal:last", "after its terminal message", "heartbeat")
class GoesOnAfterTheEnd(ReferenceAgent):
    """Sends a heartbeat after the terminal message."""

    async def messages(
        self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float
    ) -> AsyncIterator[pb.ExecuteResponse]:
        async for message in super().messages(queue, interval_s):
            yield message
            if is_terminal(message):
                yield heartbeat()


@fault("execute.terminal:status", "aborted")
class EndsWithAStatus(ReferenceAgent):
    """Says how the work ended, and then ends the call as if it had not."""

    async def Execute(  # noqa: N802
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        async for message in super().Execute(request, context):
            yield message
        if not self.draining:
            await context.abort(grpc.StatusCode.ABORTED, "the work is over")


@fault("execute.output", "output_schema at pid")
class AnswersWhatItDidNotAnnounce(Actions):
    """The output breaks the announced output schema."""

    async def echo(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"pid": "none"} | await super().echo(execution, inputs)


@fault("execute.output:input", "gave back")
class LosesPartOfTheInput(Actions):
    """Takes null for nothing."""

    def echoed(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        def kept(value: Any) -> Any:
            if isinstance(value, list):
                return [kept(item) for item in value if item is not None]
            return value

        return {name: kept(value) for name, value in inputs.items()}


@fault("execute.heartbeats", "nothing arrived", "accepted")
class HasNoHeartbeat(ReferenceAgent):
    """Says nothing while there is nothing to say."""

    async def next_message(self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float) -> pb.ExecuteResponse:
        return await queue.get()


@fault("execute.heartbeats:default", "nothing arrived", "accepted")
class KnowsOneInterval(ReferenceAgent):
    """Sends heartbeats once a minute whatever was asked for."""

    async def next_message(self, queue: asyncio.Queue[pb.ExecuteResponse], interval_s: float) -> pb.ExecuteResponse:
        return await super().next_message(queue, 60)


@fault("execute.progress", "fractions fell", "0.5")
class FallsBack(Actions):
    """The last fraction is less than the one before."""

    def progress(self, number: int, count: int) -> pb.Progress:
        made = super().progress(number, count)
        made.fraction = 0.5 if number == count else made.fraction
        return made


@fault("execute.progress:percent", "fractions are not between 0 and 1")
class SpeaksInPercent(Actions):
    """The fractions go to 100."""

    def progress(self, number: int, count: int) -> pb.Progress:
        made = super().progress(number, count)
        made.fraction *= 100
        return made


@fault("execute.observations", "log lines", "49")
class DropsALine(Actions):
    """Loses the last log line."""

    def logs(self, count: int) -> Iterator[pb.ExecuteResponse]:
        return super().logs(max(count - 1, 0))


@fault("execute.observations:order", "number 1 was 'chunk 50'")
class SendsChunksBackwards(Actions):
    """The output arrives in the wrong order."""

    def chunks(self, count: int) -> Iterator[pb.ExecuteResponse]:
        return iter(list(super().chunks(count))[::-1])


@fault("execute.unset-input", "invalid_input", "there is none")
class WantsAnInput(Payloads):
    """Refuses an input that nobody gave."""

    def unset_input(self) -> dict[str, Any]:
        raise WorkFailed("INVALID_INPUT", "input: there is none")


@fault("execute.unknown-action", "does not name", "count_words")
class DoesNotSayWhatItKnows(Actions):
    """Does not name the actions that there are."""

    def find_action(self, name: str) -> Action:
        if name not in self.actions:
            raise WorkFailed("UNKNOWN_ACTION", "no such action")
        return self.actions[name]


@fault(
    "execute.unknown-action:status",
    "unimplemented",
    also={"execute.terminal": "a call that ends with a status has no terminal message"},
)
class AnswersAnUnknownActionWithAStatus(ReferenceAgent):
    """Ends the call instead of failing the work."""

    async def Execute(  # noqa: N802
        self, request: pb.ExecuteRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        await self.authenticate(request, context)
        if request.action and request.run_id and request.execution_id and request.action not in self.work.actions:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such action")
        async for message in super().Execute(request, context):
            yield message


@fault("execute.unknown-action:retryable", "retryable")
class HopesForAnotherAction(Actions):
    """Has the engine try an unknown action again."""

    def find_action(self, name: str) -> Action:
        try:
            return super().find_action(name)
        except WorkFailed as failure:
            raise WorkFailed(failure.code, failure.message, retryable=True) from None


@fault("execute.not-json", "broken json", "completed")
class TakesWhatIsBrokenForEmpty(Payloads):
    """Takes what is not JSON for an empty object."""

    def parse(self, data: bytes) -> dict[str, Any]:
        try:
            return super().parse(data)
        except WorkFailed:
            return {}


@fault("execute.not-json:list", "a list", "completed")
class TakesAList(Payloads):
    """Takes any JSON value, and wraps what is no object."""

    def parse(self, data: bytes) -> dict[str, Any]:
        try:
            return super().parse(data)
        except WorkFailed as failure:
            if "object is expected" in failure.message:
                return {"value": None}
            raise


@fault("execute.not-json:utf-8", "utf-8")
class MendsBrokenText(Payloads):
    """Replaces bytes that are not UTF-8."""

    def parse(self, data: bytes) -> dict[str, Any]:
        return super().parse(data.decode(errors="replace").encode())


@fault("execute.input-schema", "does not name the field")
class SaysOnlyThatItIsWrong(Actions):
    """Refuses an input without naming the field."""

    def check_input(self, action: Action, inputs: dict[str, Any]) -> None:
        try:
            super().check_input(action, inputs)
        except WorkFailed:
            raise WorkFailed("INVALID_INPUT", "the input is wrong") from None


@fault("execute.input-schema:ignored", "echo")
class LooksAtNoSchema(Actions):
    """Announces a schema and looks at no input."""

    def check_input(self, action: Action, inputs: dict[str, Any]) -> None:
        pass


@fault("execute.input-schema:own", "count_words")
class ChecksEchoOnly(Actions):
    """Looks at the inputs of the testing action, not at those of its own."""

    def check_input(self, action: Action, inputs: dict[str, Any]) -> None:
        if action.name == "echo":
            super().check_input(action, inputs)


@fault("execute.names", "run_id")
class NeedsNoRun(ReferenceAgent):
    """Takes work that belongs to no run."""

    def required_fields(self) -> tuple[str, ...]:
        return ("execution_id", "action")


@fault("execute.names:action", "action")
class NeedsNoAction(ReferenceAgent):
    """Takes an empty action for one that it does not know."""

    def required_fields(self) -> tuple[str, ...]:
        return ("execution_id", "run_id")


@fault("execute.id-length", "513")
class TakesIdsOfAnyLength(ReferenceAgent):
    """Has no limit for ids."""

    def problem_of(self, request: pb.ExecuteRequest) -> str:
        problem = super().problem_of(request)
        return "" if "at most" in problem else problem


@fault("execute.id-length:short", "invalid_argument", "too long")
class TakesShortIdsOnly(ReferenceAgent):
    """Refuses an id that is as long as may be."""

    def problem_of(self, request: pb.ExecuteRequest) -> str:
        return super().problem_of(request) or ("too long" if len(request.execution_id) > 511 else "")
