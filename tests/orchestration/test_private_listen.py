"""Who can reach a sidecar: its socket, its folder, its loopback port, and what its environment tells it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noa.model.execution import Succeeded
from noa.orchestration import launch
from noa.orchestration.launch import choose_listen


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Whatever is made without a mode of its own is everybody's."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("before", [None, 0o777, 0o750, 0o700], ids=["new", "0777", "0750", "0700"])
async def test_socket_and_its_folder_are_private_also_under_an_open_umask_and_whatever_was_there(
    bench: Any, before: int | None
) -> None:
    folder = bench.folder / "run"
    if before is not None:
        folder.mkdir()
        folder.chmod(before)
    bench.broken()
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    assert mode(folder) == 0o700
    (path,) = folder.iterdir()
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert mode(path) == 0o600
    await bench.factory.close(grace_s=0.1)
    assert list(folder.iterdir()) == []


def test_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(launch.os, "geteuid", lambda: os.getuid() + 1)
    listen = choose_listen(folder, "a")
    assert listen.path is not None
    assert listen.folder is not None
    assert folder not in listen.path.parents
    assert mode(listen.folder) == 0o700
    listen.remove()
    assert not listen.folder.exists()


async def test_path_too_long_for_a_socket_moves_to_a_private_temporary_folder(bench: Any, eventually: Any) -> None:
    bench.factory._places = (bench.folder / ("d" * 100), *bench.factory._places[1:])
    bench.broken()
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    replica = bench.factory._pools["broken"].replicas[0]
    folder = replica.connection._listen.folder
    assert mode(folder) == 0o700
    assert mode(folder / "s") == 0o600
    await bench.factory.close(grace_s=0.1)
    assert not folder.exists()


@pytest.mark.usefixtures("open_umask")
async def test_where_no_socket_fits_an_agent_listens_on_the_loopback_interface_with_its_token(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    bench.factory._places = (long / "run", *bench.factory._places[1:])
    bench.broken()
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    listen = bench.factory._pools["broken"].replicas[0].connection._listen
    assert listen.address.startswith("127.0.0.1:")
    assert listen.path is None
    assert [path.name for path in long.iterdir()] in (["run"], []), "no temporary folder is left"


async def test_secrets_in_the_environment_of_the_engine_never_reach_an_agent(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "of-aws", "GITHUB_TOKEN": "of-github", "DATABASE_URL": "of-the-database",
        "NOA_SECRET_MAIL": "of-mail", "LD_PRELOAD": "", "PYTHONSTARTUP": "of-python",
    }  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    bench.broken(env={"DECLARED": "of-the-declaration"})
    assert isinstance(await bench.execute("broken", "echo"), Succeeded)
    pid = next(status for status in await bench.factory.status() if status.name == "broken").replicas[0].pid
    # As the system has it, not as the agent says.
    got = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    environment = dict(entry.decode().split("=", 1) for entry in got if entry)
    assert environment["DECLARED"] == "of-the-declaration"
    assert not set(secrets) & set(environment)
    assert not [value for value in secrets.values() if value and value in environment.values()]
