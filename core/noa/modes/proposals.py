"""What past runs suggest to write into a definition: limits of time, retries, hedges, more iterations at once. Pure.

Nothing of it is applied by itself: each changes what a definition means, and a person decides that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from noa.model.plan import Expression, Interpolation, Plan, StagePlan, StrategySpec, TaskPlan
from noa.modes.learning import TaskRecord, WorkflowRecord, percentile_of

__all__ = ["Host", "Proposal", "proposals", "snippet_of"]

_SAMPLES = 5  # before a limit of time is proposed
_TIMEOUT_FACTOR = 3.0
_LEAST_TIMEOUT_MS = 10_000
_TIGHT = 1.2  # a limit below so much of the p99 is too short
_TAIL_SAMPLES = 20
_TAIL = 4.0  # p95 above so many medians is a long tail
_TAIL_MS = 100
_FAILURES = 2
_ATTEMPTS = 10  # before more of them are proposed
_HOPELESS = 3  # retries of which none helped
_ITERATION_MS = 20  # below that a loop's iterations are not worth their start
_LOOP_MS = 1_000
_MOST_AT_ONCE = 32
_NICE_S = (1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1_200, 1_800, 2_700, 3_600)


@dataclass(frozen=True, slots=True)
class Host:
    """What the machine has: cores, and bytes of memory (0: not known)."""

    cores: float = 1.0
    memory_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something to write into a definition.

    Attributes:
        kind: What it is about.
        stage: Where.
        task: Where; empty for the stage itself.
        keys: To set there, as JSON; an entry of `recovery` goes before those that are there.
        why: One sentence with the figures.
    """

    kind: Literal["timeout", "retry", "hedge", "max_parallel"]
    stage: str
    task: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def proposals(record: WorkflowRecord, plan: Plan, host: Host) -> list[Proposal]:
    """What the record of a workflow suggests for its plan, in the order of the file."""
    found: list[Proposal] = []
    for stage in plan.stages.values():
        tasks = [(task, known) for task in _tasks(stage) if (known := record.tasks.get(f"{stage.name}/{task.name}"))]
        found += _parallel(stage, tasks, host)
        for task, known in tasks:
            if task.workflow is None:
                chain = _chain(plan, stage, task)
                found += [*_timeout(stage, task, known), *_retry(stage, task, known, chain)]
                found += _hedge(stage, task, known, chain)
    return found


def _tasks(stage: StagePlan) -> Iterator[TaskPlan]:
    for template in stage.templates.values():
        yield from template.tasks


def _chain(plan: Plan, stage: StagePlan, task: TaskPlan) -> Sequence[StrategySpec]:
    return next((chain for chain in (task.recovery, stage.recovery, plan.recovery) if chain is not None), ())


def _timeout(stage: StagePlan, task: TaskPlan, known: TaskRecord) -> Iterator[Proposal]:
    p99 = percentile_of(known.recent_ms, 99)
    limit_ms = task.timeouts.execution_ms
    expired = known.failures.get("EXECUTION_TIMEOUT")
    if limit_ms is None:
        if len(known.recent_ms) >= _SAMPLES:
            wanted = _rounded_ms(max(_LEAST_TIMEOUT_MS, p99 * _TIMEOUT_FACTOR))
            why = f"p99 of {len(known.recent_ms)} is {_text(p99)}, and nothing ends an attempt that hangs"
            yield Proposal("timeout", stage.name, task.name, {"timeout": _duration(wanted)}, why)
    elif known.recent_ms and (p99 * _TIGHT > limit_ms or (expired is not None and expired.count >= 1)):
        wanted = _rounded_ms(max(limit_ms * 2, p99 * _TIMEOUT_FACTOR))
        times = f", and it ended {expired.count:.0f} attempts" if expired is not None else ""
        why = f"p99 of {len(known.recent_ms)} is {_text(p99)}, the limit is {_text(limit_ms)}{times}"
        yield Proposal("timeout", stage.name, task.name, {"timeout": _duration(wanted)}, why)


