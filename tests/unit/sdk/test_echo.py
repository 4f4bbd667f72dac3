"""The action echo of the contract, in process, and how it is added to an agent that is checked."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

import psutil
import pytest

from noa.agent.v1 import agent_service_pb2 as pb
from noa.model.execution import Assignment, Log, Observation, Outcome, OutputChunk, Progress, Succeeded
from noa.model.failure import Failure
from noa.sdk import Agent, action
from noa.sdk.echo import Echo, EchoAgent
from noa.sdk.runner import ActionRunner
from noa.sdk.workshop import Outbox


def assignment(inputs: dict[str, Any], execution_id: str = "r:s/t:1") -> Assignment:
    return Assignment(
        execution_id=execution_id,  # type: ignore[arg-type]
        idempotency_key="key",
        run_id="r",  # type: ignore[arg-type]
        workflow="w",
        stage="s",
        task="s/t",  # type: ignore[arg-type]
        attempt=1,
        agent="echo",
        action="echo",
        inputs=inputs,
    )


async def echo(runner: ActionRunner, seen: list[Observation] | None = None, **inputs: Any) -> Outcome:
    return await runner.execute(assignment(inputs), observe=(seen if seen is not None else []).append)


async def outputs(runner: ActionRunner, seen: list[Observation] | None = None, **inputs: Any) -> Any:
    outcome = await echo(runner, seen, **inputs)
    assert isinstance(outcome, Succeeded), outcome
    return outcome.outputs


@pytest.fixture
def runner() -> ActionRunner:
    return ActionRunner(EchoAgent())


async def test_it_says_what_it_is_asked_to_say_in_order(runner: ActionRunner) -> None:
    seen: list[Observation] = []
    await outputs(runner, seen, logs=250, chunks=250, progress=4)
    assert [one.message for one in seen if isinstance(one, Log)] == [f"line {i}" for i in range(1, 251)]
    assert [one.text for one in seen if isinstance(one, OutputChunk)] == [f"chunk {i}\n" for i in range(1, 251)]
    progress = [(one.fraction, one.done, one.total) for one in seen if isinstance(one, Progress)]
    assert progress == [(0.25, 1, 4), (0.5, 2, 4), (0.75, 3, 4), (1.0, 4, 4)]
    assert [type(one) for one in seen] == [Log] * 250 + [OutputChunk] * 250 + [Progress] * 4


async def test_progress_is_spread_over_waiting_and_computing(runner: ActionRunner) -> None:
    at_s: list[float] = []
    began_s = time.monotonic()

    def observe(_: Observation) -> None:
        at_s.append(time.monotonic() - began_s)

    outcome = await runner.execute(assignment({"sleep_s": 0.2, "burn_s": 0.2, "progress": 4}), observe=observe)
    assert isinstance(outcome, Succeeded)
    assert all(at >= expected for at, expected in zip(at_s, (0.1, 0.2, 0.3, 0.4), strict=True)), at_s


async def test_padding_has_the_size(runner: ActionRunner) -> None:
    assert await outputs(runner, size_bytes=5) == {"echo": {"size_bytes": 5}, "padding": "xxxxx"}


async def test_stderr_has_the_size_in_lines(runner: ActionRunner, capsys: pytest.CaptureFixture[str]) -> None:
    await outputs(runner, stderr_bytes=1000)
    text = capsys.readouterr().err
    assert len(text) == 1000
    assert text.endswith("x\n")


async def test_it_fails_and_panics_as_asked(runner: ActionRunner) -> None:
    fail = {"code": "LATER", "message": "m", "retryable": True, "retry_after_s": 1.5}
    assert await echo(runner, fail=fail) == Failure("LATER", "m", True, retry_after_ms=1500, source="echo")
    panic = await echo(runner, panic=True, fail=fail)
    assert isinstance(panic, Failure)
    assert (panic.code, panic.retryable) == ("INTERNAL", False)


@pytest.mark.parametrize(
    "inputs",
    [{"sleep_s": "1"}, {"burn_s": -1}, {"progress": 1.5}, {"logs": 100_001}, {"chunks": True}, {"size_bytes": 2**31},
     {"stderr_bytes": None}, {"child": "yes"}, {"panic": 1}, {"fail": "now"}, {"fail": {"code": "not a code"}}],
)  # fmt: skip
async def test_a_field_of_another_type_is_named(runner: ActionRunner, inputs: dict[str, Any]) -> None:
    outcome = await echo(runner, **inputs)
    assert isinstance(outcome, Failure)
    assert outcome.code == "INVALID_INPUT"
    assert next(iter(inputs)) in outcome.message


async def test_computing_ends_when_it_is_cancelled(runner: ActionRunner) -> None:
    began_s = time.monotonic()
    going = asyncio.create_task(echo(runner, burn_s=60))
    while not runner.describe().in_flight:
        await asyncio.sleep(0)
    assert await runner.cancel(execution="r:s/t:1") == 1  # type: ignore[arg-type]
    outcome = await going
    assert isinstance(outcome, Failure)
    assert outcome.code == "CANCELLED"
    assert time.monotonic() - began_s < 30


async def test_a_child_is_held_until_its_run_is_released(runner: ActionRunner) -> None:
    child = psutil.Process((await outputs(runner, child=True))["pid"])
    assert child.is_running()
    assert await runner.cancel(run="other") == 0  # type: ignore[arg-type]
    assert child.is_running()
    assert await runner.cancel(run="r") == 1  # type: ignore[arg-type]
    assert not child.is_running()
    assert await runner.cancel(run="r") == 0  # type: ignore[arg-type]


# --- added to an agent that is checked


class Holder(Agent):
    name = "holder"

    @action
    async def hold(self) -> None:
        pass

    async def on_release(self, run_id: str) -> int:
        if run_id == "bad":
            raise RuntimeError("it is stuck")
        return 2


class Parrot(Agent):
    name = "parrot"

    @action
    async def echo(self) -> dict[str, Any]:
        return {"own": True}


async def test_it_is_added_to_another_agent_and_releases_with_it() -> None:
    runner = ActionRunner(Holder(), also=[Echo()])
    health = runner.describe()
    assert (health.name, [one.name for one in health.actions]) == ("holder", ["hold", "echo"])
    child = psutil.Process((await outputs(runner, child=True))["pid"])
    assert await runner.cancel(run="r") == 3  # type: ignore[arg-type]
    assert not child.is_running()


async def test_an_echo_of_the_agents_own_stays() -> None:
    runner = ActionRunner(Parrot(), also=[Echo()])
    assert [one.name for one in runner.describe().actions] == ["echo"]
    assert await outputs(runner) == {"own": True}


async def test_a_release_that_raises_counts_as_released(caplog: pytest.LogCaptureFixture) -> None:
    runner = ActionRunner(Holder())
    assert await runner.cancel(run="bad") == 1  # type: ignore[arg-type]
    assert "it is stuck" in caplog.text


async def test_observations_that_no_loop_could_take_are_counted() -> None:
    published: list[pb.ExecuteResponse] = []
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outbox = Outbox(
        asyncio.get_running_loop(), lambda message, _: published.append(message), lambda _: ended.set_result(None)
    )
    for line in map(partial(Log, "info"), map(str, range(1500))):
        outbox.observe(line)
    outbox.end(pb.ExecuteResponse())
    await ended
    assert published[0].log.message.startswith("500 observations were dropped")
    assert [one.log.message for one in published[1:]] == [str(i) for i in range(500, 1500)]
