"""Faults from launch to exit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from noa.agent.v1 import agent_service_pb2 as pb

from .actions import Actions
from .agent import ReferenceAgent
from .executions import Execution
from .fault import fault
from .launch import Launch
from .messages import WorkFailed
from .payloads import Payloads


@fault("launch.unix", "did not listen", "unix:")
class KnowsNoUnixSockets(ReferenceAgent):
    """Takes NOA_AGENT_LISTEN for host:port whatever it says."""

    def address(self) -> str:
        return "127.0.0.1:0" if self.listen.startswith("unix:") else self.listen


@fault("launch.tcp", "did not listen", "127.0.0.1")
class ListensElsewhere(ReferenceAgent):
    """Listens on another address of the loopback than it was told."""

    def address(self) -> str:
        return self.listen.replace("127.0.0.1", "127.0.0.2")


@fault("launch.variables", "status 1, not 64")
class ExitsWithOne(Launch):
    """Says what is missing, but with the exit status of any error."""

    def on_missing(self, name: str) -> None:
        self.refuse(f"{name} is missing or empty", status=1)


@fault("launch.variables:assumes", "noa_agent_protocol")
class AssumesAVersion(Launch):
    """Takes a missing version for its own."""

    def on_missing(self, name: str) -> None:
        if name != "NOA_AGENT_PROTOCOL":
            super().on_missing(name)
        os.environ.pop(name, None)


@fault("launch.variables:silent", "name")
class DoesNotSayWhich(Launch):
    """Refuses without saying which variable it misses."""

    def on_missing(self, name: str) -> None:
        self.refuse("the environment is wrong")


@fault("launch.protocol", "status 1, not 64")
class ExitsWithOneForAnotherVersion(Launch):
    """Names both versions, but with the exit status of any error."""

    def on_other_protocol(self, protocol: str) -> None:
        self.refuse(f"the engine speaks version {protocol}, this agent speaks version 1", status=1)


@fault("launch.protocol:one", "does not name")
class NamesOneVersion(Launch):
    """Does not say which version the engine speaks."""

    def on_other_protocol(self, protocol: str) -> None:
        self.refuse("this agent speaks version 1 only")


@fault("launch.protocol:serves", "noa_agent_protocol", "still ran")
class ServesEveryVersion(Launch):
    """Serves an engine that speaks another version."""

    def on_other_protocol(self, protocol: str) -> None:
        pass


@fault("launch.stdin-end", "stdin")
class FinishesItsWorkFirst(ReferenceAgent):
    """Takes the end of stdin for a SIGTERM: ends when its work is done."""

    def on_stdin_end(self) -> None:
        self.on_sigterm()


@fault("launch.children", "child")
class LeavesItsChildren(ReferenceAgent):
    """Ends with stdin, and its children live on."""

    def on_stdin_end(self) -> None:
        os._exit(0)


@fault("launch.sigterm-idle", "status 143, not 0")
class DiesOfSigterm(ReferenceAgent):
    """Exits as if SIGTERM had killed it."""

    def status_after_drain(self, idle: bool) -> int:
        return 143 if idle else 0


@fault("launch.sigterm-drains", "overloaded")
class TakesWorkWhileDraining(ReferenceAgent):
    """Begins new work after SIGTERM."""

    def refusal(self) -> WorkFailed | None:
        return None if self.draining else super().refusal()


@fault(
    "launch.sigterm-drains:health",
    "draining",
    also={"launch.sigterm-twice": "it waits for DRAINING before it sends the second SIGTERM"},
)
class ServesWhileDraining(ReferenceAgent):
    """Health says SERVING after SIGTERM, while stock probes are told the truth."""

    def status(self) -> Any:
        status = super().status()
        return pb.HEALTH_STATUS_SERVING if status == pb.HEALTH_STATUS_DRAINING else status

    def probes_status(self) -> Any:
        return 2 if self.draining else super().probes_status()


@fault("launch.sigterm-drains:probes", "grpc.health.v1", "drained")
class ProbesServeWhileDraining(ReferenceAgent):
    """Stock probes are told SERVING after SIGTERM."""

    def probes_status(self) -> Any:
        return 1 if self.draining else super().probes_status()


@fault("launch.sigterm-drains:status", "status 1, not 0")
class FailsAfterDraining(ReferenceAgent):
    """Does all that is asked for, then exits with 1."""

    def status_after_drain(self, idle: bool) -> int:
        return 0 if idle else 1


@fault("launch.sigterm-twice", "second")
class IgnoresASecondSigterm(ReferenceAgent):
    """Goes on draining whatever comes."""

    def on_second_sigterm(self) -> None:
        pass


@fault("launch.sigterm-twice:status", "143")
class ExitsWithZeroAtOnce(ReferenceAgent):
    """Ends at the second SIGTERM as if all were well."""

    def on_second_sigterm(self) -> None:
        self.quit(0)


@fault("launch.sigint", "sigint")
class DiesOfSigint(ReferenceAgent):
    """Ends when someone presses Ctrl-C in the engine's terminal."""

    def on_sigint(self) -> None:
        self.quit(128 + signal.SIGINT)


@fault("launch.output", "the log is full")
class LosesWorkThatWritesMuch(Actions):
    """Its log has room for 64 KiB; work that writes more fails."""

    def write_stderr(self, execution: Execution, size_bytes: int) -> None:
        super().write_stderr(execution, min(size_bytes, 64 << 10))
        if size_bytes > 64 << 10:
            raise BlockingIOError("the log is full")


@fault("launch.output:hangs", "arrived", "accepted")
class WritesIntoAFullPipe(Actions):
    """Has its stderr go through a pipe of its own that nobody empties."""

    def write_stderr(self, execution: Execution, size_bytes: int) -> None:
        _, full = os.pipe()
        os.write(full, b"." * (64 << 10))
        os.set_blocking(full, False)
        sys.stderr.flush()
        os.dup2(full, sys.stderr.fileno())
        execution.stop.wait()


@fault(
    "launch.temporary:artifact",
    ".tmp-",
    "artifact_prefix",
    also={"execute.output-reference": "it looks for temporary files below artifact_prefix too"},
)
class CopiesItsArtifacts(Payloads):
    """Leaves the temporary file beside the artifact."""

    def write_file(self, data: bytes, target: Path) -> None:
        super().write_file(data, target)
        (target.parent.parent / f".tmp-{target.name}").write_bytes(data)


@fault("launch.temporary", "tmpdir", "scratch-")
class ForgetsItsScratchFile(Actions):
    """Has a file in TMPDIR while it works, and forgets it when it is cancelled."""

    async def echo(self, execution: Execution, inputs: dict[str, Any]) -> dict[str, Any]:
        handle, path = tempfile.mkstemp(prefix="scratch-")
        os.close(handle)
        try:
            output = await super().echo(execution, inputs)
        except asyncio.CancelledError:
            raise
        except BaseException:
            Path(path).unlink()
            raise
        Path(path).unlink()
        return output
