"""Keeps what runs teach in the journal, and gives it to later runs. Never in the way of a run: what fails is logged."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from noa.engine.ports import RunWatch
from noa.errors import JournalError
from noa.model.plan import Plan
from noa.modes.learning import RunNotes, WorkflowRecord, decode_record, encode_record, expectations, revised
from noa.modes.makespan import judged
from noa.modes.noticing import Noticing
from noa.plugin import Journal

__all__ = ["JournalLearner", "forget", "read_record"]

log = logging.getLogger("noa.modes")

_GATHER_S = 0.2
_TRIES = 20
_CLOSE_S = 5.0
_FRESH_S = 2.0
_ENOUGH_RUNS = 5


class JournalLearner:
    """Reads a workflow's record when a run begins and adds to it once runs are over, those of a moment together.

    Args:
        journal: Open, until `close` returned.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: dict[str, tuple[Plan, list[RunNotes]]] = {}
        self._known: dict[str, WorkflowRecord] = {}
        self._read_at: dict[str, float] = {}
        self._writing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    async def expected_ms(self, plan: Plan, *, child: bool) -> dict[str, int]:
        """How long the tasks of a run that is about to begin are expected to take.

        Args:
            child: Whether it is a sub-workflow, of which there may be many at once: what was read before will do.
        """
        try:
            record = self._known.get(plan.name)
            if record is None or not (child or self._still_good(plan.name, record)):
                if plan.name in self._waiting:
                    await self._write()
                record = await self._read(plan.name)
            return {} if record.slower else expectations(record, plan)
        except JournalError as error:
            log.warning("what was learned of workflow '%s' cannot be read: %s", plan.name, error)
            return {}

    def _still_good(self, workflow: str, record: WorkflowRecord) -> bool:
        """Whether a record that was read a moment ago will do: one run more would hardly change it."""
        return record.runs >= _ENOUGH_RUNS and time.monotonic() - self._read_at[workflow] < _FRESH_S

    async def _read(self, workflow: str) -> WorkflowRecord:
        record = self._known[workflow] = (await read_record(self._journal, workflow))[0]
        self._read_at[workflow] = time.monotonic()
        return record

    def watch(self, plan: Plan, *, whole: bool) -> RunWatch:
        """What takes notes of a run; `whole` says whether it is seen from its first event on."""
        return Noticing(plan.version, whole=whole, hand_in=lambda notes: self._take(plan, notes))

    async def close(self) -> None:
        """Keep what waits. Idempotent."""
        self._closing.set()
        writer, self._writer = self._writer, None
        if writer is not None:
            done, _ = await asyncio.wait([writer], timeout=_CLOSE_S)
            if not done:
                writer.cancel()
                await asyncio.wait([writer])

    def _take(self, plan: Plan, notes: RunNotes) -> None:
        waiting = self._waiting[plan.name][1] if plan.name in self._waiting else []
        waiting.append(notes)
        self._waiting[plan.name] = (plan, waiting)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._keep(), name="noa-learner")

    async def _keep(self) -> None:
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _GATHER_S)
            try:
                await self._write()
            except JournalError as error:
                log.warning("what a run taught is lost: %s", error)

    async def _write(self) -> None:
        async with self._writing:
            waiting, self._waiting = self._waiting, {}
            for plan, notes in waiting.values():
                await self._add(plan, notes)

    async def _add(self, plan: Plan, notes: list[RunNotes]) -> None:
        workflow = plan.name
        for _ in range(_TRIES):
            record, revision = await read_record(self._journal, workflow)
            made = await asyncio.to_thread(_revised, record, notes, plan)
            if await self._journal.learn(workflow, encode_record(made), revision=revision):
                if workflow in self._known:
                    self._known[workflow] = made
                    self._read_at[workflow] = time.monotonic()
                return
        log.warning("what %d runs of workflow '%s' taught is lost: others keep writing", len(notes), workflow)


def _revised(record: WorkflowRecord, notes: list[RunNotes], plan: Plan) -> WorkflowRecord:
    return judged(revised(record, notes), plan)


async def read_record(journal: Journal, workflow: str) -> tuple[WorkflowRecord, int]:
    """What is known of a workflow, and its revision. What cannot be read counts as nothing, and is replaced in time."""
    body, revision = await journal.learned(workflow)
    try:
        return decode_record(body), revision
    except ValueError as error:  # msgspec's are ValueErrors too
        log.warning("what was learned of workflow '%s' is not readable and counts as nothing: %s", workflow, error)
        return WorkflowRecord(), revision


async def forget(journal: Journal, workflow: str) -> bool:
    """Drop what was learned of a workflow. Whether there was anything."""
    while True:
        body, revision = await journal.learned(workflow)
        if not body:
            return False
        if await journal.learn(workflow, b"", revision=revision):
            return True
