"""Directories on a disk and in an object store: the same interface."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.places import filled

from shard_reader.storage.directory import Stored
from shard_reader.storage.local import LocalDirectory, write_whole
from shard_reader.storage.open import directory

KINDS = ["disk", "memory"]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> str:
    """A folder that is there, and a prefix, which needs not be."""
    if request.param == "disk":
        (tmp_path / "place").mkdir()
        return str(tmp_path / "place")
    return f"{bucket}/place"


def test_what_is_written_is_read(place: str) -> None:
    data = bytes(range(256)) * 5
    files = filled(place, {"a/b/c.bin": data, "empty": b"", "lines": b"1\n22\n\n3"})
    assert files.exists()
    assert (files.read("a/b/c.bin"), files.read("empty")) == (data, b"")
    assert files.read("a/b/c.bin", 3, 700) == data[3:700]
    assert files.read("a/b/c.bin", 1000) == data[1000:]
    assert files.sha256("a/b/c.bin") == hashlib.sha256(data).hexdigest()
    assert list(files.lines("lines")) == [b"1\n", b"22\n", b"\n", b"3"]
    assert sorted(files.names()) == ["a", "empty", "lines"]
    assert files.names("a/b") == ["c.bin"]
    assert files.names("nowhere") == []
    assert sorted(files.walk()) == [Stored("a/b/c.bin", 1280), Stored("empty", 0), Stored("lines", 7)]
    assert files.uri("a/b/c.bin") == f"{place}/a/b/c.bin"


def test_what_is_put_and_deleted(place: str, tmp_path: Path) -> None:
    files = filled(place, {"kept": b"1", "folder/x": b"2", "folder/deep/y": b"3"})
    (tmp_path / "local").write_bytes(b"4")
    files.put(tmp_path / "local", "put")
    assert files.read("put") == b"4"
    files.delete_folder("folder")
    files.delete_folder("folder")
    files.delete("put")
    files.delete("put")
    assert [file.name for file in files.walk()] == ["kept"]
    with pytest.raises(FileNotFoundError):
        files.read("put")


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_gone_keeps_no_other_from_being_deleted(kind: str, bucket: str, tmp_path: Path) -> None:
    """As when a store fails half way through, and the same is asked of it again."""
    files = filled(bucket if kind == "memory" else str(tmp_path), {name: b"1" for name in "abc"})
    files.delete_all(["gone", "a", "gone too", "b", "and gone"])
    assert [file.name for file in files.walk()] == ["c"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_look_like_patterns(kind: str, bucket: str, tmp_path: Path) -> None:
    place = f"{bucket if kind == 'memory' else tmp_path}/[a]*/50% off"
    if kind == "disk":
        Path(place).mkdir(parents=True)
    files = filled(place, {"x [1]*?.jpg": b"1", "gone/x": b"2", "gone/y/z": b"3", "gone2/x": b"4"})
    assert files.read("x [1]*?.jpg") == b"1"
    files.delete_folder("gone")
    assert sorted(file.name for file in files.walk()) == ["gone2/x", "x [1]*?.jpg"]
    files.delete("x [1]*?.jpg")
    assert [file.name for file in files.walk()] == ["gone2/x"]


def test_a_place_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    for files in (directory(f"{bucket}/nowhere"), LocalDirectory(tmp_path / "nowhere")):
        assert not files.exists()
        assert files.names() == []
    for name in ("with space", "run#2", "a?b", "100%"):
        quoted = name.replace("%", "%25").replace(" ", "%20")
        assert directory(f"file://{tmp_path}/{quoted}").local == tmp_path / name
        assert directory(f"file://localhost{tmp_path}/{quoted}").local == tmp_path / name
    for url in ("file://data/shards", "file://shards"):
        with pytest.raises(ValueError, match="three slashes"):
            directory(url)


def test_a_path_that_no_system_could_have_is_no_directory(tmp_path: Path) -> None:
    directory = LocalDirectory(tmp_path / ("a" * 300))
    assert not directory.exists() and directory.names() == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as found:
        write_whole(tmp_path / "list.npy", [b"bytes"])
    assert found.value.filename == str(tmp_path / "list.npy")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_what_is_written_names_its_own_file(tmp_path: Path) -> None:
    def lines() -> Iterator[bytes]:
        yield (tmp_path / "missing").read_bytes()

    with pytest.raises(FileNotFoundError) as found:
        write_whole(tmp_path / "list", lines())
    assert found.value.filename == str(tmp_path / "missing")
