"""One session of an editor: requests in, responses and events out.

Requests are answered in their order. What moves the run on is answered at once and goes on beside, so that the editor
can pause it; where it stops is told by an event. No I/O: bytes are the shell's, files and runs those of `Runs`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from noa.engine.nodes import TaskNode
from noa.errors import NoaError, UsageError
from noa.model.events import Event, Hold
from noa.model.execution import Log, OutputChunk, Progress
from noa.model.ids import RunId, TaskPath
from noa.model.plan import Plan, Position
from noa.modes.dap.breakpoints import FAILURE, Breakpoints, Wanted
from noa.modes.dap.protocol import Malformed
from noa.modes.dap.variables import Frame, Handles, Scope, rows_of, scopes_of, value_dict
from noa.modes.debugger import INTERRUPT, Debugger, Stop
from noa.modes.places import places
from noa.modes.replay import Moment, Replay, said

__all__ = ["Debugged", "Runs", "Session"]

Arguments: TypeAlias = Mapping[str, Any]
Body: TypeAlias = dict[str, Any] | None

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
_RUN_THREAD = 1
_OBSERVE_S = 0.1
_INTERRUPT_S = 1.0
_SOURCE = 1


class Debugged(Protocol):
    """A run that is debugged; `before` is the mode to give back."""

    @property
    def debugger(self) -> Debugger:
        """The run."""

    @property
    def before(self) -> str:
        """Its mode without a debugger."""

    @property
    def how(self) -> str:
        """How it came to be debugged."""


class Runs(Protocol):
    """Where runs are begun and found."""

    def load(self, program: str) -> Plan:
        """Compile a definition."""

    async def begin(self, plan: Plan, inputs: Mapping[str, Any], *, mode: str = "debug") -> Debugged:
        """Begin a run."""

    async def attach(self, run: str) -> Debugged:
        """Stop a run that goes on, or look at one that is over."""

    def observed(self, run: RunId, *, after_id: int = 0) -> Sequence[Any]:
        """What was observed of a run's tasks since: records with `id`, `task` and `observation`."""

    def text_of(self, path: str) -> str | None:
        """Text of a file; None where there is none."""

    async def close(self) -> None:
        """Let go of everything; runs that are not over stay as they are."""


OpenRuns: TypeAlias = Callable[[str | None, Sequence[str], bool], Awaitable[Runs]]
"""Opens the store: its folder (None is the usual one), plugin files, and whether it must exist already."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What `launch` or `attach` asked for."""

    kind: str
    inputs: Mapping[str, Any]
    run: str
    program: str
    stop_on_entry: bool
    stop_at_end: bool
    debugs: bool


