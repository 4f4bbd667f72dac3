"""What waits for what: stages for stages, tasks for tasks of their graph and for tasks elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noa.definitions.cycles import WaitGraph
from noa.definitions.drafts import StageDraft
from noa.definitions.names import Names, TaskDraft
from noa.definitions.problems import known, place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import Dependency, Edge, Position, Reference
from noa.plugin.interfaces import TemplateSpec

__all__ = ["Dependencies"]


@dataclass(slots=True)
class Dependencies:
    """The dependencies of one document, in words of the plan and as a graph. Mistakes are added to `problems`."""

    source: Source
    names: Names
    problems: list[Problem]
    graph: WaitGraph = field(default_factory=WaitGraph)
    nodes: dict[tuple[str, str], int] = field(default_factory=dict)

    def of_stage(self, draft: StageDraft) -> dict[str, None]:
        """The stages that `depends_on` names, in order; more are added by `read_by_stage`."""
        begin = self.node(draft.name, "begin")
        found: dict[str, None] = {}
        for index, name in enumerate(draft.model.depends_on):
            path = (*draft.path, "depends_on", index)
            if name not in self.names.drafts:
                self._add("UNKNOWN_STAGE", path, f"stage '{name}' is not known. {known(name, self.names.drafts)}")
            elif name in found:
                self._add("DUPLICATE_NAME", path, f"depends_on names '{name}' twice")
            else:
                found[name] = None
                self.graph.wait(begin, self.node(name, "end"), path)
        return found

    def read_by_stage(self, draft: StageDraft, reference: Reference, at: Position, depends_on: dict[str, None]) -> None:
        """A stage whose own keys read another stage waits for it as a whole."""
        other = reference.stage
        if other is None:
            return
        self.graph.wait(self.node(draft.name, "begin"), self.node(other, "end"), draft.path, at)
        if other != draft.name and other not in self._ancestors(depends_on):
            depends_on[other] = None

    def _ancestors(self, names: Mapping[str, None]) -> set[str]:
        found: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending.extend(n for n in self.names.drafts[name].model.depends_on if n in self.names.drafts)
        return found

    def of_tasks(self, draft: StageDraft, tasks: Sequence[TaskDraft]) -> list[int]:
        """The nodes of a task graph, between the begin and the end of its stage. Tasks of other stages may wait for
        them: also those that were compiled before.
        """
        nodes = [self.graph.node(f"{draft.name}/{task.name}") for task in tasks]
        begin, end = self.node(draft.name, "begin"), self.node(draft.name, "end")
        for node in nodes:
            self.graph.wait(node, begin)
            self.graph.wait(end, node)
        if draft.kind is None or not draft.kind.single:
            return nodes
        for task, node in zip(tasks, nodes, strict=True):
            alias = self.nodes.setdefault((draft.name, f"task:{task.name}"), node)
            if alias != node:
                self.graph.wait(alias, node)
        return nodes

    def edges(
        self, draft: StageDraft, spec: TemplateSpec, nodes: Sequence[int], index: int, task: TaskDraft
    ) -> tuple[Edge, ...]:
        """The tasks of the same graph that a task waits for."""
        index_of = self.names.indexes[draft.name, spec.name]
        found: dict[int, Edge] = {}
        for number, name in enumerate(task.model.needs):
            path = (*task.path, "needs", number)
            other = index_of.get(name)
            if other is None:
                if draft.whole:
                    self._add("UNKNOWN_TASK", path, f"task '{name}' is not in this stage. {known(name, index_of)}")
                continue
            found[other] = Edge(other, "needs")
            self.graph.wait(nodes[index], nodes[other], path)
        if spec.chained and index > 0:
            found.setdefault(index - 1, Edge(index - 1, "chain"))
            self.graph.wait(nodes[index], nodes[index - 1], task.path)
        for reference, at, undoing in task.each_read():
            if reference.stage in (None, draft.name):
                other = index_of.get(reference.task)
                if other is None:
                    if reference.stage is not None:
                        message = f"task '{reference.task}' of this stage is not in the same block"
                        self._add("UNKNOWN_REFERENCE", task.path, message, at=at)
                    continue
                found.setdefault(other, Edge(other, "data"))
                self._read(nodes[index], nodes[other], task, at, undoing)
        return tuple(found[key] for key in sorted(found))

    def _read(self, node: int, other: int, task: TaskDraft, at: Position, undoing: bool) -> None:
        wait = self.graph.wait_to_undo if undoing else self.graph.wait
        wait(node, other, task.path, at)

    def elsewhere(self, draft: StageDraft, node: int, task: TaskDraft) -> tuple[Dependency, ...]:
        """The tasks of other stages that a task waits for."""
        found: dict[Dependency, None] = {}
        for reference, at, undoing in task.each_read():
            other = reference.stage
            if other is None or other == draft.name:
                continue
            kind = self.names.drafts[other].kind
            if kind is not None and kind.single:
                found[Dependency(other, reference.task)] = None
                self._read(node, self.node(other, f"task:{reference.task}"), task, at, undoing)
            else:
                found[Dependency(other)] = None
                self._read(node, self.node(other, "end"), task, at, undoing)
        return tuple(found)

    def node(self, stage: str, kind: str) -> int:
        """The node of a stage (`begin` or `end`), or of a task of it (`task:NAME`)."""
        if (stage, kind) not in self.nodes:
            label = f"{stage}/{kind[5:]}" if kind.startswith("task:") else stage
            self.nodes[stage, kind] = self.graph.node(label)
        return self.nodes[stage, kind]

    def _add(self, code: str, path: NodePath, message: str, *, at: Position | None = None) -> None:
        self.problems.append(self.source.problem(code, place(self.source, path) + message, path, at=at))
