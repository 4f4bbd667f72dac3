"""A small pool of daemon threads: work that never ends cannot keep the process alive."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["ThreadPool"]

_IDLE_S = 30.0
T = TypeVar("T")


class ThreadPool:
    """Runs calls in threads, at most `limit` at once; further ones wait in order.

    Unlike `concurrent.futures`, its threads are daemons, because the interpreter would otherwise wait at its end for
    an action that ignores its cancellation.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._condition = threading.Condition()
        self._calls: deque[Callable[[], None]] = deque()
        self._idle = 0
        self._threads = 0

    def submit(self, call: Callable[[], None]) -> None:
        """Run a call soon. It must not raise."""
        with self._condition:
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._condition.notify()
                return
            if self._threads >= self._limit:
                return
            self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call in a thread, with the caller's context variables, and give what it returns or raises."""
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[T] = loop.create_future()
        variables = contextvars.copy_context()

        def work() -> None:
            result: Any = None
            raised: BaseException | None = None
            try:
                result = variables.run(call)
            except BaseException as error:  # handed to who waits
                raised = error
            # A loop that was closed meanwhile has nobody who waits; the thread goes on to other calls.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, finished, result, raised)

        self.submit(work)
        return await finished

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()
            del call  # or the last call's values would live until the next one

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            while not self._calls:
                self._idle += 1
                woken = self._condition.wait(_IDLE_S)
                self._idle -= 1
                if not woken and not self._calls:
                    self._threads -= 1
                    return None
            return self._calls.popleft()


def _settle(finished: asyncio.Future[T], result: T, raised: BaseException | None) -> None:
    if finished.done():
        return
    if raised is None:
        finished.set_result(result)
    else:
        finished.set_exception(raised if isinstance(raised, Exception) else RuntimeError(repr(raised)))
