"""The executions that a sidecar knows: those that go on, who listens to them, and the results of the last ones.

Everything here belongs to the event loop that serves gRPC.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque

from noa.agent.v1 import agent_service_pb2 as pb
from noa.model.failure import Failure

__all__ = ["Execution", "ExecutionTable", "Feed"]

_FEED_MESSAGES = 1000
_FEED_BYTES = 4 << 20
_KEEP_S = 60.0
_KEEP_RESULTS = 1000
_KEEP_BYTES = 64 << 20
_RESULT_BYTES = 1 << 10  # what a result takes beside its message, about


class Feed:
    """Messages for one client, bounded: a client that reads slowly loses the oldest observations, never the result."""

    __slots__ = ("_bytes", "_dropped", "_messages", "_waiter", "terminal")

    def __init__(self) -> None:
        self._messages: deque[tuple[pb.ExecuteResponse, int]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._waiter: asyncio.Future[None] | None = None
        self.terminal: pb.ExecuteResponse | None = None

    def put(self, message: pb.ExecuteResponse, size_bytes: int) -> None:
        """Add an observation."""
        self._messages.append((message, size_bytes))
        self._bytes += size_bytes
        while len(self._messages) > _FEED_MESSAGES or self._bytes > _FEED_BYTES:
            self._bytes -= self._messages.popleft()[1]
            self._dropped += 1
        self.wake()

    def finish(self, terminal: pb.ExecuteResponse) -> None:
        """Add the terminal message."""
        self.terminal = terminal
        self.wake()

    def take(self) -> pb.ExecuteResponse | None:
        """The next message, the terminal one last; None where there is none now."""
        if self._dropped:
            text = f"{self._dropped} observations were dropped: they came faster than the engine read them"
            self._dropped = 0
            return pb.ExecuteResponse(log=pb.Log(level=pb.LOG_LEVEL_WARNING, message=text))
        if self._messages:
            message, size_bytes = self._messages.popleft()
            self._bytes -= size_bytes
            return message
        return self.terminal

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is a message, or until the time is over."""
        if self._messages or self.terminal is not None:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self.wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        """Let who waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Execution:
    """One execution.

    Attributes:
        execution_id: Its name.
        run_id: Its run.
        terminal: The last message of its stream, once it has ended.
        working: Whether the action's code still runs; it may outlive the end of a stream that was cut by a deadline.
        deadline: Timer that ends it.
        told: How its stream ends because it was told to end; None as long as it was not.
        abandoned: Whether the grace of its end is over; nobody waits for its code any more.
    """

    __slots__ = (
        "abandoned", "deadline", "ended_at_s", "execution_id", "feeds", "run_id", "size_bytes", "terminal", "told",
        "working",
    )  # fmt: skip

    def __init__(self, execution_id: str, run_id: str) -> None:
        self.execution_id = execution_id
        self.run_id = run_id
        self.feeds: list[Feed] = []
        self.terminal: pb.ExecuteResponse | None = None
        self.working = True
        self.deadline: asyncio.TimerHandle | None = None
        self.told: Failure | None = None
        self.abandoned = False
        self.ended_at_s = 0.0
        self.size_bytes = 0

    def listen(self) -> Feed:
        """A feed of what comes from now on; of an ended execution it has the terminal message."""
        feed = Feed()
        self.feeds.append(feed)
        if self.terminal is not None:
            feed.finish(self.terminal)
        return feed

    def publish(self, message: pb.ExecuteResponse, size_bytes: int) -> None:
        """Give an observation to all who listen."""
        if self.terminal is None:
            for feed in self.feeds:
                feed.put(message, size_bytes)


class ExecutionTable:
    """Executions by id. Results are kept for 60 s, except the oldest of more than 1,000 that take more than 64 MiB."""

    def __init__(self) -> None:
        self._going: dict[str, Execution] = {}
        self._ended: OrderedDict[str, Execution] = OrderedDict()
        self._ended_bytes = 0
        self._working: dict[Execution, None] = {}
        self._idle: asyncio.Event | None = None

    @property
    def working(self) -> int:
        """How many executions' code runs now."""
        return len(self._working)

    def find(self, execution_id: str) -> Execution | None:
        """The execution of that id, also an ended one."""
        return self._going.get(execution_id) or self._ended.get(execution_id)

    def of_run(self, run_id: str) -> list[Execution]:
        """Executions of a run whose code runs and was not abandoned, also where a deadline has cut their streams."""
        return [one for one in self._working if one.run_id == run_id and not one.abandoned]

    def begin(self, execution_id: str, run_id: str) -> Execution:
        """Add a new execution."""
        execution = self._going[execution_id] = Execution(execution_id, run_id)
        self._working[execution] = None
        return execution

    def finish(self, execution: Execution, terminal: pb.ExecuteResponse, *, now_s: float) -> None:
        """End an execution's streams. The first terminal message counts."""
        if execution.terminal is not None:
            return
        execution.terminal = terminal
        if execution.deadline is not None:
            execution.deadline.cancel()
            execution.deadline = None
        for feed in execution.feeds:
            feed.finish(terminal)
        del self._going[execution.execution_id]
        execution.ended_at_s, execution.size_bytes = now_s, terminal.ByteSize() + _RESULT_BYTES
        self._ended[execution.execution_id] = execution
        self._ended_bytes += execution.size_bytes
        self._evict(now_s)

    def stopped(self, execution: Execution) -> None:
        """Note that the action's code has ended."""
        if execution.working:
            execution.working = False
            del self._working[execution]
            if not self._working and self._idle is not None:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no action's code runs."""
        if self._working:
            self._idle = asyncio.Event()
            await self._idle.wait()

    def _evict(self, now_s: float) -> None:
        while len(self._ended) > _KEEP_RESULTS:
            oldest = next(iter(self._ended.values()))
            if now_s - oldest.ended_at_s <= _KEEP_S and self._ended_bytes <= _KEEP_BYTES:
                return
            del self._ended[oldest.execution_id]
            self._ended_bytes -= oldest.size_bytes
