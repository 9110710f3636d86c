"""Locks of byte ranges of a file, within a process as between processes."""

from __future__ import annotations

from pathlib import Path

from shard_reader.system.file_locks import FileLocks


def test_two_locks_of_a_file_are_apart_as_those_of_processes(tmp_path: Path) -> None:
    one, other = FileLocks(tmp_path / "locks"), FileLocks(tmp_path / "locks")
    assert one.share(1) and other.share(1) and one.take(2)
    assert not other.take(2) and not other.share(2)
    assert not one.take(1)
    other.release(1)
    assert one.take(1) and not other.share(1)
    one.release(2)
    assert other.take(2)
    del other
    assert one.take(2)
    assert one.take(2**61) and one.take(0)
