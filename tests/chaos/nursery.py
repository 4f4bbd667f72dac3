"""A process that has everything imported and forks an engine for each order: a life in a process of its own in 50 ms.

Orders and answers are lines of JSON. The exit status of an engine that killed itself is -9.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import noa.engine.engine

from .lives import Store, live, snapshot
from .scenarios import SCENARIOS

__all__ = ["Nursery"]

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """Has lives lived in processes of their own. Use it as a context manager; one life at a time."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def live(self, scenario: str, store: Store, *, at: int = 0, how: str = "kill-after") -> dict[str, Any] | None:
        """How the run ended, as `snapshot` has it, and under "writes" how often it wrote; None where it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"scenario": scenario, "folder": str(store.folder), "at": at, "how": how}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())
        if status == -9:
            return None
        assert status == 0, f"an engine ended with the status {status}: {order}"
        ended: dict[str, Any] = json.loads((store.folder / "end.json").read_text())
        return ended


def _prepare() -> None:
    """Import all that a life needs. A life that is lived whole leaves no thread behind, so that forking is safe."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(SCENARIOS[0], Store(Path(folder))))
    assert threading.active_count() == 1, threading.enumerate()
    noa.engine.engine.SIGNAL_POLL_S = 0.005
    gc.freeze()


def _serve() -> None:
    _prepare()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _live(order)
                status = 0
            finally:
                os._exit(status)
        _, waited = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(waited)}\n")
        sys.stdout.flush()


def _live(order: dict[str, Any]) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == order["scenario"])
    store = Store(Path(order["folder"]))
    life = asyncio.run(live(scenario, store, at=order["at"], how=order["how"]))
    assert life.state is not None
    (store.folder / "end.json").write_text(json.dumps(snapshot(life.state) | {"writes": life.writes}))


if __name__ == "__main__":
    _serve()
