"""`noa optimize`: what past runs of a workflow taught, what is applied, what it gained, and what they suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from noa.cli.command import (
    NoaCommand,
    home_option,
    json_option,
    plugin_option,
    print_json,
    settings_of,
    style,
)

if TYPE_CHECKING:
    from noa.cli.session import Store
    from noa.model.plan import Plan
    from noa.modes.learning import PastRun, TaskRecord, WorkflowRecord
    from noa.modes.makespan import Estimate
    from noa.modes.proposals import Proposal

__all__ = ["command"]

_SHOWN = 30
_COMPARED = 20


@dataclass(frozen=True)
class _Found:
    """What the command shows. `plan` is None where it cannot be had now; `problem` then says why."""

    record: WorkflowRecord
    name: str
    plan: Plan | None
    problem: str
    learns: bool
    expected_ms: dict[str, int]
    estimate: Estimate | None
    proposals: list[Proposal]

    @property
    def applies(self) -> bool:
        """Whether the next run begins in learned order."""
        return bool(self.learns and self.expected_ms and not self.record.slower)


@click.command(
    cls=NoaCommand,
    name="optimize",
    short_help="Show what past runs of a workflow taught, what it gained, and what to change.",
)
@click.argument("workflow", metavar="WORKFLOW")
@click.option("--forget", is_flag=True, help="Drop what was learned; runs begin to learn anew.")
@json_option
@plugin_option
@home_option
def command(workflow: str, *, forget: bool, as_json: bool, plugins: tuple[str, ...], home: str | None) -> None:
    """Show what was learned of WORKFLOW (its name, or its FILE), what is applied, what it gained, and what to change.

    \b
    Examples:
      noa optimize unified-pipeline
      noa optimize definitions/unified-pipeline.yaml
      noa optimize nightly --json
      noa optimize nightly --forget

    Runs keep how long their tasks take, how they fail, and what they use. What could begin at once then begins with the
    longest way to the end first. Nothing else changes by itself: limits of time, retries, hedges and max_parallel are
    proposals, printed as the part of a definition that they would change.

    The estimate runs the plan in a simulation of the scheduler, with the durations that were learned. No order is
    shorter than its lower bound: the critical path, or all work by the tasks that may run at once.

    NOA_LEARN=0, or `noa run --no-learn` for one run, switches learning and learned order off.
    """
    from noa.cli.session import open_store, run_async

    settings = settings_of(home, plugins)

    async def dropped() -> tuple[str, bool]:
        from noa.modes.learner import forget

        async with open_store(settings) as store:
            name = _plan_of_file(store, workflow).name if _is_file(workflow) else workflow
            return name, await forget(store.journal, name)

    async def looked() -> _Found:
        async with open_store(settings) as store:
            return await _look(store, workflow)

    if forget:
        name, there_was = run_async(dropped)
        if as_json:
            print_json({"workflow": name, "forgotten": there_was})
        else:
            known = f"what was learned of workflow '{name}' is forgotten"
            click.echo(known if there_was else f"nothing was learned of workflow '{name}'")
        return
    found = run_async(looked)
    if as_json:
        print_json(_as_json(found))
    else:
        for line in _lines(found):
            click.echo(line)


def _is_file(workflow: str) -> bool:
    return workflow.endswith((".yaml", ".yml", ".json"))


def _plan_of_file(store: Store, file: str) -> Plan:
    from noa.definitions import load_plan
    from noa.orchestration import host_resources

    return load_plan(file, registry=store.registry, host_resources=host_resources())


async def _look(store: Store, workflow: str) -> _Found:
    from noa.modes.learner import read_record
    from noa.modes.learning import expectations
    from noa.modes.makespan import estimate, load_of
    from noa.modes.proposals import Host, proposals
    from noa.orchestration import host_resources

    plan, problem = (_plan_of_file(store, workflow), "") if _is_file(workflow) else await _latest_plan(store, workflow)
    name = plan.name if plan is not None else workflow
    record, _ = await read_record(store.journal, name)
    if not record.runs:
        raise await _nothing_learned(store, name)
    learns = store.settings.learn
    if plan is None:
        return _Found(record, name, None, problem, learns, {}, None, [])
    expected_ms = expectations(record, plan)
    has = host_resources()
    host = Host(has.get("cpu", 1.0), has.get("memory", 0.0))
    guess = estimate(plan, load_of(record, plan), expected_ms) if record.tasks else None
    return _Found(record, name, plan, "", learns, expected_ms, guess, proposals(record, plan, host))


async def _latest_plan(store: Store, name: str) -> tuple[Plan | None, str]:
    """The plan of the newest run of this name."""
    from noa.definitions import parse_plan
    from noa.errors import DefinitionError, PluginError
    from noa.model.events import RunCreated

    for record in await store.journal.runs(workflow=name, limit=1):
        created = (await store.journal.read(record.run_id, limit=1))[0][1]
        assert isinstance(created, RunCreated)
        try:
            texts = {key: await store.journal.text(sha) for key, sha in created.definitions.items()}
            return parse_plan(texts[""], name, registry=store.registry, base=None, texts=texts), ""
        except (DefinitionError, PluginError) as error:
            return None, f"the definition of its newest run cannot be read now: {error.message}"
    return None, "the store has no run of it any more; give the FILE of the definition instead of its name"


async def _nothing_learned(store: Store, name: str) -> Exception:
    import difflib

    from noa.errors import UsageError

    known = sorted({record.workflow for record in await store.journal.runs(limit=1000)})
    if name in known:
        hint = "Its runs teach once they are over; NOA_LEARN=0 and --no-learn keep them from it"
    else:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Workflows with runs: {', '.join(known[:10]) or 'none'}"
    return UsageError(f"nothing was learned of workflow '{name}'. {hint}", workflow=name)


def _compared(record: WorkflowRecord) -> tuple[list[PastRun], list[PastRun]]:
    """The newest runs of this version in the order of arrival, and in learned order."""
    runs = [run for run in record.past if run.version == record.version]
    arrival, learned = [run for run in runs if not run.learned], [run for run in runs if run.learned]
    return arrival[-_COMPARED:], learned[-_COMPARED:]


def _median_ms(runs: list[PastRun]) -> int | None:
    from statistics import median

    return round(median(run.makespan_ms for run in runs)) if runs else None


def _task_dict(task: TaskRecord) -> dict[str, Any]:
    from noa.modes.learning import percentile_of

    return {
        "count": round(task.count, 1),
        "mean_ms": round(task.mean_ms, 1),
        **{f"p{part}_ms": round(percentile_of(task.recent_ms, part)) for part in (50, 95, 99)},
        "max_ms": max(task.recent_ms, default=0),
        "per_run": round(task.per_run, 2),
        "attempts": round(task.attempts, 1),
        "failures": {
            code: {"count": round(f.count, 1), "retried": round(f.retried, 1), "helped": round(f.helped, 1)}
            for code, f in sorted(task.failures.items())
        },
        "cpu_s": round(task.cpu_s, 4),
        "peak_memory_bytes": round(task.peak_memory_bytes),
    }


def _as_json(found: _Found) -> dict[str, Any]:
    from dataclasses import asdict

    import msgspec

    from noa.modes.proposals import snippet_of

    record = found.record
    arrival, learned = _compared(record)
    before, after = _median_ms(arrival), _median_ms(learned)
    return {
        "workflow": found.name,
        "version": record.version,
        "runs": record.runs,
        "tasks": {name: _task_dict(task) for name, task in record.tasks.items()},
        "applied": {"order": found.applies, "expected_ms": found.expected_ms},
        "gained": {
            "arrival": {"runs": len(arrival), "median_ms": before},
            "learned": {"runs": len(learned), "median_ms": after},
            "ratio": round(before / after, 3) if before and after else None,
        },
        "estimate": asdict(found.estimate) if found.estimate is not None else None,
        "past": [msgspec.structs.asdict(run) for run in record.past],
        "proposals": [asdict(proposal) for proposal in found.proposals],
        "snippet": snippet_of(found.proposals),
        "problem": found.problem,
    }


def _lines(found: _Found) -> list[str]:
    from noa.cli.text import plural

    record = found.record
    version = f", version {record.version}" if record.version else ""
    lines = [f"{style(found.name, bold=True)}: learned from {plural(record.runs, 'run')}{version}", ""]
    lines += [*_learned_lines(record), ""]
    lines += [*_applied_lines(found), "", *_gained_lines(found)]
    if found.plan is None:
        return [*lines, "", found.problem]
    return [*lines, "", *_proposal_lines(found.proposals)]


def _learned_lines(record: WorkflowRecord) -> list[str]:
    """A table of the tasks, those that take the most first."""
    from noa.cli.text import columns, duration
    from noa.modes.learning import percentile_of

    rows = [["TASK", "DONE", "MEDIAN", "P95", "LONGEST", "FAILED ATTEMPTS", "USES"]]
    order = sorted(record.tasks.items(), key=lambda item: -item[1].mean_ms * item[1].per_run)
    for name, task in order[:_SHOWN]:
        took = [percentile_of(task.recent_ms, 50), percentile_of(task.recent_ms, 95), max(task.recent_ms, default=0)]
        done = f"{task.count:.0f}" + (f" ({task.per_run:.0f} a run)" if task.per_run > 1.5 else "")
        rows.append([name, done, *(duration(round(ms)) for ms in took), _failures(task) or "-", _uses(task) or "-"])
    lines = columns(rows)
    return lines if len(order) <= _SHOWN else [*lines, f"and {len(order) - _SHOWN:,} more; --json has all"]


def _failures(task: TaskRecord) -> str:
    parts = []
    for code, failure in sorted(task.failures.items(), key=lambda item: -item[1].count):
        helped = f" (a retry helped {failure.helped:.0f} of {failure.retried:.0f} times)" if failure.retried else ""
        parts.append(f"{failure.count:.0f} {code}{helped}")
    return ", ".join(parts)


def _uses(task: TaskRecord) -> str:
    from noa.cli.gc import size

    parts = [f"{task.cpu_s:.2f} s of a core"] if task.cpu_s else []
    parts += [size(round(task.peak_memory_bytes))] if task.peak_memory_bytes else []
    return ", ".join(parts)


def _applied_lines(found: _Found) -> list[str]:
    lines = [style("applied", bold=True)]
    if not found.learns:
        return [*lines, "  nothing: NOA_LEARN is 0, so runs begin in the order of the file"]
    if found.plan is None:
        return [*lines, "  runs begin what has the longest way to the end first"]
    if not found.expected_ms:
        return [*lines, "  nothing: an order gains nothing here (one task, or none that takes a while)"]
    if found.record.slower:
        return [*lines, "  nothing: for this graph the longest way first is slower than the order of the file"]
    return [*lines, "  of what could begin, the task with the longest way to the end begins first"]


def _gained_lines(found: _Found) -> list[str]:
    from noa.cli.text import duration, plural

    lines = [style("gained", bold=True)]
    arrival, learned = _compared(found.record)
    before, after = _median_ms(arrival), _median_ms(learned)
    if before is not None:
        lines.append(f"  {plural(len(arrival), 'run')} in the order of the file took {duration(before)} (median)")
    if after is not None:
        ratio = f", {before / after:.2f} times as fast" if before and after else ""
        lines.append(f"  {plural(len(learned), 'run')} in learned order took {duration(after)} (median){ratio}")
    if before is None and after is None:
        lines.append("  no run of this version went through without people, failures or pauses, so none is compared")
    guess = found.estimate
    if guess is not None:
        at_once = f", {guess.capacity} at once" if guess.capacity is not None else ""
        lines += [
            f"  estimate: order of the file {duration(guess.arrival_ms)}, learned order {duration(guess.learned_ms)}, "
            f"lower bound {duration(guess.bound_ms)}",
            f"  (critical path {duration(guess.critical_path_ms)}, work {duration(guess.work_ms)}{at_once})",
        ]
    return lines


def _proposal_lines(found: list[Proposal]) -> list[str]:
    from noa.modes.proposals import snippet_of

    if not found:
        return [style("proposals", bold=True), "  none"]
    head = f"{style('proposals', bold=True)} (nothing of it is applied by itself)"
    return [head, *(f"  {line}" for line in snippet_of(found).splitlines())]
