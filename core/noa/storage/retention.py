"""Which runs are old enough to go. Pure: it looks at what a journal lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from noa.model.ids import RunId, parse_execution_id
from noa.plugin.interfaces import RunRecord
from noa.storage.migrations import OVER
from noa.storage.ownership import is_held

__all__ = ["Family", "Rule", "choose", "families", "parent_run"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What may go: what breaks every rule that is given.

    Attributes:
        older_than_ms: Runs that ended longer ago than this.
        keep: All but the newest so many of each workflow.
        workflow: Only runs of this workflow.
    """

    older_than_ms: int | None = None
    keep: int | None = None
    workflow: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """A run with the runs of its sub-workflows, of theirs, and so on. They go together or not at all."""

    root: RunRecord
    members: tuple[RunRecord, ...]

    def is_over(self, now_ms: int) -> bool:
        """Whether all are over and no live engine holds one."""
        return all(
            record.status in OVER and not is_held(record.owner, record.lease_until_ms, now_ms)
            for record in self.members
        )


def parent_run(record: RunRecord) -> RunId | None:
    """The run whose sub-workflow this is; None where it is none."""
    try:
        return parse_execution_id(record.parent)[0] if record.parent else None
    except ValueError:
        return None


def families(records: Sequence[RunRecord]) -> list[Family]:
    """All runs in families, in the order of their roots. A run whose parent is gone is a root."""
    by_id = {record.run_id: record for record in records}
    members: dict[RunId, list[RunRecord]] = defaultdict(list)
    for record in records:
        root, seen = record, {record.run_id}
        while (parent := parent_run(root)) in by_id and parent is not None and parent not in seen:
            seen.add(parent)
            root = by_id[parent]
        members[root.run_id].append(record)
    found = []
    for record in records:
        if record.run_id in members:
            others = [member for member in members[record.run_id] if member.run_id != record.run_id]
            found.append(Family(record, (record, *others)))
    return found


def choose(records: Sequence[RunRecord], rule: Rule, now_ms: int) -> list[Family]:
    """The families that may go.

    Args:
        records: All runs of the store, newest first.
    """
    newer: dict[str, int] = defaultdict(int)
    chosen = []
    for family in families(records):
        workflow = family.root.workflow
        if rule.workflow not in {None, workflow} or not family.is_over(now_ms):
            continue
        newer[workflow] += 1
        if rule.keep is not None and newer[workflow] <= rule.keep:
            continue
        ended_ms = max(member.updated_at_ms for member in family.members)
        if rule.older_than_ms is not None and ended_ms > now_ms - rule.older_than_ms:
            continue
        chosen.append(family)
    return chosen
