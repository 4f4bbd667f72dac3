"""`noa audit`: every decision in order, and histories that somebody tampered with."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from noa.cli.app import app
from noa.model.ids import RunId
from noa.runtime import Runtime, Settings
from noa.storage.tokens import TokenStore

from .conftest import PLUGIN, Done, Noa


def look(home: Path, *args: object, token: str = "") -> Done:
    """Call a command that starts no engine, in this process."""
    done = CliRunner().invoke(app, [*map(str, args), "--home", str(home)], env={"NOA_ACTOR_TOKEN": token or None})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def workflow(*tasks: dict[str, Any], **keys: Any) -> dict[str, Any]:
    stage = {"name": "s", "type": "sequential", "tasks": [{"agent": "helper", **one} for one in tasks]}
    return {"workflow": {"name": "flow", "version": "1", "stages": [stage], **keys}}


async def ended(home: Path, definition: dict[str, Any], run: str, mode: str = "auto") -> None:
    async with Runtime(Settings(home=home, plugins=(str(PLUGIN),))) as runtime:
        await (await runtime.start(definition, run_id=run, mode=mode)).wait()


# --- decisions


def test_what_decides_by_itself_is_told_with_what_was_before_and_after(tmp_path: Path) -> None:
    definition = workflow(
        {"name": "ask", "action": "greet", "approval": {"prompt": "sure?", "on_timeout": "approve", "timeout": "1h"}},
        {"name": "cold", "action": "greet", "when": "${{ false }}"},
        {"name": "bad", "action": "fail", "recovery": ["skip"]},
        {"name": "shut", "action": "gated", "inputs": {"folder": str(tmp_path)}},
        recovery=[],
        on_failure="rollback",
    )
    asyncio.run(ended(tmp_path, definition, "mine"))
    entries = look(tmp_path, "audit", "mine", "--json").json
    told = [(entry["kind"], entry["by"], entry["subject"]) for entry in entries if not entry["person"]]
    assert told == [
        ("hold", "mode auto", "s/ask"),
        ("resolve", "mode auto", "s/ask"),
        ("skip", "definition", "s/cold"),
        ("recover", "recovery skip", "s/bad"),
        ("rollback", "engine", None),
        ("end", "engine", None),
    ]
    by_kind = {entry["kind"]: entry for entry in entries}
    assert (by_kind["resolve"]["before"], by_kind["resolve"]["after"]) == ("held", "approve")
    assert by_kind["hold"]["what"] == "held s/ask (approval): sure?"
    assert "the widget is bent" in next(entry for entry in entries if entry["kind"] == "recover")["before"]
    assert by_kind["end"]["after"]["status"] == "rolled_back"
    assert [entry["seq"] for entry in entries] == sorted(entry["seq"] for entry in entries)


def test_people_are_told_in_order_with_who_why_before_and_after(noa: Noa, definition: Callable[..., Path]) -> None:
    home = noa.folder / ".noa"
    ann = look(home, "token", "add", "ann").out.strip()
    greet = {"action": "greet", "inputs": {"name": "prod"}, "approval": {"quorum": 2, "prompt": "to prod?"}}
    assert noa("run", definition([greet]), "--run-id", "mine", "--no-wait", "-q").code == 4
    plugin = ("--plugin", PLUGIN)
    for args, token in (
        (("edit", "mine", "s1/greet", "-i", "name=stage", "--reason", "stage first"), ann),
        (("reassign", "mine", "s1/greet", "rust", "count"), ""),
        (("reassign", "mine", "s1/greet", "helper", "greet"), ""),
        (("approve", "mine", "s1/greet"), ann),
        (("approve", "mine", "s1/greet"), ann),
        (("pause", "mine"), ann),
        (("unpause", "mine"), ann),
        (("mode", "mine", "auto", "--reason", "night"), ann),
    ):
        look(home, *args, *plugin, token=token)
    waiting = look(home, "audit", "mine").out
    assert "said 'edit' about s1/greet; no engine has taken it yet" in waiting
    assert noa("resume", "mine", "-q").code == 1, "the mode rejects what nobody approved"
    entries = [entry for entry in look(home, "audit", "mine", "--json", *plugin).json if entry["signal"]]
    assert [(e["kind"], e["before"], e["after"], e["refused"] is None) for e in entries] == [
        ("edit", {"name": "prod"}, {"name": "stage"}, True),
        ("reassign", {"agent": "helper", "action": "greet"}, {"agent": "rust", "action": "count"}, True),
        ("reassign", {"agent": "rust", "action": "count"}, {"agent": "helper", "action": "greet"}, True),
        ("approve", "0 of 2 approved", "1 of 2 approved", True),
        ("approve", None, None, False),
        ("pause", "running", "paused", True),
        ("unpause", "paused", "running", True),
        ("mode", "supervised", "auto", True),
    ]
    assert [entry["by"] for entry in entries if entry["kind"] != "reassign"] == ["ann"] * 6
    assert (entries[0]["reason"], entries[-1]["reason"]) == ("stage first", "night")
    lines = look(home, "audit", "mine", "--people").out
    assert "ann" in lines
    assert "changed name of s1/greet\n       why     stage first\n" in lines
    assert 'before  {"name": "prod"}\n       after   {"name": "stage"}' in lines
    assert "refused 'ann' has approved it already" in lines
    resumed = [entry for entry in look(home, "audit", "mine", "--json").json if entry["kind"] == "resume"]
    assert resumed[0]["after"]["engine"].count(":") == 4


def test_reopened_forked_and_cancelled_runs_tell_who_did_that(tmp_path: Path) -> None:
    forked = asyncio.run(reopened_and_forked(tmp_path))
    entries = look(tmp_path, "audit", "mine", "--json").json
    reopened = next(entry for entry in entries if entry["kind"] == "reopen")
    assert (reopened["by"], reopened["reason"], reopened["what"]) == ("ann", "again", "had the run tried again")
    entries = look(tmp_path, "audit", forked, "--json").json
    assert (entries[0]["by"], entries[0]["what"]) == ("bob", "forked the run from mine at event 3")
    cancelled = [entry for entry in entries if entry["kind"] == "cancel"]
    assert [(entry["by"], entry["reason"]) for entry in cancelled] == [("cid", "no")]


async def reopened_and_forked(tmp_path: Path) -> RunId:
    """Run `mine` fails and is tried again; the fork of it, whose id this is, is cancelled."""
    mine = RunId("mine")
    definition = workflow({"action": "greet"}, {"action": "gated", "inputs": {"folder": str(tmp_path)}})
    settings = Settings(home=tmp_path, plugins=(str(PLUGIN),))
    async with Runtime(settings) as runtime:
        await (await runtime.start(definition, run_id="mine")).wait()
        await (await runtime.engine.reopen(mine, actor="ann", reason="again")).wait()
        forked = await runtime.engine.fork(mine, at=3, actor="bob")
        await forked.cancel(actor="cid", reason="no")
        await forked.wait()
        return forked.run_id


# --- tampering


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a run of three tasks that is over."""
    home = tmp_path_factory.mktemp("tampered")
    definition = workflow(*({"name": name, "action": "greet", "inputs": {"name": name}} for name in "xyz"))
    asyncio.run(ended(home, definition, "mine"))
    return home


