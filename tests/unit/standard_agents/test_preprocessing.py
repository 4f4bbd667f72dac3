"""Reading real folders, hostile ones too."""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from noa_standard_agents.features import HALF, PADDING, WIDTH, features_of
from noa_standard_agents.folder import Skipped, Walk

Rows = Callable[[Any], list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return root


async def test_each_file_is_read_once_in_the_order_of_names_as_bytes(bench: Any, folder: Path, rows: Rows) -> None:
    for name, data in {
        "b/z": b"1",
        "b/a.TXT": b"22",
        "B": b"",
        "b.c": b"333",
        "é": b"4" * 100,
        ".profile": b"5",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    made = await bench.run("data_preprocessing", path=str(folder))
    table = rows(made["files"])
    # "b" is before "b.c" and its files come with it.
    assert [row["path"] for row in table] == [".profile", "B", "b/a.TXT", "b/z", "b.c", "é"]
    assert [row["size_bytes"] for row in table] == [1, 0, 2, 1, 3, 100]
    assert [row["extension"] for row in table] == ["", "", "txt", "", "c", ""]
    assert table[2]["sha256"] == hashlib.sha256(b"22").hexdigest()
    assert len(table[0]["features"]) == WIDTH
    assert (made["count"], made["total_bytes"], made["skipped"], made["skipped_count"]) == (6, 107, [], 0)
    assert made["root"] == str(folder)


async def test_the_same_folder_gives_the_same_table(bench: Any, folder: Path) -> None:
    for number in range(1200):
        (folder / f"{number}.txt").write_text(str(number))
    first = await bench.run("data_preprocessing", path=str(folder))
    assert first == await bench.run("data_preprocessing", path=str(folder))
    assert first["count"] == 1200


async def test_empty_folder_gives_no_rows(bench: Any, folder: Path, rows: Rows) -> None:
    made = await bench.run("data_preprocessing", path=str(folder))
    assert (made["count"], rows(made["files"])) == (0, [])


async def test_max_files_takes_the_first_and_excluded_folders_are_passed_over(
    bench: Any, folder: Path, rows: Rows
) -> None:
    for name in (".git/x", "a/1", "a/2", "node_modules/x", "z"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    async def paths(**inputs: Any) -> list[str]:
        made = await bench.run("data_preprocessing", path=str(folder), **inputs)
        return [row["path"] for row in rows(made["files"])]

    assert await paths() == ["a/1", "a/2", "z"]
    assert await paths(max_files=1) == ["a/1"]
    assert await paths(max_files=0) == []
    assert await paths(exclude=["a"]) == [".git/x", "node_modules/x", "z"]


async def test_what_is_no_regular_file_is_skipped_with_the_reason(bench: Any, folder: Path, rows: Rows) -> None:
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    (folder / "link").symlink_to("file")
    (folder / "file").write_bytes(b"x")
    made = await bench.run("data_preprocessing", path=str(folder))
    assert [row["path"] for row in rows(made["files"])] == ["file"]
    assert {one["path"]: one["reason"] for one in made["skipped"]} == {
        "link": "symbolic link",
        "pipe": "named pipe",
        "socket": "socket",
    }


async def test_links_are_followed_if_asked_and_loops_end(bench: Any, folder: Path, rows: Rows) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(b"x")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "b").symlink_to("a")
    (folder / "c").symlink_to("a/file")
    (folder / "dead").symlink_to("nowhere")
    made = await bench.run("data_preprocessing", path=str(folder), follow_links=True)
    assert [row["path"] for row in rows(made["files"])] == ["a/file", "c"]
    reasons = {one["path"]: one["reason"] for one in made["skipped"]}
    assert reasons["dead"] == "No such file or directory"
    assert set(reasons) == {"a/loop", "b", "dead"}


async def test_names_that_are_not_utf8_are_written_out(bench: Any, folder: Path, rows: Rows) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/odd \xff.py"))).write_bytes(b"x")
    made = await bench.run("data_preprocessing", path=str(folder))
    (row,) = rows(made["files"])
    assert (row["path"], row["extension"]) == ("odd \\xff.py", "py")


@contextmanager
def as_nobody() -> Iterator[None]:
    """This thread's access to files as that of a user without rights, also where the tests run as root."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(os.geteuid())


def test_unreadable_files_and_folders_are_skipped_with_the_reason() -> None:
    from noa_standard_agents.preprocessing import _Preparation

    class Quiet:
        def check_cancelled(self) -> None: ...
        def progress(self, *_: Any, **__: Any) -> None: ...

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "ok").write_bytes(b"x")
        (folder / "secret").write_bytes(b"x")
        (folder / "closed").mkdir()
        (folder / "secret").chmod(0)
        (folder / "closed").chmod(0)
        folder.chmod(0o755)
        work = _Preparation(Quiet(), Walk(os.fsencode(folder)), None)  # type: ignore[arg-type]
        with tempfile.TemporaryFile() as file, as_nobody():
            work.write(file)
        (folder / "closed").chmod(0o700)
    assert work.count == 1
    assert work.skipped == [Skipped(b"closed", "Permission denied"), Skipped(b"secret", "Permission denied")]


async def test_a_file_that_cannot_be_read_to_its_end_is_skipped(bench: Any, folder: Path, rows: Rows) -> None:
    # Reading a process's memory from its start fails, whoever reads.
    (folder / "bad").symlink_to("/proc/self/mem")
    (folder / "good").write_bytes(b"x")
    made = await bench.run("data_preprocessing", path=str(folder), follow_links=True)
    assert [row["path"] for row in rows(made["files"])] == ["good"]
    assert made["skipped"] == [{"path": "bad", "reason": "Input/output error"}]


async def test_paths_that_are_no_folder_fail_with_their_code(bench: Any, folder: Path) -> None:
    missing = await bench.failure("data_preprocessing", path=str(folder / "no"))
    assert missing.code == "INPUT_NOT_FOUND"
    assert str(folder / "no") in missing.message
    (folder / "file").touch()
    assert (await bench.failure("data_preprocessing", path=str(folder / "file"))).code == "INPUT_NOT_A_FOLDER"
    assert (await bench.failure("data_preprocessing", path="a\0b")).code == "INPUT_UNREADABLE"
    assert (await bench.failure("data_preprocessing", path=7)).code == "INVALID_INPUT"
    assert (await bench.failure("data_preprocessing", path=str(folder), max_files=-1)).code == "INVALID_INPUT"


async def test_skipped_entries_are_listed_up_to_a_thousand(bench: Any, folder: Path) -> None:
    for number in range(1100):
        (folder / str(number)).symlink_to("x")
    made = await bench.run("data_preprocessing", path=str(folder))
    assert (len(made["skipped"]), made["skipped_count"]) == (1000, 1100)


def test_features_have_both_ends_stripped_and_padded() -> None:
    data = b" \x0b\n" + b"abc" + b"\t\r\x0c "
    found = list(array("i", features_of(data, data)))
    assert found[:7] == [*b"abc\t\r\x0c "]
    assert set(found[7:HALF]) == {PADDING}
    assert found[-6:] == [*b" \x0b\nabc"]
    assert set(found[HALF:-6]) == {PADDING}
    long = bytes(range(256)) * 16
    found = list(array("i", features_of(long, long)))
    assert found[:HALF] == [*long[:HALF]]
    assert found[HALF:] == [*long[-HALF:]]
