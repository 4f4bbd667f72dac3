"""What a definition may say: one model for each kind of node. Descriptions become the editor's hover texts.

The models know form only; what names mean is checked in `checks` and `compile`. Stage types use `TaskModel` and
`ExpressionText` in their own option models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from noa.definitions.quantities import DurationMs, Quantity
from noa.model.plan import Expression

__all__ = [
    "AgentModel",
    "ApprovalModel",
    "CacheModel",
    "CompensateModel",
    "DefaultsModel",
    "DefinitionModel",
    "ExpressionText",
    "Name",
    "Scope",
    "SharedTimeoutsModel",
    "StageModel",
    "SuperviseModel",
    "TaskList",
    "TaskModel",
    "TimeoutsModel",
    "WorkflowModel",
    "check_name",
]

_NAME = re.compile(r"^[\w.-]{1,100}$")
_SECRET = re.compile(r"\s*\$\{\{\s*secrets\.[A-Za-z_][A-Za-z0-9_]*\s*\}\}\s*")
_ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ExpressionText(str):
    """Text that is one bare CEL expression, such as `inputs.count > 3`. The compiler replaces it by an `Expression`."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1}, {"type": "boolean"}], "title": "CEL expression"}

    @classmethod
    def _validate(cls, value: Any) -> ExpressionText | Expression:
        if isinstance(value, Expression):  # a strategy's options are read again once they are compiled
            return value
        if isinstance(value, bool):
            return cls("true" if value else "false")
        if not isinstance(value, str):
            raise PydanticCustomError("expression_type", "expected a CEL expression such as 'inputs.count > 3'")
        if not value.strip():
            raise PydanticCustomError("expression_empty", "expected a CEL expression, got empty text")
        return cls(value)