def _retry(stage: StagePlan, task: TaskPlan, known: TaskRecord, chain: Sequence[StrategySpec]) -> Iterator[Proposal]:
    retries = next((entry for entry in chain if entry.name == "retry"), None)
    hopeless = [code for code, f in sorted(known.failures.items()) if f.retried >= _HOPELESS and f.helped == 0]
    worth = [
        code
        for code, failure in sorted(known.failures.items())
        if failure.count >= _FAILURES and (failure.helped > 0 or (failure.retryable and not failure.retried))
    ]
    share = sum(known.failures[code].count for code in worth) / max(known.attempts, 1.0)
    attempts = _attempts(share)
    if retries is None:
        if worth:
            often = ", ".join(f"{code} {known.failures[code].count:.0f} times" for code in worth)
            why = f"of {known.attempts:.0f} attempts failed: {often}; nothing tries again{_before(chain)}"
            yield _retrying(stage, task, {"max_attempts": attempts}, why)
        return
    given = _option(retries, "max_attempts", 3)
    if hopeless:
        never = ", ".join(f"{code} ({known.failures[code].retried:.0f} retries)" for code in hopeless)
        why = f"a retry never helped after {never}; to add to its retry"
        yield _retrying(stage, task, {"not_on": hopeless}, why)
    elif worth and attempts > given and known.attempts >= _ATTEMPTS:
        left = f"{given} attempts leave {share**given:.1%} of the tasks"
        why = f"{share:.0%} of the attempts fail and a retry helps: {left}; to change in its retry"
        yield _retrying(stage, task, {"max_attempts": attempts}, why)


def _retrying(stage: StagePlan, task: TaskPlan, options: Mapping[str, Any], why: str) -> Proposal:
    return Proposal("retry", stage.name, task.name, {"recovery": [{"retry": options}]}, why)


def _before(chain: Sequence[StrategySpec]) -> str:
    """A chain of a task's own replaces the one that it would inherit."""
    return f"; to stand before {', '.join(entry.name for entry in chain)}" if chain else ""


def _attempts(share: float) -> int:
    """So many attempts that one task in a thousand fails, where attempts fail independently of each other."""
    if share <= 0:
        return 3
    return min(10, max(3, math.ceil(math.log(0.001) / math.log(min(share, 0.99)))))


def _hedge(stage: StagePlan, task: TaskPlan, known: TaskRecord, chain: Sequence[StrategySpec]) -> Iterator[Proposal]:
    p50, p95 = percentile_of(known.recent_ms, 50), percentile_of(known.recent_ms, 95)
    long = len(known.recent_ms) >= _TAIL_SAMPLES and p95 >= _TAIL_MS and p95 > _TAIL * p50
    if not long or any(entry.name == "hedge" for entry in chain):
        return
    keys: dict[str, Any] = {"recovery": [{"hedge": {"percentile": 90}}]}
    condition = _before(chain)
    if task.idempotent is None:
        keys = {"idempotent": True, **keys}
        condition = f"; only where it may be done twice{condition}"
    elif not task.idempotent:
        return
    yield Proposal(
        "hedge", stage.name, task.name, keys, f"p95 {_text(p95)} is {p95 / max(p50, 1):.0f} medians{condition}"
    )


