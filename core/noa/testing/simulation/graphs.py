"""Random workflows for simulations: every stage type and every key that the core knows, up to 200 tasks.

A definition follows from its seed alone. What is taken out of it afterwards (`without`, `reduced`) leaves the rest as
it was, so that a failing schedule can be made smaller.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

__all__ = ["AGENTS", "CHILD", "FEATURES", "POOLS", "iter_tasks", "random_definition", "reduced", "without"]

AGENTS = ("a", "b")
"""Agents that definitions may name."""

POOLS = {"cpu": 4.0, "licence": 2.0}
"""Capacity of the simulated host."""

CHILD = {
    "workflow": {
        "name": "child",
        "version": "1",
        "stages": [
            {
                "name": "only",
                "type": "parallel",
                "tasks": [{"agent": "a", "action": "act", "compensate": {"agent": "a", "action": "undo"}}],
            }
        ],
    }
}
"""The workflow that tasks with `workflow` run; simulated as an agent would be."""

FEATURES: dict[str, tuple[str, ...]] = {
    "needs": ("needs",),
    "inputs": ("inputs",),
    "when": ("when",),
    "optional": ("optional",),
    "priority": ("priority",),
    "max_parallel": ("max_parallel",),
    "run_on": ("run_on",),
    "fail_fast": ("fail_fast",),
    "timeout": ("timeout",),
    "recovery": ("recovery",),
    "compensate": ("compensate", "on_failure"),
    "cache": ("cache",),
    "resources": ("resources",),
    "defaults": ("defaults",),
}
"""Keys of a definition by the feature that they belong to."""

_STRATEGIES = ("retry", "fallback", "degrade", "skip", "fail", "rollback", "ask", "circuit_breaker", "hedge")
_CODES = ("FLAKY", "BAD", "AGENT_LOST", "EXECUTION_TIMEOUT")


def random_definition(seed: int, *, most_tasks: int = 200) -> dict[str, Any]:
    """A workflow: mostly small, sometimes with as many as `most_tasks` tasks."""
    return _Maker(random.Random(f"graph {seed}"), most_tasks).workflow()


class _Maker:
    def __init__(self, chance: random.Random, most_tasks: int) -> None:
        self._chance = chance
        self._left = min(most_tasks, chance.choice((3, 4, 5, 6, 8, 8, 10, 12, 12, 16, 20, 20, 30, 40, 80, 200)))
        self._rate = chance.choice((0.1, 0.25, 0.4))
        self._compensates = chance.random() < 0.4
        self._small = self._left <= 40
        self._known: list[tuple[str, str, list[str]]] = []

    def _some(self, rate: float | None = None) -> bool:
        return self._chance.random() < (self._rate if rate is None else rate)

    def workflow(self) -> dict[str, Any]:
        chance = self._chance
        stages = []
        for number in range(chance.randint(1, 6 if self._small else 12)):
            if self._left <= 0:
                break
            stages.append(self._stage(f"s{number}"))
        workflow: dict[str, Any] = {"name": "simulated", "version": "1", "stages": stages}
        workflow["resources"] = {name: amount for name, amount in POOLS.items() if name != "cpu"}
        if self._some(0.3):
            workflow["max_parallel"] = chance.randint(1, 5)
        if self._some(0.1):
            workflow["timeout"] = f"{chance.choice((300, 2000, 8000))}ms"
        if self._some(0.3):
            workflow["recovery"] = self._chain()
        if self._some(0.1):
            workflow["defaults"] = {"recovery": self._chain()}
        if self._compensates and self._some(0.6):
            workflow["on_failure"] = "rollback"
        return {"workflow": workflow}

    def _stage(self, name: str) -> dict[str, Any]:
        chance = self._chance
        kind = chance.choice(("sequential", "parallel", "parallel", "loop", "conditional"))
        stage: dict[str, Any] = {"name": name, "type": kind}
        earlier = [known[0] for known in self._known]
        if earlier and self._some(0.8):
            stage["depends_on"] = sorted({chance.choice(earlier) for _ in range(chance.randint(1, 2))})
            stage["run_on"] = chance.choice(("success", "success", "failure", "always"))
        if self._some(0.4):
            stage["fail_fast"] = False
        if self._some(0.1):
            stage["when"] = self._condition(())
        if self._some(0.3):
            stage["recovery"] = self._chain()
        if self._some(0.1):
            stage["timeout"] = f"{chance.choice((100, 400, 2000))}ms"
        if kind == "conditional":
            return self._conditional(stage)
        count = max(1, min(self._left, chance.randint(1, 8) if self._small else chance.randint(10, 60)))
        times = 1
        if kind == "loop":
            times = self._loop(stage)
            count = max(1, min(count, 4, self._left // max(times, 1)))
        elif self._some(0.3):
            stage["max_parallel"] = chance.randint(1, 4)
        self._left -= count * max(times, 1)
        stage["tasks"] = self._tasks(count, needs=kind == "parallel", loop=kind == "loop")
        self._known.append((name, kind, [task["name"] for task in stage["tasks"]]))
        return stage

    def _loop(self, stage: dict[str, Any]) -> int:
        chance = self._chance
        kind = chance.choice(("for_each", "for_each", "while", "until"))
        if kind == "for_each":
            items = list(range(chance.randint(0, 5)))
            stage["for_each"] = items
            if self._some(0.5):
                stage["max_parallel"] = chance.randint(1, 3)
            return len(items)
        turns = chance.randint(1, 4)
        stage[kind] = f"index < {turns}" if kind == "while" else f"index >= {turns}"
        stage["max_iterations"] = turns + chance.randint(-1, 2) or 1
        return turns

    def _conditional(self, stage: dict[str, Any]) -> dict[str, Any]:
        chance = self._chance
        branches: list[dict[str, Any]] = []
        for number in range(chance.randint(1, 2)):
            tasks = self._tasks(chance.randint(1, 3), needs=False, first=f"b{number}")
            branches.append({"when": self._condition(()), "tasks": tasks})
        stage["branches"] = branches
        if self._some(0.5):
            stage["else"] = self._tasks(chance.randint(1, 3), needs=False, first="e")
        self._left -= 3
        self._known.append((stage["name"], "conditional", [task["name"] for task in branches[0]["tasks"]]))
        return stage

    def _tasks(self, count: int, *, needs: bool, loop: bool = False, first: str = "t") -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = []
        for index in range(count):
            tasks.append(self._task(f"{first}{index}", [task["name"] for task in tasks], needs=needs, loop=loop))
        return tasks

    def _task(self, name: str, before: Sequence[str], *, needs: bool, loop: bool) -> dict[str, Any]:
        chance = self._chance
        task: dict[str, Any] = {"name": name, "agent": chance.choice(AGENTS), "action": f"act{chance.randint(0, 3)}"}
        sub_workflow = self._some(0.05)
        if sub_workflow:
            task = {"name": name, "workflow": "child.json"}
        if self._some(0.9 if not self._small else 0.6):
            task["inputs"] = self._inputs(before, loop=loop)
        if needs and before and self._some(0.4):
            task["needs"] = sorted({chance.choice(before) for _ in range(chance.randint(1, 2))})
        if self._some():
            task["recovery"] = self._chain()
        if self._some(0.15):
            task["optional"] = True
        if self._some(0.15):
            task["priority"] = chance.randint(-2, 2)
        if self._some(0.1):
            task["when"] = self._condition(before)
        if self._some(0.15):
            limits = {"execution": (40, 200), "queue": (30, 300), "total": (60, 400, 3000), "heartbeat": (500,)}
            kinds = chance.sample(sorted(limits), chance.randint(1, 2)) if not sub_workflow else ["total"]
            task["timeout"] = {kind: f"{chance.choice(limits[kind])}ms" for kind in kinds}
        if self._some(0.2) and not sub_workflow:
            task["resources"] = {
                pool: chance.choice((0.5, 1, POOLS[pool]))
                for pool in chance.sample(sorted(POOLS), chance.randint(1, 2))
            }
        if self._some(0.1) and not sub_workflow:
            task["cache"] = chance.choice((True, "1s", {"key": "${{ inputs.number }}", "ttl": "5s"}))
        if self._some(0.5):
            task["idempotent"] = True
        if self._compensates and self._some(0.5):
            task["compensate"] = self._compensation()
        return task

    def _compensation(self) -> dict[str, Any]:
        chance = self._chance
        made: dict[str, Any] = {"agent": chance.choice(AGENTS), "action": f"undo{chance.randint(0, 1)}"}
        if self._some(0.5):
            made["inputs"] = chance.choice(({}, {"was": "${{ outputs }}"}))
        if self._some(0.3):
            made["after"] = "attempt"
        if self._some(0.6):
            made["recovery"] = [entry for entry in self._chain() if "rollback" not in _text(entry)]
        if self._some(0.2):
            made["timeout"] = {"total": f"{chance.choice((60, 400))}ms"}
        return made

    def _inputs(self, before: Sequence[str], *, loop: bool) -> dict[str, Any]:
        chance = self._chance
        inputs: dict[str, Any] = {}
        if self._some(0.2):
            inputs["given"] = "${{ inputs.number }}"
        if before and self._some(0.3):
            inputs["near"] = f"${{{{ tasks.{chance.choice(before)}.outputs }}}}"
        if self._known and self._some(0.2):
            stage, _, names = chance.choice(self._known)
            inputs["far"] = f"${{{{ stages.{stage}.{chance.choice(names)}.{chance.choice(('outputs', 'status'))} }}}}"
        if loop and self._some(0.3):
            inputs["turn"] = "${{ index }}"
        return inputs

    def _condition(self, before: Sequence[str]) -> str:
        chance = self._chance
        choices = ["inputs.yes", "inputs.yes", "inputs.no"]
        if before:
            choices.append(f"tasks.{chance.choice(before)}.status == 'succeeded'")
        if self._known:
            stage, kind, names = chance.choice(self._known)
            if kind != "loop":
                choices.append(f"stages.{stage}.{chance.choice(names)}.outputs != null")
        return chance.choice(choices)

    # --- recovery

    def _chain(self) -> list[Any]:
        chance = self._chance
        names = [chance.choice(("retry", *_STRATEGIES)) for _ in range(chance.choice((1, 1, 2, 3)))]
        return [self._entry(name) for name in names]

    def _entry(self, name: str) -> Any:
        chance = self._chance
        options: dict[str, Any] = {}
        if name in {"degrade", "skip", "fail", "rollback", "ask"} and self._some(0.5):
            options["on"] = sorted(set(chance.choices(_CODES, k=2)))
        match name:
            case "retry":
                options = self._retry()
            case "fallback":
                others: list[dict[str, Any]] = [{"agent": "b"}, {"action": "other"}, {"inputs": {"instead": 1}}]
                options = {"to": chance.sample(others, chance.randint(1, 2))}
                if self._some(0.4):
                    options["to"][0]["retry"] = self._retry()
            case "degrade":
                options["last_good"] = self._some(0.5)
                if not options["last_good"] or self._some(0.5):
                    options["outputs"] = {"n": 0, "why": "${{ failure.code }}"}
            case "fail" if self._some(0.5):
                options["message"] = "gave up: ${{ failure.message }}"
            case "ask":
                options |= self._question()
            case "circuit_breaker":
                options = {
                    "failures": chance.randint(1, 3),
                    "window": "1s",
                    "open_for": f"{chance.choice((20, 200))}ms",
                }
            case "hedge":
                options = {"delay": f"{chance.choice((1, 10, 40))}ms", "min_samples": chance.choice((1, 20))}
        return {name: options} if options else name

    def _retry(self) -> dict[str, Any]:
        chance = self._chance
        options: dict[str, Any] = {"max_attempts": chance.randint(1, 4), "delay_s": chance.choice((0, 0.02, 0.2))}
        options["backoff"] = chance.choice(("constant", "linear", "exponential", "decorrelated"))
        if self._some(0.3):
            options["on"] = sorted(set(chance.choices(_CODES, k=3)))
        if self._some(0.2):
            options["max_elapsed"] = f"{chance.choice((100, 1000))}ms"
        return options

    def _question(self) -> dict[str, Any]:
        chance = self._chance
        options: dict[str, Any] = {"question": "what now about ${{ failure.code }}?"}
        choices = ["retry", "skip", "override", "fail", "rollback"]
        if self._some(0.5):
            choices = sorted({"skip", *chance.sample(choices, 2)})
            options["choices"] = choices
        if self._some(0.4):
            options["timeout"] = f"{chance.choice((10, 500))}ms"
            options["on_timeout"] = chance.choice([choice for choice in choices if choice != "override"])
        return options


def _text(entry: Any) -> str:
    return repr(entry)


# --- smaller ones ------------------------------------------------------------------------------------------------


def iter_tasks(stage: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The lists of tasks of a stage."""
    if "tasks" in stage:
        yield stage["tasks"]
    for branch in stage.get("branches", ()):
        yield branch["tasks"]
    if "else" in stage:
        yield stage["else"]