@dataclass(frozen=True, slots=True)
class Scope:
    """Marks an option of a stage type: names that its expressions may use beside those of every stage.

    Example: `until: Annotated[ExpressionText | None, Scope("previous", "index")] = None`.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


def check_name(value: str) -> str:
    """The value, where it is a name: letters, digits, `_`, `-`, `.`; at most 100.

    Raises:
        PydanticCustomError: It is not.
    """
    if not _NAME.match(value):
        raise PydanticCustomError(
            "invalid_name",
            "expected a name of letters, digits, '_', '-' and '.', at most 100 characters, got {got}",
            {"got": repr(value if len(value) <= 110 else value[:100] + "…")},
        )
    return value


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": r"^[\w.-]{1,100}$"})]
"""A name of a workflow, stage, task, agent, input or pool."""

Text = Annotated[str, Field(min_length=1)]


def _task_inputs(value: Any) -> Any:
    if value is None or isinstance(value, dict) or (isinstance(value, str) and "${{" in value):
        return value
    raise PydanticCustomError("inputs_type", "expected a mapping, or one expression ${{ … }} that gives one")


def _timeouts(value: Any) -> Any:
    return {"execution": value} if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


def _total(value: Any) -> Any:
    return {"total": value} if isinstance(value, (str, int, float)) and not isinstance(value, bool) else value


def _cache(value: Any) -> Any:
    """`true` is the inputs as key, `false` is no cache, a duration is the time to live."""
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, (str, int, float)):
        return {"ttl": value}
    if value is not None and not isinstance(value, dict):
        raise PydanticCustomError(
            "cache_type", "expected true, a duration, or a mapping such as {key: ${{ inputs.date }}, ttl: 1d}"
        )
    return value


def _addresses(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _replicas(value: Any) -> Any:
    return {"min": value, "max": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _tls(value: Any) -> Any:
    """`true` is TLS without files, `false` is none."""
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, dict):
        raise PydanticCustomError("agent_tls", "expected true, false, or a mapping such as {ca_file: ca.pem}")
    return value


TaskInputs = Annotated[
    Any,
    BeforeValidator(_task_inputs),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string", "pattern": r"\$\{\{"}]}),
]
Recovery = Annotated[list[Any], WithJsonSchema({"x-noa-ref": "Recovery"})]
_LATER = "Parsed, and refused until a later version runs it. "


class TimeoutsModel(_Model):
    """Limits of a task. Durations such as '30s' or '2h', or seconds."""

    execution: DurationMs | None = Field(None, description="From the start of an attempt to its result.")
    heartbeat: DurationMs | None = Field(None, description="Longest silence of the agent while it works.")
    queue: DurationMs | None = Field(None, description="Longest wait for resources and an agent.")
    total: DurationMs | None = Field(None, description="Over all attempts.")


TimeoutsField = Annotated[
    TimeoutsModel,
    BeforeValidator(_timeouts, json_schema_input_type=DurationMs | TimeoutsModel),
]


class SharedTimeoutsModel(_Model):
    """Limits of a stage or a run, and of its tasks where they have no nearer ones."""

    total: DurationMs | None = Field(None, description="For the whole of it, from its begin to its end.")
    execution: DurationMs | None = Field(None, description="Of its tasks: from the start of an attempt to its result.")
    heartbeat: DurationMs | None = Field(None, description="Of its tasks: longest silence of the agent.")
    queue: DurationMs | None = Field(None, description="Of its tasks: longest wait for resources and an agent.")


SharedTimeoutsField = Annotated[
    SharedTimeoutsModel,
    BeforeValidator(_total, json_schema_input_type=DurationMs | SharedTimeoutsModel),
]


class CompensateModel(_Model):
    """What undoes a task when its run is rolled back."""

    agent: Text = Field(description="Agent that is asked.")
    action: Text = Field(description="What the agent is asked for.")
    inputs: TaskInputs = Field(
        None,
        description="Inputs of the action; ${{ outputs.x }} is what the task gave. Without it: the task's own inputs, "
        "overlaid with its outputs.",
    )
    after: Literal["success", "attempt"] = Field(
        "success", description="attempt: it is also undone where an attempt began and did not succeed."
    )
    timeout: TimeoutsField | None = Field(None, description="Limits, as of a task; a bare duration limits one attempt.")
    recovery: Recovery | None = Field(None, description="Without it: five attempts, whatever the failure.")
    resources: dict[Name, Quantity] = Field(default_factory=dict, description="Demands, as of a task.")


class CacheModel(_Model):
    """When outputs of an earlier equal task are taken."""

    key: Any = Field(None, description="What makes two tasks equal; ${{ }} holds CEL. Without it: their inputs.")
    ttl: DurationMs | None = Field(None, description="How old the outputs may be; any age where it is not given.")


def _approval(value: Any) -> Any:
    """`true` asks anybody; text is the prompt."""
    if isinstance(value, bool):
        return {} if value else None
    return {"prompt": value} if isinstance(value, str) else value


def _names(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[Text], BeforeValidator(_names, json_schema_input_type=str | list[str])]


class ApprovalModel(_Model):
    """Who must approve before something begins."""

    prompt: str = Field("", description="What the person is asked; ${{ }} holds CEL, with `task` in scope.")
    approvers: Names = Field(default_factory=list, description="Who may approve: names of users. Without it: anybody.")
    quorum: Annotated[int, Field(ge=1, le=100)] = Field(1, description="How many different people must approve.")
    timeout: DurationMs | None = Field(None, description="How long it waits. Without it: for ever.")
    on_timeout: Literal["reject", "approve", "escalate"] = Field(
        "reject", description="What counts when nobody answered in time, and at once in mode auto."
    )
    escalate_to: Names = Field(
        default_factory=list, description="Who may approve once the time is over, with on_timeout: escalate."
    )
    four_eyes: bool = Field(False, description="Who began the run, or changed the task, cannot approve it.")
    show: Any = Field(None, description="What the person should see, by name; ${{ }} holds CEL.")

    @model_validator(mode="after")
    def _possible(self) -> ApprovalModel:
        if self.approvers and self.quorum > len(set(self.approvers)):
            raise PydanticCustomError(
                "approval", f"'quorum' is {self.quorum}, but there are {len(set(self.approvers))} 'approvers'"
            )
        if (self.on_timeout == "escalate") != bool(self.escalate_to):
            raise PydanticCustomError("approval", "'on_timeout: escalate' and 'escalate_to' come together")
        if self.on_timeout == "escalate" and self.timeout is None:
            raise PydanticCustomError("approval", "'on_timeout: escalate' needs a 'timeout', such as '24h'")
        return self


class SuperviseModel(ApprovalModel):
    """A rule by which tasks need an approval."""

    when: ExpressionText = Field(description="CEL; tasks for which it is true, with `task` in scope.")


ApprovalField = Annotated[
    ApprovalModel | None, BeforeValidator(_approval, json_schema_input_type=bool | str | ApprovalModel | None)
]


class TaskModel(_Model):
    """One piece of work: an agent is asked for an action, or another workflow is run."""

    name: Name | None = Field(None, description="Unique in its stage; the action (or the workflow's file) by default.")
    agent: Text | None = Field(None, description="Agent that is asked.")
    action: Text | None = Field(None, description="What the agent is asked for.")
    workflow: Text | None = Field(None, description="Path of another definition to run, relative to this file.")
    inputs: TaskInputs = Field(
        None,
        description="Inputs of the action; ${{ }} holds CEL. Without it: the run's inputs and the outputs of all "
        "tasks that this one depends on.",
    )
    needs: list[str] = Field(default_factory=list, description="Tasks of the same stage that must be done first.")
    when: ExpressionText | None = Field(None, description="CEL; the task is skipped where it is false.")
    resources: dict[Name, Quantity] = Field(
        default_factory=dict, description="Demands, granted all at once: cpu (cores), memory (bytes), gpu, any pool."
    )
    timeout: TimeoutsField | None = Field(None, description="Limits; a bare duration limits one execution.")
    recovery: Recovery | None = Field(None, description="Strategies for a failed attempt, tried in order.")
    compensate: CompensateModel | None = Field(None, description="What undoes it when the run is rolled back.")
    optional: bool = Field(False, description="Whether its failure counts as done with null outputs.")
    approval: ApprovalField = Field(None, description="Who must approve before it begins; true asks anybody.")
    cache: Annotated[
        CacheModel | None, BeforeValidator(_cache, json_schema_input_type=bool | DurationMs | CacheModel | None)
    ] = Field(None, description="Takes outputs of an earlier equal task: true, how old they may be, or {key, ttl}.")
    priority: int = Field(0, description="Higher goes first among tasks that could start.")
    idempotent: bool | None = Field(None, description="Whether it may be done twice; by default as the agent says.")

    @model_validator(mode="after")
    def _agent_or_workflow(self) -> TaskModel:
        if self.workflow is not None:
            for key in ("agent", "action"):
                if getattr(self, key) is not None:
                    raise PydanticCustomError("task_kind", f"a task has 'workflow' or '{key}', not both")
        elif self.agent is None and self.action is None:
            raise PydanticCustomError("task_kind", "a task needs 'agent' and 'action', or 'workflow'")
        elif self.agent is None or self.action is None:
            key = "agent" if self.agent is None else "action"
            raise PydanticCustomError("task_kind", f"missing key '{key}': a task needs 'agent' and 'action'")
        return self


TaskList = Annotated[list[TaskModel], Field(min_length=1)]
"""Tasks in the options of a stage type."""


class StageModel(_Model):
    """A part of a workflow: a graph of tasks whose shape its type decides."""

    name: Name = Field(description="Unique in the workflow.")
    type: str = Field(description="A registered stage type.")
    description: str = Field("", description="For people.")
    depends_on: list[str] = Field(default_factory=list, description="Stages that must be done first.")
    when: ExpressionText | None = Field(None, description="CEL; the stage is skipped where it is false.")
    approval: ApprovalField = Field(None, description="Who must approve before it opens; true asks anybody.")
    run_on: Literal["success", "failure", "always"] = Field(
        "success", description="Which outcome of the stages that it depends on starts it."
    )
    fail_fast: bool = Field(True, description="Whether the first failure cancels the stage's other tasks.")
    max_parallel: Annotated[int, Field(ge=1)] | None = Field(None, description="How many of its tasks may run at once.")
    recovery: Recovery | None = Field(None, description="Strategies for its tasks that have none of their own.")
    timeout: SharedTimeoutsField | None = Field(
        None, description="Limit for the whole stage; a mapping also has limits for its tasks."
    )


class ReplicasModel(_Model):
    """How many replicas of an agent there may be."""

    min: Annotated[int, Field(ge=0)] = Field(1, description="Kept going once needed.")
    max: Annotated[int, Field(ge=1)] = Field(1, description="Never more.")
    idle: DurationMs | None = Field(None, description="After how long without need for them replicas end; 1 minute.")

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasModel:
        if self.min > self.max:
            raise PydanticCustomError("replicas", f"'min' is {self.min}, which is above 'max' {self.max}")
        return self


class TlsModel(_Model):
    """Certificates, as PEM files; relative paths are those of the working folder."""

    ca_file: Text | None = Field(None, description="Authorities to trust; the system's where it is not given.")
    cert_file: Text | None = Field(None, description="Certificate of the engine, for mutual TLS.")
    key_file: Text | None = Field(None, description="Private key of that certificate.")
    server_name: Text | None = Field(None, description="Name that the agents' certificates are checked against.")

    @model_validator(mode="after")
    def _pair(self) -> TlsModel:
        if (self.cert_file is None) != (self.key_file is None):
            raise PydanticCustomError("agent_tls", "'cert_file' and 'key_file' come together")
        return self


class AgentModel(_Model):
    """An agent that only this definition uses: a program to start, or addresses to reach."""

    command: Annotated[list[Text], Field(min_length=1)] | None = Field(None, description="Program and arguments.")
    address: (
        Annotated[
            Annotated[list[Text], Field(min_length=1)],
            BeforeValidator(_addresses, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = Field(None, description="host:port of each replica.")
    capacity: Annotated[int, Field(ge=1)] | None = Field(None, description="Executions at once per replica.")
    replicas: (
        Annotated[ReplicasModel, BeforeValidator(_replicas, json_schema_input_type=int | ReplicasModel)] | None
    ) = Field(None, description="How many processes.")
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of the command; ${{ secrets.NAME }} may stand in them."
    )
    tls: Annotated[TlsModel | None, BeforeValidator(_tls, json_schema_input_type=bool | TlsModel | None)] = Field(
        None, description="TLS to the addresses; true trusts the system's roots."
    )
    token: str | None = Field(None, description="Token of the addresses: ${{ secrets.NAME }}.")
    start_timeout: DurationMs | None = Field(None, description="From launch until it must be serving.")
    resources: dict[Name, Quantity] = Field(default_factory=dict, description="Limits of the agent, such as memory.")

    @model_validator(mode="after")
    def _one_way(self) -> AgentModel:
        if (self.command is None) == (self.address is None):
            raise PydanticCustomError("agent_kind", "an agent has either 'command' or 'address'")
        for name, text in self.env.items():
            if not _ENV_NAME.match(name) or name.startswith("NOA_AGENT_"):
                raise PydanticCustomError(
                    "agent_env",
                    f"'{name}' cannot be set as an environment variable of an agent: a name has letters, digits and "
                    "'_', and the engine itself sets those that begin with NOA_AGENT_",
                )
            if "${{" in _SECRET.sub("", text):
                raise PydanticCustomError(
                    "agent_env", f"'{name}' holds an expression: only ${{{{ secrets.NAME }}}} may stand in 'env'"
                )
        if any("${{" in word for word in self.command or ()):
            raise PydanticCustomError(
                "agent_command",
                "no expression can stand in 'command'; what the program needs goes into 'env', where a secret "
                "does not show in the list of processes",
            )
        if self.address is None and (self.tls is not None or self.token is not None):
            raise PydanticCustomError("agent_tls", "'tls' and 'token' are for agents with an 'address'")
        if self.token is not None and not _SECRET.fullmatch(self.token):
            raise PydanticCustomError(
                "agent_token", "a token stands as ${{ secrets.NAME }}: a definition is kept with each of its runs"
            )
        for address in self.address or ():
            _, colon, port = address.rpartition(":")
            if not address.startswith("unix:") and not (colon and port.isdecimal() and 0 < int(port) < 65536):
                raise PydanticCustomError("agent_address", f"expected an address 'host:port', got '{address}'")
        return self


class DefaultsModel(_Model):
    """What tasks have where they do not say it themselves."""

    timeout: TimeoutsField | None = Field(None, description="Limits, each taken where a task does not give it.")
    recovery: Recovery | None = Field(None, description="Chain of every task without one; nearer than a stage's.")
    resources: dict[Name, Quantity] = Field(default_factory=dict, description="Demands, each where not given.")
    optional: bool | None = Field(None, description="As in a task.")
    priority: int | None = Field(None, description="As in a task.")
    idempotent: bool | None = Field(None, description="As in a task.")


class WorkflowModel(_Model):
    """A workflow: stages, and what they share."""

    name: Name = Field(description="Of the workflow.")
    version: str = Field("", description='Of the workflow, in quotes: "1.0".')
    description: str = Field("", description="For people.")
    inputs: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="JSON Schema of each input; one with a 'default' need not be given."
    )
    outputs: dict[Name, Any] = Field(default_factory=dict, description="Outputs of a run; ${{ }} holds CEL.")
    agents: dict[Name, AgentModel] = Field(default_factory=dict, description="Agents that only this workflow uses.")
    resources: dict[Name, Quantity] = Field(default_factory=dict, description="Capacity of named pools.")
    defaults: DefaultsModel = Field(
        default_factory=lambda: DefaultsModel.model_validate({}), description="For all tasks."
    )
    recovery: Recovery | None = Field(None, description="Strategies for tasks whose stage has none.")
    on_failure: Literal["fail", "rollback"] = Field(
        "fail", description="rollback: a run that fails or is cancelled undoes what it did, by 'compensate'."
    )
    timeout: SharedTimeoutsField | None = Field(
        None, description="Limit for the run; a mapping also has limits for its tasks."
    )
    max_parallel: Annotated[int, Field(ge=1)] | None = Field(None, description="How many tasks may run at once.")
    supervise: SuperviseModel | None = Field(None, description="A rule by which tasks need an approval.")
    mode: str | None = Field(
        None,
        description="Mode of execution: auto, supervised, debug. Without it: supervised where something waits for a "
        "person, else auto.",
    )
    alerts: Any = Field(None, description=_LATER + "Where alerts go.")
    stages: Annotated[list[Any], Field(min_length=1), WithJsonSchema({"x-noa-ref": "Stages"})] = Field(
        description="Stages; their order says nothing, depends_on does."
    )


class DefinitionModel(_Model):
    """A file with one workflow."""

    workflow: WorkflowModel = Field(description="The workflow.")
