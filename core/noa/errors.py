"""The errors that noa raises, grouped by what a caller can do about them.

    NoaError
    ├── UsageError              call it otherwise: an argument, option or input is wrong
    │   ├── InputError          an input of a run is missing, unknown or of the wrong type
    │   ├── RunNotFoundError    no run of that id in this store
    │   ├── RunStateError       the run is not in a state in which that can be done
    │   └── SecretError         a secret that the definition names is not set
    ├── DefinitionError         mend the definition: carries every problem with its position
    ├── PluginError             mend or disable a plugin: names it
    ├── AgentError              an agent did not do what the contract says; the recovery chain decides
    │   ├── AgentStartError     it could not be started, or was never ready
    │   │   └── AgentMismatchError      it speaks another version of the contract
    │   ├── AgentLostError      it went away before the attempt finished
    │   ├── AgentProtocolError  it answered something that the contract forbids
    │   └── AgentUnauthenticatedError   it refuses the engine's token
    ├── JournalError            the store failed; whether the last write happened is unknown
    │   ├── ConflictError       another owner wrote first; nothing was written
    │   │   └── RunKeyError     a run was started under this key before
    │   ├── OwnershipError      another live engine owns the run
    │   └── JournalVersionError the store was written by a newer version
    ├── ArtifactError           an artifact is missing, damaged or cannot be written
    └── InternalError           a fault of noa itself; please report it

Every error has a stable `code` (listed in docs/errors.md), keeps its parts as attributes, and survives pickle and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

__all__ = [
    "AgentError",
    "AgentLostError",
    "AgentMismatchError",
    "AgentProtocolError",
    "AgentStartError",
    "AgentUnauthenticatedError",
    "ArtifactError",
    "ConflictError",
    "DefinitionError",
    "InputError",
    "InternalError",
    "JournalError",
    "JournalVersionError",
    "NoaError",
    "OwnershipError",
    "PluginError",
    "Problem",
    "RunKeyError",
    "RunNotFoundError",
    "RunStateError",
    "SecretError",
    "UsageError",
]


class NoaError(Exception):
    """Root of the tree; never raised itself.

    Args:
        message: What, where, expected and got, what to do.
        parts: Facts for programs; JSON values only.
    """

    code: ClassVar[str] = "NOA_ERROR"

    def __init__(self, message: str, **parts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.parts: dict[str, Any] = parts

    def __str__(self) -> str:
        return self.message

    def __getattr__(self, name: str) -> Any:
        # Parts read as attributes (`error.agent`); __getattr__ runs only when normal lookup failed.
        parts = self.__dict__.get("parts", {})
        if name in parts:
            return parts[name]
        raise AttributeError(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.parts))

    def to_dict(self) -> dict[str, Any]:
        """The error as a JSON object: code, message, parts."""
        return {"code": self.code, "message": self.message, **({"parts": self.parts} if self.parts else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NoaError:
        """The inverse of `to_dict`, by code; an unknown code gives an InternalError."""
        kind = _by_code().get(data["code"], InternalError)
        return _rebuild(kind, data["message"], dict(data.get("parts", {})))


def _rebuild(kind: type[NoaError], message: str, parts: dict[str, Any]) -> NoaError:
    error = kind.__new__(kind)
    NoaError.__init__(error, message, **parts)
    return error


def _by_code() -> dict[str, type[NoaError]]:
    found: dict[str, type[NoaError]] = {}
    pending: list[type[NoaError]] = [NoaError]
    while pending:
        kind = pending.pop()
        found[kind.code] = kind
        pending.extend(kind.__subclasses__())
    return found


class UsageError(NoaError):
    """Something was called wrongly; nothing was changed."""

    code = "USAGE"


class InputError(UsageError):
    """Inputs of a run do not fit its definition; no run was created."""

    code = "INVALID_RUN_INPUT"


class SecretError(UsageError):
    """A secret that a definition names is not set, cannot be read, or cannot be kept out of what is recorded."""

    code = "SECRET"


class RunNotFoundError(UsageError):
    """The store has no run of that id."""

    code = "RUN_NOT_FOUND"


class RunStateError(UsageError):
    """The run's state does not allow that; nothing was changed."""

    code = "RUN_STATE"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a definition.

    Attributes:
        code: Stable code such as UNKNOWN_KEY.
        message: What was expected and what was found; names what is known and the nearest.
        file: File as the user named it.
        line: From 1; 0 where there is no position.
        column: From 1, in characters.
        source: The source line, without its newline.
        path: Where in the document, such as `workflow.stages[0].type`.
        severity: "error" or "warning". Warnings never stop a run.
        hint: What to do about it, where that is more than the message says.
    """

    code: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    source: str = ""
    path: str = ""
    severity: str = "error"
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DefinitionError(NoaError):
    """A definition cannot be run. `problems` has all of its mistakes, in the order of the file."""

    code = "INVALID_DEFINITION"

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """The error for these problems (at least one)."""
        text = "\n".join(str(p) for p in problems)
        return cls(text, problems=[asdict(p) for p in problems])

    @property
    def problems(self) -> list[Problem]:
        """Every mistake of the definition."""
        return [Problem(**p) for p in self.parts.get("problems", [])]


class PluginError(NoaError):
    """A plugin cannot be loaded or answered something it must not. `plugin` names it."""

    code = "PLUGIN"


class AgentError(NoaError):
    """An agent did not do what the contract says."""

    code = "AGENT"


class AgentStartError(AgentError):
    """An agent could not be started or was never ready. Nothing was executed."""

    code = "AGENT_START_FAILED"


class AgentMismatchError(AgentStartError):
    """The agent speaks no version of the contract that noa speaks. Nothing was executed; a new start is no use."""

    code = "AGENT_PROTOCOL_MISMATCH"


class AgentUnauthenticatedError(AgentError):
    """The agent refuses the engine's token. Nothing was executed."""

    code = "AGENT_UNAUTHENTICATED"


class AgentLostError(AgentError):
    """The agent went away before the attempt finished. Retryable: the attempt may have had effects."""

    code = "AGENT_LOST"


class AgentProtocolError(AgentError):
    """The agent answered something that the contract forbids."""

    code = "AGENT_PROTOCOL_ERROR"


class JournalError(NoaError):
    """The store failed. Whether the last write happened is unknown; repeating it is safe."""

    code = "JOURNAL"


class ConflictError(JournalError):
    """Another owner appended first; nothing was written. Read again."""

    code = "JOURNAL_CONFLICT"


class RunKeyError(ConflictError):
    """A run was started under this key before (`run_id` names it); nothing was written."""

    code = "RUN_KEY"


class OwnershipError(JournalError):
    """Another live engine owns the run; nothing was written."""

    code = "RUN_OWNED"


class JournalVersionError(JournalError):
    """The store was written by a newer version of noa; nothing was read or changed."""

    code = "JOURNAL_VERSION"


class ArtifactError(NoaError):
    """An artifact is missing, damaged or cannot be written."""

    code = "ARTIFACT"


class InternalError(NoaError):
    """A fault of noa itself. Please report it with the text."""

    code = "INTERNAL"
