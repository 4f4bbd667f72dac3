"""One session of an editor: requests in, responses and events out.

Requests are answered in their order. What moves the run on is answered at once and goes on beside, so that the editor
can pause it; where it stops is told by an event. No I/O: bytes are the shell's, files and runs those of `Runs`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from noa.errors import NoaError, UsageError
from noa.model.plan import Plan
from noa.modes.dap.base import (
    Arguments,
    Body,
    OpenRuns,
    Runs,
    Wish,
    body_of,
    told,
)
from noa.modes.dap.breakpoints import FAILURE
from noa.modes.dap.moving import Moving
from noa.modes.dap.protocol import Malformed
from noa.modes.debugger import Stop
from noa.modes.replay import Moment, Replay

__all__ = ["Session"]

_CAPABILITIES = {
    "supportsConfigurationDoneRequest": True,
    "supportsFunctionBreakpoints": True,
    "supportsConditionalBreakpoints": True,
    "supportsBreakpointLocationsRequest": True,
    "supportsEvaluateForHovers": True,
    "supportsStepBack": True,
    "supportsSetVariable": True,
    "supportsExceptionInfoRequest": True,
    "supportsTerminateRequest": True,
    "supportTerminateDebuggee": True,
    "supportsSingleThreadExecutionRequests": True,
    "supportsValueFormattingOptions": False,
    "exceptionBreakpointFilters": [
        {
            "filter": FAILURE,
            "label": "Failed attempts",
            "description": "Stops after an attempt of a task failed, before the recovery chain is asked",
            "default": False,
            "supportsCondition": True,
            "conditionDescription": "CEL, such as task.stage == 'deploy'",
        }
    ],
    "supportsExceptionFilterOptions": True,
}


class Session(Moving):
    """One editor.

    Args:
        send: Takes each message for the editor.
        open_runs: Called once, by `launch` or `attach`.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], open_runs: OpenRuns) -> None:
        super().__init__(send, open_runs)
        self._requests = self._handlers()

    async def handle(self, message: Mapping[str, Any] | Malformed) -> None:
        """Answer a request; never raises for what an editor says."""
        if isinstance(message, Malformed):
            self._fail(message.seq, message.command, message.why)
            self.over = self.over or message.fatal
            return
        seq, command = message["seq"], message["command"]
        self._after = []
        try:
            handler = self._requests.get(command)
            if handler is None:
                raise UsageError(f"request '{command}' is not known. Known: {', '.join(sorted(self._requests))}")
            body = await handler(message.get("arguments") or {})
        except NoaError as error:
            self._fail(seq, command, told(error))
        except TimeoutError as error:
            self._fail(seq, command, str(error))
        except Exception as error:  # an editor's request must never end the session
            self._fail(seq, command, f"this is a fault of noa, please report it: {type(error).__name__}: {error}")
        else:
            self._message("response", request_seq=seq, command=command, success=True, **body_of(body))
            for after in self._after:
                after()

    async def close(self) -> None:
        """The editor is gone: a run that was attached to gets its mode back, one that was launched stays stopped."""
        self.over = True
        await self._stand()
        if self._wish is not None and self._wish.kind == "attach":
            with contextlib.suppress(NoaError, TimeoutError):
                await self._detach()
        if self._runs is not None:
            await self._runs.close()
            self._runs = None

    def _handlers(self) -> dict[str, Callable[[Arguments], Coroutine[Any, Any, Body]]]:
        return {
            "initialize": self._initialize,
            "launch": self._launch,
            "attach": self._attach,
            "setBreakpoints": self._set_breakpoints,
            "setFunctionBreakpoints": self._set_function_breakpoints,
            "setExceptionBreakpoints": self._set_exception_breakpoints,
            "breakpointLocations": self._breakpoint_locations,
            "configurationDone": self._configuration_done,
            "threads": self._threads_request,
            "stackTrace": self._stack_trace,
            "scopes": self._scopes,
            "variables": self._variables,
            "setVariable": self._set_variable,
            "evaluate": self._evaluate,
            "exceptionInfo": self._exception_info,
            "source": self._source_request,
            "next": self._next,
            "stepIn": self._next,
            "stepOut": self._step_out,
            "stepBack": self._step_back,
            "continue": self._continue,
            "reverseContinue": self._reverse_continue,
            "pause": self._pause,
            "terminate": self._terminate,
            "disconnect": self._disconnect,
        }

    async def _initialize(self, arguments: Arguments) -> Body:
        self._lines = 0 if arguments.get("linesStartAt1") is False else 1
        self._columns = 0 if arguments.get("columnsStartAt1") is False else 1
        self._after.append(lambda: self._event("initialized"))
        return dict(_CAPABILITIES)

    async def _launch(self, arguments: Arguments) -> Body:
        program = _text(arguments, "program", "the definition, such as ${workspaceFolder}/release.yaml")
        inputs = arguments.get("inputs") or {}
        if not isinstance(inputs, Mapping):
            raise UsageError('launch: inputs are a JSON object, such as {"version": "1.4"}')
        runs = await self._opened(arguments, existing=False)
        try:
            self._read(runs.load(program))
        except NoaError:
            await self._forget()
            raise
        self._wish = _wish("launch", arguments, program=program, inputs=inputs)
        return None

    async def _attach(self, arguments: Arguments) -> Body:
        run = _text(arguments, "run", "the id of a run, or latest")
        runs = await self._opened(arguments, existing=True)
        self._wish = _wish("attach", arguments, program=str(arguments.get("program") or ""), run=run)
        try:
            self._target = await runs.attach(run)
        except NoaError:
            await self._forget()
            raise
        self._read(self._target.debugger.plan)
        return None

    async def _opened(self, arguments: Arguments, *, existing: bool) -> Runs:
        if self._wish is not None:
            raise UsageError("the session has a run already: one launch or attach for each session")
        home, plugins = arguments.get("home"), arguments.get("plugins") or []
        if not isinstance(home, str | None) or not _are_texts(plugins):
            raise UsageError('home is a folder, plugins a list of files, such as ["my_agents.py"]')
        self._runs = await self._open(home, plugins, existing)
        return self._runs

    async def _forget(self) -> None:
        """What was asked for could not be done; the editor may ask for something else."""
        runs, self._runs, self._wish = self._runs, None, None
        if runs is not None:
            await runs.close()

    def _read(self, plan: Plan) -> None:
        self._plan = plan
        for point in self._points.read(plan, lambda path: self._foreign({"path": path or None})):
            self._event("breakpoint", reason="changed", breakpoint=self._point_dict(point))

    async def _configuration_done(self, _arguments: Arguments) -> Body:
        if self._wish is None or self._plan is None:
            raise UsageError("nothing is launched or attached to yet")
        if not self._entered:
            self._entered = True
            self._after.append(lambda: self._move(self._enter()))
        return None

    async def _enter(self) -> Stop | Moment:
        """Begin, and go to where the editor is shown the run first."""
        wish, runs, plan = self._wish, self._runs, self._plan
        assert wish is not None
        assert runs is not None
        assert plan is not None
        if wish.kind == "launch":
            self._target = await runs.begin(plan, wish.inputs, mode="debug" if wish.debugs else "")
        target = self._target
        assert target is not None
        bug = target.debugger
        if wish.kind == "attach":  # what was logged before is no news
            while batch := runs.observed(bug.run_id, after_id=self._observed_id):
                self._observed_id = batch[-1].id
        bug.on_events = self._on_events
        name = f"{plan.name} ({bug.run_id})"
        self._event("process", name=name, startMethod=wish.kind, isLocalProcess=True)
        self._say(target.how)
        if bug.state.finished and wish.kind == "attach":
            await self._points.apply(bug, [])
            return Replay(bug).go_to(1)
        if not wish.debugs:
            return await bug.wait_stop()
        stop = await bug.wait_stop()
        await self._points.apply(bug, [])
        if bug.state.finished or wish.stop_on_entry or (stop.hold is not None and stop.hold.kind != "step"):
            return stop
        return await bug.go_on()

    async def _terminate(self, _arguments: Arguments) -> Body:
        bug = self._bug
        if bug.state.finished:
            self._after.append(lambda: self._end(0))
            return None
        await self._stand()
        bug.go_to(bug.seq)
        await bug.ask("cancel", reason="terminated in the debugger")
        self._after.append(lambda: self._move(bug.wait_stop()))
        return None

    async def _disconnect(self, arguments: Arguments) -> Body:
        await self._stand()
        kill = arguments.get("terminateDebuggee")
        with contextlib.suppress(NoaError, TimeoutError):  # the editor leaves, whatever becomes of the run
            await self._let_go(kill=kill is True, keep=kill is False)
        self._wish = None
        self.over = True
        return None

    async def _let_go(self, *, kill: bool, keep: bool) -> None:
        """A run that was launched ends with the session, one that was attached to gets its mode back."""
        if self._target is None or self._wish is None:
            return
        bug = self._target.debugger
        bug.go_to(bug.seq)
        await bug.refresh()
        if bug.state.finished:
            return
        if kill or (self._wish.kind == "launch" and not keep):
            await bug.ask("cancel", reason="the editor's session ended")
            await bug.wait_stop(timeout_s=10)
        elif self._wish.kind == "attach":
            await self._detach()

    async def _detach(self) -> None:
        target = self._target
        if target is not None:
            bug = target.debugger
            bug.go_to(bug.seq)
            await bug.refresh()
            if not bug.state.finished and bug.state.mode == "debug":
                await bug.ask("mode", mode=target.before, reason="the debugger detached")


def _wish(kind: str, arguments: Arguments, *, program: str, inputs: Any = None, run: str = "") -> Wish:
    return Wish(
        kind=kind,
        inputs=inputs or {},
        run=run,
        program=program,
        stop_on_entry=bool(arguments.get("stopOnEntry")) or kind == "attach",
        stop_at_end=bool(arguments.get("stopAtEnd")),
        debugs=not arguments.get("noDebug"),
    )


def _text(arguments: Arguments, name: str, what: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"'{name}' is missing: {what}")
    return value


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
