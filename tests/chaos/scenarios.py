"""The workflows that are killed at every write. Together they use every feature of the language and the engine.

Each ends the same way however often its engine dies: what its tasks do follows from their inputs and the number of the
attempt alone, and where a task never ends by itself, something ends it for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa.engine.state import RunState

__all__ = ["SCENARIOS", "Scenario", "Wish"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody outside the run asks for, once.

    Attributes:
        when: Asked again and again until it is true of the run's state and of the tasks that the ledger saw begin.
        kind: Of the signal: "cancel", "answer".
    """

    when: Callable[[RunState, set[str]], bool]
    kind: str
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workflow, and what happens to it from outside.

    Attributes:
        uses: The features for which it is in the set.
        status: How it ends.
        stages: Of the workflow; `keys` are its other keys.
        files: Definitions that it names, by file name.
        again: How it is reopened once it is over (arguments of `Engine.reopen`); None where it is not.
        loose: Tasks that may or may not have had an effect: what ends them races with them.
    """

    name: str
    uses: tuple[str, ...]
    stages: tuple[dict[str, Any], ...]
    status: str = "succeeded"
    keys: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    wishes: tuple[Wish, ...] = ()
    again: Mapping[str, Any] | None = None
    loose: tuple[str, ...] = ()

    @property
    def definition(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"workflow": {"name": self.name, "version": "1", "stages": list(self.stages), **self.keys}}


def task(name: str, *, action: str = "work", inputs: Any = None, **keys: Any) -> dict[str, Any]:
    """A task of the agent that keeps the ledger."""
    made = {"name": name, "agent": "ledger", "action": action, **keys}
    return made if inputs is None else made | {"inputs": inputs}


def stage(name: str, kind: str, *tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A stage."""
    return {"name": name, "type": kind, **({"tasks": list(tasks)} if tasks else {}), **keys}


def _child(name: str, **inputs: Any) -> dict[str, Any]:
    return {
        "workflow": {
            "name": name,
            "version": "1",
            "inputs": {"value": {}},
            "outputs": {"value": "${{ stages.s.second.outputs.value }}"},
            "stages": [
                stage(
                    "s",
                    "sequential",
                    task("first", inputs={"value": "${{ inputs.value }}", **inputs}),
                    task("second", inputs={"value": "${{ tasks.first.outputs.value * 2 }}"}),
                )
            ],
        }
    }


RETRY = [{"retry": {"max_attempts": 3, "delay_s": 0.001}}]

SEQUENCE = Scenario(
    "sequence",
    ("sequential", "wiring", "outputs", "retry", "artifact"),
    (
        stage(
            "s",
            "sequential",
            task("first", inputs={"value": "${{ inputs.n }}", "size": 300_000}),
            task("flaky", inputs={"value": "${{ tasks.first.outputs.value + 1 }}", "fail_first": 2}, recovery=RETRY),
            task("wired"),
        ),
        stage("t", "sequential", task("last", inputs={"value": "${{ stages.s.flaky.outputs.value }}"})),
    ),
    keys={"outputs": {"n": "${{ stages.s.flaky.outputs.value }}"}},
    inputs={"n": 1},
)

FAN = Scenario(
    "fan",
    ("parallel", "needs", "max_parallel", "optional", "when", "resources", "depends_on"),
    (
        stage(
            "wide",
            "parallel",
            *(task(f"t{n}", inputs={"value": n}, resources={"slots": 1}) for n in range(4)),
            task("joined", inputs={"value": "${{ tasks.t1.outputs.value + tasks.t2.outputs.value }}"}),
            task("after", needs=["t3"], inputs={}),
            task("broken", inputs={"fail": "BROKEN"}, optional=True),
            task("left-out", when="inputs.no", inputs={}),
            max_parallel=3,
        ),
        stage("end", "parallel", task("sum", inputs={"value": "${{ stages.wide.joined.outputs.value }}"}),
              depends_on=["wide"]),
    ),
    keys={"resources": {"slots": 2}, "max_parallel": 4, "outputs": {"sum": "${{ stages.end.sum.outputs.value }}"}},
    inputs={"no": False},
)  # fmt: skip

