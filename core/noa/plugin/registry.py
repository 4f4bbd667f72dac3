"""Typed façade over pluggy, and the only module that uses it: one method for each hook.

A name that two plugins give is refused and both are named; every error names the plugin that caused it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from noa.errors import PluginError
from noa.plugin import hookspecs
from noa.plugin.interfaces import (
    AgentDeclaration,
    AgentKind,
    AlertChannel,
    ArtifactStore,
    Journal,
    Mode,
    RecoveryStrategy,
    StageType,
)

if TYPE_CHECKING:
    from noa.model.events import Event

__all__ = ["ENTRY_POINT_GROUP", "PluginInfo", "Registry"]

ENTRY_POINT_GROUP = "noa.plugins"
log = logging.getLogger("noa.plugin")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """A plugin as `noa plugins` lists it. `hooks` are the names that it implements."""

    name: str
    version: str
    origin: str
    hooks: tuple[str, ...]


class Registry:
    """Everything that plugins provide, by name.

    Build one with `Registry.load()`; tests build an empty one and `register` what they need.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._origins: dict[str, tuple[str, str]] = {}

    @classmethod
    def load(cls, files: Iterable[str | Path] = (), *, disabled: Iterable[str] | None = None) -> Registry:
        """Find all installed plugins by their entry points, and take single files too.

        Args:
            files: Paths of single-file plugins.
            disabled: Names not to load; None reads them, comma-separated, from NOA_DISABLED_PLUGINS.

        Raises:
            PluginError: A plugin cannot be imported or two have the same name.
        """
        skip = set(os.environ.get("NOA_DISABLED_PLUGINS", "").split(",") if disabled is None else disabled)
        registry = cls()
        for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda e: e.name):
            if entry.name in skip:
                continue
            try:
                plugin = entry.load()
            except (Exception, SystemExit) as error:  # foreign code: whatever an import raises
                raise PluginError(
                    f"plugin '{entry.name}' ({entry.value}) cannot be imported: {type(error).__name__}: {error}. "
                    f"Mend it, or leave it out with NOA_DISABLED_PLUGINS={entry.name}",
                    plugin=entry.name,
                ) from error
            version = entry.dist.version if entry.dist else ""
            origin = entry.dist.name if entry.dist else entry.value
            registry.register(plugin, entry.name, version=version, origin=origin)
        for file in files:
            registry.register(_load_file(Path(file)), Path(file).stem, origin=str(file))
        return registry

    def register(self, plugin: object, name: str, *, version: str = "", origin: str = "") -> None:
        """Add one plugin (a module or an object with hooks).

        Raises:
            PluginError: The name is taken, or a hook's arguments are wrong.
        """
        if name in self._origins:
            raise PluginError(
                f"two plugins are named '{name}': {self._origins[name][1]} and {origin or plugin!r}", plugin=name
            )
        try:
            self._manager.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"plugin '{name}': {error}", plugin=name) from error
        self._origins[name] = (version, origin or type(plugin).__name__)
        for cached in ("agents", "agent_kinds", "stage_types", "recovery_strategies", "modes", "journals",
                       "artifact_stores", "alert_channels", "commands", "observers"):  # fmt: skip
            self.__dict__.pop(cached, None)

    def plugins(self) -> list[PluginInfo]:
        """All plugins, by name."""
        found = []
        for name, (version, origin) in sorted(self._origins.items()):
            plugin = self._manager.get_plugin(name)
            hooks = tuple(sorted(h.name for h in self._manager.get_hookcallers(plugin) or ()))
            found.append(PluginInfo(name, version, origin, hooks))
        return found

    @cached_property
    def agents(self) -> Mapping[str, AgentDeclaration]:
        """Agent declarations by name."""
        found: dict[str, tuple[str, AgentDeclaration]] = {}
        for plugin, items in self._call("noa_agents"):
            for item in items:
                signed = replace(item, plugin=plugin) if isinstance(item, AgentDeclaration) else item
                self._add(found, plugin, "agent", getattr(item, "name", ""), signed, AgentDeclaration)
        return _values(found)

    @cached_property
    def agent_kinds(self) -> Mapping[str, AgentKind]:
        """Ways to reach agents by name."""
        return self._named("noa_agent_kinds", "agent kind", AgentKind)  # type: ignore[type-abstract]

    @cached_property
    def stage_types(self) -> Mapping[str, StageType]:
        """Stage types by name."""
        return self._named("noa_stage_types", "stage type", StageType)  # type: ignore[type-abstract]

    @cached_property
    def recovery_strategies(self) -> Mapping[str, RecoveryStrategy]:
        """Recovery strategies by name."""
        return self._named("noa_recovery_strategies", "recovery strategy", RecoveryStrategy)  # type: ignore[type-abstract]

    @cached_property
    def modes(self) -> Mapping[str, Mode]:
        """Modes by name."""
        return self._named("noa_modes", "mode", Mode)

    @cached_property
    def alert_channels(self) -> Mapping[str, AlertChannel]:
        """Alert channels by name."""
        return self._named("noa_alert_channels", "alert channel", AlertChannel)  # type: ignore[type-abstract]

    @cached_property
    def journals(self) -> Mapping[str, type[Journal]]:
        """Journal classes by URL scheme."""
        return self._schemes("noa_journals", "journal", Journal)  # type: ignore[type-abstract]

    @cached_property
    def artifact_stores(self) -> Mapping[str, type[ArtifactStore]]:
        """Artifact store classes by URL scheme."""
        return self._schemes("noa_artifact_stores", "artifact store", ArtifactStore)  # type: ignore[type-abstract]

    @cached_property
    def commands(self) -> Sequence[Any]:
        """More CLI commands, in the order of the plugins' names."""
        return [command for _, items in self._call("noa_commands") for command in items]

    @cached_property
    def observers(self) -> Sequence[tuple[str, Callable[[str, int, Event], None]]]:
        """The `noa_event` implementations with their plugins' names, each called with the arguments that it names."""
        calls: list[Any] = self._manager.hook.noa_event.get_hookimpls()
        return [(impl.plugin_name, _by_name(impl)) for impl in sorted(calls, key=lambda i: i.plugin_name)]

    def _named(self, hook: str, what: str, kind: type[T]) -> Mapping[str, T]:
        found: dict[str, tuple[str, T]] = {}
        for plugin, items in self._call(hook):
            for item in items:
                made = self._instance(plugin, hook, item)
                self._add(found, plugin, what, getattr(made, "name", ""), made, kind)
        return _values(found)

    def _schemes(self, hook: str, what: str, kind: type[T]) -> Mapping[str, type[T]]:
        found: dict[str, tuple[str, type[T]]] = {}
        for plugin, items in self._call(hook):
            if not isinstance(items, Mapping):
                raise PluginError(
                    f"plugin '{plugin}': {hook} must give classes by URL scheme, got {items!r}", plugin=plugin
                )
            for scheme, made in items.items():
                if not (isinstance(made, type) and issubclass(made, kind)):
                    raise PluginError(f"plugin '{plugin}': {hook} must give classes of {kind.__name__}, got {made!r}",
                                      plugin=plugin)  # fmt: skip
                self._claim(found, plugin, what, scheme)
                found[scheme] = (plugin, made)
        return _values(found)

    def _call(self, hook: str) -> list[tuple[str, Any]]:
        calls = []
        caller = getattr(self._manager.hook, hook)
        for impl in sorted(caller.get_hookimpls(), key=lambda i: i.plugin_name):
            try:
                items = impl.function()
                if not isinstance(items, Iterable):
                    raise TypeError(f"expected a list or a mapping, got {items!r}")
                calls.append((impl.plugin_name, items))
            except (Exception, SystemExit) as error:  # foreign code: whatever a hook raises
                raise PluginError(
                    f"plugin '{impl.plugin_name}': {hook} raised {type(error).__name__}: {error}",
                    plugin=impl.plugin_name,
                ) from error
        return calls

    def _instance(self, plugin: str, hook: str, item: Any) -> Any:
        if not isinstance(item, type):
            return item
        try:
            return item()
        except Exception as error:  # foreign code: a plugin's constructor
            raise PluginError(f"plugin '{plugin}': {hook} gave {item.__name__}, which cannot be made: {error}",
                              plugin=plugin) from error  # fmt: skip

    def _add(self, found: dict[str, tuple[str, T]], plugin: str, what: str, name: str, item: T, kind: type) -> None:
        if not isinstance(item, kind) or not name:
            raise PluginError(f"plugin '{plugin}': expected a named {kind.__name__}, got {item!r}", plugin=plugin)
        self._claim(found, plugin, what, name)
        found[name] = (plugin, item)

    def _claim(self, found: Mapping[str, tuple[str, Any]], plugin: str, what: str, name: str) -> None:
        if name in found:
            raise PluginError(
                f"{what} '{name}' is given twice: by plugin '{found[name][0]}' and by plugin '{plugin}'. "
                f"Rename one, or leave one out with NOA_DISABLED_PLUGINS",
                plugin=plugin,
            )


def _by_name(impl: Any) -> Callable[[str, int, Event], None]:
    names, function = set(impl.argnames), impl.function

    @wraps(function)
    def observe(run_id: str, seq: int, event: Event) -> None:
        given = {"run_id": run_id, "seq": seq, "event": event}
        function(**{name: value for name, value in given.items() if name in names})

    return observe


def _values(found: Mapping[str, tuple[str, T]]) -> dict[str, T]:
    return {name: item for name, (_, item) in sorted(found.items())}


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist", plugin=path.stem)
    spec = importlib.util.spec_from_file_location(f"noa_plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path} is not a Python file (expected .py)", plugin=path.stem)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # foreign code: whatever the file raises
        raise PluginError(f"plugin file {path} cannot be imported: {type(error).__name__}: {error}",
                          plugin=path.stem) from error  # fmt: skip
    return module
