"""Drives one run in this process: shows it, meets Ctrl-C, says how it ended. Several commands end here."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from noa.cli.command import NoaCommand, print_json
from noa.cli.people import People, Question, questions_of
from noa.cli.remarks import ended
from noa.cli.session import run_async
from noa.cli.summary import exit_code, result_dict, summary_lines, waiting_lines
from noa.cli.text import plural
from noa.cli.watch import Watch, choose_watch
from noa.engine.engine import Running
from noa.engine.state import RunState
from noa.errors import JournalError, OwnershipError
from noa.model.events import Event, RunReopened
from noa.model.ids import RunId
from noa.monitoring.progress import ProgressModel
from noa.runtime import Runtime, Settings, current_actor

__all__ = ["Begin", "Followed", "Shown", "drive"]


@dataclass(frozen=True, slots=True)
class Followed:
    """A run that was not begun here: followed while somebody else drives it, taken over where nobody does."""

    run_id: RunId
    read: Callable[[], Awaitable[RunState | Running]]


Begin: TypeAlias = Callable[[Runtime, Watch], Awaitable[Running | Followed]]
"""Starts or resumes the run; sets the watch's model before."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Shown:
    """How a run is shown, and how long this process stays.

    Attributes:
        wait: Whether to stay where nothing but people moves the run on; else it is left to a resume.
        adopt: Whether to take over abandoned runs beside it.
        undoes: Whether a run that is rolled back is what was asked for.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    wait: bool = True
    adopt: bool = False
    undoes: bool = False


def drive(settings: Settings, begin: Begin, shown: Shown) -> int:
    """Run to the end; the exit code.

    The first SIGINT or SIGTERM cancels the run, the second stops at once and leaves it to a resume to finish the
    cancellation. Either way no agent's process is left.

    Raises:
        OSError: stdout took no more, such as a full device; the run went to its end nevertheless.
    """
    return run_async(lambda: _Drive(begin, shown).to_end(settings))


class _Drive:
    """One run, from its beginning until this process has nothing more to do with it."""

    def __init__(self, begin: Begin, shown: Shown) -> None:
        self._begin = begin
        self._shown = shown
        self._watch = choose_watch(as_json=shown.as_json, quiet=shown.quiet, verbose=shown.verbose)
        self._interrupts = _Interrupts(self._watch)
        self._people = People(asked=self._watch.asked, alone=self._left_alone)
        self._running: Running | None = None
        self._adopted: list[Running] = []

    async def to_end(self, settings: Settings) -> int:
        watch = self._watch
        async with Runtime(settings, on_event=self._on_event, on_observation=watch.on_observation) as runtime:
            begun = await self._begin(runtime, watch)
            async with self._adopting(runtime):
                state = await self._state_of(runtime, begun)
                await self._told_of(runtime, begun.run_id, state)
                if state is not None:
                    await self._wait_adopted()
        if watch.lost is not None:
            raise watch.lost
        return self._code(state)

    async def _state_of(self, runtime: Runtime, begun: Running | Followed) -> RunState | None:
        """The run's state once it is over or waits for people only; None where this process was told to stop."""
        watch = self._watch
        async with watch:
            if isinstance(begun, Followed):
                ended = await begun.read()
                if isinstance(ended, RunState):
                    return ended
                begun = ended
            self._running = begun
            with self._interrupts.taken(begun):
                self._people.attend(runtime.engine, begun)
                try:
                    return await self._interrupts.wait_end(begun)
                except OwnershipError:
                    raise
                except JournalError:
                    watch.say(
                        f"run {begun.run_id} stops here. What is recorded stays; once the store takes it again, "
                        f"go on with: noa resume {begun.run_id}"
                    )
                    raise

    def _on_event(self, run: RunId, seq: int, event: Event) -> None:
        self._watch.on_event(run, seq, event)
        self._people.on_event(run, event)
        if isinstance(event, RunReopened) and self._running is not None and run == self._running.run_id:
            # Which tasks are done again is for the core to say.
            self._watch.model.settle({path: task.status for path, task in self._running.state.tasks.items()})

    def _left_alone(self) -> None:
        if not self._shown.wait:
            self._interrupts.leave()

    async def _told_of(self, runtime: Runtime, run: RunId, state: RunState | None) -> None:
        watch, shown = self._watch, self._shown
        if state is None:
            watch.write(_stopped(run, cancelled=watch.cancel_recorded(run)))
        elif shown.as_json:
            print_json(result_dict(state, self._questions(state)))
        elif not shown.quiet or self._code(state) != NoaCommand.SUCCEEDED:
            view = watch.model
            if shown.quiet:  # nobody watched
                view = ProgressModel(state.plan)
                for _, event in await runtime.journal.read(state.run_id):
                    view.apply(event)
            lines = (
                summary_lines(state, view)
                if state.finished
                else waiting_lines(state, [] if watch.tells_questions else self._questions(state), watch.now_ms)
            )
            for line in lines:
                watch.write(line, sys.stderr if shown.quiet else sys.stdout)

    def _questions(self, state: RunState) -> list[Question]:
        return [] if state.finished else self._people.questions or questions_of(state)

    def _code(self, state: RunState | None) -> int:
        if state is None:
            return NoaCommand.CANCELLED
        if self._shown.undoes and state.status == "rolled_back":
            return NoaCommand.SUCCEEDED
        return exit_code(state.status if state.finished else "waiting")

    # --- beside it

    @contextlib.asynccontextmanager
    async def _adopting(self, runtime: Runtime) -> AsyncIterator[None]:
        if not self._shown.adopt:
            yield
            return
        keeper = asyncio.create_task(runtime.engine.keep_adopting(self._adopt))
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    def _adopt(self, running: Running) -> None:
        self._adopted.append(running)
        self._watch.tell(f"took over run {running.run_id} ({running.state.plan.name})")
        running.task.add_done_callback(lambda _: self._adopted_ended(running))

    def _adopted_ended(self, running: Running) -> None:
        if running.state.finished:
            self._watch.tell(f"run {running.run_id} ({running.state.plan.name}) {ended(running.state.status)}")

    async def _wait_adopted(self) -> None:
        """Nothing that was taken over is dropped because one's own run is over."""
        left = [running for running in self._adopted if not running.task.done()]
        if left:
            self._watch.write(f"waits for {plural(len(left), 'run')} that it took over; Ctrl-C leaves them to a resume")
            await asyncio.gather(*(running.wait() for running in left), return_exceptions=True)


