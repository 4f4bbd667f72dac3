"""Files by content: durable, equal for equal bytes, checked when read."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from noa.errors import ArtifactError
from noa.model.payload import Artifact
from noa.sdk.artifacts import Artifacts, path_of_uri, uri_of_path


@pytest.fixture
def store(tmp_path: Path) -> Artifacts:
    return Artifacts(uri_of_path(tmp_path / "a store") + "/")


def test_every_kind_of_source_gives_the_same_artifact(store: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    with source.open("rb") as stream:
        made = [
            store.create(b"data"),
            store.create(bytearray(b"data")),
            store.create(memoryview(b"data")),
            store.create(source),
            store.create(stream),
            store.create(io.BytesIO(b"data")),
        ]
    assert set(made) == {made[0]}
    assert made[0].sha256 == hashlib.sha256(b"data").hexdigest()
    assert store.path(made[0]) == tmp_path / "a store" / made[0].sha256[:2] / made[0].sha256
    assert store.read(made[0]) == b"data"
    with store.open(made[0]) as opened:
        assert opened.read() == b"data"
    assert not list((tmp_path / "a store").glob(".tmp-*"))


def test_text_is_refused_because_it_could_be_a_path_or_content(store: Artifacts) -> None:
    with pytest.raises(TypeError, match="encode"):
        store.create("data")


def test_empty_artifact(store: Artifacts) -> None:
    assert store.read(store.create(b"")) == b""


def test_damage_is_found(store: Artifacts) -> None:
    made = store.create(b"data")
    store.path(made).write_bytes(b"DATA")
    with pytest.raises(ArtifactError, match="sha256"):
        store.read(made)
    store.path(made).write_bytes(b"longer")
    with pytest.raises(ArtifactError, match="expected 4 bytes, found 6"):
        store.path(made)
    again = store.create(b"data")
    assert store.read(again) == b"data", "a file of the wrong size is replaced"
    store.path(made).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        store.open(made)


def test_without_a_prefix_nothing_is_created() -> None:
    with pytest.raises(ArtifactError, match="artifact_prefix"):
        Artifacts("").create(b"data")


def test_unwritable_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot write"):
        Artifacts(f"file://{tmp_path}/file/").create(b"data")


@pytest.mark.parametrize("uri", ["s3://bucket/key", "file://other-host/path", "/plain", "file:relative"])
def test_only_files_of_this_machine_are_opened(uri: str) -> None:
    with pytest.raises(ArtifactError, match="file:///absolute"):
        path_of_uri(uri)


def test_uri_of_a_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "odd \udcff name%20"
    assert path_of_uri(uri_of_path(path)).name.startswith("odd ")
    assert Artifact(uri_of_path(path), 0, "").uri.isascii()
