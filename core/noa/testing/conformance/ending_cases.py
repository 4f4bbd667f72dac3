"""How an agent ends: with its engine, by SIGTERM, and without leaving anything."""

from __future__ import annotations

import asyncio
import signal
import time

from grpc_health.v1 import health_pb2

from noa.agent.v1 import agent_service_pb2 as pb
from noa.testing.conformance.bench import SLACK_S, Bench
from noa.testing.conformance.case import Violation, case, expect
from noa.testing.conformance.client import Client, brief, outputs_of
from noa.testing.conformance.process import AgentProcess, gone

__all__: list[str] = []

_STDIN_END_S = 2.0
_IDLE_END_S = 5.0
_DRAIN_S = 10.0
_SECOND_SIGTERM_S = 2.0
_EXIT_TERMINATED = 143
_POLL_S = 0.02


@case(
    "launch.stdin-end",
    "An agent ends within 2 s after its stdin closes, idle or with work going on.",
    advice="Read stdin in a thread or task of its own and end the process when it is at its end, whatever goes on "
    "(Launch: stdin reaches its end).",
    needs="command",
)
async def ends_with_its_engine(bench: Bench) -> None:
    async with bench.fresh() as (idle, resting):
        if bench.lacks(idle, "echo.sleep_s"):
            await _ends_by_stdin(resting, "idle")
            return
        async with bench.fresh() as (busy, working):
            await busy.begin(busy.long())
            await asyncio.gather(_ends_by_stdin(resting, "idle"), _ends_by_stdin(working, "with work going on"))


@case(
    "launch.children",
    "No process that the agent started is left after its stdin has ended.",
    advice="Kill every child process before the agent ends, or give each a parent-death signal; a process group of its "
    "own that is killed at the end does it (Launch: stdin reaches its end).",
    needs="command echo.child",
)
async def leaves_no_child(bench: Bench) -> None:
    async with bench.fresh() as (client, process):
        pid = child_pid(outputs_of(await client.execute(client.echo(child=True))))
        children = process.note_children()
        expect(pid in children, f"echo says that its child is process {pid}, which is not below the agent: {children}")
        process.close_stdin()
        status = await process.wait_exit(_STDIN_END_S + SLACK_S)
        expect(status is not None, f"the agent still ran {_STDIN_END_S:g} s after its stdin had closed")
        left = await _left_of(children)
        expect(not left, f"after the agent had ended its child processes {left} still ran")


@case(
    "launch.sigterm-idle",
    "SIGTERM without work ends the agent with status 0 within 5 s.",
    advice="Handle SIGTERM: stop the server and exit with 0 when nothing goes on (Launch: SIGTERM).",
    needs="command",
)
async def ends_by_sigterm(bench: Bench) -> None:
    async with bench.fresh() as (_, process):
        process.send(signal.SIGTERM)
        await _ends_with(process, 0, _IDLE_END_S, "after SIGTERM without work")


@case(
    "launch.sigterm-drains",
    "After SIGTERM Health says DRAINING, stock probes NOT_SERVING, new work is OVERLOADED, what runs may end, then the "
    "exit status is 0.",
    advice="On SIGTERM keep the server up, refuse new executions as data, let running ones (and who joins them) end, "
    "then exit with 0 (Launch: SIGTERM; Health: after SIGTERM).",
    needs="command echo.sleep_s",
)
async def drains(bench: Bench) -> None:
    async with bench.fresh() as (client, process):
        short, request = client.echo(sleep_s=0.5), client.long()
        ending, going = await client.begin(short), await client.begin(request)
        process.send(signal.SIGTERM)
        await _wait_draining(client, process)
        probe = await client.probe()
        expect(probe == health_pb2.HealthCheckResponse.NOT_SERVING, f"grpc.health.v1 said {probe} while it drained")
        refused = await client.execute(client.work() if client.action(client.work_action) else client.echo())
        check_overloaded(refused, "new work while it drained")
        outputs_of(await ending.terminal())
        joined = await client.begin(request)
        first = joined.messages[0]
        expect(
            first.accepted.joined,
            f"joining what ran while it drained began with {brief(first)}, not with accepted(joined=true)",
        )
        await client.cancel(execution_id=request.execution_id)
        for stream in (going, joined):
            await stream.terminal()
            await stream.rest()
        await _ends_with(process, 0, _DRAIN_S, "after its last execution had ended while it drained")


