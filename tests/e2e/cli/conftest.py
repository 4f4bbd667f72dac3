"""The real `noa` program in a folder of its own, and definitions to give it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

HERE = Path(__file__).parent
PLUGIN = HERE / "helper_agents.py"
NOA = Path(sys.executable).parent / "noa"


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Noa:
    """Calls `noa` in a folder."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(self, *args: object, given: str = "", plugin: bool = True, **env: str) -> Done:
        done = subprocess.run(
            self._command(args, plugin=plugin),
            cwd=self.folder,
            env=self._env(env),
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *args: object, plugin: bool = True, **options: Any) -> subprocess.Popen[str]:
        """Begin a command that the test goes on beside."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            self._command(args, plugin=plugin), cwd=self.folder, env=self._env({}), text=True, **options
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> Done:
        """Wait for a command that was begun."""
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)

    def line(self, stream: IO[str] | None) -> str:
        """The next line, past the stream's own buffer: what that held would be lost to `end`."""
        assert stream is not None
        read = bytearray()
        while not read.endswith(b"\n") and (byte := os.read(stream.fileno(), 1)):
            read += byte
        return read.decode()

    def wait_file(self, name: str) -> str:
        """Until a file is there and not empty; its text."""
        return wait_for(lambda: (self.folder / name).exists() and (self.folder / name).read_text())

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def _command(self, args: tuple[object, ...], *, plugin: bool) -> list[str]:
        takes_plugin = args and args[0] in {
            "run", "validate", "plan", "show", "why", "cancel", "resume", "agents", "plugins", "schema",
            "answer", "retry", "fork", "rollback",
        }  # fmt: skip
        return [str(NOA), *map(str, args), *(["--plugin", str(PLUGIN)] if plugin and takes_plugin else [])]

    def _env(self, more: dict[str, str]) -> dict[str, str]:
        left = {k: v for k, v in os.environ.items() if not k.startswith("NOA_") and k != "NO_COLOR"}
        return {**left, "PYTHONWARNINGS": "default", **more}


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Ask until the answer is true; give it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def alive(pid: int) -> bool:
    """Whether a process goes on (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def noa(tmp_path: Path) -> Iterator[Noa]:
    made = Noa(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def definition(noa: Noa) -> Callable[..., Path]:
    """Write a workflow of one stage after another: each list of actions is a sequential stage."""

    def write(*stages: list[Any], name: str = "flow", **workflow: Any) -> Path:
        made = []
        for index, actions in enumerate(stages):
            tasks = [
                {"agent": "helper", "action": a} if isinstance(a, str) else {"agent": "helper", **a} for a in actions
            ]
            after = {"depends_on": [f"s{index}"]} if index else {}
            made.append({"name": f"s{index + 1}", "type": "sequential", "tasks": tasks, **after})
        text = json.dumps({"workflow": {"name": name, "version": "1", **workflow, "stages": made}}, indent=1)
        return noa.write(f"{name}.json", text)

    return write


@pytest.fixture
def sidecar() -> dict[str, Any]:
    """Declares the same agent as a process of its own, named `aside`."""
    command = [sys.executable, "-m", "noa.sdk", "helper_agents:Helper"]
    return {"agents": {"aside": {"command": command, "env": {"PYTHONPATH": str(HERE)}}}}
