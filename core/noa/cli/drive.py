"""Drives one run in this process: shows it, meets Ctrl-C, says how it ended. For `noa run` and `noa resume`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator

from noa.cli.command import NoaCommand, print_json
from noa.cli.session import run_async
from noa.cli.summary import exit_code, result_dict, summary_lines
from noa.cli.watch import Watch, choose_watch
from noa.engine.engine import Running
from noa.engine.state import RunState
from noa.errors import JournalError, OwnershipError
from noa.model.ids import RunId
from noa.runtime import Runtime, Settings, current_actor

__all__ = ["Begin", "drive"]

Begin = Callable[[Runtime, Watch], Awaitable[Running]]
"""Starts or resumes the run; sets the watch's model before."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def drive(settings: Settings, begin: Begin, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    """Run to the end; the exit code.

    The first SIGINT or SIGTERM cancels the run, the second stops at once and leaves it to a resume to finish the
    cancellation. Either way no agent's process is left.

    Raises:
        OSError: stdout took no more, such as a full device; the run went to its end nevertheless.
    """
    return run_async(lambda: _drive(settings, begin, as_json=as_json, quiet=quiet, verbose=verbose))


async def _drive(settings: Settings, begin: Begin, *, as_json: bool, quiet: bool, verbose: bool) -> int:
    watch = choose_watch(as_json=as_json, quiet=quiet, verbose=verbose)
    interrupts = _Interrupts(watch)
    async with Runtime(settings, on_event=watch.on_event, on_observation=watch.on_observation) as runtime:
        running = await begin(runtime, watch)
        with interrupts.taken(running):
            async with watch:
                try:
                    state = await interrupts.wait_end(running)
                except OwnershipError:
                    raise
                except JournalError:
                    watch.say(
                        f"run {running.run_id} stops here. What is recorded stays; once the store takes it again, "
                        f"go on with: noa resume {running.run_id}"
                    )
                    raise
    if state is None:
        watch.write(_stopped(running.run_id, cancelled=watch.cancel_recorded(running.run_id)))
        return NoaCommand.CANCELLED
    if as_json:
        print_json(result_dict(state))
    elif not quiet or state.status != "succeeded":
        for line in summary_lines(state):
            watch.write(line, sys.stderr if quiet else sys.stdout)
    if watch.lost is not None:
        raise watch.lost
    return exit_code(state.status)


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

    async def wait_end(self, running: Running) -> RunState | None:
        """The run's last state, or None where it was told to stop."""
        end = asyncio.ensure_future(running.wait())
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({end, stop}, return_when=asyncio.FIRST_COMPLETED)
            return end.result() if end.done() else None
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
