"""The workflows that are killed at every write. Together they use every feature of the language and the engine.

Each ends the same way however often its engine dies: what its tasks do follows from their inputs and the number of the
attempt alone, and where a task never ends by itself, something ends it for certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from noa.engine.state import RunState
from noa.model.ids import TaskPath

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
        redone: Tasks that succeeded and that reopening does again.
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
    redone: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()

    @property
    def definition(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {"workflow": {"name": self.name, "version": "1", "stages": list(self.stages), **self.keys}}


def task(name: str, *, action: str = "work", inputs: Any = None, **keys: Any) -> dict[str, Any]:
    """A task of the agent that keeps the ledger."""
    made = {"name": name, "agent": "ledger", "action": action, **keys}
    return made if inputs is None else made | {"inputs": inputs}


def held(path: str) -> Callable[[RunState, set[str]], bool]:
    """Whether a task waits for an answer."""
    return lambda state, _begun: path in state.tasks and state.tasks[TaskPath(path)].status == "held"


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

ANSWERED = Scenario(
    "answered",
    ("fallback", "degrade", "skip", "fail", "circuit_breaker", "chain of a stage", "chain of the workflow", "defaults"),
    (
        stage("s", "sequential",
              task("other-way", inputs={"fail": "BROKEN", "value": 1},
                   recovery=[*RETRY, {"fallback": [{"inputs": {"fail": "WORSE"}},
                                                   {"action": "other", "inputs": {"value": "${{ failure.code }}",
                                                                                  "fail_first": 3},
                                                    "retry": {"max_attempts": 2, "delay_s": 0.001}}]}]),
              task("guarded", inputs={"fail_first": 2, "value": 2},
                   recovery=[{"circuit_breaker": {"failures": 1, "open_for": "5ms"}},
                             {"retry": {"max_attempts": 20, "delay_s": 0.001}}])),
        stage("of-stage", "parallel", task("degraded", inputs={"fail": "BROKEN"}), task("fine", inputs={"value": 5}),
              recovery=[{"degrade": {"outputs": {"value": "${{ inputs.n + 1 }}", "why": "${{ failure.message }}"}}}],
              depends_on=["s"]),
        stage("of-workflow", "parallel", task("skipped", inputs={"fail": "BROKEN"}),
              task("told", inputs={"fail": "ODD"}, optional=True), depends_on=["of-stage"]),
        stage("end", "sequential", task("last", inputs={"value": "${{ stages['of-stage'].degraded.outputs.value }}"}),
              depends_on=["of-workflow"]),
    ),
    keys={
        "recovery": [{"fail": {"on": ["ODD"], "code": "TOLD", "message": "it was ${{ failure.code }}"}}, "skip"],
        "outputs": {"other": "${{ stages.s['other-way'].outputs.value }}", "last": "${{ stages.end.last.outputs }}"},
    },
    inputs={"n": 41},
)  # fmt: skip

REMEMBERED = Scenario(
    "remembered",
    ("cache", "cache ttl", "degrade last_good"),
    (
        stage("l", "loop",
              task("cached", inputs={"value": "${{ item }}"}, cache=True),
              task("keyed", inputs={"value": "${{ index }}"}, cache={"key": "${{ item }}", "ttl": "1h"}),
              {"name": "last", "workflow": "last.json",
               "inputs": {"value": "${{ index }}", "fail": "${{ index == 1 ? 'BROKEN' : '' }}"}},
              task("none", inputs={"fail": "BROKEN"},
                   recovery=[{"degrade": {"last_good": True, "outputs": {"value": "none yet"}}}]),
              for_each=[7, 7]),
    ),
    keys={"outputs": {name: f"${{{{ stages.l.{name}.outputs }}}}" for name in ("cached", "keyed", "last", "none")}},
    files={"last.json": {"workflow": {"name": "last", "version": "1", "inputs": {"value": {}, "fail": {}},
           "outputs": {"value": "${{ stages.s.good.outputs.value }}"},
           "stages": [stage("s", "sequential", task("good", recovery=[{"degrade": {"last_good": True}}]))]}}},
)  # fmt: skip

HEDGED = Scenario(
    "hedged",
    ("hedge",),
    (
        stage("s", "sequential",
              task("slow", inputs={"hang_first": 1, "value": 1}, recovery=[{"hedge": {"delay": "4ms"}}],
                   idempotent=True),
              task("quick", inputs={"value": 2}, recovery=[{"hedge": {"delay": "10m"}}], idempotent=True)),
    ),
    keys={"outputs": {"v": "${{ stages.s.slow.outputs.value }}"}},
)  # fmt: skip

ASKED = Scenario(
    "asked",
    ("ask", "answer retry", "answer override", "answer skip", "ask timeout"),
    (
        stage("s", "parallel",
              task("again", inputs={"fail_first": 1, "value": 1}, recovery=[{"ask": {"question": "again?"}}]),
              task("given", inputs={"fail": "BROKEN"}, recovery=[{"ask": {"choices": ["override", "fail"]}}]),
              task("let-go", inputs={"fail": "BROKEN"}, recovery=["ask"]),
              task("nobody", inputs={"fail": "BROKEN"},
                   recovery=[{"ask": {"timeout": "10ms", "on_timeout": "skip"}}])),
        stage("end", "sequential", task("last", inputs={"value": "${{ stages.s.given.outputs.value }}"}),
              depends_on=["s"]),
    ),
    keys={"outputs": {"v": "${{ stages.end.last.outputs.value }}", "again": "${{ stages.s.again.outputs.value }}"}},
    wishes=(
        Wish(held("s/again"), "answer", {"task": "s/again", "choice": "retry"}),
        Wish(held("s/given"), "answer", {"task": "s/given", "choice": "override", "outputs": {"value": 99}}),
        Wish(held("s/let-go"), "answer", {"task": "s/let-go", "choice": "skip"}),
    ),
)  # fmt: skip


def undone(**inputs: Any) -> dict[str, Any]:
    """What undoes a task of the ledger's agent."""
    return {"agent": "ledger", "action": "undo", "inputs": {"value": "${{ outputs.value }}", **inputs}}


