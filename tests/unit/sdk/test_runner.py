"""Executing actions without gRPC: inputs, outputs, failures, observations, cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sdk_sample_agents as samples

from noa.errors import PluginError
from noa.model.execution import Assignment, Log, Observation, Outcome, OutputChunk, Progress, Succeeded
from noa.model.failure import Failure
from noa.model.payload import Artifact
from noa.sdk import Agent, Context, action
from noa.sdk.echo import EchoAgent
from noa.sdk.runner import ActionRunner


def assignment(action_name: str, inputs: dict[str, Any] | None = None, **parts: Any) -> Assignment:
    return Assignment(
        execution_id=parts.pop("execution_id", "r:s/t:1"),
        idempotency_key="key",
        run_id=parts.pop("run_id", "r"),
        workflow="w",
        stage="s",
        task="s/t",
        attempt=1,
        agent="sample",
        action=action_name,
        inputs=inputs or {},
        **parts,
    )


@pytest.fixture
def runner() -> ActionRunner:
    return ActionRunner(samples.Sample())


Do = Callable[..., Any]


@pytest.fixture
def do(runner: ActionRunner, tmp_path: Path) -> Do:
    async def execute(name: str, inputs: dict[str, Any] | None = None, **parts: Any) -> Outcome:
        observe = parts.pop("observe", lambda _: None)
        return await runner.execute(
            assignment(name, inputs, **parts), observe=observe, artifact_prefix=f"file://{tmp_path}/store/"
        )

    return execute


def failure(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


async def outputs(pending: Any) -> dict[str, Any]:
    outcome = await pending
    assert isinstance(outcome, Succeeded), outcome
    return outcome.outputs


# --- inputs and outputs


async def test_annotated_parameters_are_the_inputs_and_further_fields_are_ignored(do: Do) -> None:
    given = {"name": "Ada", "times": 2, "path": "unused", "ctx": 1, "self": 2}
    assert await outputs(do("greet", given)) == {"greeting": "Hello, Ada!Hello, Ada!", "task": "s/t"}


async def test_defaults_are_the_methods_own(do: Do) -> None:
    assert (await outputs(do("greet", {"name": "Ada"})))["greeting"] == "Hello, Ada!"


async def test_missing_and_wrong_inputs_are_all_named(do: Do) -> None:
    missing = failure(await do("greet", {"times": "many"}))
    assert missing.code == "INVALID_INPUT"
    assert not missing.retryable
    assert "'name'" in missing.message
    assert "'times'" in missing.message
    assert "'many'" in missing.message
    assert {item["field"] for item in missing.details["errors"]} == {"name", "times"}


async def test_sync_action_runs_in_a_thread_with_the_callers_context_variables(do: Do) -> None:
    import threading

    samples.VARIABLE.set("seen")
    made = await outputs(do("variables"))
    assert made["value"] == "seen"
    assert made["thread"] != threading.get_ident()


async def test_inputs_parameter_takes_the_whole_object(do: Do) -> None:
    assert await outputs(do("point", {"x": 1, "y": 2})) == {"x": 2, "y": 1}
    assert "'x'" in failure(await do("point", {"y": 2})).message


async def test_rest_parameter_takes_what_no_other_takes(do: Do) -> None:
    assert await outputs(do("everything", {"first": 1, "a": 2})) == {"first": 1, "rest": {"a": 2}}


async def test_outputs_that_do_not_fit_their_declaration_fail(do: Do) -> None:
    wrong = failure(await do("wrong_output"))
    assert wrong.code == "INVALID_OUTPUT"
    assert "'total'" in wrong.message
    assert failure(await do("not_an_object")).code == "INVALID_OUTPUT"
    assert failure(await do("not_text")).code == "INVALID_OUTPUT"


async def test_artifacts_go_in_and_out_as_references(do: Do, tmp_path: Path) -> None:
    made = await outputs(do("nested"))
    inner = Artifact.from_json(made["list"][0]["deep"])
    assert inner is not None
    assert inner.size_bytes == 4
    assert made["path"] == "/tmp"
    assert made["nan"] is None
    pair = await outputs(do("pair", {"left": inner.to_json()}))
    right = Artifact.from_json(pair["right"])
    assert pair["left"] == 4
    assert right is not None
    assert Path(right.uri.removeprefix("file://")).read_bytes() == b"deepdeep"
    assert Path(right.uri.removeprefix("file://")).parent.name == right.sha256[:2]
    assert "'left'" in failure(await do("pair", {"left": {"uri": "x"}})).message


async def test_a_damaged_artifact_fails_with_its_own_code(do: Do) -> None:
    made = await outputs(do("nested"))
    reference = made["list"][0]["deep"]
    Path(reference["$artifact"]["uri"].removeprefix("file://")).write_bytes(b"other")
    assert failure(await do("pair", {"left": reference})).code == "ARTIFACT"


# --- failures


async def test_unknown_action_names_the_known_ones_and_the_nearest(do: Do) -> None:
    unknown = failure(await do("great"))
    assert unknown.code == "UNKNOWN_ACTION"
    assert "greet" in unknown.message
    assert "Did you mean 'greet'" in unknown.message


async def test_declared_failure_keeps_its_parts(do: Do) -> None:
    declared = failure(await do("fail"))
    assert (declared.code, declared.retryable, declared.retry_after_ms) == ("NO_SPACE", True, 1500)
    assert declared.details == {"left": 0}
    assert declared.source == "sample"


@pytest.mark.parametrize(
    ("name", "kind"), [("crash", "KeyError"), ("crash_in_thread", "ZeroDivisionError"), ("leave", "SystemExit")]
)
async def test_undeclared_exception_is_internal_with_its_traceback(do: Do, name: str, kind: str) -> None:
    crash = failure(await do(name))
    assert crash.code == "INTERNAL"
    assert not crash.retryable
    assert crash.message.startswith(kind)
    assert crash.details["type"] == kind
    assert any("sdk_sample_agents.py" in line for line in crash.details["traceback"])


# --- observations


async def test_observations_of_a_thread_arrive_in_order_before_the_outcome(do: Do, tmp_path: Path) -> None:
    seen: list[Observation] = []
    made = await outputs(do("observe", observe=seen.append, output_uri=f"file://{tmp_path}/out%20put/"))
    progress = [one.fraction for one in seen if isinstance(one, Progress)]
    assert progress == [0.25, 0.25, 1.0], "a fraction never goes back and never exceeds 1"
    logs = [one for one in seen if isinstance(one, Log)]
    assert [one.message for one in logs] == ["line 0", "line 1", "line 2", "odd name \\udcff"]
    assert logs[-1].level == "warning"
    assert logs[0].at_ms > 0
    assert seen[-1] == OutputChunk("text")
    assert made == {"attempt": 1, "deadline": "None", "dir": f"{tmp_path}/out put"}
    assert (tmp_path / "out put").is_dir()


async def test_a_flood_from_a_thread_is_bounded_and_says_what_was_dropped(do: Do, tmp_path: Path) -> None:
    seen: list[Observation] = []
    await outputs(do("observe", {"lines": 50_000}, observe=seen.append, output_uri=f"file://{tmp_path}/"))
    dropped = [one for one in seen if isinstance(one, Log) and "dropped" in one.message]
    assert len(seen) >= 50_000 or dropped
    assert seen[-1] == OutputChunk("text")


# --- cancellation


async def started(runner: ActionRunner) -> None:
    assert await asyncio.to_thread(runner.agent.started.wait, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["wait", "work", "wait_asked"])
async def test_cancelled_execution_ends_as_cancelled(runner: ActionRunner, do: Do, name: str) -> None:
    going = asyncio.create_task(do(name))
    await started(runner)
    assert runner.describe().in_flight == 1
    assert await runner.cancel(execution="r:s/t:1", reason="tested") == 1  # type: ignore[arg-type]
    ended = failure(await going)
    assert ended.code == "CANCELLED"
    assert "tested" in ended.message
    assert going.cancelling() == 0, "the caller's task goes on"
    assert await runner.cancel(execution="r:s/t:1") == 0  # type: ignore[arg-type]
    assert runner.describe().in_flight == 0


async def test_cancelling_twice_at_once_cancels_once(runner: ActionRunner, do: Do) -> None:
    going = asyncio.create_task(do("wait"))
    await started(runner)
    await asyncio.gather(runner.cancel(execution="r:s/t:1"), runner.cancel(run="r"))  # type: ignore[arg-type]
    assert failure(await going).code == "CANCELLED"


async def test_what_was_told_before_is_not_counted_again(runner: ActionRunner, do: Do) -> None:
    going = asyncio.create_task(do("stubborn"))
    await started(runner)
    first = asyncio.create_task(runner.cancel(execution="r:s/t:1", grace_s=60))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    assert await runner.cancel(run="r", grace_s=0) == 0  # type: ignore[arg-type]
    assert await first == 1
    assert failure(await going).code == "CANCELLED"
    runner.agent.ended.set()  # type: ignore[attr-defined]


async def test_releases_of_one_run_follow_each_other(runner: ActionRunner) -> None:
    both = [asyncio.create_task(runner.cancel(run="slow")) for _ in range(2)]  # type: ignore[arg-type]
    other = await runner.cancel(run="held")  # type: ignore[arg-type]
    assert other == 1, "another run does not wait"
    runner.agent.ended.set()  # type: ignore[attr-defined]
    assert await asyncio.gather(*both) == [1, 0]


async def test_action_in_a_thread_that_ignores_cancellation_is_abandoned_after_the_grace(
    runner: ActionRunner, do: Do
) -> None:
    going = asyncio.create_task(do("stubborn"))
    await started(runner)
    assert await runner.cancel(run="r", grace_s=0.05) == 1  # type: ignore[arg-type]
    assert failure(await going).code == "CANCELLED"
    runner.agent.ended.set()  # type: ignore[attr-defined]


async def test_action_that_waits_for_a_thread_is_cancelled_at_once_and_never_begins() -> None:
    agent = samples.Small()
    runner = ActionRunner(agent)

    async def begin(number: int, name: str, inputs: dict[str, Any]) -> Outcome:
        asked = assignment(name, inputs, execution_id=f"r:s/t:{number}", run_id=str(number))
        return await runner.execute(asked, observe=lambda _: None)

    first = asyncio.create_task(begin(1, "stubborn", {}))
    await started(runner)
    second = asyncio.create_task(begin(2, "add", {"a": 1, "b": 2}))
    await asyncio.sleep(0)
    assert await runner.cancel(run="2", grace_s=60) == 1  # type: ignore[arg-type]
    assert failure(await second).code == "CANCELLED"
    agent.ended.set()
    assert isinstance(await first, Succeeded)


@pytest.mark.parametrize("name", ["wait", "work"])
async def test_cancelled_caller_sees_its_cancellation_and_the_action_ends(
    runner: ActionRunner, do: Do, name: str
) -> None:
    going = asyncio.create_task(do(name))
    await started(runner)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert runner.describe().in_flight == 0


async def test_cancellation_that_nobody_asked_for_is_a_fault_of_the_action(do: Do) -> None:
    assert failure(await do("stray_cancel")).code == "INTERNAL"


async def test_release_of_a_run_calls_on_release_and_counts(runner: ActionRunner) -> None:
    assert await runner.cancel(run="held") == 1  # type: ignore[arg-type]
    assert await runner.cancel(run="other") == 0  # type: ignore[arg-type]
    assert runner.agent.released == ["held", "other"]  # type: ignore[attr-defined]


# --- description, loading, declaration


def test_manifest_has_schemas_of_inputs_and_outputs(runner: ActionRunner) -> None:
    health = runner.describe()
    assert (health.status, health.name, health.version, health.language) == ("serving", "sample", "1.2", "python")
    actions = {one.name: one for one in health.actions}
    greet = actions["greet"]
    assert greet.description == "Greet somebody."
    assert greet.idempotent
    assert greet.input_schema["required"] == ["name"]
    assert greet.input_schema["properties"]["times"]["default"] == 1
    assert greet.output_schema == {}
    assert actions["add"].output_schema["required"] == ["total"]
    assert "fail" in actions
    assert "fail_as_declared" not in actions
    assert actions["pair"].input_schema["properties"]["left"]["required"] == ["$artifact"]


async def test_load_decides_about_serving() -> None:
    class Loading(Agent):
        name = "loading"
        damaged = True

        async def load(self) -> None:
            if self.damaged:
                raise RuntimeError("damaged")

        @action
        async def noop(self) -> None: ...

    runner = ActionRunner(Loading())
    assert runner.describe().status == "starting"
    await runner.load()
    assert runner.describe().status == "not_serving"
    assert "damaged" in runner.describe().message
    Loading.damaged = False
    await runner.load()
    assert runner.describe().status == "serving"


class Nameless(Agent):
    @action
    async def noop(self) -> None: ...


class Idle(Agent):
    name = "idle"


class Twice(Agent):
    name = "twice"

    @action(name="same")
    async def first(self) -> None: ...

    @action(name="same")
    async def second(self) -> None: ...


class Odd(Agent):
    name = "odd"

    @action
    async def odd(self, a: int, /) -> None: ...


class NotJson(Agent):
    name = "not-json"

    @action
    async def odd(self, stream: asyncio.Queue[int]) -> None: ...


class ListOut(Agent):
    name = "list-out"

    @action
    async def odd(self) -> list[int]:
        return []


@pytest.mark.parametrize(
    ("kind", "part"),
    [(Nameless, "has no name"), (Idle, "no action"), (Twice, "'same'"), (Odd, "'a'"), (NotJson, "'odd'"),
     (ListOut, "outputs are an object")],
)  # fmt: skip
def test_wrong_declaration_teaches(kind: type[Agent], part: str) -> None:
    with pytest.raises(PluginError, match=part):
        ActionRunner(kind())


async def test_echo_agent_gives_back_fails_and_waits() -> None:
    runner = ActionRunner(EchoAgent())

    async def echo(inputs: dict[str, Any]) -> Outcome:
        return await runner.execute(assignment("echo", inputs), observe=lambda _: None)

    assert await outputs(echo({"a": [1], "sleep_s": 0})) == {"echo": {"a": [1], "sleep_s": 0.0}}
    assert failure(await echo({"fail": {"code": "NO", "message": "m", "retryable": True}})) == Failure(
        "NO", "m", True, source="echo"
    )
    assert failure(await echo({"sleep_s": -1})).code == "INVALID_INPUT"


async def test_a_no_op_costs_less_than_12_microseconds() -> None:
    runner, asked, seen = ActionRunner(EchoAgent()), assignment("noop"), list[Observation]().append
    best_s = float("inf")
    for _ in range(20):
        began_s = time.perf_counter()
        for _ in range(1000):
            await runner.execute(asked, observe=seen)
        best_s = min(best_s, (time.perf_counter() - began_s) / 1000)
    assert best_s < 12e-6


def test_context_needs_no_dict() -> None:
    assert not hasattr(Context, "__dict__") or "__dict__" not in dir(Context.__new__(Context))
