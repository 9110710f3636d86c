"""Places for files: prefixes in an object store in memory, which fails on request, and folders on a disk."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shard_reader.storage.directory import Directory
from shard_reader.storage.open import directory

__all__ = ["Faults", "FaultyStore", "contents", "copied", "filled", "new_faulty_store"]

Faults = Callable[[str, str], None]
"""Called before each request with the method's name and the object's path; an error that it raises is the answer."""


class FaultyStore(MemoryFileSystem):  # type: ignore[misc]
    """An object store of its own that fails on request. An object is there whole or not at all, as in a real store.

    Requests are answered one after the other, so that `faults` sees an order.
    """

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    pseudo_dirs: ClassVar[list[str]] = [""]  # type: ignore[misc]
    faults: ClassVar[Faults | None] = None
    turn = threading.RLock()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self.turn:
            self._fail("cat_file", path)
            return super().cat_file(path, start, end, **options)  # type: ignore[no-any-return]

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        with self.turn:
            self._fail("put_file", rpath)
            self.pipe_file(rpath, Path(lpath).read_bytes())  # the superclass shows an empty object first

    def _fail(self, method: str, path: str) -> None:
        if (faults := type(self).faults) is not None:
            faults(method, path)


fsspec.register_implementation("faulty", FaultyStore, clobber=True)


def new_faulty_store(monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix in the `FaultyStore`, of which jobs are told that only this process sees it."""
    monkeypatch.setattr("beam_jobs.steps.planner._IN_PROCESS", ("memory:", "faulty:"))
    monkeypatch.setattr(FaultyStore, "faults", None)
    return f"faulty://{uuid.uuid4().hex}"


def filled(place: str, names: dict[str, bytes]) -> Directory:
    """A place with these files."""
    files = directory(place)
    for name, data in names.items():
        if files.local is not None:
            (files.local / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(name, [data[:1], data[1:]])
    return files


def copied(source: Path, url: str) -> str:
    """A local folder's files under a URL."""
    for path in source.rglob("*"):
        if path.is_file():
            directory(url).write(str(path.relative_to(source)), [path.read_bytes()])
    return url


def contents(place: str) -> dict[str, bytes]:
    """Every file of a place."""
    files = directory(place)
    return {file.name: files.read(file.name) for file in files.walk()}