class Session:
    """One editor.

    Args:
        send: Takes each message for the editor.
        open_runs: Called once, by `launch` or `attach`.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], open_runs: OpenRuns) -> None:
        self.over = False
        self._send = send
        self._open = open_runs
        self._seq = 0
        self._handles = Handles()
        self._points = Breakpoints()
        self._threads: dict[str, int] = {}
        self._lines, self._columns = 1, 1
        self._runs: Runs | None = None
        self._plan: Plan | None = None
        self._wish: _Wish | None = None
        self._target: Debugged | None = None
        self._moving: asyncio.Task[None] | None = None
        self._pausing = False
        self._entered = False
        self._observed_id = 0
        self._after: list[Callable[[], None]] = []
        self._requests = self._handlers()

    # --- the session ---------------------------------------------------------------------------------------------

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
            self._fail(seq, command, _told(error))
        except TimeoutError as error:
            self._fail(seq, command, str(error))
        except Exception as error:  # an editor's request must never end the session
            self._fail(seq, command, f"this is a fault of noa, please report it: {type(error).__name__}: {error}")
        else:
            self._message("response", request_seq=seq, command=command, success=True, **_body(body))
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

    def _message(self, kind: str, **fields: Any) -> None:
        self._seq += 1
        self._send({"seq": self._seq, "type": kind, **fields})

    def _event(self, event: str, **body: Any) -> None:
        self._message("event", event=event, **_body(body))

    def _fail(self, seq: int, command: str, why: str) -> None:
        body = {"error": {"id": 1, "format": "{why}", "variables": {"why": why}, "showUser": True}}
        self._message("response", request_seq=seq, command=command, success=False, message=why, body=body)

    def _say(self, text: str, category: str = "console") -> None:
        self._event("output", category=category, output=f"{text}\n")

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

    # --- beginning -----------------------------------------------------------------------------------------------

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
        self._read(runs.load(program))
        self._wish = _wish("launch", arguments, program=program, inputs=inputs)
        return None

    async def _attach(self, arguments: Arguments) -> Body:
        run = _text(arguments, "run", "the id of a run, or latest")
        runs = await self._opened(arguments, existing=True)
        self._wish = _wish("attach", arguments, program=str(arguments.get("program") or ""), run=run)
        self._target = await runs.attach(run)
        self._read(self._target.debugger.plan)
        return None

    async def _opened(self, arguments: Arguments, *, existing: bool) -> Runs:
        if self._wish is not None:
            raise UsageError("the session has a run already: one launch or attach for each session")
        home, plugins = arguments.get("home"), arguments.get("plugins") or []
        if not isinstance(home, str | None) or not _are_texts(plugins):
            raise UsageError('home is a folder, plugins a list of files, such as ["my_agents.py"]')
        if self._runs is None:
            self._runs = await self._open(home, plugins, existing)
        return self._runs

    def _read(self, plan: Plan) -> None:
        self._plan = plan
        for point in self._points.read(plan):
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

    # --- breakpoints ---------------------------------------------------------------------------------------------

    async def _set_breakpoints(self, arguments: Arguments) -> Body:
        source = arguments.get("source")
        wanted = arguments.get("breakpoints")
        if not isinstance(source, Mapping) or not isinstance(wanted, list | None):
            raise UsageError("setBreakpoints: expected a source and a list of breakpoints")
        said_lines: list[Mapping[str, Any]] = []
        for one in wanted or []:
            line = one.get("line") if isinstance(one, Mapping) else None
            if not isinstance(line, int) or isinstance(line, bool):
                raise UsageError("setBreakpoints: each breakpoint has a line")
            said_lines.append({"line": line + 1 - self._lines, "when": str(one.get("condition") or "")})
        refused = self._foreign(source)
        if refused:
            points = [Wanted(0, line=fields["line"], message=refused) for fields in said_lines]
            return {"breakpoints": [self._point_dict(point) for point in points]}
        return await self._set_points("line", said_lines)

    async def _set_function_breakpoints(self, arguments: Arguments) -> Body:
        wanted = arguments.get("breakpoints") or []
        if not isinstance(wanted, list) or not all(isinstance(w, Mapping) and w.get("name") for w in wanted):
            raise UsageError("setFunctionBreakpoints: each breakpoint has a name: STAGE.TASK, a stage or a pattern")
        return await self._set_points(
            "name", [{"text": str(one["name"]), "when": str(one.get("condition") or "")} for one in wanted]
        )

    async def _set_exception_breakpoints(self, arguments: Arguments) -> Body:
        filters: list[Mapping[str, Any]] = [{"filterId": name} for name in arguments.get("filters") or []]
        filters += [one for one in arguments.get("filterOptions") or [] if isinstance(one, Mapping)]
        unknown = [str(one.get("filterId")) for one in filters if one.get("filterId") != FAILURE]
        if unknown:
            raise UsageError(f"exception filter '{unknown[0]}' is not known. Known: {FAILURE}")
        wanted: list[Mapping[str, Any]] = [
            {"on_failure": True, "when": str(one.get("condition") or "")} for one in filters
        ]
        return await self._set_points(FAILURE, wanted)

    async def _set_points(self, group: str, wanted: list[Mapping[str, Any]]) -> Body:
        points, gone = self._points.set(group, wanted)
        if self._target is not None and self._entered and self._target.debugger.seq:
            await self._points.apply(self._target.debugger, gone)
        return {"breakpoints": [self._point_dict(point) for point in points]}

    def _point_dict(self, point: Wanted) -> dict[str, Any]:
        found: dict[str, Any] = {"id": point.number, "verified": bool(point.place)}
        if point.message:
            found["message"] = point.message
        line = point.real_line or point.line
        if line:
            found["line"] = line - 1 + self._lines
            if self._plan is not None:
                found["source"] = self._source()
        return found

    async def _breakpoint_locations(self, arguments: Arguments) -> Body:
        first = arguments.get("line")
        last = arguments.get("endLine", first)
        if self._plan is None or not isinstance(first, int) or not isinstance(last, int):
            return {"breakpoints": []}
        shift = self._lines - 1
        lines = sorted({place.line + shift for place in places(self._plan) if place.line})
        return {"breakpoints": [{"line": line} for line in lines if first <= line <= last]}

    def _foreign(self, source: Mapping[str, Any]) -> str:
        """Why breakpoints in a source are not those of the run; empty where they are, or may be."""
        path = source.get("path")
        if self._plan is None or source.get("sourceReference") == _SOURCE or not isinstance(path, str):
            return ""
        text = self._runs.text_of(path) if self._runs is not None else None
        if text == self._plan.source:
            return ""
        if self._wish is not None and self._wish.kind == "launch" and path != self._wish.program:
            return "this file is not the definition that is run"
        return "this file is not the definition with which the run began, or was changed since"

    # --- looking -------------------------------------------------------------------------------------------------

    @property
    def _bug(self) -> Debugger:
        if self._target is None:
            raise UsageError("the run has not begun")
        return self._target.debugger

    def _subjects(self) -> dict[str, str]:
        """What is held or goes on where we look, with a word for it."""
        bug, view = self._bug, self._bug.view
        found = {subject: f"held: {hold.kind}" for subject, _, hold in view.iter_holds()}
        found |= {task.path: "running" for task in view.iter_running() if task.path not in found}
        if not bug.live or view.finished:
            subject = Replay(bug).here().subject
            if subject and subject not in found:
                task = view.tasks.get(TaskPath(subject))
                found[subject] = task.status if task is not None else view.stages[subject].status
        return found

    def _thread(self, subject: str) -> int:
        return self._threads.setdefault(subject, len(self._threads) + _RUN_THREAD + 1) if subject else _RUN_THREAD

    async def _threads_request(self, _arguments: Arguments) -> Body:
        if self._target is None:
            return {"threads": [{"id": _RUN_THREAD, "name": "the run has not begun"}]}
        found = [{"id": self._thread(name), "name": f"{name} ({how})"} for name, how in self._subjects().items()]
        run = {"id": _RUN_THREAD, "name": f"run {self._bug.run_id} ({self._bug.view.status})"}
        return {"threads": found or [run]}

    def _subject(self, arguments: Arguments) -> str:
        number = arguments.get("threadId")
        return next((name for name, thread in self._threads.items() if thread == number), "")

    async def _stack_trace(self, arguments: Arguments) -> Body:
        bug = self._bug
        subject = self._subject(arguments)
        task = bug.view.tasks.get(TaskPath(subject))
        stage = task.stage if task is not None else bug.view.stages.get(subject)
        frames: list[dict[str, Any]] = []
        if task is not None:
            asked = f"{task.agent}.{task.action}" if task.agent else f"workflow {task.plan.workflow}"
            block = f"[{task.block.key}]" if task.block.key else ""
            frame = Frame("task", task.path, task.stage.plan.name)
            frames.append(self._frame(frame, f"{task.plan.name}{block}: {asked}", task.plan.position))
        if stage is not None:
            frame = Frame("stage", subject if task is not None else "", stage.plan.name)
            frames.append(self._frame(frame, f"stage {stage.plan.name}", stage.plan.position))
        past = "" if bug.live else f" at event {bug.view_seq} of {bug.seq}"
        run = Frame("run", subject if task is not None else "")
        frames.append(self._frame(run, f"{bug.plan.name}: run {bug.run_id}{past}", Position(1, 1)))
        start, levels = arguments.get("startFrame") or 0, arguments.get("levels") or len(frames)
        return {"stackFrames": frames[start : start + levels], "totalFrames": len(frames)}

    def _frame(self, frame: Frame, name: str, position: Position) -> dict[str, Any]:
        line, column = max(1, position.line) - 1 + self._lines, max(1, position.column) - 1 + self._columns
        return {
            "id": self._handles.frame(frame),
            "name": name,
            "source": self._source(),
            "line": line,
            "column": column,
        }

    def _source(self) -> dict[str, Any]:
        assert self._plan is not None
        path = self._wish.program if self._wish is not None else ""
        name = self._plan.source_name.rpartition("/")[2]
        if path and self._runs is not None and self._runs.text_of(path) == self._plan.source:
            return {"name": path.rpartition("/")[2], "path": path}
        return {"name": name, "sourceReference": _SOURCE, "origin": "the definition with which the run began"}

    async def _source_request(self, arguments: Arguments) -> Body:
        source = arguments.get("source") or {}
        number = arguments.get("sourceReference") or (source.get("sourceReference") if source else 0)
        if number != _SOURCE or self._plan is None:
            raise UsageError(f"there is no source {number}")
        kind = "application/json" if self._plan.source.lstrip().startswith("{") else "text/x-yaml"
        return {"content": self._plan.source, "mimeType": kind}

    async def _scopes(self, arguments: Arguments) -> Body:
        found = scopes_of(self._bug, self._handles.frame_of(arguments.get("frameId")))
        return {
            "scopes": [
                {
                    "name": name,
                    "presentationHint": hint,
                    "variablesReference": self._handles.scope(scope),
                    "expensive": False,
                }
                for name, hint, scope in found
            ]
        }

    async def _variables(self, arguments: Arguments) -> Body:
        scope = self._handles.scope_of(arguments.get("variablesReference"))
        return {"variables": rows_of(self._handles, scope, arguments)}

    async def _set_variable(self, arguments: Arguments) -> Body:
        scope = self._handles.scope_of(arguments.get("variablesReference"))
        name, text = str(arguments.get("name")), str(arguments.get("value"))
        if not scope.task:
            raise UsageError(f"'{name}' cannot be changed: only inputs of a task that is held can")
        key: str | int = int(name) if isinstance(scope.value, list) and name.isdigit() else name
        value = self._bug.evaluate(text, scope.task)
        keys = (*scope.keys, key)
        await self._bug.set_input(scope.task, keys, value)
        if isinstance(scope.value, dict | list):
            scope.value[key] = value  # type: ignore[index]
        return value_dict(self._handles, Scope(value, scope.task, keys))

    async def _evaluate(self, arguments: Arguments) -> Body:
        text = str(arguments.get("expression") or "").strip()
        frame = self._handles.frame_of(arguments["frameId"]) if arguments.get("frameId") else Frame("run")
        if text.startswith(":") and arguments.get("context") == "repl":
            return self._said(text[1:], frame.task)
        value = self._bug.evaluate(text, frame.task)
        found = value_dict(self._handles, Scope(value))
        found["result"] = (
            value if isinstance(value, str) and arguments.get("context") == "clipboard" else found["value"]
        )
        del found["value"]
        return found

    async def _exception_info(self, arguments: Arguments) -> Body:
        task = self._bug.view.tasks.get(TaskPath(self._subject(arguments)))
        if task is None or task.failure is None:
            raise UsageError("nothing failed here")
        failure = task.failure
        return {
            "exceptionId": failure.code,
            "description": failure.message,
            "breakMode": "always",
            "details": {"message": failure.message, "typeName": failure.code, "stackTrace": str(failure.details or "")},
        }

    # --- moving --------------------------------------------------------------------------------------------------

    @property
    def _goes(self) -> bool:
        """Whether the run itself can be moved on; else we move through its past."""
        return self._bug.live and not self._bug.state.finished

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
            self._say(_told(error), "stderr")
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
                return "breakpoint", hold.question, hit
            case "step":
                first = self._wish is not None and self._wish.stop_on_entry and not self._ever
                return "pause" if self._pausing else "entry" if first else "step", hold.question, None
        text = f"{hold.question} (in the debug console :approve, or :reject REASON)"
        return "approval" if hold.kind != "ask" else "question", text, None

    _ever = False

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

    # --- what happens --------------------------------------------------------------------------------------------

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

    # --- the end -------------------------------------------------------------------------------------------------

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
        if self._target is not None and self._wish is not None:
            bug = self._bug
            bug.go_to(bug.seq)
            await bug.refresh()
            if bug.state.finished:
                pass
            elif kill or (kill is None and self._wish.kind == "launch"):
                await bug.ask("cancel", reason="the editor's session ended")
                with contextlib.suppress(TimeoutError):
                    await bug.wait_stop(timeout_s=10)
            elif self._wish.kind == "attach":
                await self._detach()
        self._wish = None
        self.over = True
        return None

    async def _detach(self) -> None:
        target = self._target
        if target is not None:
            bug = target.debugger
            bug.go_to(bug.seq)
            await bug.refresh()
            if not bug.state.finished and bug.state.mode == "debug":
                await bug.ask("mode", mode=target.before, reason="the debugger detached")


async def _now(moment: Moment) -> Stop | Moment:
    return moment


def _body(body: Body) -> dict[str, Any]:
    return {"body": body} if body else {}


def _of_the_debugger(task: TaskNode) -> bool:
    return task.hold is not None and task.hold.kind in ("step", "breakpoint", "failure")


def _wish(kind: str, arguments: Arguments, *, program: str, inputs: Any = None, run: str = "") -> _Wish:
    return _Wish(
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


def _told(error: Exception) -> str:
    problems = getattr(error, "problems", None)
    if problems:
        from noa.definitions import explain

        return explain(problems)
    return error.message if isinstance(error, NoaError) else str(error)