def _stopped(run: RunId, *, cancelled: bool) -> str:
    if cancelled:
        return f"stopped; the cancellation of run {run} is recorded and not finished. Finish it with: noa resume {run}"
    return f"stopped; run {run} is not over. Go on with: noa resume {run}"


class _Interrupts:
    """Counts SIGINT and SIGTERM: the first cancels, the second stops, a third ends the process as if not caught."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._running: Running | None = None
        self._stop = asyncio.Event()
        self._leave = False
        self._count = 0
        self._cancelling: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def taken(self, running: Running) -> Iterator[None]:
        """Handle the signals for this run."""
        self._running = running
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._interrupted)
        try:
            yield
        finally:
            self._release()

    def leave(self) -> None:
        """Stop waiting for the end: the run waits for people."""
        if self._count == 0:
            self._leave = True
            self._stop.set()

    async def wait_end(self, running: Running) -> RunState | None:
        """The run's last state, or the one in which it was left; None where it was told to stop."""
        end = asyncio.ensure_future(running.wait())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                return end.result()
            return running.state if self._leave else None
        finally:
            for waiter in (end, stop):
                waiter.cancel()
            await asyncio.gather(end, stop, return_exceptions=True)

    def _interrupted(self) -> None:
        self._count += 1
        if self._count == 1 and self._running is not None:
            run = self._running.run_id
            self._watch.say(
                "cancelling the run; again (Ctrl-C) stops at once, and "
                f"`noa resume {run}` then finishes the cancellation"
            )
            cancel = self._running.cancel(actor=current_actor(), reason="interrupted")
            self._cancelling = asyncio.get_running_loop().create_task(cancel)
        else:
            self._stop.set()
            self._release()

    def _release(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
