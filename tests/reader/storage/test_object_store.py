"""Directories in an object store: objects in pieces."""

from __future__ import annotations

import hashlib
import uuid

import fsspec
import pytest
from support.places import filled

from shard_reader import CorruptionError
from shard_reader.storage import object_store
from shard_reader.storage.object_store import ObjectDirectory


def test_pieces_fit_together(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PIECE", 3)
    files = filled(bucket, {"x": b"ab\ncdefg\n\nh\n"})
    assert list(files.lines("x")) == [b"ab\n", b"cdefg\n", b"\n", b"h\n"]
    assert files.sha256("x") == hashlib.sha256(b"ab\ncdefg\n\nh\n").hexdigest()


def test_a_file_beside_the_directory_is_in_its_bucket() -> None:
    name = f"beside-{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe({f"memory://{name}/a/deep/x": b"1", f"memory://{name}/b/y": b"2"})
    files = ObjectDirectory(f"memory://{name}/b/")
    assert files.read("../a/deep/x") == b"1" and files.size("../a/deep/x") == 1
    assert files.names("../a") == ["deep"]
    for above in ("../../x", "../../../x"):
        with pytest.raises(CorruptionError, match=f"leads out of memory://{name}/b"):
            files.read_once(above)
    root = ObjectDirectory(f"memory://{name}")
    with pytest.raises(CorruptionError, match="leads out of"):
        root.size("../other/x")
