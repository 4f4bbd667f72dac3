"""How long results are kept."""

from __future__ import annotations

import pytest

from noa.agent.v1 import agent_service_pb2 as pb
from noa.sdk.executions import ExecutionTable

SMALL = pb.ExecuteResponse(completed=pb.Completed())
LARGE = pb.ExecuteResponse(completed=pb.Completed())
LARGE.completed.output.inline = b"x" * (128 << 10)
MANY = 20_000


def end(table: ExecutionTable, name: str, terminal: pb.ExecuteResponse, now_s: float) -> None:
    execution = table.begin(name, "r")
    table.stopped(execution)
    table.finish(execution, terminal, now_s=now_s)


@pytest.mark.parametrize(("count", "terminal"), [(MANY, SMALL), (1000, LARGE)])
def test_every_result_is_kept_for_60_s_while_it_is_one_of_1000_or_all_take_less_than_64_mib(
    count: int, terminal: pb.ExecuteResponse
) -> None:
    table = ExecutionTable()
    for number in range(count):
        end(table, str(number), terminal, now_s=60.0 * number / count)
    assert all(table.find(str(number)) for number in range(count))


def test_beyond_1000_results_and_64_mib_the_oldest_are_forgotten_down_to_1000() -> None:
    table = ExecutionTable()
    for number in range(1500):
        end(table, str(number), LARGE, now_s=0.0)
    assert [number for number in range(1500) if table.find(str(number))] == list(range(500, 1500))


def test_beyond_both_bounds_the_oldest_are_forgotten_down_to_64_mib() -> None:
    table = ExecutionTable()
    for number in range(400):
        end(table, f"large {number}", LARGE, now_s=0.0)
    for number in range(20_000):
        end(table, f"small {number}", SMALL, now_s=1.0)
    assert table.find("large 0") is None
    assert table.find("large 399") is not None
    assert all(table.find(f"small {number}") for number in range(20_000))


def test_results_older_than_60_s_go_when_there_are_more_than_1000() -> None:
    table = ExecutionTable()
    for number in range(MANY):
        end(table, str(number), SMALL, now_s=0.0)
    end(table, "last", SMALL, now_s=61.0)
    assert table.find(str(MANY - 1000)) is None
    assert table.find(str(MANY - 999)) is not None
