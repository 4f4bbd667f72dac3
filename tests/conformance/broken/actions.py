"""What the reference agent can be asked for: the contract's `echo`, and one action of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator

from noa.agent.v1 import agent_service_pb2 as pb

from .executions import Execution
from .messages import WorkFailed

__all__ = ["Action", "Actions"]

BLOCK = bytes(256 << 10)
COUNT = {"type": "integer", "minimum": 0, "maximum": 100_000}
BYTES = {"type": "integer", "minimum": 0, "maximum": 1 << 30}
FAIL = {
    "type": "object",
    "properties": {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "retry_after_s": {"type": "number", "minimum": 0},
    },
}
ECHO_INPUT = {
    "type": "object",
    "properties": {
        "sleep_s": {"type": "number", "minimum": 0},
        "burn_s": {"type": "number", "minimum": 0},
        "progress": COUNT,
        "logs": COUNT,
        "chunks": COUNT,
        "size_bytes": BYTES,
        "stderr_bytes": BYTES,
        "child": {"type": "boolean"},
        "panic": {"type": "boolean"},
        "fail": FAIL,
    },
}
ECHO_OUTPUT = {
    "type": "object",
    "properties": {"echo": {"type": "object"}, "padding": {"type": "string"}, "pid": {"type": "integer"}},
    "required": ["echo"],
}
WORDS_INPUT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
WORDS_OUTPUT = {"type": "object", "properties": {"words": {"type": "integer"}}, "required": ["words"]}


@dataclass
class Action:
    """Something that the agent can be asked for."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    function: Callable[[Execution, dict[str, Any]], Awaitable[dict[str, Any]]]

    def message(self) -> pb.Action:
        """As it stands in the manifest."""
        made = pb.Action(name=self.name, description=self.description, idempotent=True)
        made.input_schema.update(self.input_schema)
        made.output_schema.update(self.output_schema)
        return made


class Actions:
    """The work, and the child processes that it holds for runs."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(512, "work")
        self.held: dict[str, list[subprocess.Popen[bytes]]] = {}
        offered = (
            Action("echo", "Gives back what it gets.", ECHO_INPUT, ECHO_OUTPUT, self.echo),
            Action("count_words", "Counts the words of a text.", WORDS_INPUT, WORDS_OUTPUT, self.count_words),
        )
        self.actions = {action.name: action for action in offered}

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what blocks."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *args)

    def find_action(self, name: str) -> Action:
        """The action of this name; UNKNOWN_ACTION where there is none."""
        if name not in self.actions:
            known = ", ".join(sorted(self.actions))
            raise WorkFailed("UNKNOWN_ACTION", f"there is no action {name!r} here. Known: {known}")
        return self.actions[name]

    def check_input(self, action: Action, inputs: dict[str, Any]) -> None:
        """INVALID_INPUT with the name of each field that breaks the announced schema."""
        broken = list(Draft202012Validator(action.input_schema).iter_errors(inputs))
        if broken:
            raise WorkFailed("INVALID_INPUT", "; ".join(f"{error.json_path}: {error.message}" for error in broken))

    async def count_words(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        """An action as an author would write one."""
        return {"words": len(inputs["text"].split())}

    async def echo(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        """The contract's action for testing."""
        output: dict[str, Any] = {"echo": self.echoed(execution, inputs)}
        if inputs.get("child"):
            output["pid"] = self.start_child(execution.run_id)
        if size := inputs.get("stderr_bytes"):
            await self.in_thread(self.write_stderr, execution, int(size))
        await self.send_all(execution, self.logs(int(inputs.get("logs", 0))))
        await self.send_all(execution, self.chunks(int(inputs.get("chunks", 0))))
        await self.wait(execution, inputs.get("sleep_s", 0), inputs.get("burn_s", 0), int(inputs.get("progress", 0)))
        if inputs.get("panic"):
            self.panic()
        if "fail" in inputs:
            self.fail(inputs["fail"])
        if "size_bytes" in inputs:
            output["padding"] = "x" * int(inputs["size_bytes"])
        return output

    def echoed(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        """What is given back."""
        return inputs

    def panic(self) -> None:
        """What nobody declared."""
        raise RuntimeError("asked to panic")

    def fail(self, how: dict[str, Any]) -> None:
        """What the work declares."""
        raise WorkFailed(
            how.get("code", "ECHO_FAILED"),
            how.get("message", "asked to fail"),
            retryable=how.get("retryable", False),
            retry_after_s=how.get("retry_after_s"),
        )

    def logs(self, count: int) -> Iterator[pb.ExecuteResponse]:
        """Log lines, numbered from 1."""
        for number in range(1, count + 1):
            yield pb.ExecuteResponse(log=pb.Log(level=pb.LOG_LEVEL_INFO, message=f"line {number}"))

    def chunks(self, count: int) -> Iterator[pb.ExecuteResponse]:
        """Pieces of output, numbered from 1."""
        for number in range(1, count + 1):
            yield pb.ExecuteResponse(output=pb.OutputChunk(data=f"chunk {number}\n".encode()))

    async def send_all(self, execution: Execution, messages: Iterator[pb.ExecuteResponse]) -> None:
        """Send them while others get their turn."""
        for number, message in enumerate(messages):
            execution.send(message)
            if number % 256 == 255:
                await asyncio.sleep(0)

    async def wait(self, execution: Execution, sleep_s: float, burn_s: float, progress: int) -> None:
        """Wait, compute, and say meanwhile how far it is."""
        report = asyncio.create_task(self.report(execution, sleep_s + burn_s, progress))
        try:
            await asyncio.sleep(sleep_s)
            if burn_s:
                await self.in_thread(self.burn, execution, burn_s)
            await report
        finally:
            report.cancel()

    async def report(self, execution: Execution, total_s: float, count: int) -> None:
        """Progress messages spread over the time that the work takes."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in range(1, count + 1):
            pause = started + total_s * number / count - loop.time()
            if pause > 0 or number % 256 == 0:
                await asyncio.sleep(max(pause, 0))
            execution.send(pb.ExecuteResponse(progress=self.progress(number, count)))

    def progress(self, number: int, count: int) -> pb.Progress:
        """How far it is."""
        return pb.Progress(fraction=number / count, done=number, total=count)

    def burn(self, execution: Execution, burn_s: float) -> None:
        """Compute; blocks of 256 KiB take far less than the 50 ms in which cancellation must be seen."""
        end = time.monotonic() + burn_s
        while time.monotonic() < end and not execution.stop.is_set():
            hashlib.sha256(BLOCK).digest()

    def write_stderr(self, execution: Execution, size_bytes: int) -> None:
        """Lines of 100 bytes, as many bytes as asked for."""
        line = b"." * 99 + b"\n"
        while size_bytes > 0 and not execution.stop.is_set():
            size_bytes -= os.write(sys.stderr.fileno(), (line * 100)[-size_bytes:])

    def start_child(self, run_id: str) -> int:
        """A process that is held for the run."""
        child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
        self.held.setdefault(run_id, []).append(child)
        return child.pid

    def release(self, run_id: str) -> None:
        """End what is held for a run; it is gone when this returns."""
        for child in self.held.pop(run_id, []):
            self.end_child(child)

    def end_child(self, child: subprocess.Popen[bytes]) -> None:
        """Its whole process group, and wait for it."""
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def release_all(self) -> None:
        """End everything that is held."""
        for run_id in list(self.held):
            self.release(run_id)