LOOPS = Scenario(
    "loops",
    ("loop", "for_each", "while", "until", "previous", "conditional", "else"),
    (
        stage("each", "loop", task("double", inputs={"value": "${{ item * 2 }}"}),
              task("odd", when="index % 2 == 1", inputs={"value": "${{ tasks.double.outputs.value }}"}),
              for_each="${{ inputs.items }}", max_parallel=2),
        stage("count", "loop",
              task("up", inputs={"value": "${{ previous == null ? 1 : previous.up.value + 1 }}"}),
              **{"while": "previous == null || previous.up.value < 3", "max_iterations": 9,
                 "depends_on": ["each"]}),
        stage("choose", "conditional", depends_on=["count"],
              branches=[{"when": "size(inputs.items) > 5", "tasks": [task("many", inputs={})]}],
              **{"else": [task("few", inputs={"value": "few"}), task("fewer")]}),
        stage("again", "loop", task("probe", inputs={"value": "${{ index }}"}), until="previous.probe.value == 1",
              max_iterations=4),
    ),
    keys={"outputs": {"all": "${{ stages.each.double.outputs }}", "up": "${{ stages.count.up.outputs }}"}},
    inputs={"items": [1, 2, 3]},
)  # fmt: skip

NESTED = Scenario(
    "nested",
    ("workflow", "workflow in a loop", "failure of a sub-workflow"),
    (
        stage("s", "parallel",
              {"name": "one", "workflow": "good.json", "inputs": {"value": 3}},
              {"name": "bad", "workflow": "bad.json", "inputs": {"value": 3}, "optional": True}),
        stage("l", "loop", {"name": "each", "workflow": "good.json", "inputs": {"value": "${{ item }}"}},
              for_each=[1, 2], depends_on=["s"]),
    ),
    keys={"outputs": {"v": "${{ stages.s.one.outputs.value }}", "each": "${{ stages.l.each.outputs }}"}},
    files={"good.json": _child("good"), "bad.json": _child("bad", fail="BAD")},
)  # fmt: skip

ENDINGS = Scenario(
    "endings",
    ("run_on", "fail_fast", "failure"),
    (
        stage("work", "parallel", task("breaks", inputs={"fail": "BROKEN", "sleep_ms": 3}),
              task("endless", inputs={"hang": True})),
        stage("blocked", "sequential", task("never", inputs={}), depends_on=["work"]),
        stage("on-failure", "sequential", task("told", inputs={}), depends_on=["work"], run_on="failure"),
        stage("tidy", "sequential", task("always", inputs={}), depends_on=["on-failure"], run_on="always"),
    ),
    status="failed",
    loose=("work/endless",),
)  # fmt: skip

TIMES = Scenario(
    "times",
    ("timeout total", "timeout of a stage", "timeout execution"),
    (
        stage("t", "parallel",
              task("total", inputs={"hang": True}, timeout={"total": "25ms"}, optional=True),
              task("again", inputs={"hang_first": 1, "value": 1}, timeout={"execution": "40ms"}, recovery=RETRY)),
        stage("late", "parallel", task("endless", inputs={"hang": True}), timeout="40ms", depends_on=["t"]),
        stage("tidy", "sequential", task("always", inputs={}), depends_on=["late"], run_on="always"),
    ),
    status="failed",
    loose=("late/endless", "t/total"),
)  # fmt: skip

SECRETS = Scenario(
    "secrets",
    ("secrets",),
    (
        stage("s", "sequential", task("call", inputs={"value": "Bearer ${{ secrets.CHAOS_TOKEN }}", "fail_first": 1},
                                      recovery=RETRY), task("after", inputs={})),
    ),
)  # fmt: skip

CANCELLED = Scenario(
    "cancelled",
    ("cancel", "run_on always after cancel"),
    (
        stage("s", "parallel", task("quick", inputs={"value": 1}), task("endless", inputs={"hang": True})),
        stage("never", "sequential", task("not", inputs={}), depends_on=["s"]),
        stage("tidy", "sequential", task("always", inputs={}), depends_on=["s"], run_on="always"),
    ),
    status="cancelled",
    wishes=(Wish(lambda state, begun: "s/endless" in begun and state.tasks["s/quick"].terminal, "cancel"),),
    loose=("s/endless",),
)  # fmt: skip

SCENARIOS = (SEQUENCE, FAN, LOOPS, NESTED, ENDINGS, TIMES, SECRETS, CANCELLED)
