"""Processes that die, and processes that want the same run."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from noa.errors import OwnershipError
from noa.model.ids import RunId
from noa.storage import SqliteJournal, is_dead, new_owner
from noa.storage.connection import connect
from noa.storage.migrations import VERSION, migrate
from noa.testing.journal_suite import ELSEWHERE, begin, noted

# Several runs append at once without end; what append returned from is told on stdout.
APPENDER = """
import asyncio, sys
from noa.storage import SqliteJournal, new_owner
from noa.testing.journal_suite import begin, noted

async def one(journal, owner, run):
    lease = await begin(journal, run, owner=owner)
    seq = 1
    while True:
        sys.stdout.write(f"{run} {seq}\\n")
        sys.stdout.flush()
        seq = await journal.append(lease, [noted(seq + 1), noted(seq + 2)][: 1 + seq % 2], expected_seq=seq)

async def main():
    journal, owner = SqliteJournal(sys.argv[1]), new_owner()
    await journal.open()
    await asyncio.gather(*(one(journal, owner, f"{sys.argv[2]}-{n}") for n in range(int(sys.argv[3]))))

asyncio.run(main())
"""

# Waits for a line on stdin, then tries to acquire; says what came of it, and lives until its stdin ends.
ACQUIRER = """
import asyncio, sys
from noa.errors import OwnershipError
from noa.storage import SqliteJournal, new_owner

async def main():
    journal = SqliteJournal(sys.argv[1])
    await journal.open()
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lease = await journal.acquire("run-1", owner=new_owner(), lease_ms=60_000)
        print(f"won {lease.fence}", flush=True)
    except OwnershipError:
        print("lost", flush=True)
    sys.stdin.readline()
    await journal.close()

asyncio.run(main())
"""

CREATOR = """
import asyncio, sys
from noa.storage import SqliteJournal
from noa.testing.journal_suite import begin

async def main():
    sys.stdin.readline()
    journal = SqliteJournal(sys.argv[1])
    await journal.open()
    await begin(journal, sys.argv[2])
    await journal.close()

asyncio.run(main())
"""


def python(script: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("runs", [1, 5])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, runs: int) -> None:
    path = tmp_path / "journal.db"
    chosen = random.Random(runs)
    acknowledged: dict[str, int] = {}
    for life in range(6):
        process = python(APPENDER, path, f"life-{life}", runs)
        assert process.stdout is not None
        for _ in range(chosen.randrange(2, 1500)):  # the moment of the kill
            run, seq = process.stdout.readline().split()
            acknowledged[run] = int(seq)
        process.kill()
        *rest, _ = process.stdout.read().split("\n")  # a last line without its end was not said
        for line in rest:
            run, seq = line.split()
            acknowledged[run] = int(seq)
        process.communicate()
    journal = SqliteJournal(path)
    await journal.open()
    assert len(acknowledged) == 6 * runs
    for name, seq in acknowledged.items():
        history = await journal.read(RunId(name))
        assert len(history) >= seq
        assert [event for _, event in history[1:]] == [noted(number) for number in range(2, len(history) + 1)]
        assert await journal.verify(RunId(name)) is None
        lease = await journal.acquire(RunId(name), owner=new_owner(), lease_ms=60_000)  # its owner is dead
        assert lease.fence == 2
        assert await journal.append(lease, [noted(0)], expected_seq=len(history)) == len(history) + 1
    await journal.close()


async def test_of_two_processes_that_acquire_a_run_exactly_one_wins(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.open()
    for round_number in range(3):
        if round_number == 0:
            await begin(journal, lease_ms=0)
        processes = [python(ACQUIRER, journal.path) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outcomes = [process.stdout.readline().strip() for process in processes if process.stdout]
        assert sorted(outcomes) == ["lost", f"won {round_number + 2}"]
        with pytest.raises(OwnershipError):
            await journal.acquire(RunId("run-1"), owner=new_owner(), lease_ms=1)
        for process in processes:  # the winner dies without a word: the next round takes over at once
            process.kill()
            process.communicate()
    await journal.close()


def test_processes_that_create_one_store_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / str(attempt) / "journal.db"
        processes = [python(CREATOR, path, f"run-{number}") for number in range(4)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate()
        assert [process.returncode for process in processes] == [0] * 4

        async def check(path: Path = path) -> None:
            journal = SqliteJournal(path)
            await journal.open()
            assert len(await journal.runs()) == 4
            await journal.close()

        asyncio.run(check())


def test_an_owner_is_dead_when_its_process_ended_and_not_before() -> None:
    script = "import sys; from noa.storage import new_owner; print(new_owner(), flush=True); sys.stdin.read()"
    process = python(script)
    assert process.stdout is not None
    owner = process.stdout.readline().strip()
    assert not is_dead(owner)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(owner)  # a zombie does nothing any more
    process.communicate()
    assert is_dead(owner)


def test_who_is_dead_is_known_of_this_machine_only() -> None:
    mine = new_owner()
    assert mine != new_owner()
    host, machine, pid, start, rest = mine.split(":")
    boot, _, space = machine.partition(".")
    assert not is_dead(mine)
    assert is_dead(":".join([host, machine, pid, start + "0", rest]))  # the pid was given to another process
    assert is_dead(":".join([host, f"before{boot}.{space}", pid, start, rest]))  # the machine was started again
    assert not is_dead(":".join([host, f"{boot}.{space}0", pid, start + "0", rest]))  # another container
    assert not is_dead(":".join(["other" + host, machine, pid, start + "0", rest]))
    for unknown in ("", "ada", ELSEWHERE, f"{host}:{machine}:x:1:1"):
        assert not is_dead(unknown)


@pytest.mark.parametrize(
    "moment", ["PRAGMA user_version", "PRAGMA application_id", "SELECT 1 FROM sqlite_master LIMIT 1"]
)
def test_a_store_that_another_process_creates_while_its_version_is_read_is_a_store(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "journal.db"
    ours, theirs = connect(path), connect(path)
    created = []

    def create_between_two_reads(statement: str) -> None:
        if statement == moment and not created:
            created.append(statement)
            migrate(theirs, str(path))

    ours.set_trace_callback(create_between_two_reads)
    migrate(ours, str(path))
    assert created
    for connection in (ours, theirs):
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
        connection.close()