@pytest.fixture
def copied(store: Path, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    shutil.copytree(store, home)
    return home


def change(home: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    with sqlite3.connect(home / "noa.db") as connection:
        for statement, values in statements:
            assert connection.execute(statement, values).rowcount == 1
    connection.close()


def rows(home: Path) -> list[tuple[int, bytes, bytes]]:
    """Key, body and hash of each event."""
    connection = sqlite3.connect(home / "noa.db")
    found = connection.execute("SELECT id, CAST(body AS BLOB), hash FROM events ORDER BY id").fetchall()
    connection.close()
    return found


def test_a_history_that_nobody_touched_is_as_it_was_written(copied: Path) -> None:
    done = look(copied, "audit", "mine", "--verify")
    assert (done.code, done.out) == (0, f"flow (run mine): {len(rows(copied))} events, all as they were written\n")


def edit_body(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    at = next(number for number, row in enumerate(found, 1) if b'"greeting":"Hello, y"' in row[1])
    key, body, _ = found[at - 1]
    change(home, ("UPDATE events SET body = ? WHERE id = ?", (body.replace(b"Hello, y", b"Hello, n"), key)))
    return at, "is not what was written; now there is attempt_succeeded s/y of 2"


def delete_middle(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    change(home, ("DELETE FROM events WHERE id = ?", (found[4][0],)))
    return 5, "is missing"


def swap_two(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    first, second = found[2], found[3]
    change(
        home,
        ("UPDATE events SET body = ?, hash = ? WHERE id = ?", (*second[1:], first[0])),
        ("UPDATE events SET body = ?, hash = ? WHERE id = ?", (*first[1:], second[0])),
    )
    return 3, "is not what was written; now there is "


def cut_end(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    change(home, *(("DELETE FROM events WHERE id = ?", (key,)) for key, _, _ in found[-2:]))
    return len(found) - 1, "is missing"


def edit_hash(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    change(home, ("UPDATE events SET hash = ? WHERE id = ?", (bytes(32), found[5][0])))
    return 6, "is not what was written; now there is "


def spoil_body(home: Path, found: list[tuple[int, bytes, bytes]]) -> tuple[int, str]:
    change(home, ("UPDATE events SET body = ? WHERE id = ?", (b"\xff{", found[3][0])))
    return 4, "cannot be read"


@pytest.mark.parametrize("tamper", [edit_body, delete_middle, swap_two, cut_end, edit_hash, spoil_body])
def test_the_first_event_that_was_tampered_with_is_named(copied: Path, tamper: Callable[..., tuple[int, str]]) -> None:
    at, words = tamper(copied, rows(copied))
    done = look(copied, "audit", "mine", "--verify")
    assert done.code == 1
    assert f"tampered: flow (run mine): event {at} {words}" in done.out
    (checked,) = json.loads(look(copied, "audit", "mine", "--verify", "--json").out)
    assert checked["tampered"] == at


# --- tokens


def test_tokens_are_named_once_and_others_may_not_write_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert look(home, "token", "list").out == "no tokens. Make one with: noa token add NAME\n"
    text = look(home, "token", "add", "ann").out.strip()
    for args, words in (
        (("add", "ann"), "there is a token 'ann' already"),
        (("add", "nobody"), "names that begin so are noa's own"),
        (("add", "a\nb"), "expected 1 to 100 characters"),
        (("remove", "bob"), "there is no token 'bob'. Known: ann"),
    ):
        refused = look(home, "token", *args)
        assert (refused.code, words in refused.err) == (2, True), refused.err
    store = TokenStore(home)
    assert (store.name_of(text), store.name_of(text + "x"), store.name_of("")) == ("ann", None, None)
    store.path.chmod(0o622)
    refused = look(home, "token", "list")
    assert (refused.code, "could have been written by others" in refused.err) == (2, True)
    store.path.chmod(0o600)
    store.path.write_text("[{")
    assert "cannot be read" in look(home, "token", "list").err
