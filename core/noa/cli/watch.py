"""Shows a run while it goes on: nothing, plain lines, or a live view on a terminal."""

from __future__ import annotations

import sys
from typing import IO, ClassVar, Self

import click

from noa.cli.people import Question, question_lines
from noa.cli.session import now_ms
from noa.model.events import CancelRequested, Event, RunCreated
from noa.model.execution import Observation
from noa.model.ids import RunId, TaskPath
from noa.monitoring.progress import ProgressModel, TaskView

__all__ = ["Watch", "choose_watch"]

KEPT_TASKS = 2_000
"""A stage with more tasks than this forgets those that succeeded."""


class Watch:
    """What the views share; by itself it shows nothing. `model` is set before the run begins.

    `on_event` and `on_observation` are what `noa.Runtime` takes; events of sub-workflows' runs are left out.

    Attributes:
        lost: Why stdout takes nothing more, such as a full device; None also where its reader just went away.
    """

    tells_questions: ClassVar[bool] = False
    """Whether what `asked` was told of stays to be read."""

    def __init__(self) -> None:
        self.model = ProgressModel(keep=KEPT_TASKS)
        self.run_id: RunId | None = None
        self.lost: OSError | None = None
        self._gone: list[IO[str]] = []
        self._asked: list[Question] = []
        self._cancelled: set[RunId] = set()

    def on_event(self, run: RunId, seq: int, event: Event) -> None:
        """Take an event."""
        if isinstance(event, CancelRequested):
            self._cancelled.add(run)
        if self.run_id is None and isinstance(event, RunCreated):
            self.run_id = run
        if run == self.run_id:
            self.model.apply(event)
            self.show_event(event)

    def on_observation(self, run: RunId, task: TaskPath, attempt: int, observation: Observation) -> None:
        """Take an observation."""
        if run == self.run_id:
            view = self.model.observe(task, attempt, observation)
            if view is not None:
                self.show_observation(view, observation)

    def show_event(self, event: Event) -> None:
        """Called after `model` has it."""

    def show_observation(self, task: TaskView, observation: Observation) -> None:
        """Called after `model` has it."""

    def asked(self, questions: list[Question]) -> None:
        """Which tasks wait for a person now; called when that changes."""

    def say(self, text: str) -> None:
        """Something that a person must read, such as what a second Ctrl-C does."""
        self.write(text)

    def tell(self, text: str) -> None:
        """Something that happened beside the run."""
        self.write(text)

    def write(self, text: str, stream: IO[str] | None = None) -> None:
        """Print a line; an output that takes it no more does not end the run."""
        stream = stream or sys.stderr
        if stream in self._gone:
            return
        try:
            click.echo(text, file=stream)
        except (OSError, ValueError) as error:
            self._gone.append(stream)
            if stream is sys.stdout and isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                self.lost = error

    def cancel_recorded(self, run: RunId) -> bool:
        """Whether the journal has it that the run is cancelled, so that a resume only ends it."""
        return run in self._cancelled or bool(self.model.cancelling)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @property
    def now_ms(self) -> int:
        """UTC epoch milliseconds."""
        return now_ms()


class SilentWatch(Watch):
    """Spends nothing on a run that nobody watches; but what a person is asked must be said."""

    tells_questions = True

    def asked(self, questions: list[Question]) -> None:
        known = {question.asks for question in self._asked}
        for question in [q for q in questions if q.asks not in known]:
            for line in question_lines(question, self.now_ms, ""):
                self.write(line)
        self._asked = questions

    def on_event(self, run: RunId, seq: int, event: Event) -> None:
        if isinstance(event, CancelRequested):
            self._cancelled.add(run)

    def on_observation(self, run: RunId, task: TaskPath, attempt: int, observation: Observation) -> None:
        pass

    def tell(self, text: str) -> None:
        pass


def choose_watch(*, as_json: bool, quiet: bool, verbose: bool) -> Watch:
    """The one that fits: silent when quiet, live where a terminal shows it, else lines; on stderr beside JSON."""
    if quiet:
        return SilentWatch()
    stream = sys.stderr if as_json else sys.stdout
    if stream.isatty() and _can_draw():
        from noa.cli.live import LiveWatch

        return LiveWatch(stream, verbose=verbose)
    from noa.cli.lines import LineWatch

    return LineWatch(stream, verbose=verbose)


def _can_draw() -> bool:
    import os

    return os.environ.get("TERM", "") not in ("", "dumb")
