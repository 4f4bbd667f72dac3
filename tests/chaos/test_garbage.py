"""Bytes of the store change on the disk: it is seen, refused in words, or does not matter. Never a wrong end."""

import asyncio
import errno
import random
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from noa.errors import JournalError, NoaError
from noa.model.events import encode_event
from noa.storage import SqliteJournal, is_dead, new_owner

from .conftest import LONG
from .ledger import Ledger
from .lives import RUN, Store, live, runtime_of, snapshot
from .scenarios import SCENARIOS

SCENARIO = next(scenario for scenario in SCENARIOS if scenario.name == "loops")
ROUNDS = 2_000 if LONG else 60

pytestmark = pytest.mark.usefixtures("secret")


class Half:
    """A run that died half way, in a store that is closed properly, and how it ends if nobody touches it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "half")
        self.encoded: list[bytes] = []

    async def make(self) -> None:
        whole = await live(SCENARIO, Store(self.store.folder.with_name("whole")))
        assert whole.state is not None
        self.end = snapshot(whole.state)
        await live(SCENARIO, self.store, at=whole.writes * 2 // 3, how="before")
        base = sqlite3.connect(self.store.database)
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        base.close()
        self.encoded = await _encoded(self)

    def copy(self, folder: Path) -> Store:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.store.folder, folder)
        return Store(folder)


def damage(path: Path, chance: random.Random) -> str:
    """Change some bytes of a file; what was done."""
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    match chance.choice(["bit", "byte", "zeros", "noise", "cut", "value", "value"]):
        case "bit":
            data[at] ^= 1 << chance.randrange(8)
            what = f"a bit of byte {at} flipped"
        case "byte":
            data[at] = chance.randrange(256)
            what = f"byte {at} set to {data[at]}"
        case "zeros":
            page = at // 4096 * 4096
            data[page : page + 4096] = bytes(len(data[page : page + 4096]))
            what = f"page at byte {page} zeroed"
        case "value":  # in an event: it can be read as before, and says something else
            at = chance.choice([found.start(1) for found in re.finditer(rb'"outputs":{"value":(\d)', data)])
            data[at] = ord("1") + (data[at] - ord("0")) % 9
            what = f"the value at byte {at} is {chr(data[at])}"
        case "noise":
            length = chance.randrange(1, 200)
            data[at : at + length] = chance.randbytes(len(data[at : at + length]))
            what = f"{length} bytes from byte {at} overwritten"
        case _:
            del data[at:]
            what = f"cut at byte {at}"
    path.write_bytes(data)
    return what


async def meet(store: Store, half: Half) -> str:
    """Go on with the run as an engine does that knows nothing of the damage; what came of it.

    Raises:
        AssertionError: It went on wrongly, or the journal gave a history that is not the one that was written, and
            said that it was.
    """
    ledger = Ledger(store.folder / "ledger")
    try:
        async with asyncio.timeout(30):
            async with runtime_of(store.folder, ledger) as runtime:
                broken = await runtime.journal.verify(RUN)
                history = [encode_event(event) for _, event in await runtime.journal.read(RUN)]
                if broken is None:
                    assert history == half.encoded, "another history was taken for the true one"
                running = await runtime.engine.resume(RUN)
                state = await running.wait()
    except NoaError as error:
        return f"refused: {error.code}"
    finally:
        ledger.close()
    assert snapshot(state) == half.end, "it went on, to another end"
    return "went on"


async def test_bytes_that_changed_are_seen_refused_or_do_not_matter(folder: Path, tried: Counter[str]) -> None:
    half = Half(folder)
    await half.make()
    outcomes: Counter[str] = Counter()
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        store = half.copy(folder / "damaged")
        what = damage(store.database, chance)
        try:
            outcome = await meet(store, half)
        except BaseException as error:
            error.add_note(f"seed {seed}: {what}")
            raise
        outcomes[outcome.partition(":")[0]] += 1
        tried[f"stores with damaged bytes: {outcome.partition(':')[0]}"] += 1
    assert outcomes["refused"]
    assert outcomes["went on"]


async def _encoded(half: Half) -> list[bytes]:
    ledger = Ledger(half.store.folder / "ledger")
    async with runtime_of(half.store.folder, ledger) as runtime:
        found = [encode_event(event) for _, event in await runtime.journal.read(RUN)]
    ledger.close()
    return found


async def _refusal(store: Store) -> JournalError:
    """What resuming the run says."""
    ledger = Ledger(store.folder / "ledger")
    try:
        async with runtime_of(store.folder, ledger) as runtime:
            with pytest.raises(JournalError) as refused:
                await runtime.engine.resume(RUN)
    finally:
        ledger.close()
    return refused.value


async def test_a_run_whose_history_was_changed_is_refused_and_the_event_is_named(folder: Path) -> None:
    half = Half(folder)
    await half.make()
    base = sqlite3.connect(half.store.database)
    seq = next(n for n, event in enumerate(half.store.events()[RUN], 1) if event["type"] == "attempt_succeeded")
    where = f"WHERE id & 0xffffffff = {seq}"
    base.execute(f"UPDATE events SET body = CAST(replace(body, '\"value\":', '\"value\":1') AS BLOB) {where}")
    assert base.total_changes == 1
    base.commit()
    base.close()
    refused = await _refusal(half.store)
    assert f"event {seq} of run 'r1' is not what was written" in str(refused)
    assert f"noa fork r1 --at {seq - 1}" in str(refused)


async def test_a_pinned_definition_that_was_changed_is_refused(folder: Path) -> None:
    half = Half(folder)
    await half.make()
    base = sqlite3.connect(half.store.database)
    base.execute("UPDATE definitions SET text = replace(text, '\"work\"', '\"undo\"')")
    base.commit()
    base.close()
    assert "was changed since it was written" in str(await _refusal(half.store))


async def test_what_is_no_event_is_a_damaged_store(folder: Path) -> None:
    half = Half(folder)
    await half.make()
    journal = SqliteJournal(half.store.database)
    await journal.open()
    assert journal._connections is not None
    for body, message in ((b"\xff\xfe", "event 5 of run 'r1' cannot be read"), (7, "event 5 of run 'r1' cannot")):
        journal._connections[0].execute("UPDATE events SET body = ? WHERE id & 0xffffffff = 5", (body,))
        assert await journal.verify(RUN) == 5
        with pytest.raises(JournalError, match=message):
            await journal.read(RUN)
    await journal.close()


def test_an_owner_whose_process_cannot_be_asked_for_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = new_owner()

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    monkeypatch.setattr("psutil.Process", refuse)
    assert not is_dead(owner)
    with pytest.raises(JournalError, match="cannot name itself"):
        new_owner()
