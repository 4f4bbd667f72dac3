"""Cycles over stages, tasks and data references together: one graph, one search."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from noa.definitions.problems import place
from noa.definitions.source import NodePath, Source
from noa.errors import Problem
from noa.model.plan import Position

__all__ = ["WaitGraph", "cycle_problems"]

_MOST = 10


@dataclass(slots=True)
class WaitGraph:
    """What waits for what. A stage is two nodes: its begin and its end; its tasks are between them.

    Attributes:
        labels: Of each node: the name of a stage, or `stage/task`.
        waits: For each node those that it waits for.
        places: Where the definition says that one waits for another, by (waiting, waited for).
        undoes: Those of `waits` that are there only because what undoes the waiting one reads the other.
    """

    labels: list[str] = field(default_factory=list)
    waits: list[list[int]] = field(default_factory=list)
    places: dict[tuple[int, int], tuple[NodePath, Position | None]] = field(default_factory=dict)
    undoes: set[tuple[int, int]] = field(default_factory=set)

    def node(self, label: str) -> int:
        """A new node."""
        self.labels.append(label)
        self.waits.append([])
        return len(self.labels) - 1

    def wait(self, node: int, other: int, path: NodePath | None = None, at: Position | None = None) -> None:
        """Let `node` wait for `other`; `path` says where the definition says so."""
        self.waits[node].append(other)
        if path is not None:
            self.places.setdefault((node, other), (path, at))

    def wait_to_undo(self, node: int, other: int, path: NodePath, at: Position) -> None:
        """Let `node` wait for `other` because what undoes it reads that, where it does not wait anyway."""
        if other not in self.waits[node]:
            self.undoes.add((node, other))
            self.wait(node, other, path, at)

    def cycles(self) -> list[list[int]]:
        """Cycles, each as its nodes in order; at most ten, none sharing a node."""
        left = self._still_cyclic(set(range(len(self.labels))))
        found: list[list[int]] = []
        while left and len(found) < _MOST:
            cycle = self._follow(min(left), left)
            if not cycle:
                break
            found.append(cycle)
            left.difference_update(cycle)
            left = self._still_cyclic(left)
        return found

    def take_later(self) -> list[tuple[int, int]]:
        """Remove those of `undoes` that are on a cycle, because the node that is read comes later; at most ten."""
        left = self._still_cyclic(set(range(len(self.labels)))) if self.undoes else set()
        edges = [edge for edge in sorted(self.undoes) if left.issuperset(edge)]
        later = [(node, other) for node, other in edges[:_MOST] if self._reaches(other, node, left)]
        for node, other in later:
            self.waits[node].remove(other)
        return later

    def _reaches(self, start: int, goal: int, nodes: set[int]) -> bool:
        seen = {start}
        pending = [start]
        while pending:
            following = [n for n in self.waits[pending.pop()] if n in nodes and n not in seen]
            seen.update(following)
            pending += following
        return goal in seen

    def _still_cyclic(self, nodes: set[int]) -> set[int]:
        """The nodes that are on a cycle of these nodes, or wait for one."""
        missing = dict.fromkeys(nodes, 0)
        waiting: dict[int, list[int]] = {}
        for node in nodes:
            for other in self.waits[node]:
                if other in missing:
                    missing[node] += 1
                    waiting.setdefault(other, []).append(node)
        ready = deque(n for n, count in missing.items() if count == 0)
        left = set(nodes)
        while ready:
            done = ready.popleft()
            left.discard(done)
            for node in waiting.get(done, ()):
                missing[node] -= 1
                if missing[node] == 0:
                    ready.append(node)
        return left

    def _follow(self, start: int, left: set[int]) -> list[int]:
        order: dict[int, int] = {}
        node = start
        while node not in order:
            order[node] = len(order)
            following = next((o for o in self.waits[node] if o in left), None)
            if following is None:
                return []
            node = following
        return [n for n, at in order.items() if at >= order[node]]


def cycle_problems(source: Source, graph: WaitGraph) -> list[Problem]:
    """One problem for each cycle, at the first place in the file that says one of its edges; one for each read of a
    compensation that closes some."""
    found = [_later(source, graph, *edge) for edge in graph.take_later()]
    for cycle in graph.cycles():
        edges = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        said = [(edge, graph.places[edge]) for edge in edges if edge in graph.places]
        names = _names(graph.labels, cycle, [edge[0] for edge, _ in said])
        notes = []
        for (node, other), (path, at) in said:
            where = at or source.position(path)
            line = f" (line {where.line})" if where.line else ""
            notes.append(f"{graph.labels[node]} waits for {graph.labels[other]}{line}")
        path, at = min((p for _, p in said), key=lambda p: _order(source, p), default=((), None))
        found.append(source.problem("CYCLE", f"cycle: {' → '.join(names)}", path, at=at, hint="; ".join(notes) + "."))
    return found


def _later(source: Source, graph: WaitGraph, node: int, other: int) -> Problem:
    """Of a compensation that reads what comes after its task."""
    path, at = graph.places[node, other]
    message = (
        f"{place(source, path)}'compensate' reads '{graph.labels[other]}', which comes after this task: when this is "
        "undone, that is undone already, or it never began"
    )
    hint = "It may read what the task itself could read, and the task's own outputs."
    return source.problem("LATER_REFERENCE", message, path, at=at, hint=hint)


def _order(source: Source, place: tuple[NodePath, Position | None]) -> tuple[int, int]:
    where = place[1] or source.position(place[0])
    return where.line, where.column


def _names(labels: Sequence[str], cycle: Sequence[int], saying: Sequence[int]) -> list[str]:
    """Labels around a cycle, those first that the definition says something about; the first one closes it."""
    chosen = [labels[n] for n in cycle if n in set(saying)] or [labels[n] for n in cycle]
    names = [name for index, name in enumerate(chosen) if index == 0 or name != chosen[index - 1]]
    return [*names, names[0]] if len(names) == 1 or names[-1] != names[0] else names
