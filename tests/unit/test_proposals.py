"""What past runs suggest to write into a definition."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import yaml
from benchmarks import learned_order

from noa.definitions import load_plan
from noa.model.plan import Plan
from noa.modes.learning import FailureRecord, TaskRecord, WorkflowRecord
from noa.modes.proposals import Host, Proposal, proposals, snippet_of

REGISTRY = learned_order.registry()
HOST = Host(cores=4, memory_bytes=8e9)


def plan_of(stage: dict[str, Any] | None = None, **task: Any) -> Plan:
    made = {"name": "t", "agent": "waiter", "action": "wait", "inputs": {"seconds": 0}, **task}
    stages = [{"name": "s", "type": "parallel", "tasks": [made], **(stage or {})}]
    untold = {"aside": {"command": [sys.executable]}}  # of which nothing is known before it starts
    workflow = {"name": "w", "version": "1", "agents": untold, "stages": stages}
    return load_plan({"workflow": workflow}, registry=REGISTRY)


def known(recent_ms: list[int] | None = None, **fields: Any) -> WorkflowRecord:
    recent = [100] * 5 if recent_ms is None else recent_ms
    fields = {"count": len(recent), "attempts": len(recent), **fields}
    return WorkflowRecord(runs=1, tasks={"s/t": TaskRecord(recent_ms=recent, seen=1, **fields)})


def found(record: WorkflowRecord, plan: Plan, kind: str) -> Proposal | None:
    """The only proposal of a kind."""
    of_kind = [proposal for proposal in proposals(record, plan, HOST) if proposal.kind == kind]
    assert len(of_kind) <= 1
    return of_kind[0] if of_kind else None


@pytest.mark.parametrize(
    ("recent_ms", "timeout"),
    [([100] * 5, "10s"), ([9_000] * 5, "30s"), ([30_000] * 5, "90s"), ([100_000] * 5, "5m"), ([3_000_000] * 5, "3h")],
)
def test_a_limit_of_time_is_proposed_well_above_the_p99(recent_ms: list[int], timeout: str) -> None:
    proposal = found(known(recent_ms), plan_of(), "timeout")
    assert proposal is not None
    assert proposal.keys == {"timeout": timeout}


def test_no_limit_of_time_is_proposed_without_samples_or_where_one_fits() -> None:
    assert found(known([100] * 4), plan_of(), "timeout") is None
    assert found(known([1_000] * 9), plan_of(timeout="2s"), "timeout") is None


def test_a_limit_of_time_that_is_too_short_is_raised() -> None:
    proposal = found(known([1_900] * 9), plan_of(timeout="2s"), "timeout")
    assert proposal is not None
    assert proposal.keys == {"timeout": "10s"}
    expired = known([100] * 9, failures={"EXECUTION_TIMEOUT": FailureRecord(count=3)})
    proposal = found(expired, plan_of(timeout="20s"), "timeout")
    assert proposal is not None
    assert (proposal.keys, "ended 3 attempts" in proposal.why) == ({"timeout": "45s"}, True)


def test_a_retry_is_proposed_where_failures_are_retryable_and_nothing_tries_again() -> None:
    busy = known(attempts=20, failures={"BUSY": FailureRecord(count=4, retryable=True)})
    proposal = found(busy, plan_of(), "retry")
    assert proposal is not None
    assert proposal.keys == {"recovery": [{"retry": {"max_attempts": 5}}]}, "0.2 ** 5 is below a thousandth"
    assert "BUSY 4 times" in proposal.why
    inherited = found(busy, plan_of({"recovery": ["skip"]}), "retry")
    assert inherited is not None
    assert inherited.why.endswith("to stand before skip")
    for failure in (FailureRecord(count=4), FailureRecord(count=1, retryable=True)):
        assert found(known(attempts=20, failures={"BUSY": failure}), plan_of(), "retry") is None


def test_retries_that_never_help_are_proposed_to_be_left_out() -> None:
    failures = {"BROKEN": FailureRecord(4, 4, 0, True), "BUSY": FailureRecord(4, 4, 3, True)}
    proposal = found(known(attempts=50, failures=failures), plan_of(recovery=["retry"]), "retry")
    assert proposal is not None
    assert proposal.keys == {"recovery": [{"retry": {"not_on": ["BROKEN"]}}]}


def test_more_attempts_are_proposed_where_a_retry_helps_and_fails_often() -> None:
    failures = {"BUSY": FailureRecord(10, 10, 9, True)}
    plan = plan_of(recovery=[{"retry": {"max_attempts": 3}}])
    proposal = found(known(attempts=20, failures=failures), plan, "retry")
    assert proposal is not None
    assert proposal.keys == {"recovery": [{"retry": {"max_attempts": 10}}]}
    assert found(known(attempts=8, failures=failures), plan, "retry") is None, "too few to tell"
    assert found(known(attempts=1_000, failures=failures), plan, "retry") is None, "three are enough"


def test_a_hedge_is_proposed_for_a_long_tail_of_what_may_be_done_twice() -> None:
    tail = known([100] * 18 + [3_000] * 4)
    proposal = found(tail, plan_of(idempotent=True), "hedge")
    assert proposal is not None
    assert proposal.keys == {"recovery": [{"hedge": {"percentile": 90}}]}
    asked = found(tail, plan_of(agent="aside"), "hedge")
    assert asked is not None
    assert asked.keys["idempotent"] is True
    assert "only where it may be done twice" in asked.why
    assert found(tail, plan_of(idempotent=False), "hedge") is None
    assert found(tail, plan_of(idempotent=True, recovery=["hedge"]), "hedge") is None
    assert found(known([100] * 22), plan_of(idempotent=True), "hedge") is None


def loop(**keys: Any) -> dict[str, Any]:
    return {"type": "loop", "for_each": [1], **keys}


@pytest.mark.parametrize(
    ("fields", "at_once"),
    [
        ({"per_run": 20}, 4),  # the agent tells nothing: as many as there are cores
        ({"per_run": 20, "cpu_s": 0.05}, 8),  # half a core each
        ({"per_run": 200, "cpu_s": 0.001}, 32),  # it waits
        ({"per_run": 12, "cpu_s": 0.001}, 12),  # never more than items
        ({"per_run": 200, "cpu_s": 0.001, "peak_memory_bytes": 1e9}, 6),  # memory is in the way
    ],
)
def test_iterations_at_once_are_as_many_as_cores_and_memory_hold(fields: dict[str, Any], at_once: int) -> None:
    proposal = found(known([100] * 9, **fields), plan_of(loop()), "max_parallel")
    assert proposal is not None
    assert (proposal.task, proposal.keys) == ("", {"max_parallel": at_once})


def test_a_loop_that_is_short_wide_enough_or_in_order_is_left_as_it_is() -> None:
    long = known([100] * 9, per_run=20)
    assert found(known([100] * 9, per_run=5), plan_of(loop()), "max_parallel") is None
    assert found(known([5] * 9, per_run=900), plan_of(loop()), "max_parallel") is None
    assert found(long, plan_of(loop(max_parallel=3)), "max_parallel") is None
    before = {"seconds": "${{ previous == null ? 0 : 1 }}"}
    assert found(long, plan_of(loop(), inputs=before), "max_parallel") is None
    endless = {"type": "loop", "until": "index > 9", "max_iterations": 20}
    assert found(long, plan_of(endless), "max_parallel") is None


def test_the_snippet_is_yaml_that_a_definition_can_hold() -> None:
    failures = {"BUSY": FailureRecord(count=4, retryable=True)}
    record = known([100] * 20 + [9_000] * 4, per_run=24, attempts=28, failures=failures)
    plan = plan_of(loop(), idempotent=True)
    made = proposals(record, plan, HOST)
    assert {proposal.kind for proposal in made} == {"timeout", "retry", "hedge", "max_parallel"}
    changed = yaml.safe_load(snippet_of(made))["workflow"]["stages"][0]
    task = changed.pop("tasks")[0]
    assert changed == {"name": "s", "max_parallel": 4}
    assert [next(iter(entry)) for entry in task["recovery"]] == ["retry", "hedge"]
    again = plan_of(loop(max_parallel=changed["max_parallel"]), **{**task, "idempotent": True})
    assert not proposals(record, again, HOST), "what was taken is not proposed again"
    assert snippet_of([]) == ""
