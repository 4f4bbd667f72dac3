"""The artifact store: what agents and the engine leave in one folder."""

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

from noa.errors import ArtifactError, UsageError
from noa.plugin import Artifact
from noa.storage import FileArtifactStore


@dataclass
class Stored:
    store: FileArtifactStore
    artifact: Artifact
    path: Path


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    store = FileArtifactStore(f"file://{tmp_path}/artifacts")
    artifact = store.put(b"hello", "text/plain")
    return Stored(store, artifact, store.folder / artifact.sha256[:2] / artifact.sha256)


def test_bytes_come_back(stored: Stored) -> None:
    assert stored.store.get(stored.artifact) == b"hello"
    assert list(stored.store.stream(stored.artifact, 2)) == [b"he", b"ll", b"o"]
    assert stored.store.exists(stored.artifact)
    empty = stored.store.put(b"", "text/plain")
    assert stored.store.get(empty) == b""


def test_the_layout_is_that_of_the_contract(stored: Stored) -> None:
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert stored.artifact == Artifact(f"{stored.store.prefix}{sha256[:2]}/{sha256}", 5, sha256, "text/plain")
    assert stored.store.prefix.endswith("/")
    assert [path.name for path in stored.store.folder.rglob("*") if path.is_file()] == [sha256]  # nothing temporary


def test_the_same_bytes_are_one_file(stored: Stored) -> None:
    before = stored.path.stat()
    again = stored.store.put(b"hello", "application/json")
    assert (again.uri, again.content_type) == (stored.artifact.uri, "application/json")
    assert stored.path.stat().st_ino == before.st_ino


def test_bytes_that_are_put_again_are_young_again(stored: Stored) -> None:
    os.utime(stored.path, (1, 1))
    stored.store.put(b"hello", "text/plain")
    assert stored.path.stat().st_mtime > 1_000_000_000


def test_what_an_agent_created_below_the_prefix_is_read(stored: Stored) -> None:
    folder = Path(unquote(urlsplit(stored.store.prefix).path))
    sha256 = hashlib.sha256(b"from an agent").hexdigest()
    (folder / sha256[:2]).mkdir(exist_ok=True)
    temporary = folder / ".tmp-1"
    temporary.write_bytes(b"from an agent")
    os.replace(temporary, folder / sha256[:2] / sha256)
    artifact = Artifact(f"{stored.store.prefix}{sha256[:2]}/{sha256}", 13, sha256)
    assert stored.store.get(artifact) == b"from an agent"


def test_folders_with_unusual_names_work(tmp_path: Path) -> None:
    store = FileArtifactStore(tmp_path / "with space, % and é")
    artifact = store.put(b"x", "text/plain")
    assert " " not in artifact.uri
    assert store.get(artifact) == b"x"
    assert FileArtifactStore(store.prefix).get(artifact) == b"x"


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"hello!"])
def test_a_damaged_artifact_is_named(stored: Stored, damage: bytes) -> None:
    stored.path.write_bytes(damage)
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        stored.store.get(stored.artifact)
    assert stored.artifact.uri in str(caught.value)
    assert caught.value.sha256 == stored.artifact.sha256
    assert stored.store.exists(stored.artifact) == (len(damage) == 5)


def test_a_damaged_artifact_of_another_size_is_mended_by_putting_it_again(stored: Stored) -> None:
    stored.path.write_bytes(b"")
    assert stored.store.get(stored.store.put(b"hello", "text/plain")) == b"hello"


def test_a_missing_artifact_is_named(stored: Stored) -> None:
    stored.path.unlink()
    assert not stored.store.exists(stored.artifact)
    with pytest.raises(ArtifactError, match="is missing"):
        stored.store.get(stored.artifact)


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "https://elsewhere/x", "", "{prefix}../secret", "{prefix}"])
def test_a_reference_cannot_open_another_file(stored: Stored, uri: str) -> None:
    (stored.store.folder.parent / "secret").write_bytes(b"hello")
    forged = msgspec.structs.replace(stored.artifact, uri=uri.format(prefix=stored.store.prefix))
    assert not stored.store.exists(forged)
    with pytest.raises(ArtifactError, match="not in this store"):
        stored.store.get(forged)
    with pytest.raises(ArtifactError, match="no valid SHA-256"):
        stored.store.get(msgspec.structs.replace(stored.artifact, sha256="../../../etc/passwd"))


def test_a_store_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be written"):
        FileArtifactStore(tmp_path / "file" / "artifacts").put(b"x", "text/plain")


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        store = FileArtifactStore(folder)
        with pytest.raises(ArtifactError, match="No space left"):
            store.put(b"x" * 2_000_000, "text/plain")
        assert not [path for path in folder.rglob("*") if path.is_file()]
        assert store.get(store.put(b"small", "text/plain")) == b"small"
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_many_writers_of_the_same_bytes_do_not_disturb_each_other(tmp_path: Path) -> None:
    def put(number: int) -> bytes:
        store = FileArtifactStore(tmp_path)
        data = bytes([number % 3]) * 100_000
        return store.get(store.put(data, "text/plain"))

    with ThreadPoolExecutor(8) as pool:
        assert all(len(data) == 100_000 for data in pool.map(put, range(60)))
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


def test_other_schemes_are_refused() -> None:
    with pytest.raises(UsageError, match="s3"):
        FileArtifactStore("s3://bucket")
