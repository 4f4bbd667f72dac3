"""Cancel: of one execution and of a run, before, during and after, once and more often."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc

from noa.agent.v1 import agent_service_pb2 as pb
from noa.testing.conformance.bench import SLACK_S, Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import Client, Stream, brief, outputs_of
from noa.testing.conformance.ending_cases import child_pid
from noa.testing.conformance.process import gone

__all__: list[str] = []

_CANCELLED = pb.CANCEL_OUTCOME_CANCELLED
_FINISHED = pb.CANCEL_OUTCOME_ALREADY_FINISHED
_UNKNOWN = pb.CANCEL_OUTCOME_UNKNOWN
_GRACE_S = 5.0
_AT_ONCE_S = 2.0


def _say(answer: Any) -> str:
    name = pb.CancelOutcome.Name(answer.outcome) if answer.outcome in pb.CancelOutcome.values() else answer.outcome
    return f"{str(name).removeprefix('CANCEL_OUTCOME_')} with count {answer.cancelled}"


def _check(answer: Any, *allowed: tuple[int, int], what: str) -> None:
    wanted = " or ".join(_say(pb.CancelResponse(outcome=one, cancelled=count)) for one, count in allowed)  # type: ignore[arg-type]
    right = (answer.outcome, answer.cancelled) in allowed
    expect(right, f"{what} answered {_say(answer)}, not {wanted}")


async def _check_cancelled(stream: Stream, within_s: float, what: str = "the execution") -> None:
    try:
        terminal = await stream.terminal(within_s + SLACK_S)
    except Violation as error:
        raise Violation(f"after its Cancel, {what}: {error}") from error
    code = terminal.failed.failure.code
    expect(code == "CANCELLED", f"after its Cancel, {what} ended with {brief(terminal)}, not failed(CANCELLED)")


@case(
    "cancel.running",
    "Cancel of what goes on answers CANCELLED with count 1; its stream ends with failed(CANCELLED) within the grace.",
    advice="Tell the work to end, answer at once, and end the stream when the work has ended, at the latest when the "
    "grace is over (Cancel: execution_id going on).",
    needs="echo.sleep_s",
)
async def cancels(bench: Bench) -> None:
    client = await bench.client()
    request = client.long()
    stream = await client.begin(request)
    answer = await client.cancel(execution_id=request.execution_id)
    _check(answer, (_CANCELLED, 1), what="Cancel of an execution that went on")
    await _check_cancelled(stream, _GRACE_S)


@case(
    "cancel.twice",
    "A second Cancel of the same execution answers CANCELLED with count 0, or ALREADY_FINISHED with count 0.",
    advice="Count an execution only the first time it is told to end (Cancel: told to end already).",
    needs="echo.sleep_s",
)
async def cancels_once(bench: Bench) -> None:
    client = await bench.client()
    request = client.long()
    stream = await client.begin(request)
    await client.cancel(execution_id=request.execution_id, grace_s=60)
    second = await client.cancel(execution_id=request.execution_id)
    _check(second, (_CANCELLED, 0), (_FINISHED, 0), what="the second Cancel of an execution")
    first = await stream.terminal()
    third = await client.cancel(execution_id=request.execution_id)
    _check(third, (_FINISHED, 0), what="a Cancel after the execution's end")
    again = await client.execute(request)
    expect(first == again, f"what was cancelled ended with {brief(first)}, and with {brief(again)} when asked again")


@case(
    "cancel.finished",
    "Cancel of what has ended answers ALREADY_FINISHED with count 0, and its result stays.",
    advice="Look into the table of results too, and change nothing there (Cancel: execution_id ended).",
    needs="work",
)
async def leaves_results(bench: Bench) -> None:
    client = await bench.client()
    await _finished(client, client.work(), "an execution that had ended")
    if bench.lacks(client, "echo.sleep_s"):
        return
    request = client.long()
    request.deadline.FromMilliseconds(time.time_ns() // 1_000_000 + 200)
    await _finished(client, request, "an execution that its deadline had ended")


async def _finished(client: Client, request: Any, what: str) -> None:
    first = await client.execute(request)
    answer = await client.cancel(execution_id=request.execution_id)
    _check(answer, (_FINISHED, 0), what=f"Cancel of {what}")
    again = await client.execute(request)
    expect(first == again, f"{what} and was cancelled then has another result: {brief(first)} became {brief(again)}")


@case(
    "cancel.unknown",
    "Cancel of an execution_id that was never seen answers UNKNOWN with count 0; an Execute with it works later.",
    advice="Remember nothing of such a Cancel (Cancel: execution_id never seen).",
    needs="work",
)
async def knows_nothing_of_the_unknown(bench: Bench) -> None:
    client = await bench.client()
    request = client.work()
    answer = await client.cancel(execution_id=request.execution_id)
    _check(answer, (_UNKNOWN, 0), what="Cancel of an execution_id that was never seen")
    outputs_of(await client.execute(request))


@case(
    "cancel.run",
    "Cancel of a run ends all of its executions and none of another's, and counts them; again it answers UNKNOWN.",
    advice="Keep the run_id of each execution; when everything is released, forget the run (Cancel: run_id, and run_id "
    "again).",
    needs="echo.sleep_s",
)
async def cancels_a_run(bench: Bench) -> None:
    client = await bench.client()
    count = min(2, (client.capacity or 3) - 1)
    expect(count > 0, "the agent's capacity of 1 leaves no room for two runs")
    before = await client.cancel(run_id=client.run_id)
    _check(before, (_UNKNOWN, 0), what="Cancel of a run that was never seen")
    streams = [await client.begin(client.long()) for _ in range(count)]
    other = client.long(run_id=f"{client.run_id}-other")
    going = await client.begin(other)
    answer = await client.cancel(run_id=client.run_id)
    _check(answer, (_CANCELLED, count), what=f"Cancel of a run with {count} executions")
    for stream in streams:
        await _check_cancelled(stream, _GRACE_S, "an execution of the run")
    again = await client.cancel(run_id=client.run_id)
    _check(again, (_UNKNOWN, 0), what="the second Cancel of a run")
    rest = await client.cancel(run_id=other.run_id)
    _check(rest, (_CANCELLED, 1), what="Cancel of the other run, whose execution had to go on,")
    await _check_cancelled(going, _GRACE_S, "the other run's execution")


@case(
    "cancel.run-children",
    "What is held for a run, also after its work has ended, is gone when Cancel of the run answers.",
    advice="Keep what an execution leaves running under its run_id; at Cancel kill it, wait for its end, and answer "
    "then (Cancel: run_id).",
    needs="command echo.child",
)
async def releases_what_a_run_held(bench: Bench) -> None:
    client = await bench.client()
    pid = child_pid(outputs_of(await client.execute(client.echo(child=True))))
    answer = await client.cancel(run_id=client.run_id)
    left = not gone(pid)
    expect(answer.outcome == _CANCELLED, f"Cancel of a run that held a child process answered {_say(answer)}")
    expect(answer.cancelled >= 1, f"Cancel of a run that held a child process answered {_say(answer)}")
    expect(not left, f"the child process {pid} that the run held still ran when Cancel had answered")
    again = await client.cancel(run_id=client.run_id)
    _check(again, (_UNKNOWN, 0), what="the second Cancel of the run")


@case(
    "cancel.at-once",
    "Ten Cancels at the same time count an execution once in all.",
    advice="Look whether it was told to end, and note that it is, in one step that no other call can come between "
    "(Cancel: told to end already).",
    needs="echo.sleep_s",
)
async def counts_once(bench: Bench) -> None:
    client = await bench.client()
    request = client.long()
    stream = await client.begin(request)
    calls = [
        call
        for _ in range(5)
        for call in (client.cancel(execution_id=request.execution_id), client.cancel(run_id=client.run_id))
    ]
    answers = await asyncio.gather(*calls)
    total = sum(answer.cancelled for answer in answers)
    expect(total == 1, f"ten Cancels at once counted {total}: {'; '.join(map(_say, answers))}")
    await _check_cancelled(stream, _GRACE_S)


@case(
    "cancel.target",
    "Cancel without a target, or with an empty one, ends with the status INVALID_ARGUMENT.",
    advice="Refuse a Cancel in which execution_id and run_id are both unset or empty (Cancel: neither is set).",
)
async def wants_a_target(bench: Bench) -> None:
    client = await bench.client()
    for request, what in (
        (pb.CancelRequest(), "without a target"),
        (pb.CancelRequest(run_id=""), "with an empty run_id"),
        (pb.CancelRequest(execution_id=""), "with an empty execution_id"),
    ):
        status = await client.status(client.stub.Cancel(request, metadata=client.metadata))
        expect(
            status is grpc.StatusCode.INVALID_ARGUMENT,
            f"Cancel {what} ended with the gRPC status {status.name}, not INVALID_ARGUMENT",
        )


@case(
    "cancel.grace",
    "With a grace of zero the stream ends with failed(CANCELLED) at once (within 2 s), and the agent goes on.",
    advice="Take a grace that is set to zero for zero, not for the default, and end the stream when it is over though "
    "the work may not have ended (Cancel: execution_id going on).",
    needs="echo.sleep_s",
)
async def may_be_in_a_hurry(bench: Bench) -> None:
    client = await bench.client()
    for whole_run in (False, True):
        request = client.long()
        stream = await client.begin(request)
        run_id = client.run_id if whole_run else ""
        began_s = time.monotonic()
        answer = await client.cancel(execution_id=request.execution_id, run_id=run_id, grace_s=0)
        _check(answer, (_CANCELLED, 1), what="Cancel with a grace of zero")
        await _check_cancelled(stream, _AT_ONCE_S)
        took_s = time.monotonic() - began_s
        expect(took_s < _AT_ONCE_S + SLACK_S, f"with a grace of zero the end took {took_s:.1f} s")
    outputs_of(await client.execute(client.echo()))
