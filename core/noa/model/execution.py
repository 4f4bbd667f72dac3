"""One attempt as agents see it: what is asked, what is observed on the way, what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from noa.model.failure import Failure
from noa.model.ids import ExecutionId, RunId, TaskPath
from noa.model.plan import Timeouts

__all__ = ["Assignment", "Log", "Observation", "Outcome", "OutputChunk", "Progress", "Stage", "Succeeded", "Waiting"]


class Assignment(msgspec.Struct, frozen=True):
    """What an agent is asked to do.

    Attributes:
        execution_id: Names the attempt; the same after a restart of the engine.
        idempotency_key: The same for all attempts of the task.
        attempt: From 1.
        inputs: JSON object; may hold artifact references.
        resources: Demands that must all be granted before it begins.
        output_uri: `file:///…/` folder for files that the run makes for a person.
        confidential: Whether the inputs hold secrets; they are then never written anywhere, not even as an artifact.
    """

    execution_id: ExecutionId
    idempotency_key: str
    run_id: RunId
    workflow: str
    stage: str
    task: TaskPath
    attempt: int
    agent: str
    action: str
    inputs: dict[str, Any] = {}
    resources: Mapping[str, float] = {}
    timeouts: Timeouts = Timeouts()
    priority: int = 0
    output_uri: str = ""
    confidential: bool = False


class Succeeded(msgspec.Struct, frozen=True):
    """The work was done. `outputs` is a JSON object whose large fields are artifact references."""

    outputs: dict[str, Any] = {}
    metrics: dict[str, float] = {}


Outcome: TypeAlias = Succeeded | Failure


# Observations: what is seen while an attempt goes on. Not facts: bounded, dropped oldest first, never in the way.


class Stage(msgspec.Struct, frozen=True, tag="stage"):
    """Where the attempt is: queued for resources or an agent, or running on it since now."""

    name: Literal["queued", "starting_agent", "running"]
    detail: str = ""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """Why an attempt has not begun: which resource or agent it waits for."""

    kind: Literal["resource", "agent"]
    what: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the work is. `fraction` is 0 to 1 or None; `unit` such as "files"."""

    fraction: float | None = None
    message: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""


class Log(msgspec.Struct, frozen=True, tag="log"):
    """A line of an agent."""

    level: Literal["debug", "info", "warning", "error"]
    message: str
    at_ms: int = 0


class OutputChunk(msgspec.Struct, frozen=True, tag="output"):
    """A piece of output while it is made, decoded as text (undecodable bytes replaced)."""

    text: str
    content_type: str = "text/plain"


Observation: TypeAlias = Stage | Waiting | Progress | Log | OutputChunk
