"""Bytes at rest: directories on disk or in an object store, files that are whole or not there.

A directory is a local path or a URL that fsspec knows (`gs://bucket/photos`, `s3://bucket/photos`). Names in
it are relative, with forward slashes. What is written gets its name when it is whole: by renaming on a
disk, by the end of the upload in an object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

__all__ = ["Directory", "Stored"]


class Stored(NamedTuple):
    """A file that was found: its name in the directory, its bytes (-1: not told), and whether it can be read."""

    name: str
    size: int
    regular: bool = True


class Directory(Protocol):
    """A directory, wherever it is. Errors are `OSError`, or what the store's library raises."""

    @property
    def local(self) -> Path | None:
        """Where it is on this machine's file system, if it is there."""

    def uri(self, name: str) -> str:
        """The whole name of a file, for people."""

    def exists(self) -> bool:
        """Whether there is such a directory; in an object store, whether anything is in it."""

    def missing(self) -> str:
        """Why it does not exist, where that can be told, as an end of a sentence."""

    def names(self, name: str = "") -> list[str]:
        """The names of what lies directly in a folder of it; none if there is no such folder."""

    def walk(self) -> Iterator[Stored]:
        """Every file below it, in any order."""

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`."""

    def read_once(self, name: str, start: int = 0, end: int | None = None) -> bytes | memoryview:
        """As `read`, in one try, in which fewer bytes than that are an error."""

    def size(self, name: str) -> int:
        """The bytes that a file has, in one try."""

    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in, whatever its size."""

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all."""

    def put(self, source: Path, name: str) -> None:
        """Give a finished local file its place, whole or not at all; `source` may be gone then."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several files, those that are there."""

    def delete_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""

    def answers(self, name: str) -> bool:
        """Whether there is anything in the folder that a file is in: what is not mounted is empty."""
