"""The agent `advisor`: keeps what a release measured beside the target, and proposes settings from all that were."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from noa.sdk import Agent, Context, action, write_whole
from noa_release_agents import __version__
from noa_release_agents.environment import Environment

__all__ = ["AdvisorAgent"]

_ENOUGH = 3
"""Of fewer releases nothing is concluded."""
_NEWEST = 20
_MARGIN = 3.0
_WORTH = 0.2
"""A proposal differs from the setting by at least this part of it."""


class Figures(BaseModel):
    """What a release measured."""

    build_s: Annotated[float, Field(ge=0)]
    test_s: Annotated[float, Field(ge=0)]
    watch_s: Annotated[float, Field(ge=0)]
    start_ms: Annotated[float, Field(ge=0)]
    p95_ms: Annotated[float, Field(ge=0)]
    size_bytes: Annotated[int, Field(ge=0)]


class Proposal(TypedDict):
    """A setting that could be another one."""

    setting: Annotated[str, Field(description="Name of the input.")]
    now: float
    proposed: float
    why: str


class Advice(TypedDict):
    """Outputs of propose."""

    releases: Annotated[int, Field(description="That are known, this one included.")]
    rolled_back: Annotated[int, Field(description="Of them.")]
    proposals: list[Proposal]
    inputs: Annotated[dict[str, float], Field(description="The proposals as inputs of the next run.")]
    report: Annotated[str, Field(description="All of it for a person, as a file URI.")]


class AdvisorAgent(Agent):
    """Proposes; it changes no setting."""

    name = "advisor"
    version = __version__

    @action(idempotent=True)
    def propose(
        self,
        ctx: Context,
        target: Annotated[str, Field(min_length=1, description="The target folder.")],
        figures: Annotated[Figures, Field(description="Of this release.")],
        settings: Annotated[
            dict[str, float],
            Field(description="As they are: test_timeout_s, start_timeout_s, max_latency_ms."),
        ],
    ) -> Advice:
        """Add this release to the history of the target, and say which settings fit what it knows."""
        environment = Environment(target)
        environment.note(ctx.run_id, figures=figures.model_dump(), state="kept")
        history = environment.history()[-_NEWEST:]
        measured = [one["figures"] for one in history if "figures" in one]
        proposals = _proposals(measured, settings) if len(measured) >= _ENOUGH else []
        path = ctx.output_dir / "advice.json"
        advice: Advice = {
            "releases": len(history),
            "rolled_back": sum(one.get("state") == "rolled back" for one in history),
            "proposals": proposals,
            "inputs": {one["setting"]: one["proposed"] for one in proposals},
            "report": path.as_uri(),
        }
        text = json.dumps({**advice, "history": history}, indent=1) + "\n"
        write_whole(path, lambda file: file.write(text.encode()))
        for one in proposals:
            ctx.info(f"{one['setting']}: {one['now']:g} -> {one['proposed']:g}, as {one['why']}")
        if len(measured) < _ENOUGH:
            ctx.info(f"measured releases: {len(measured)}; from {_ENOUGH} on there is something to propose")
        return advice


def _proposals(measured: list[dict[str, Any]], settings: dict[str, float]) -> list[Proposal]:
    """Limits that what was measured stays below by a margin; those that are so already are left out."""
    found: list[Proposal] = []
    for setting, figure, unit_s, least in (
        ("test_timeout_s", "test_s", 1.0, 10.0),
        ("start_timeout_s", "start_ms", 1000.0, 5.0),
        ("max_latency_ms", "p95_ms", 1.0, 50.0),
    ):
        if setting not in settings:
            continue
        worst = max(one[figure] for one in measured) / unit_s
        proposed = max(least, _rounded_up(worst * _MARGIN))
        now = settings[setting]
        if abs(proposed - now) >= _WORTH * now:
            why = f"the worst of {len(measured)} releases was {worst:.3g}, and {_MARGIN:g} times that is enough"
            found.append({"setting": setting, "now": now, "proposed": proposed, "why": why})
    return found


def _rounded_up(value: float) -> float:
    """The next number with two digits."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step) * step, 6)
