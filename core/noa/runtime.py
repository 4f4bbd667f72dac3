"""The composition root: configuration -> registry, journal, artifacts, factory, engine. Nothing else builds them."""

from __future__ import annotations

import asyncio
import getpass
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from noa.definitions import agent_declaration, load_plan, with_secrets
from noa.engine.engine import Engine, Running
from noa.engine.ports import EventObserver, TaskObserver
from noa.engine.state import RunState
from noa.errors import InternalError, Problem, RunKeyError, RunStateError, UsageError
from noa.model.events import Event
from noa.model.execution import Observation, Stage, Waiting
from noa.model.failure import Failure
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan
from noa.modes.learner import JournalLearner
from noa.monitoring.observers import PluginObservers
from noa.orchestration import AgentFactory, ResourceLedger, SecretVault, host_resources
from noa.plugin import ActionInfo, AgentDeclaration, Journal, Registry, hookimpl
from noa.storage import ObservationStore, new_owner

__all__ = ["RunResult", "Runtime", "Settings", "run", "run_sync"]

T = TypeVar("T")

_SWITCH = {"": True, "1": True, "true": True, "on": True, "0": False, "false": False, "off": False}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where state lives and what is loaded.

    Attributes:
        home: Folder of all state; made with mode 0700 where it does not exist.
        journal: URL, such as `sqlite:///srv/noa.db`; None is `noa.db` in `home`.
        artifacts: URL, such as `file:///srv/artifacts`; None is `artifacts` in `home`.
        plugins: Single-file plugins.
        secrets: Folder with a file for each secret; `NOA_SECRET_<NAME>` in the environment goes before it.
        learn: Whether runs are ordered by what earlier ones taught, and teach later ones. `NOA_LEARN=0` is for not.
    """

    home: Path = field(default_factory=lambda: Path(os.environ.get("NOA_HOME", ".noa")))
    journal: str | None = field(default_factory=lambda: os.environ.get("NOA_JOURNAL"))
    artifacts: str | None = None
    plugins: tuple[str, ...] = ()
    secrets: Path | None = field(default_factory=lambda: _folder_of(os.environ.get("NOA_SECRETS_DIR")))
    learn: bool = field(default_factory=lambda: _is_on("NOA_LEARN"))


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: Such as "succeeded".
        outputs: Of the workflow.
        failure: Why it failed, or None.
        tasks: Final status of each task by path.
    """

    run_id: RunId
    workflow: str
    status: str
    outputs: Mapping[str, Any]
    failure: Failure | None
    degraded: bool
    duration_ms: int
    tasks: Mapping[TaskPath, str]
    output_uri: str = ""
    _state: RunState | None = field(default=None, repr=False, compare=False)

    @property
    def succeeded(self) -> bool:
        """Whether everything went well."""
        return self.status == "succeeded"

    def task_outputs(self, path: str) -> dict[str, Any] | None:
        """Outputs of a task, such as `process/inference`; None where it gave none.

        Raises:
            KeyError: No task of that path.
        """
        if self._state is None:
            raise KeyError(path)
        return self._state.tasks[TaskPath(path)].outputs

    @classmethod
    def of(cls, state: RunState) -> RunResult:
        """The result that a finished state has."""
        return cls(
            run_id=state.run_id,
            workflow=state.plan.name,
            status=state.status,
            outputs=state.outputs,
            failure=state.failure,
            degraded=state.degraded,
            duration_ms=state.finished_ms - state.created_ms,
            tasks={path: task.status for path, task in state.tasks.items()},
            output_uri=state.output_uri,
            _state=state,
        )


