"""Threads for actions: what they outlive."""

from __future__ import annotations

import asyncio
import threading

from noa.sdk.threads import ThreadPool


def test_a_thread_outlives_the_loop_that_waited_for_it() -> None:
    pool, begun, go = ThreadPool(1, "test"), threading.Event(), threading.Event()
    ended = threading.Event()

    def work() -> None:
        begun.set()
        go.wait(10)
        ended.set()

    async def leave_it() -> None:
        waiting = asyncio.ensure_future(pool.run(work))
        await asyncio.to_thread(begun.wait, 10)
        waiting.cancel()

    asyncio.run(leave_it())
    go.set()
    assert ended.wait(10)

    async def use_it() -> int:
        return await asyncio.wait_for(pool.run(lambda: 7), 10)

    assert asyncio.run(use_it()) == 7, "the only thread of the pool is still there"
