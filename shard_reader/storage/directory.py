"""Bytes at rest: directories on disk or in an object store, and files that are whole or not there.

A directory is a local path or a URL that fsspec knows (`gs://bucket/photos`, `s3://bucket/photos`). Names in it are
relative, with forward slashes. A file gets its name when it is whole: by renaming on a disk, by the end of the upload
in an object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

__all__ = ["Directory", "Stored"]


class Stored(NamedTuple):
    """A file in a listing: its name in the directory, its bytes (-1 if unknown), and whether it can be read."""

    name: str
    size: int
    regular: bool = True


class Directory(Protocol):
    """A directory on a disk or in a store. Errors are `OSError`, or those of the store's library."""

    @property
    def local(self) -> Path | None:
        """Its path on this machine; None for a store."""

    def uri(self, name: str) -> str:
        """The whole name of a file, for messages."""

    def exists(self) -> bool:
        """Whether the directory exists; in an object store, whether anything is in it."""

    def missing(self) -> str:
        """The reason why it does not exist, as the end of a sentence; empty if unknown."""

    def names(self, name: str = "") -> list[str]:
        """The names directly in a folder of it; empty if there is no such folder."""

    def walk(self) -> Iterator[Stored]:
        """Every file below it, in any order."""

    def read(self, name: str, start: int = 0, end: int | None = None, most: int | None = None) -> bytes:
        """The bytes of a file, or those from `start` to `end`.

        Raises:
            OSError: with `errno.EFBIG`, there are more than `most` bytes. They are not received.
        """

    def read_once(self, name: str, start: int = 0, end: int | None = None) -> bytes | memoryview:
        """As `read`, in one try. Missing bytes are an error."""

    def size(self, name: str) -> int:
        """The size of a file in bytes, in one try."""

    def open(self, name: str) -> BinaryIO:
        """A file of any size, to read and seek in."""

    def lines(self, name: str) -> Iterator[bytes]:
        """Each line of a file, with its line break."""

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file."""

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file, whole or not at all."""

    def put(self, source: Path, name: str) -> None:
        """Give a finished local file its place, whole or not at all. `source` may be gone afterwards."""

    def put_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Write a small file in place of the one with `tag`; with None, where there is no such file.

        Returns:
            The tag of the new file; None if the condition does not hold. The answer of a write may be lost, and its
            second try then finds the file of the first: whoever writes compares the bytes.

        Raises:
            NotImplementedError: there are no such writes here.
        """

    def tag(self, name: str) -> str | None:
        """A text that is another one for each version of a file; None if there is no file, or there are no tags."""

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

    def delete_all(self, names: Sequence[str]) -> None:
        """Remove several files, if they are there."""

    def delete_folder(self, name: str) -> None:
        """Remove a folder and everything in it, if it is there."""

    def answers(self, name: str) -> bool:
        """Whether the folder of a file has any content: a disk that is not mounted is an empty folder."""
