"""The real program in real processes, each test with a state folder of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOA = str(Path(sys.executable).parent / "noa")


@dataclass
class Noa:
    """Calls `noa` with a state folder below the test's own."""

    home: Path
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def __call__(self, *arguments: object, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NOA, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=timeout, env=self._env
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [NOA, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._env
        )

    def json(self, *arguments: object) -> dict:
        done = self(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def events(self, kind: str | None = None) -> list[dict]:
        """Events on disk of all runs, in order, read past the engine."""
        if not (self.home / "noa.db").exists():
            return []
        base = sqlite3.connect(self.home / "noa.db", timeout=5)
        try:
            found = [json.loads(body) for (body,) in base.execute("SELECT body FROM events ORDER BY rowid")]
        except sqlite3.OperationalError:  # the tables are just being made
            return []
        finally:
            base.close()
        return [event for event in found if kind is None or event["type"] == kind]

    def wait_for_events(self, count: int, kind: str | None = None, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.events(kind)) < count:
            assert time.monotonic() < deadline, f"only {len(self.events(kind))} events {kind or ''} came"
            time.sleep(0.005)

    @property
    def _env(self) -> dict[str, str]:
        return {**self.env, "NOA_HOME": str(self.home)}


@pytest.fixture
def noa(tmp_path: Path) -> Noa:
    return Noa(tmp_path / "home")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Every process that it has started and that lives."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_gone(processes: list[psutil.Process], timeout_s: float = 10) -> list[psutil.Process]:
    """Those that still live after a while; a zombie whose parent is gone does not live."""
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
