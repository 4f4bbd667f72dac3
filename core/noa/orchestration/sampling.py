"""Samples processor time and memory of the agents' processes every two seconds, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from noa.orchestration.supervisor import Supervisor

__all__ = ["Sampler", "memory_above"]

_INTERVAL_S = 2.0

_CHILDREN_ARE_LISTED = Path("/proc/thread-self/children").exists()
"""Linux has the children of a process at hand; elsewhere every process of the machine is read, which costs far more."""


class Sampler:
    """Tells replicas that have a process what it takes; child processes count too.

    Args:
        replicas: Gives the replicas that have a process now.
    """

    def __init__(self, replicas: Callable[[], list[Supervisor]]) -> None:
        self._replicas = replicas
        self._cpu_s: dict[int, float] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start sampling, once."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="sample agents")

    async def close(self) -> None:
        """Stop sampling."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            found = {replica.pid: replica for replica in self._replicas() if replica.pid is not None}
            figures = await asyncio.to_thread(_sample, list(found))
            now = loop.time()
            for pid, (cpu_s, memory) in figures.items():
                last = self._cpu_s.get(pid, cpu_s)
                if found[pid].pid == pid:
                    found[pid].sampled(max(0.0, 100.0 * (cpu_s - last) / max(now - before, 1e-3)), memory)
            self._cpu_s = {pid: cpu_s for pid, (cpu_s, _) in figures.items()}
            before = now
            await asyncio.sleep(_INTERVAL_S)


def memory_above(pid: int, limit_bytes: float) -> int:
    """Memory of a process and its children in bytes where it is above the limit, else 0. Reads files; may take 50 ms.

    Pages that several of them share are counted once where the system says so (Linux), and only once the plain sum is
    above the limit: finding out costs more.
    """
    figures = _sample_tree(pid)
    if figures is None or figures[1] <= limit_bytes:
        return 0
    exact = 0
    for member in _tree(pid):
        try:
            full = member.memory_full_info()
            exact += getattr(full, "pss", full.rss)
        except psutil.Error:
            continue  # it ended meanwhile
    return exact if exact > limit_bytes else 0


def _tree(pid: int) -> list[psutil.Process]:
    """A process and its children; empty where it ended."""
    try:
        process = psutil.Process(pid)
        if not _CHILDREN_ARE_LISTED:
            return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
    found = [process]
    for child in _below(pid):
        with contextlib.suppress(psutil.Error):  # it ended meanwhile
            found.append(psutil.Process(child))
    return found


def _below(pid: int) -> list[int]:
    """Children and theirs, as Linux lists them by thread."""
    found: list[int] = []
    left = [pid]
    while left:
        for children in _listed(Path("/proc", str(left.pop()), "task")):
            found += children
            left += children
    return found


def _listed(threads: Path) -> Iterator[list[int]]:
    """Children of each thread of a process."""
    try:
        found = list(threads.iterdir())
    except OSError:
        return  # it ended meanwhile
    for thread in found:
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            yield [int(child) for child in (thread / "children").read_bytes().split()]


def _sample(pids: list[int]) -> dict[int, tuple[float, int]]:
    """Processor seconds and resident bytes by process, its children's added."""
    return {pid: figures for pid in pids if (figures := _sample_tree(pid)) is not None}


def _sample_tree(pid: int) -> tuple[float, int] | None:
    members = _tree(pid)
    if not members:
        return None
    cpu_s, memory = 0.0, 0
    for member in members:
        try:
            times = member.cpu_times()
            cpu_s += times.user + times.system
            memory += member.memory_info().rss
        except psutil.Error:
            continue  # it ended meanwhile
    return cpu_s, memory
