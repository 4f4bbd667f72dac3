"""A file is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import pytest

from noa.sdk import write_whole


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    seen = []

    def write(file: IO[bytes]) -> None:
        file.write(b"new")
        seen.append(path.read_bytes())

    write_whole(path, write)
    assert seen == [b"old"], "the old one stays until then"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"