def without(definition: dict[str, Any], features: Collection[str]) -> dict[str, Any]:
    """The definition without what belongs to some features (see `FEATURES`), or to recovery strategies of that name."""
    if not features:
        return definition
    gone = {key for feature in features for key in FEATURES.get(feature, ())}
    strategies = set(features) - FEATURES.keys()

    def strip(node: Any) -> Any:
        if isinstance(node, list):
            return [strip(part) for part in node]
        if not isinstance(node, dict):
            return node
        kept = {key: strip(value) for key, value in node.items() if key not in gone}
        if "recovery" in kept:
            kept["recovery"] = [e for e in kept["recovery"] if _strategy(e) not in strategies]
        return kept

    made: dict[str, Any] = strip(definition)
    return made


def _strategy(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(next(iter(entry)))


def reduced(definition: dict[str, Any], dropped: Collection[str]) -> dict[str, Any]:
    """The definition without some stages (`s1`) and tasks (`s1/t2`), and without what refers to them."""
    if not dropped:
        return definition
    stages = [dict(s) for s in definition["workflow"]["stages"] if s["name"] not in dropped]
    for stage in stages:
        name = stage["name"]
        if "depends_on" in stage:
            stage["depends_on"] = [other for other in stage["depends_on"] if other not in dropped]
        if "tasks" in stage:
            stage["tasks"] = _kept(name, stage["tasks"], dropped)
        if "branches" in stage:
            stage["branches"] = [b | {"tasks": _kept(name, b["tasks"], dropped)} for b in stage["branches"]]
        if "else" in stage:
            stage["else"] = _kept(name, stage["else"], dropped)
        _forget(stage, name, dropped)
    return {"workflow": definition["workflow"] | {"stages": stages}}


def _kept(stage: str, tasks: list[dict[str, Any]], dropped: Collection[str]) -> list[dict[str, Any]]:
    kept = [dict(task) for task in tasks if f"{stage}/{task['name']}" not in dropped]
    for task in kept:
        if "needs" in task:
            task["needs"] = [other for other in task["needs"] if f"{stage}/{other}" not in dropped]
        if "inputs" in task:
            task["inputs"] = {k: v for k, v in task["inputs"].items() if not _reads(v, stage, dropped)}
        _forget(task, stage, dropped)
    return kept


def _forget(node: dict[str, Any], stage: str, dropped: Collection[str]) -> None:
    if "when" in node and _reads(node["when"], stage, dropped):
        del node["when"]


_FAR = re.compile(r"stages\.(\w+)\.(\w+)")
_NEAR = re.compile(r"tasks\.(\w+)\.")


def _reads(value: Any, stage: str, dropped: Collection[str]) -> bool:
    text = str(value)
    far = any(s in dropped or f"{s}/{t}" in dropped for s, t in _FAR.findall(text))
    return far or any(f"{stage}/{task}" in dropped for task in _NEAR.findall(text))
