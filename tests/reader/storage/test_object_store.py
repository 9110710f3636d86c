"""Directories in an object store: objects in pieces."""

from __future__ import annotations

import hashlib

import pytest
from support.places import filled

from shard_reader.storage import object_store


def test_pieces_fit_together(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_PIECE", 3)
    files = filled(bucket, {"x": b"ab\ncdefg\n\nh\n"})
    assert list(files.lines("x")) == [b"ab\n", b"cdefg\n", b"\n", b"h\n"]
    assert files.sha256("x") == hashlib.sha256(b"ab\ncdefg\n\nh\n").hexdigest()