def _parallel(stage: StagePlan, tasks: Sequence[tuple[TaskPlan, TaskRecord]], host: Host) -> Iterator[Proposal]:
    """How many iterations at once: as many as keep the cores busy, or as memory holds, by what one of them takes."""
    options = stage.options
    if not stage.repeats or options.get("for_each") is None or not tasks:
        return
    at_once = options.get("max_parallel") or 1
    items = max(known.per_run for _, known in tasks)
    each_ms = sum(percentile_of(known.recent_ms, 50) for _, known in tasks)
    if items < 2 or each_ms < _ITERATION_MS or each_ms * items / at_once < _LOOP_MS:
        return
    if any("previous" in _roots([task.inputs, task.when]) for task in _tasks(stage)):
        return  # each iteration waits for the one before it
    cpu_s = sum(known.cpu_s for _, known in tasks)
    share = cpu_s * 1000 / each_ms
    fit = min(_MOST_AT_ONCE, math.ceil(host.cores / share) if share > 0 else math.ceil(host.cores))
    memory = max(known.peak_memory_bytes for _, known in tasks)
    if memory and host.memory_bytes:
        fit = min(fit, max(1, int(host.memory_bytes * 0.8 / memory)))
    wanted = min(fit, math.ceil(items))
    if wanted < at_once * 1.5:
        return
    if share > 0:
        busy = f"each uses {share:.0%} of a core, and there are {host.cores:g}"
    else:
        busy = f"there are {host.cores:g} cores, and its agent does not tell how much of one it uses"
    before, after = each_ms * items / at_once, each_ms * math.ceil(items / wanted)
    gain = f"{_text(before)} would be {_text(after)}"
    why = f"{items:.0f} iterations of {_text(each_ms)}, {at_once} at once; {busy}: {gain}"
    yield Proposal("max_parallel", stage.name, "", {"max_parallel": wanted}, why)


def _roots(template: Any) -> set[str]:
    """Names that the expressions of a template use."""
    if isinstance(template, Expression):
        return set(template.roots)
    if isinstance(template, Interpolation):
        return {name for part in template.parts if isinstance(part, Expression) for name in part.roots}
    if isinstance(template, Mapping):
        return {name for value in template.values() for name in _roots(value)}
    if isinstance(template, list | tuple):
        return {name for value in template for name in _roots(value)}
    return set()


def _option(entry: StrategySpec, name: str, default: int) -> int:
    value = entry.options.get(name)
    return value if isinstance(value, int) else default


def _rounded_ms(ms: float) -> int:
    seconds = ms / 1000
    if seconds > _NICE_S[-1]:
        return math.ceil(seconds / 3_600) * 3_600_000
    return next(nice for nice in _NICE_S if nice >= seconds) * 1000


def _duration(ms: int) -> str:
    """As a definition has it."""
    seconds = ms // 1000
    for size, unit in ((3_600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _text(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def snippet_of(found: Sequence[Proposal]) -> str:
    """Proposals as the part of a definition that they change, in YAML, each with its reason; empty of none."""
    if not found:
        return ""
    lines = ["workflow:", "  stages:"]
    for stage in dict.fromkeys(proposal.stage for proposal in found):
        here = [proposal for proposal in found if proposal.stage == stage]
        lines.append(f"    - name: {stage}")
        lines += _keys([proposal for proposal in here if not proposal.task], "      ")
        tasks = list(dict.fromkeys(proposal.task for proposal in here if proposal.task))
        lines += ["      tasks:"] if tasks else []
        for task in tasks:
            lines.append(f"        - name: {task}")
            lines += _keys([proposal for proposal in here if proposal.task == task], "          ")
    return "\n".join(lines) + "\n"


def _keys(found: Sequence[Proposal], indent: str) -> list[str]:
    lines: list[str] = []
    recovery: list[str] = []
    for proposal in found:
        whys = [f"{indent}# {proposal.why}"]
        for key, value in proposal.keys.items():
            if key == "recovery":
                recovery += [f"{indent}  # {proposal.why}"] if len(proposal.keys) == 1 else []
                recovery += [f"{indent}  - {_flow(entry)[1:-1]}" for entry in value]
            else:
                lines += [*whys, f"{indent}{key}: {_flow(value)}"]
                whys = []
    return [*lines, *([f"{indent}recovery:", *recovery] if recovery else [])]


def _flow(value: Any) -> str:
    """A value as YAML on one line; keys and text here need no quotes."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
