"""Requests about breakpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noa.errors import UsageError
from noa.modes.dap.base import (
    SOURCE,
    Arguments,
    Body,
    SessionBase,
)
from noa.modes.dap.breakpoints import FAILURE, LINES, Wanted
from noa.modes.places import places

__all__ = ["Pointing"]


class Pointing(SessionBase):
    """Sets breakpoints, and says where they are."""

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
        return await self._set_points(f"{LINES}{source.get('path') or ''}", said_lines)

    async def _set_function_breakpoints(self, arguments: Arguments) -> Body:
        wanted = arguments.get("breakpoints") or []
        if not isinstance(wanted, list) or not all(isinstance(w, Mapping) and w.get("name") for w in wanted):
            raise UsageError("setFunctionBreakpoints: each breakpoint has a name: STAGE.TASK, a stage or a pattern")
        return await self._set_points(
            "name", [{"text": str(one["name"]), "when": str(one.get("condition") or "")} for one in wanted]
        )

    async def _set_exception_breakpoints(self, arguments: Arguments) -> Body:
        names, options = arguments.get("filters") or [], arguments.get("filterOptions") or []
        if not isinstance(names, list) or not isinstance(options, list):
            raise UsageError("setExceptionBreakpoints: filters and filterOptions are lists")
        filters: list[Mapping[str, Any]] = [{"filterId": name} for name in names]
        filters += [one for one in options if isinstance(one, Mapping)]
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
        if self._plan is None or source.get("sourceReference") == SOURCE or not isinstance(path, str):
            return ""
        text = self._runs.text_of(path) if self._runs is not None else None
        if text == self._plan.source:
            return ""
        if self._wish is not None and self._wish.kind == "launch" and path != self._wish.program:
            return "this file is not the definition that is run"
        return "this file is not the definition with which the run began, or was changed since"