class Runtime:
    """Everything that runs workflows in this process. Use it as an async context manager.

    Args:
        settings: Where state lives; keyword arguments of `Settings` may be given instead.
        registry: Plugins; None finds the installed ones.
        on_event: Called after each event is on disk.
        on_observation: Called for what is observed of attempts.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        registry: Registry | None = None,
        on_event: EventObserver | None = None,
        on_observation: TaskObserver | None = None,
        **options: Any,
    ) -> None:
        if settings is not None and options:
            raise UsageError("give either settings or their fields, not both")
        self.settings = settings or Settings(**options)
        self.registry = registry or Registry.load(self.settings.plugins)
        self.home = self.settings.home.absolute()
        self._on_event = on_event
        self._on_observation = on_observation
        self._journal: Journal | None = None
        self._factory: AgentFactory | None = None
        self._engine: Engine | None = None
        self._learner: JournalLearner | None = None
        self._observations: ObservationStore | None = None
        self._plugin_observers: PluginObservers | None = None
        self._host = host_resources()
        self._vault = SecretVault(self.settings.secrets)
        self._queued: set[tuple[RunId, TaskPath, int]] = set()
        self._masking_logs = ExitStack()

    @property
    def journal(self) -> Journal:
        """The open store of runs."""
        return _opened(self._journal)

    @property
    def engine(self) -> Engine:
        """The engine."""
        return _opened(self._engine)

    @property
    def factory(self) -> AgentFactory:
        """The agents."""
        return _opened(self._factory)

    @property
    def observations(self) -> ObservationStore:
        """Logs and progress of runs."""
        return _opened(self._observations)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the stores. No agent is started before it is needed.

        Raises:
            JournalError: The store cannot be opened.
            UsageError: The home folder cannot be made, or a URL's scheme is not known.
        """
        _make_folder(self.home)
        self._journal = open_journal(self.registry, self.settings, self.home)
        await self._journal.open()
        artifacts = _by_scheme(
            self.registry.artifact_stores, self.settings.artifacts or f"file://{self.home / 'artifacts'}", "artifacts"
        )
        self._observations = ObservationStore(self.home / "observations.db")
        self._ledger = ResourceLedger(self._host)
        self._factory = AgentFactory(
            registry=self.registry,
            declarations=self.registry.agents,
            runtime_dir=self.home / "run",
            log_dir=self.home / "logs",
            artifacts=artifacts,
            resources=self._ledger,
            mask=self._vault.mask,
            ready=lambda declaration: with_secrets(declaration, self._vault.value),
            may_begin=lambda run: self.engine.confirm(run),  # noqa: PLW0108 - the engine is built after it
        )
        if self.registry.observers:
            self._plugin_observers = PluginObservers(self.registry.observers)
        self._learner = JournalLearner(self._journal) if self.settings.learn else None
        self._engine = Engine(
            registry=self.registry,
            journal=self._journal,
            dispatcher=self._factory,
            artifacts=artifacts,
            owner=new_owner(),
            on_event=self._event_observer(),
            on_observation=self._observed,
            secrets=self._vault,
            action=self._known_action,
            prepare=self._prepare,
            learner=self._learner,
        )
        self._masking_logs.enter_context(self._vault.masking_logs())

    async def close(self) -> None:
        """Stop driving, end every agent, close the stores. Runs that are not over can be resumed. Idempotent."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None
        if self._factory is not None:
            await self._factory.close()
            self._factory = None
        if self._learner is not None:
            await self._learner.close()
            self._learner = None
        if self._journal is not None:
            await self._journal.close()
            self._journal = None
        if self._plugin_observers is not None:
            self._plugin_observers.close()
            self._plugin_observers = None
        if self._observations is not None:
            self._observations.close()
            self._observations = None
        self._masking_logs.close()

    def load(self, definition: str | Path | Mapping[str, Any] | Plan, *, warnings: list[Problem] | None = None) -> Plan:
        """Compile a definition (a file, or a mapping that stands for one).

        Args:
            warnings: Takes what is suspicious and does not stop a run.

        Raises:
            DefinitionError: With every mistake.
            UsageError: The file does not exist.
        """
        if isinstance(definition, Plan):
            return definition
        return load_plan(definition, registry=self.registry, host_resources=self._host, warnings=warnings)

    async def start(
        self,
        definition: str | Path | Mapping[str, Any] | Plan,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        mode: str = "",
        key: str = "",
    ) -> Running:
        """Begin a run and return once it is on disk; `await running.wait()` for its end.

        Args:
            mode: Mode of execution; empty is the definition's.
            key: Under which there is one run at most: the same call again gives that run, if need be by going on with
                it. It must be the same definition with the same inputs.

        Raises:
            DefinitionError, InputError, JournalError: No run was created.
            RunKeyError: The key was used for another definition or other inputs.
            RunStateError: The run of this key is over.
        """
        try:
            return await self.engine.start(
                self.load(definition),
                inputs,
                run_id=RunId(run_id) if run_id else None,
                actor=current_actor(),
                output_uri=self.output_uri,
                mode=mode,
                key=key,
            )
        except RunKeyError as error:
            if not error.same:
                raise
            return await self.engine.resume(RunId(error.run_id))

    async def run(
        self,
        definition: str | Path | Mapping[str, Any] | Plan,
        inputs: Mapping[str, Any] | None = None,
        *,
        mode: str = "",
        key: str = "",
    ) -> RunResult:
        """Run to the end. A run that fails is a result, not an exception; so is one of the same key that is over."""
        try:
            running = await self.start(definition, inputs, mode=mode, key=key)
        except RunStateError as error:
            if not key:
                raise
            return RunResult.of(await self.engine.folded(RunId(error.run)))
        return RunResult.of(await running.wait())

    async def retry(self, run_id: str, *, from_task: str = "", reason: str = "") -> RunResult:
        """Reopen a run that failed and go on to its end; see `Engine.reopen`."""
        running = await self.engine.reopen(RunId(run_id), from_task=from_task, actor=current_actor(), reason=reason)
        return RunResult.of(await running.wait())

    async def rollback(self, run_id: str, *, reason: str = "") -> RunResult:
        """Undo a run that is over by its compensations; see `Engine.reopen`."""
        running = await self.engine.reopen(RunId(run_id), rollback=True, actor=current_actor(), reason=reason)
        return RunResult.of(await running.wait())

    async def resume(self, run_id: str) -> RunResult:
        """Go on with a run to its end; see `Engine.resume`."""
        running = await self.engine.resume(RunId(run_id))
        return RunResult.of(await running.wait())

    def output_uri(self, run: RunId) -> str:
        """Where a run puts files for a person."""
        return (self.home / "output" / run).as_uri() + "/"

    def _prepare(self, plan: Plan) -> None:
        if plan.secrets:
            self._vault.require(plan.secrets)
        if plan.agents:
            self.factory.add({name: agent_declaration(spec) for name, spec in plan.agents.items()})
        if plan.resources:
            self._declare_pools(plan)

    def _declare_pools(self, plan: Plan) -> None:
        known = self._ledger.capacity
        for name, capacity in plan.resources.items():
            if self.engine.count and known.get(name, capacity) != capacity:
                raise UsageError(
                    f"workflow '{plan.name}' declares {capacity:g} of '{name}', but a run that goes on here counts on "
                    f"{known[name]:g}. Declare the same, name the pool otherwise, or wait for the other run",
                    pool=name,
                )
        self._ledger.declare(plan.resources)

    def _known_action(self, agent: str, action: str) -> ActionInfo | None:
        """What an agent says of an action of its own, where it has been started or can tell without."""
        found = self.factory.known(agent)
        return next((info for info in found.actions if info.name == action), None) if found is not None else None

    def _event_observer(self) -> EventObserver | None:
        observers: list[EventObserver] = [o for o in (self._on_event, self._plugin_observers) if o is not None]
        if len(observers) == 1:
            return observers[0]

        def each(run: RunId, seq: int, event: Event) -> None:
            for observer in observers:
                observer(run, seq, event)

        return each if observers else None

    def _observed(self, run: RunId, task: TaskPath, attempt: int, observation: Observation) -> None:
        if self._on_observation is not None:
            self._on_observation(run, task, attempt, observation)
        if isinstance(observation, Stage | Waiting):
            # Most attempts run at once, which the journal says already; the rest must not cost every attempt a row.
            key = (run, task, attempt)
            if isinstance(observation, Waiting) or observation.name != "running":
                self._queued.add(key)
            elif key in self._queued:
                self._queued.discard(key)
            else:
                return
        self.observations.add(run, task, attempt, observation, time.time_ns() // 1_000_000)


async def run(
    definition: str | Path | Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    registry: Registry | None = None,
    agents: Sequence[Callable[[], Any]] = (),
    **options: Any,
) -> RunResult:
    """Run a workflow to its end in this process.

    Args:
        definition: A YAML or JSON file, or a mapping that stands for one.
        inputs: Of the run.
        agents: Agent classes of the caller's own, beside those of plugins.
        options: Fields of `Settings`, such as `home`.

    Returns:
        How it ended; a run that failed is a result, not an exception.

    Raises:
        DefinitionError: The definition cannot be run.
        InputError: The inputs do not fit.
        JournalError: The store failed.
    """
    registry = registry or Registry.load(options.get("plugins", ()))
    if agents:
        registry.register(_agents_plugin(agents), "__main__", origin="noa.run(agents=…)")
    async with Runtime(registry=registry, **options) as runtime:
        return await runtime.run(definition, inputs)


def run_sync(
    definition: str | Path | Mapping[str, Any], inputs: Mapping[str, Any] | None = None, **options: Any
) -> RunResult:
    """`run` for code that is not async."""
    return asyncio.run(run(definition, inputs, **options))


def current_actor() -> str:
    """Who is asking: the user of the operating system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def open_journal(registry: Registry, settings: Settings, home: Path) -> Journal:
    """The journal of these settings, not open yet."""
    journal: Journal = _by_scheme(registry.journals, settings.journal or f"sqlite://{home / 'noa.db'}", "journal")
    return journal


def _agents_plugin(agents: Sequence[Callable[[], Any]]) -> object:
    class AgentsPlugin:
        @hookimpl
        def noa_agents(self) -> Sequence[AgentDeclaration]:
            return [AgentDeclaration(name=getattr(agent, "name", ""), factory=agent) for agent in agents]

    return AgentsPlugin()


def _by_scheme(found: Mapping[str, Any], url: str, what: str) -> Any:
    scheme = url.partition("://")[0]
    if scheme not in found:
        raise UsageError(f"{what} URL '{url}': scheme '{scheme}' is not known. Known: {', '.join(sorted(found))}")
    return found[scheme](url)


def _is_on(name: str) -> bool:
    """A switch of the environment that is on unless it says 0."""
    text = os.environ.get(name, "1").strip().lower()
    if text not in _SWITCH:
        raise UsageError(f"{name}={text}: expected 1 or 0")
    return _SWITCH[text]


def _folder_of(path: str | None) -> Path | None:
    return Path(path) if path else None


def _make_folder(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"state folder {home} cannot be made: {error.strerror}. Name another with NOA_HOME") from error


def _opened(part: T | None) -> T:
    if part is None:
        raise InternalError("the runtime is not open; use `async with Runtime() as runtime`")
    return part
