"""Failures that the factory itself gives an attempt."""

from __future__ import annotations

from noa.errors import AgentLostError, AgentStartError, ArtifactError, NoaError
from noa.model.execution import Assignment
from noa.model.failure import Failure
from noa.orchestration.attempt import Attempt
from noa.orchestration.pool import QueueFullError

__all__ = ["at_deadline", "execution_timeout", "failure_of", "queue_timeout"]


def failure_of(error: NoaError, agent: str) -> Failure:
    """What an error before or in the work is, as the outcome of an attempt."""
    retryable = isinstance(error, AgentLostError | QueueFullError | ArtifactError) or (
        isinstance(error, AgentStartError) and error.code == "AGENT_START_FAILED" and "permanent" not in error.parts
    )
    return Failure(error.code, error.message, retryable=retryable, details={"agent": agent, **error.parts})


def queue_timeout(attempt: Attempt) -> Failure:
    """It did not begin in time."""
    assignment = attempt.assignment
    limit_ms = assignment.timeouts.queue_ms or 0
    return Failure(
        "QUEUE_TIMEOUT",
        f"{assignment.task} did not begin within {limit_ms / 1000:g} s: it {attempt.describe()}",
        retryable=True,
        details={"agent": assignment.agent, "limit_ms": limit_ms},
    )


def at_deadline(assignment: Assignment, outcome: Failure, after_s: float) -> Failure:
    """What an agent means that ended the work at its deadline, which it was told in the time of day."""
    limit_s = (assignment.timeouts.execution_ms or 0) / 1000
    if after_s >= limit_s / 2:
        return execution_timeout(assignment)
    message = (
        f"{outcome.message}. It said so after {after_s:.1f} s of {limit_s:g} s: the clock of its machine and that of "
        "this one disagree, or it gave itself less time"
    )
    return Failure(
        outcome.code,
        message,
        retryable=outcome.retryable,
        details={**outcome.details, "limit_ms": assignment.timeouts.execution_ms, "after_ms": int(after_s * 1000)},
        source=outcome.source,
    )


def execution_timeout(assignment: Assignment) -> Failure:
    """It did not end in time."""
    limit_s = (assignment.timeouts.execution_ms or 0) / 1000
    return Failure(
        "EXECUTION_TIMEOUT",
        f"{assignment.task}: agent '{assignment.agent}', action '{assignment.action}' did not end within {limit_s:g} s",
        retryable=True,
        details={"agent": assignment.agent, "limit_ms": assignment.timeouts.execution_ms},
    )
