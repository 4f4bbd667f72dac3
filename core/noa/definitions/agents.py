"""Agents that tasks name: known or not, reachable or not, and what they can do as far as that is known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noa.definitions.models import AgentModel
from noa.definitions.problems import known, place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import AgentSpec
from noa.model.secrets import embedded_names, expand
from noa.plugin.interfaces import ActionInfo, AgentDeclaration
from noa.plugin.registry import Registry

__all__ = ["AgentChecks", "agent_declaration", "agent_secrets", "agent_spec", "unknown_inputs", "with_secrets"]

_OTHER_WAYS = ("$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties")
"""Keywords by which a schema may have properties that its `properties` do not list."""


def agent_spec(name: str, model: AgentModel, source: Source) -> AgentSpec:
    """An agent that the definition declares, as the plan keeps it."""
    replicas = model.replicas
    options: dict[str, Any] = {
        "capacity": model.capacity,
        "min_replicas": replicas.min if replicas else None,
        "max_replicas": replicas.max if replicas else None,
        "start_timeout_s": model.start_timeout / 1000 if model.start_timeout else None,
        "env": model.env or None,
        "resources": model.resources or None,
        "options": (_remote_options(model) | _scaling_options(model)) or None,
    }
    return AgentSpec(
        name=name,
        command=tuple(model.command or ()),
        addresses=tuple(model.address or ()),
        options={key: value for key, value in options.items() if value is not None},
        position=source.position(("workflow", "agents", name), key=True),
    )


def _scaling_options(model: AgentModel) -> dict[str, Any]:
    idle = model.replicas.idle if model.replicas is not None and model.command is not None else None
    return {} if idle is None else {"scale_down_after_s": idle / 1000}


def _remote_options(model: AgentModel) -> dict[str, Any]:
    """How a remote agent is reached, as the agent kind "remote" takes it."""
    options: dict[str, Any] = {}
    if model.tls is not None:
        options = {"tls": True} | model.tls.model_dump(exclude_none=True)
    if model.token is not None:
        options["token"] = model.token
    return options


def agent_secrets(specs: Mapping[str, AgentSpec]) -> set[str]:
    """Names of the secrets that agents of a definition are given by their environment or as their token."""
    found: set[str] = set()
    for spec in specs.values():
        for text in (*spec.options.get("env", {}).values(), spec.options.get("options", {}).get("token", "")):
            found.update(embedded_names(text))
    return found


def agent_declaration(spec: AgentSpec) -> AgentDeclaration:
    """The declaration of an agent of a definition: a sidecar where it has a command, else remote. Marks stand for the
    secrets of its environment and its token; see `with_secrets`."""
    return AgentDeclaration(
        name=spec.name,
        kind="sidecar" if spec.command else "remote",
        command=spec.command,
        addresses=spec.addresses,
        description="declared by the definition",
        **spec.options,
    )


def with_secrets(declaration: AgentDeclaration, value_of: Callable[[str], str]) -> AgentDeclaration:
    """A definition's declaration with the secrets of its environment and its token in place, for starting it now; that
    of a plugin as it is.

    Raises:
        SecretError: One cannot be had.
    """
    if declaration.plugin:
        return declaration
    env = {name: expand(text, value_of) for name, text in declaration.env.items()}
    options = dict(declaration.options)
    if isinstance(options.get("token"), str):
        options["token"] = expand(options["token"], value_of)
    return replace(declaration, env=env, options=options)


def unknown_inputs(source: Source, agent: str, inputs: Any, info: ActionInfo, path: NodePath) -> list[Problem]:
    """A warning for each input that is named (in `inputs` of the node at `path`) and not announced by the action.

    Only where the action's schema says what it takes: it lists properties, and neither `additionalProperties` nor
    another keyword lets more in.
    """
    schema = info.input_schema
    names = schema.get("properties")
    more = schema.get("additionalProperties", False) is not False
    if not isinstance(inputs, dict) or not names or more or any(key in schema for key in _OTHER_WAYS):
        return []
    found = []
    for name in inputs:
        if name not in names:
            message = f"action '{info.name}' of agent '{agent}' announces no input '{name}'. {known(name, names)}"
            problem = source.problem(
                "UNKNOWN_TASK_INPUT",
                place(source, path) + message,
                (*path, "inputs", name),
                key=True,
                severity="warning",
            )
            found.append(problem)
    return found


@dataclass(slots=True)
class AgentChecks:
    """Checks the agents and actions of one document; each agent is asked once.

    `written` is what stands under `agents`: an entry that is wrong has its own problem, so that nobody is blamed for
    naming it.
    """

    source: Source
    registry: Registry
    problems: list[Problem]
    specs: Mapping[str, AgentSpec]
    written: Any = None
    _actions: dict[str, Mapping[str, ActionInfo] | None] = field(default_factory=dict)

    def knows(self, agent: str) -> bool:
        """Whether someone declares this agent."""
        return agent in self.specs or agent in self.registry.agents

    def check(self, agent: str, action: str, path: NodePath) -> ActionInfo | None:
        """What is known of an action that the node at `path` asks for; None where nothing is. An empty one is no
        mistake."""
        if agent not in self._actions:
            self._actions[agent] = self._describe(agent, path)
        elif not self.knows(agent):
            self._unknown(agent, path)
        actions = self._actions[agent]
        if actions is None:
            return None
        if action and action not in actions:
            message = f"{place(self.source, path)}agent '{agent}' has no action '{action}'. {known(action, actions)}"
            self.problems.append(self.source.problem("UNKNOWN_ACTION", message, (*path, "action")))
        return actions.get(action)

    def _unknown(self, agent: str, path: NodePath) -> None:
        written = {} if self.written is None else self.written
        if not isinstance(written, dict) or agent in written:
            return
        every = [*self.specs, *written, *self.registry.agents]
        message = f"{place(self.source, path)}agent '{agent}' is not known. {known(agent, every)}"
        hint = "Install the plugin that brings it, or declare it under 'agents'."
        if "${{" in agent:
            hint = "An agent is named literally; expressions stand in 'inputs', 'when' and a stage type's own keys."
        self.problems.append(self.source.problem("UNKNOWN_AGENT", message, (*path, "agent"), hint=hint))

    def _describe(self, agent: str, path: NodePath) -> Mapping[str, ActionInfo] | None:
        spec = self.specs.get(agent)
        declaration = agent_declaration(spec) if spec else self.registry.agents.get(agent)
        if declaration is None:
            self._unknown(agent, path)
            return None
        at: NodePath = ("workflow", "agents", agent) if spec else (*path, "agent")
        kind = self.registry.agent_kinds.get(declaration.kind)
        if kind is None:
            message = f"agent '{agent}': kind '{declaration.kind}' is not known. "
            message += known(declaration.kind, self.registry.agent_kinds)
            self.problems.append(self.source.problem("UNKNOWN_AGENT_KIND", message, at, key=spec is not None))
            return None
        try:
            wrong = kind.check(declaration)
            health = None if wrong else kind.describe(declaration)
        except Exception as error:  # foreign code: a plugin's agent kind, or the agent's own module
            wrong, health = f"{type(error).__name__}: {error}", None
        if wrong:
            below: NodePath = (*at, "command" if spec and spec.command else "address") if spec else at
            origin = f" (plugin '{declaration.plugin}')" if declaration.plugin else ""
            message = f"agent '{agent}'{origin} cannot be used: {wrong}"
            self.problems.append(self.source.problem("AGENT_UNUSABLE", message, below))
        if health is None or not health.actions:
            return None
        return {info.name: info for info in health.actions}
