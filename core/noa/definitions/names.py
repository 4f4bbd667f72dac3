"""Names of stages and tasks, learned before anything else, so that anything may refer to anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from noa.definitions.drafts import StageDraft
from noa.definitions.models import TaskModel, check_name
from noa.definitions.problems import place
from noa.definitions.scopes import StageNames
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import Position, Reference
from noa.plugin.interfaces import TemplateSpec

__all__ = ["Names", "TaskDraft", "read_names"]


@dataclass(slots=True)
class TaskDraft:
    """A task on its way: its place, its model, and the tasks that it reads itself or only to be undone."""

    name: str
    path: NodePath
    model: TaskModel
    reads: dict[Reference, Position] = field(default_factory=dict)
    undoing_reads: Mapping[Reference, Position] = field(default_factory=dict)

    def each_read(self) -> Iterator[tuple[Reference, Position, bool]]:
        """What it reads, where, and whether only what undoes it does."""
        for reference, at in self.reads.items():
            yield reference, at, False
        for reference, at in self.undoing_reads.items():
            yield reference, at, True


@dataclass(slots=True)
class Names:
    """What can be named in one document.

    Attributes:
        drafts: Stages by name.
        tasks: Of each task graph, by stage and template, in the order of the file.
        indexes: The same as name -> index.
        stages: What can be named of each stage.
    """

    drafts: dict[str, StageDraft] = field(default_factory=dict)
    tasks: dict[tuple[str, str], list[TaskDraft]] = field(default_factory=dict)
    indexes: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    stages: dict[str, StageNames] = field(default_factory=dict)


def read_names(source: Source, drafts: Sequence[StageDraft], problems: list[Problem]) -> Names:
    """The names of a document; one that stands twice, or is none, is added to `problems`."""
    return _Reader(source, problems, Names()).read(drafts)


@dataclass(slots=True)
class _Reader:
    source: Source
    problems: list[Problem]
    names: Names

    def read(self, drafts: Sequence[StageDraft]) -> Names:
        names = self.names
        for draft in drafts:
            if draft.name in names.drafts:
                first = self.source.position((*names.drafts[draft.name].path, "name"))
                line = f"; first in line {first.line}" if first.line else ""
                self._add("DUPLICATE_NAME", (*draft.path, "name"), f"two stages are named '{draft.name}'{line}")
                continue
            names.drafts[draft.name] = draft
            every: set[str] = set()
            for spec in draft.specs:
                every.update(self._tasks(draft, spec))
            names.stages[draft.name] = StageNames(frozenset(every), draft.whole)
        return names

    def _tasks(self, draft: StageDraft, spec: TemplateSpec) -> dict[str, int]:
        tasks: list[TaskDraft] = []
        index_of: dict[str, int] = {}
        for index, model in enumerate(spec.tasks):
            path = (*draft.path, *spec.path, index)
            name = self._task_name(model, path)
            if name in index_of:
                first = self.source.position((*draft.path, *spec.path, index_of[name]))
                line = f" (the first in line {first.line})" if first.line else ""
                hint = "Give them names: 'name' is the action where it is not given." if model.name is None else ""
                self._add("DUPLICATE_NAME", path, f"two tasks of the stage are named '{name}'{line}", hint=hint)
            else:
                index_of[name] = index
            tasks.append(TaskDraft(name, path, model))
        self.names.tasks[draft.name, spec.name] = tasks
        self.names.indexes[draft.name, spec.name] = index_of
        return index_of

    def _task_name(self, model: TaskModel, path: NodePath) -> str:
        if model.name is not None:
            return model.name
        name = PurePosixPath(model.workflow).stem if model.workflow else model.action or ""
        try:
            return check_name(name)
        except ValueError as error:
            self._add(
                "INVALID_NAME", path, f"the name of this task would be its action: {error}", hint="Give it a 'name'."
            )
            return name

    def _add(self, code: str, path: NodePath, message: str, *, hint: str = "") -> None:
        self.problems.append(self.source.problem(code, place(self.source, path) + message, path, hint=hint))