@case(
    "launch.sigterm-twice",
    "A second SIGTERM while the agent drains ends it with status 143 within 2 s.",
    advice="Count SIGTERMs: at the second kill what was started and exit with 143 (Launch: a second SIGTERM).",
    needs="command echo.sleep_s",
)
async def ends_at_the_second_sigterm(bench: Bench) -> None:
    async with bench.fresh() as (client, process):
        await client.begin(client.long())
        process.send(signal.SIGTERM)
        await _wait_draining(client, process)
        process.send(signal.SIGTERM)
        await _ends_with(process, _EXIT_TERMINATED, _SECOND_SIGTERM_S, "after a second SIGTERM")


@case(
    "launch.temporary",
    "No temporary file is left in TMPDIR or below artifact_prefix after work, cancelled work and the end.",
    advice="Remove temporary files also where work is cancelled, write artifacts under `.tmp-` names and rename them, "
    "and empty what lies in TMPDIR when SIGTERM ends the agent (Artifacts).",
    needs="command work",
)
async def leaves_no_temporary_file(bench: Bench) -> None:
    async with bench.fresh() as (client, process):
        outputs_of(await client.execute(client.work()))
        if not bench.lacks(client, "echo.size_bytes"):
            outputs_of(await client.execute(client.echo(size_bytes=300_000)))
        if not bench.lacks(client, "echo.sleep_s"):
            request = client.echo(sleep_s=30, size_bytes=300_000)
            stream = await client.begin(request)
            await client.cancel(execution_id=request.execution_id)
            await stream.terminal()
        store = process.folder / "artifacts"
        left = sorted(path.name for path in store.rglob("*") if path.is_file() and not _is_artifact(path.name))
        expect(not left, f"below artifact_prefix these files were left that are no artifacts: {left[:10]}")
        process.send(signal.SIGTERM)
        status = await process.wait_exit(_DRAIN_S)
        expect(status is not None, f"the agent still ran {_DRAIN_S:g} s after SIGTERM")
        left = sorted(str(path.relative_to(process.temporary)) for path in process.temporary.rglob("*"))
        expect(not left, f"after the agent had ended there was left in its TMPDIR: {left[:10]}")


def check_overloaded(terminal: object, what: str) -> None:
    """Check that an execution was refused as the contract says."""
    failed = getattr(terminal, "failed", None)
    failure = failed.failure if failed is not None else None
    if failure is None or failure.code != "OVERLOADED":
        raise Violation(f"{what} ended with {brief(terminal)}, not with failed(OVERLOADED)")
    expect(failure.retryable, f"{what} was refused with OVERLOADED that is not retryable")
    expect(failure.HasField("retry_after"), f"{what} was refused with OVERLOADED without retry_after")


def child_pid(outputs: object) -> int:
    """The `pid` of echo's output.

    Raises:
        Violation: There is none, or no such process runs.
    """
    pid = outputs.get("pid") if isinstance(outputs, dict) else None
    if not isinstance(pid, (int, float)) or isinstance(pid, bool):
        raise Violation(f"echo with child=true answered {str(outputs)[:200]}, without the field pid")
    expect(not gone(int(pid)), f"echo's child process {int(pid)} does not run: it must be held until the run is over")
    return int(pid)


def _is_artifact(name: str) -> bool:
    return len(name) == 64 and not name.startswith(".")


async def _ends_by_stdin(process: AgentProcess, how: str) -> None:
    process.close_stdin()
    status = await process.wait_exit(_STDIN_END_S + SLACK_S)
    expect(status is not None, f"{how}, the agent still ran {_STDIN_END_S:g} s after its stdin had closed")


async def _ends_with(process: AgentProcess, expected: int, within_s: float, when: str) -> None:
    status = await process.wait_exit(within_s + SLACK_S)
    if status is None:
        raise Violation(f"the agent still ran {within_s:g} s {when}")
    printed = process.last_lines() or "It printed nothing to stderr."
    expect(status == expected, f"{when}, the agent ended with status {status}, not {expected}. {printed}")


async def _wait_draining(client: Client, process: AgentProcess) -> None:
    end_s = time.monotonic() + _IDLE_END_S
    while (health := await client.health()).status != pb.HEALTH_STATUS_DRAINING:
        if time.monotonic() > end_s:
            raise Violation(f"Health said {health.status} and not DRAINING {_IDLE_END_S:g} s after SIGTERM")
        expect(process.status is None, f"the agent ended with status {process.status} and did not drain")
        await asyncio.sleep(_POLL_S)


async def _left_of(children: list[int]) -> list[int]:
    """Which of these processes still run, after a moment in which a kill arrives."""
    end_s = time.monotonic() + SLACK_S
    while True:
        left = [pid for pid in children if not gone(pid)]
        if not left or time.monotonic() > end_s:
            return left
        await asyncio.sleep(_POLL_S)
