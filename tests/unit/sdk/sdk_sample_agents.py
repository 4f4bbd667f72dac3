"""Agents that the tests of the SDK execute, in process and as sidecars."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict

from noa.sdk import ActionFailed, Agent, Artifact, Context, action

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Point(BaseModel):
    x: int
    y: int = 0


class Sum(TypedDict):
    total: int


@dataclass
class Pair:
    left: int
    right: Artifact


class Sample(Agent):
    """Does one thing of each kind."""

    name = "sample"
    version = "1.2"

    def __init__(self) -> None:
        self.released: list[str] = []
        self.started = threading.Event()
        self.ended = threading.Event()

    @action(idempotent=True)
    async def greet(self, ctx: Context, name: str, times: int = 1) -> dict[str, Any]:
        """Greet somebody.

        More that nobody reads.
        """
        return {"greeting": f"Hello, {name}!" * times, "task": ctx.task}

    @action
    def add(self, a: int, b: int) -> Sum:
        return {"total": a + b}

    @action
    async def wrong_output(self) -> Sum:
        return {"total": "many"}  # type: ignore[typeddict-item]

    @action
    async def not_an_object(self) -> dict[str, Any]:
        return [1]  # type: ignore[return-value]

    @action
    async def not_text(self) -> dict[str, Any]:
        return {"name": "odd \udcff"}

    @action
    async def point(self, inputs: Point) -> Point:
        return Point(x=inputs.y, y=inputs.x)

    @action
    async def everything(self, first: int, **inputs: Any) -> dict[str, Any]:
        return {"first": first, "rest": inputs}

    @action
    def pair(self, ctx: Context, left: Artifact) -> Pair:
        return Pair(left.size_bytes, ctx.artifacts.create(ctx.artifacts.read(left) * 2, "text/plain"))

    @action
    def nested(self, ctx: Context) -> dict[str, Any]:
        return {"list": [{"deep": ctx.artifacts.create(b"deep")}], "path": Path("/tmp"), "nan": float("nan")}

    @action(name="fail", description="Fails as declared.")
    async def fail_as_declared(self) -> None:
        raise ActionFailed("NO_SPACE", "the disk is full", retryable=True, retry_after_s=1.5, details={"left": 0})

    @action
    async def crash(self) -> None:
        raise KeyError("missing")

    @action
    def crash_in_thread(self) -> None:
        raise ZeroDivisionError("by nothing")

    @action
    async def leave(self) -> None:
        sys.exit(3)

    @action
    async def interrupt(self) -> None:
        raise KeyboardInterrupt

    @action
    async def wait(self, ctx: Context) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    @action
    async def wait_asked(self, ctx: Context) -> None:
        self.started.set()
        try:
            await ctx.wait_cancelled()
        finally:
            self.ended.set()

    @action
    def work(self, ctx: Context) -> None:
        self.started.set()
        while True:
            ctx.check_cancelled()
            time.sleep(0.001)

    @action
    def stubborn(self) -> None:
        self.started.set()
        self.ended.wait()

    @action
    async def let_go(self) -> None:
        self.ended.set()

    @action
    async def stray_cancel(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    @action
    def variables(self) -> dict[str, Any]:
        return {"value": VARIABLE.get(), "thread": threading.get_ident()}

    @action
    def observe(self, ctx: Context, lines: int = 3) -> dict[str, Any]:
        ctx.progress(done=1, total=4, unit="files")
        ctx.progress(0.1)
        ctx.progress(7.0)
        for number in range(lines):
            ctx.log(f"line {number}\n")
        ctx.warning("odd name \udcff")
        ctx.output("text")
        return {"attempt": ctx.attempt, "deadline": str(ctx.deadline), "dir": str(ctx.output_dir)}

    @action
    async def large(self, size_bytes: int) -> dict[str, Any]:
        return {"text": "x" * size_bytes}

    @action
    def burn(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    @action
    async def block(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    @action
    def spawn(self) -> dict[str, Any]:
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True, stdout=subprocess.DEVNULL)
        return {"pid": child.pid, "own": os.getpid()}

    def on_release(self, run_id: str) -> int:
        self.released.append(run_id)
        if run_id == "slow":
            self.ended.wait()
        return 1 if run_id in {"held", "slow"} and self.released.count(run_id) == 1 else 0


class Small(Sample):
    """Takes one execution at a time."""

    name = "small"
    capacity = 1


class Slow(Agent):
    """Takes a while to load: until a file is there."""

    name = "slow"

    def load(self) -> None:
        gate = Path(os.environ["GATE"])
        while not gate.exists():
            time.sleep(0.005)
        if gate.read_text() == "bad":
            raise RuntimeError("the model is damaged")

    @action
    async def noop(self) -> None:
        pass