SAGA = Scenario(
    "saga",
    ("compensate", "on_failure rollback", "rollback of parallel tasks", "rollback of a sub-workflow",
     "compensate after attempt", "retry of a compensation"),
    (
        stage("order", "parallel",
              task("reserve", inputs={"value": 1}, compensate=undone()),
              task("charge", inputs={"value": 2}, compensate=undone(fail_first=2) | {"recovery": RETRY}),
              task("plain", inputs={"value": 3}),
              {"name": "packed", "workflow": "pack.json", "inputs": {"value": 4}}),
        stage("ship", "sequential",
              task("label", inputs={"value": 5}, compensate=undone()),
              task("send", inputs={"fail": "NO_TRUCK"}, compensate=undone(value=6) | {"after": "attempt"}),
              depends_on=["order"]),
        stage("tell", "sequential", task("customer", inputs={}), depends_on=["ship"], run_on="failure"),
    ),
    status="rolled_back",
    keys={"on_failure": "rollback"},
    files={"pack.json": {"workflow": {"name": "pack", "version": "1", "outputs": {"value": "${{ inputs.value }}"},
           "inputs": {"value": {}},
           "stages": [stage("s", "sequential", task("box", inputs={"value": 1}, compensate=undone()),
                            task("tape", inputs={"value": 2}, compensate=undone()))]}}},
)  # fmt: skip

DECIDED = Scenario(
    "decided",
    ("rollback chosen by the chain", "rollback of loops"),
    (
        stage("l", "loop", task("book", inputs={"value": "${{ item }}"}, compensate=undone()), for_each=[1, 2]),
        stage("s", "sequential", task("breaks", inputs={"fail": "FATAL"}, recovery=[{"rollback": {"on": ["FATAL"]}}]),
              depends_on=["l"]),
    ),
    status="rolled_back",
)  # fmt: skip

UNDONE_LATER = Scenario(
    "undone-later",
    ("rollback_failed", "rollback goes on after reopening"),
    (
        stage("s", "sequential", task("first", inputs={"value": 1}, compensate=undone()),
              task("second", inputs={"value": 2},
                   compensate=undone(fail_first=1) | {"recovery": [{"retry": {"max_attempts": 1}}]}),
              task("third", inputs={"value": 3}, compensate=undone()),
              task("breaks", inputs={"fail": "BROKEN"})),
    ),
    status="rolled_back",
    keys={"on_failure": "rollback"},
    again={},
)  # fmt: skip

CANCELLED_SAGA = Scenario(
    "cancelled-saga",
    ("rollback after cancel",),
    (
        stage("s", "parallel", task("quick", inputs={"value": 1}, compensate=undone()),
              task("endless", inputs={"hang": True}, compensate=undone(value=2) | {"after": "attempt"})),
    ),
    status="rolled_back",
    keys={"on_failure": "rollback"},
    wishes=(Wish(lambda state, begun: "s/endless" in begun and state.tasks["s/quick"].terminal, "cancel"),),
    loose=("s/endless",),
)  # fmt: skip

REFUSED = Scenario(
    "refused",
    ("answer fail", "answer rollback"),
    (
        stage("s", "parallel",
              task("done", inputs={"value": 1}, compensate=undone()),
              task("given-up", inputs={"fail": "BROKEN"}, recovery=["ask"], optional=True)),
        stage("t", "sequential", task("back", inputs={"fail": "BROKEN"}, recovery=["ask"]), depends_on=["s"]),
    ),
    status="rolled_back",
    wishes=(
        Wish(held("s/given-up"), "answer", {"task": "s/given-up", "choice": "fail"}),
        Wish(held("t/back"), "answer", {"task": "t/back", "choice": "rollback"}),
    ),
)  # fmt: skip

REOPENED = Scenario(
    "reopened",
    ("retry of a run",),
    (
        stage("a", "parallel", task("fine", inputs={"value": 1}), task("breaks", inputs={"value": 2, "fail_first": 1}),
              {"name": "child", "workflow": "child.json", "inputs": {"value": 3}}, fail_fast=False),
        stage("b", "sequential", task("later", inputs={"value": "${{ stages.a.breaks.outputs.value }}"}),
              depends_on=["a"]),
    ),
    keys={"outputs": {"v": "${{ stages.b.later.outputs.value }}", "c": "${{ stages.a.child.outputs.value }}"}},
    files={"child.json": _child("child", fail_first=1)},
    again={"actor": "ann", "reason": "mended"},
)  # fmt: skip

DONE_AGAIN = Scenario(
    "done-again",
    ("retry of a run from a task",),
    (
        stage("a", "sequential", task("first", inputs={"value": 1}), task("second", inputs={"value": 2}),
              task("third", inputs={"value": 3})),
        stage("b", "parallel", task("beside", inputs={})),
        stage("c", "sequential", task("last", inputs={"value": "${{ stages.a.second.outputs.value }}"})),
    ),
    again={"from_task": "a/second"},
    redone=("a/second", "a/third", "c/last"),
)  # fmt: skip

SCENARIOS = (
    SEQUENCE, FAN, LOOPS, NESTED, ENDINGS, TIMES, SECRETS, CANCELLED,
    ANSWERED, REMEMBERED, HEDGED, ASKED, SAGA, DECIDED, UNDONE_LATER, CANCELLED_SAGA, REFUSED, REOPENED, DONE_AGAIN,
)  # fmt: skip
