"""Requests that move the run on, or go through its past; and what is told of where it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from noa.engine.nodes import TaskNode
from noa.errors import NoaError, UsageError
from noa.model.events import Event, Hold
from noa.model.execution import Log, OutputChunk, Progress
from noa.model.ids import TaskPath
from noa.modes.dap.base import (
    Arguments,
    Body,
    told,
)
from noa.modes.dap.breakpoints import Wanted
from noa.modes.dap.looking import Looking
from noa.modes.dap.variables import Frame, Scope, value_dict
from noa.modes.debugger import INTERRUPT, Stop
from noa.modes.replay import Moment, Replay, said

__all__ = ["Moving"]

_OBSERVE_S = 0.1
_INTERRUPT_S = 1.0


class Moving(Looking):
    """Lets the run go on beside the requests, and tells where it stops."""

    def _move(self, work: Coroutine[Any, Any, Stop | Moment]) -> None:
        """Let something go on beside the requests; where it ends is told."""
        self._handles.clear()
        self._moving = asyncio.ensure_future(self._moved(work))

    def _later(self, work: Callable[[], Coroutine[Any, Any, Stop | Moment]]) -> None:
        """Move once the request is answered. Raises UsageError where something moves already."""
        if self._moving is not None and not self._moving.done():
            raise UsageError("the run goes on: pause it first")
        self._bug  # noqa: B018  there must be a run
        self._after.append(lambda: self._move(work()))

    async def _moved(self, work: Coroutine[Any, Any, Stop | Moment]) -> None:
        watch = asyncio.ensure_future(self._observe())
        end: Stop | Moment | None = None
        try:
            end = await work
        except (NoaError, TimeoutError) as error:
            self._say(told(error), "stderr")
        except Exception as error:  # must be told: an editor that hears nothing waits for ever
            self._say(f"this is a fault of noa, please report it: {type(error).__name__}: {error}", "stderr")
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if self._target is None:
            self._end(1)
            return
        self._tell_observed()
        self._stopped(end)

    def _stopped(self, end: Stop | Moment | None) -> None:
        bug = self._bug
        if isinstance(end, Moment):
            self._stopped_in_the_past(end)
        elif bug.state.finished:
            failure = bug.state.failure
            self._say(f"run {bug.run_id} is over: {bug.state.status}" + (f": {failure}" if failure else ""))
            if self._wish is not None and self._wish.stop_at_end and end is not None:
                self._tell_stop("exit", "", f"the run is over: {bug.state.status}")
            else:
                self._end(0 if bug.state.status == "succeeded" else 1)
        else:
            stop = end or next(iter(bug.stops()), Stop("", None, bug.seq))
            reason, text, hit = self._reason(stop.hold)
            self._tell_stop(reason, stop.subject, text, hit)
        self._pausing = False

    def _stopped_in_the_past(self, end: Moment) -> None:
        hit = self._points.named(end.breakpoint)
        reason = "entry" if end.seq == 1 else "step" if hit is None else "breakpoint"
        if hit is not None and hit.on_failure:
            reason = "exception"
        self._tell_stop(reason, end.subject, f"event {end.seq} of {self._bug.seq}: {end.said}", hit)

    def _reason(self, hold: Hold | None) -> tuple[str, str, Wanted | None]:
        if hold is None:
            return "pause", f"the run is paused by {self._bug.state.paused}", None
        name = str(hold.show.get("breakpoint", ""))
        hit = self._points.named(name)
        match hold.kind:
            case "failure":
                return "exception", hold.question, hit
            case "breakpoint" if name == INTERRUPT:
                return "pause", hold.question, None
            case "breakpoint":
                return "breakpoint", "a breakpoint", hit
            case "step":
                first = self._wish is not None and self._wish.stop_on_entry and not self._ever
                return "pause" if self._pausing else "entry" if first else "step", hold.question, None
        text = f"{hold.question} (in the debug console :approve, or :reject REASON)"
        return "approval" if hold.kind != "ask" else "question", text, None

    def _tell_stop(self, reason: str, subject: str, text: str, hit: Wanted | None = None) -> None:
        self._ever = True
        body: dict[str, Any] = {"reason": reason, "threadId": self._thread(subject), "allThreadsStopped": True}
        if text:
            body |= {"description": text, "text": text}
        if hit is not None:
            body["hitBreakpointIds"] = [hit.number]
        self._event("stopped", **body)

    def _end(self, code: int) -> None:
        self._event("exited", exitCode=code)
        self._event("terminated")

    async def _next(self, arguments: Arguments) -> Body:
        bug, subject = self._bug, self._subject(arguments)
        if not self._goes:
            self._later(lambda: _now(Replay(bug).step()))
            return None
        held = bug.state.tasks.get(TaskPath(subject))
        mine = held is not None and _of_the_debugger(held)
        self._later(lambda: bug.step(subject if mine else ""))
        return None

    async def _step_out(self, _arguments: Arguments) -> Body:
        bug = self._bug
        self._later(bug.next_stage if self._goes else lambda: _now(Replay(bug).next_stage()))
        return None

    async def _continue(self, arguments: Arguments) -> Body:
        bug, subject = self._bug, self._subject(arguments)
        if not self._goes:
            self._later(self._on_through_the_past)
            return {"allThreadsContinued": True}
        single = bool(arguments.get("singleThread")) and subject in bug.state.held
        if bug.state.mode != "debug":
            self._later(bug.wait_stop)
        else:
            self._later(lambda: bug.go_on(subject if single else ""))
        return {"allThreadsContinued": not single}

    async def _on_through_the_past(self) -> Stop | Moment:
        """To the next breakpoint; the end of a recording is shown, now is where the run stands."""
        bug = self._bug
        end = Replay(bug).go_on()
        if not bug.live or bug.state.finished:
            return end
        return next(iter(bug.stops()), end)

    async def _step_back(self, _arguments: Arguments) -> Body:
        bug = self._bug
        self._later(lambda: _now(Replay(bug).back()))
        return None

    async def _reverse_continue(self, _arguments: Arguments) -> Body:
        bug = self._bug
        self._later(lambda: _now(Replay(bug).go_back()))
        return None

    async def _pause(self, _arguments: Arguments) -> Body:
        bug = self._bug
        if self._moving is None or self._moving.done():
            return None
        self._pausing = True
        await bug.interrupt()
        self._after.append(self._stop_soon)
        return None

    def _stop_soon(self) -> None:
        """An editor that pauses is told of a stop soon, also where nothing begins for long."""
        moving = self._moving

        async def wait() -> None:
            assert moving is not None
            await asyncio.wait({moving}, timeout=_INTERRUPT_S)
            if not moving.done():
                await self._stand()
                going = next((task.path for task in self._bug.state.iter_running()), "")
                self._tell_stop("pause", going, "stops before the next task that begins")

        if moving is not None:
            self._pause_watch = asyncio.ensure_future(wait())

    async def _stand(self) -> None:
        moving, self._moving = self._moving, None
        if moving is not None and not moving.done():
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)

    async def _evaluate(self, arguments: Arguments) -> Body:
        text = str(arguments.get("expression") or "").strip()
        frame = self._handles.frame_of(arguments["frameId"]) if arguments.get("frameId") else Frame("run")
        if text.startswith(":") and arguments.get("context") == "repl":
            return self._said(text[1:], frame.task)
        value = self._bug.evaluate(text, frame.task)
        shown = value_dict(self._handles, Scope(value))
        text = shown.pop("value")
        return {
            **shown,
            "result": value if isinstance(value, str) and arguments.get("context") == "clipboard" else text,
        }

    def _said(self, text: str, task: str) -> Body:
        """A command in the debug console."""
        import json

        word, _, rest = text.strip().partition(" ")
        bug, body = self._bug, {}
        if word == "help" or word not in ("approve", "reject", "retry", "skip", "override"):
            known = ":approve, :reject REASON, :retry, :skip, :override JSON; anything else is CEL"
            return {"result": known, "variablesReference": 0}
        if word == "override":
            try:
                body["outputs"] = json.loads(rest)
            except ValueError as error:
                raise UsageError(f'not JSON: {error}. Such as :override {{"n": 1}}') from error
        reason = rest if word in ("approve", "reject") else ""
        if not self._goes:
            raise UsageError("here one can only look: the run is over, or it is the past")

        async def settle() -> Stop | Moment:
            return await bug.settle(word, task, reason=reason, **body)

        self._later(settle)
        self._after.insert(0, lambda: self._event("continued", threadId=self._thread(task), allThreadsContinued=True))
        return {"result": f"{word} {task}", "variablesReference": 0}

    def _on_events(self, _first: int, events: Sequence[Event]) -> None:
        self._tell_observed()
        for event in events:
            found = said(event)
            if found is not None:
                self._say(found[1])

    async def _observe(self) -> None:
        while True:
            await asyncio.sleep(_OBSERVE_S)
            self._tell_observed()

    def _tell_observed(self) -> None:
        if self._runs is None or self._target is None:
            return
        for record in self._runs.observed(self._target.debugger.run_id, after_id=self._observed_id):
            self._observed_id = record.id
            match record.observation:
                case Log(level=level, message=message):
                    self._say(f"{record.task} {level}: {message}", "stderr" if level == "error" else "stdout")
                case OutputChunk(text=text):
                    self._event("output", category="stdout", output=text)
                case Progress(message=message) if message:
                    self._say(f"{record.task} {message}", "stdout")


async def _now(moment: Moment) -> Stop | Moment:
    return moment


def _of_the_debugger(task: TaskNode) -> bool:
    return task.hold is not None and task.hold.kind in ("step", "breakpoint", "failure")
