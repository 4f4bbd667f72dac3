"""`noa resume --all`: every run that no process drives goes on here, a line for each."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import Any

import click

from noa.cli.command import NoaCommand, print_json, style
from noa.cli.people import People, Question, question_lines
from noa.cli.remarks import ended
from noa.cli.session import now_ms, run_async
from noa.cli.summary import exit_code, result_dict
from noa.cli.text import duration, one_line
from noa.engine.engine import Running
from noa.engine.state import RunState
from noa.errors import JournalError, NoaError, OwnershipError, RunNotFoundError, RunStateError
from noa.model.events import Event
from noa.model.ids import RunId
from noa.plugin import RunRecord
from noa.runtime import Runtime, Settings

__all__ = ["resume_all"]

_ADOPT_EVERY_S = 2.0
_WORST_LAST = (
    NoaCommand.SUCCEEDED,
    NoaCommand.WAITING,
    NoaCommand.CANCELLED,
    NoaCommand.FAILED,
    NoaCommand.USAGE,
)


def resume_all(settings: Settings, *, adopt: bool, wait: bool, as_json: bool, quiet: bool) -> int:
    """Resume every abandoned run; the worst of their exit codes.

    Args:
        adopt: Stay until SIGINT or SIGTERM, and look for abandoned runs every two seconds.
        wait: Whether to stay with runs that nothing but people moves on.
    """
    return run_async(lambda: _Everything(adopt=adopt, wait=wait, as_json=as_json, quiet=quiet).to_end(settings))


class _Everything:
    def __init__(self, *, adopt: bool, wait: bool, as_json: bool, quiet: bool) -> None:
        self._adopt = adopt
        self._wait = wait
        self._as_json = as_json
        self._quiet = quiet
        self._codes: list[int] = []
        self._results: list[dict[str, Any]] = []
        self._people: dict[str, People] = {}
        self._refused: set[RunId] = set()
        self._stopped = asyncio.Event()

    async def to_end(self, settings: Settings) -> int:
        async with Runtime(settings, on_event=self._on_event) as runtime:
            with self._interrupts():
                going: set[asyncio.Task[None]] = set()
                look = True
                if self._adopt:
                    self._say("takes over runs whose process is gone, until Ctrl-C")
                while not self._stopped.is_set():
                    if look:
                        found = await self._found(runtime)
                        going |= {asyncio.create_task(self._one(runtime, record)) for record in found}
                    look = self._adopt
                    if not going and not self._adopt:
                        break
                    await self._something(going)
                    going = {task for task in going if not task.done()}
            for task in going:
                task.cancel()
            await asyncio.gather(*going, return_exceptions=True)
            if going:
                self._codes += [] if self._adopt else [NoaCommand.CANCELLED]
                self._say(f"stopped; {len(going)} of the runs are not over. Go on with: noa resume --all")
        if self._as_json:
            print_json(self._results)
        elif not self._results and not going and not self._adopt:
            self._say("no run is abandoned: each is over, or a live process drives it")
        return max(self._codes, key=_WORST_LAST.index, default=NoaCommand.SUCCEEDED)

    async def _found(self, runtime: Runtime) -> list[RunRecord]:
        """Runs that nobody drives and that were not tried in vain before."""
        try:
            abandoned = await runtime.journal.abandoned()
        except JournalError as error:
            if not self._adopt:
                raise
            self._say(f"the store did not answer: {one_line(error.message)}")
            return []
        return [r for r in abandoned if r.run_id not in self._people and r.run_id not in self._refused]

    async def _something(self, going: set[asyncio.Task[None]]) -> None:
        """Until a run ends, the time has come to look for abandoned ones, or somebody stops this."""
        stop = asyncio.ensure_future(self._stopped.wait())
        timeout = _ADOPT_EVERY_S if self._adopt else None
        await asyncio.wait({stop, *going}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await asyncio.gather(stop, return_exceptions=True)

    async def _one(self, runtime: Runtime, record: RunRecord) -> None:
        run = record.run_id
        alone = asyncio.Event()
        self._people[run] = people = People(asked=self._asked, alone=alone.set)
        try:
            running = await runtime.engine.resume(run)
            self._say(f"run {run} ({record.workflow}) goes on")
            people.attend(runtime.engine, running)
            self._told(await self._until(running, alone), people.questions)
        except (OwnershipError, RunStateError, RunNotFoundError):
            pass  # somebody else was quicker
        except NoaError as error:
            self._refused.add(run)
            store_failed = isinstance(error, JournalError)
            self._codes.append(NoaCommand.FAILED if store_failed else NoaCommand.USAGE)
            self._results.append({"run_id": run, "error": error.to_dict()})
            self._say(f"run {run} ({record.workflow}) cannot go on here: {one_line(error.message)}")
        finally:
            del self._people[run]

    async def _until(self, running: Running, alone: asyncio.Event) -> RunState:
        end = asyncio.ensure_future(running.wait())
        left = asyncio.ensure_future(alone.wait())
        try:
            await asyncio.wait({end} if self._wait else {end, left}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
            self._refused.add(running.run_id)
            return running.state
        finally:
            for waiter in (end, left):
                waiter.cancel()
            await asyncio.gather(end, left, return_exceptions=True)

    def _told(self, state: RunState, questions: list[Question]) -> None:
        status = state.status if state.finished else "waiting"
        self._codes.append(exit_code(status))
        self._results.append(result_dict(state, [] if state.finished else questions))
        if not state.finished:
            self._say(f"run {state.run_id} ({state.plan.name}) waits for a person, and is left")
            return
        took = duration(state.finished_ms - state.created_ms)
        why = f": {one_line(str(state.failure))}" if state.failure is not None else ""
        degraded = ", degraded," if state.degraded else ""
        self._say(f"run {state.run_id} ({state.plan.name}) {style(ended(status))}{degraded} after {took}{why}")

    def _asked(self, questions: list[Question]) -> None:
        for question in questions:
            for number, line in enumerate(question_lines(question, now_ms(), "")):
                self._say(f"run {question.run_id}: {line}" if number == 0 else line)

    def _on_event(self, run: RunId, seq: int, event: Event) -> None:
        people = self._people.get(run.partition(".")[0])
        if people is not None:
            people.on_event(run, event)

    def _say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, file=sys.stderr if self._as_json else sys.stdout)

    @contextlib.contextmanager
    def _interrupts(self) -> Any:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._stopped.set)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)
