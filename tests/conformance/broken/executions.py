"""What the reference agent knows of each execution, from its first request until a minute after its end."""

from __future__ import annotations

import asyncio
import threading
import time

from noa.agent.v1 import agent_service_pb2 as pb

from .messages import WorkFailed, failed

__all__ = ["Execution", "Executions"]

KEPT_S = 60.0
KEPT_COUNT = 1_000
KEPT_BYTES = 64 << 20


class Execution:
    """One execution. It belongs to no stream: streams listen to it while they last.

    Args:
        request: The first request with its id.
    """

    def __init__(self, request: pb.ExecuteRequest) -> None:
        self.id = request.execution_id
        self.run_id = request.run_id
        self.request = request
        self.started = time.monotonic()
        self.stop = threading.Event()  # for threads: the work shall end
        self.why: WorkFailed | None = None  # why it was told to end
        self.terminal: pb.ExecuteResponse | None = None
        self.ended = asyncio.Event()
        self.ended_at = 0.0
        self.work: asyncio.Task[pb.ExecuteResponse] | None = None
        self.abandon: asyncio.TimerHandle | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self._listeners: set[asyncio.Queue[pb.ExecuteResponse]] = set()

    def listen(self) -> asyncio.Queue[pb.ExecuteResponse]:
        """What is sent from now on; the terminal message at once where it is there."""
        queue: asyncio.Queue[pb.ExecuteResponse] = asyncio.Queue()
        if self.terminal is not None:
            queue.put_nowait(self.terminal)
        self._listeners.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[pb.ExecuteResponse]) -> None:
        """The stream has ended."""
        self._listeners.discard(queue)

    def send(self, message: pb.ExecuteResponse) -> None:
        """To everyone who listens; nothing follows the terminal message."""
        if self.terminal is None:
            for queue in self._listeners:
                queue.put_nowait(message)


class Executions:
    """The executions that go on, and the results of those that ended."""

    def __init__(self) -> None:
        self.active: dict[str, Execution] = {}
        self.results: dict[str, Execution] = {}

    def find(self, execution_id: str) -> Execution | None:
        """The execution of this id, whether it goes on or has ended."""
        return self.active.get(execution_id) or self.results.get(execution_id)

    def of_run(self, run_id: str) -> list[Execution]:
        """What goes on for a run."""
        return [execution for execution in self.active.values() if execution.run_id == run_id]

    def begin(self, request: pb.ExecuteRequest) -> Execution:
        """A new execution."""
        self._forget()
        execution = self.active[request.execution_id] = Execution(request)
        return execution

    def finish(self, execution: Execution, terminal: pb.ExecuteResponse) -> None:
        """Keep and send the terminal message; the first one counts."""
        if execution.terminal is not None:
            return
        if execution.why is not None:
            terminal = failed(execution.why)
        execution.send(terminal)
        execution.terminal = terminal
        execution.ended_at = time.monotonic()
        for timer in (execution.abandon, execution.deadline):
            if timer is not None:
                timer.cancel()
        self.active.pop(execution.id, None)
        self.results[execution.id] = execution
        execution.ended.set()

    def tell_to_end(self, execution: Execution, why: WorkFailed, grace_s: float) -> bool:
        """Cancel the work, and end the execution when `grace_s` is over whatever the work does.

        Returns:
            Whether this is the first time. Later ones change neither the reason nor make the time longer.
        """
        first = execution.why is None
        if first:
            execution.why = why
            execution.stop.set()
            if execution.work is not None:
                execution.work.cancel()
        loop = asyncio.get_running_loop()
        if execution.abandon is None or execution.abandon.when() > loop.time() + grace_s:
            if execution.abandon is not None:
                execution.abandon.cancel()
            execution.abandon = loop.call_later(grace_s, self.finish, execution, failed(why))
        return first

    def _forget(self) -> None:
        """Drop what ended more than a minute ago, and the oldest where there are too many and too large ones."""
        now = time.monotonic()
        size = sum(result.terminal.ByteSize() for result in self.results.values() if result.terminal is not None)
        for execution_id, result in list(self.results.items()):
            too_many = len(self.results) > KEPT_COUNT and size > KEPT_BYTES
            if now - result.ended_at <= KEPT_S and not too_many:
                return
            size -= result.terminal.ByteSize() if result.terminal is not None else 0
            del self.results[execution_id]
