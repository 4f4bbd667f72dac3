"""The action `echo` that the contract prescribes for testing: it gives back what it gets, and on the way does what it
is asked for. `agents/CONTRACT.md` has its fields.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Annotated, Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict  # pydantic takes no other TypedDict on 3.11

from noa.sdk.agent import Agent, action
from noa.sdk.context import Context
from noa.sdk.failures import ActionFailed
from noa.sdk.threads import ThreadPool

__all__ = ["Echo", "EchoAgent"]

_COUNT = 100_000
_SIZE_BYTES = 1 << 30
_THREADS = 64
_BATCH = 100
_LINE = "x" * 127 + "\n"
_CHILD_LIVES_S = 600


class EchoFailure(BaseModel):
    """How to fail."""

    model_config = ConfigDict(strict=True)

    code: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "ECHO_FAILED"
    message: str = "asked to fail"
    retryable: bool = False
    retry_after_s: Annotated[float, Field(ge=0)] | None = None


class EchoInputs(BaseModel):
    """Any object; these fields mean something."""

    model_config = ConfigDict(extra="allow", strict=True)

    sleep_s: Annotated[float, Field(ge=0, description="Seconds to wait.")] = 0.0
    burn_s: Annotated[float, Field(ge=0, description="Seconds to compute without pause.")] = 0.0
    progress: Annotated[int, Field(ge=0, le=_COUNT, description="Progress messages, spread over the time.")] = 0
    logs: Annotated[int, Field(ge=0, le=_COUNT, description="Log messages: line 1, line 2 ...")] = 0
    chunks: Annotated[int, Field(ge=0, le=_COUNT, description="Output chunks: chunk 1, chunk 2 ...")] = 0
    size_bytes: Annotated[int, Field(ge=0, le=_SIZE_BYTES, description="Length of the output field padding.")] = 0
    stderr_bytes: Annotated[int, Field(ge=0, le=_SIZE_BYTES, description="Bytes to write to stderr first.")] = 0
    child: Annotated[bool, Field(description="Start a process that is held for the run.")] = False
    panic: Annotated[bool, Field(description="Raise what is not declared.")] = False
    fail: Annotated[EchoFailure | None, Field(description="Fail so instead of answering.")] = None


class EchoOutputs(TypedDict):
    """What comes back."""

    echo: Annotated[dict[str, Any], Field(description="The input.")]
    padding: NotRequired[Annotated[str, Field(description="size_bytes times x.")]]
    pid: NotRequired[Annotated[int, Field(description="Of the child process.")]]


class Echo(Agent):
    """Has the action `echo`. `noa.sdk` adds it to any agent that is served with NOA_AGENT_CONFORMANCE=1."""

    name = "echo"
    version = "1"

    def __init__(self) -> None:
        self._children: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._threads = ThreadPool(_THREADS, "noa-echo")

    @action(idempotent=True)
    async def echo(self, ctx: Context, inputs: EchoInputs) -> EchoOutputs:
        """Give back the input as {"echo": input}; its fields say what to do before."""
        outputs = EchoOutputs(echo=inputs.model_dump(mode="json", exclude_unset=True))
        if inputs.child:
            outputs["pid"] = self._start_child(ctx.run_id)
        if inputs.stderr_bytes:
            await self._threads.run(lambda: _write_stderr(inputs.stderr_bytes))
        if inputs.logs or inputs.chunks:
            await _say(ctx, inputs)
        if inputs.sleep_s or inputs.burn_s or inputs.progress:
            await self._work(ctx, inputs)
        if inputs.panic:
            raise RuntimeError("echo was asked to panic")
        if (fail := inputs.fail) is not None:
            raise ActionFailed(fail.code, fail.message, retryable=fail.retryable, retry_after_s=fail.retry_after_s)
        if inputs.size_bytes:
            outputs["padding"] = "x" * inputs.size_bytes
        return outputs

    async def on_release(self, run_id: str) -> int:
        """Kill the children of a run; how many there were."""
        children = self._children.pop(run_id, [])
        for child in children:
            child.kill()
        for child in children:
            await self._threads.run(child.wait)
        return len(children)

    def _start_child(self, run_id: str) -> int:
        child = subprocess.Popen(
            ["sleep", str(_CHILD_LIVES_S)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._children.setdefault(run_id, []).append(child)
        return child.pid

    async def _work(self, ctx: Context, inputs: EchoInputs) -> None:
        """Wait, then compute, with the progress messages spread evenly over both."""
        began_s = time.monotonic()
        steps = inputs.progress or 1
        total_s = inputs.sleep_s + inputs.burn_s
        for step in range(1, steps + 1):
            until_s = total_s * step / steps
            await _sleep_until(began_s + min(until_s, inputs.sleep_s))
            if until_s > inputs.sleep_s:
                end_s = began_s + until_s
                await self._threads.run(lambda end_s=end_s: _burn_until(ctx, end_s))  # type: ignore[misc]
            if inputs.progress:
                ctx.progress(step / steps, done=step, total=steps)
                await _give_way(step)


class EchoAgent(Echo):
    """Gives back what it gets."""

    @action(idempotent=True)
    async def noop(self) -> None:
        """Do nothing."""


async def _say(ctx: Context, inputs: EchoInputs) -> None:
    for number in range(1, inputs.logs + 1):
        ctx.log(f"line {number}")
        await _give_way(number)
    for number in range(1, inputs.chunks + 1):
        ctx.output(f"chunk {number}\n")
        await _give_way(number)


async def _give_way(number: int) -> None:
    """Let the observations out before more of them are kept than there is room for."""
    if number % _BATCH == 0:
        await asyncio.sleep(0)


async def _sleep_until(end_s: float) -> None:
    left_s = end_s - time.monotonic()
    if left_s > 0:
        await asyncio.sleep(left_s)


def _burn_until(ctx: Context, end_s: float) -> None:
    number = 0
    while time.monotonic() < end_s and not ctx.cancelled:
        for i in range(1000):  # well below a millisecond
            number = (number * 31 + i) % 1_000_003


def _write_stderr(size_bytes: int) -> None:
    left = size_bytes
    while left > 0:
        line = _LINE if left >= len(_LINE) else "x" * (left - 1) + "\n"
        sys.stderr.write(line)
        left -= len(line)
    sys.stderr.flush()
