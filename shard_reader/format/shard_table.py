"""The shards of a split, by columns: a manifest may have a hundred thousand of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHA256_DIGITS", "FileColumns", "Shard", "ShardFile", "ShardTable"]

SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One file of a shard: its name, its size, and the checksums of it and of its index.

    `index_crc32c` is the CRC-32C of the checksums at the end of the index; None where it ends with its rows.
    """

    path: str
    bytes: int
    sha256: str
    index_sha256: str
    index_crc32c: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A run of records, stored once for each format."""

    records: int
    files: Mapping[str, ShardFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """The files of all shards in one format: a value of each column for each file.

    SHA-256 are one text, of 64 hexadecimal digits for each file: a text for each would take twice the memory.
    """

    path: Sequence[str]
    bytes: Sequence[int]
    sha256: str
    index_sha256: str
    index_crc32c: Sequence[int] | None = None

    @classmethod
    def of(cls, files: Sequence[ShardFile]) -> FileColumns:
        """The columns of some files.

        Raises:
            ValueError: a SHA-256 has not 64 digits.
        """
        # Files in pickles of an earlier version lack the last attribute.
        checksums = [getattr(file, "index_crc32c", None) for file in files]
        for file in files:
            if not len(file.sha256) == len(file.index_sha256) == SHA256_DIGITS:
                raise ValueError(f"{file.path}: a SHA-256 has {SHA256_DIGITS} digits")
        return cls(
            path=[file.path for file in files],
            bytes=[file.bytes for file in files],
            sha256="".join(file.sha256 for file in files),
            index_sha256="".join(file.index_sha256 for file in files),
            index_crc32c=None if None in checksums else checksums,  # type: ignore[arg-type]
        )

    def __getitem__(self, number: int) -> ShardFile:
        """The file of a shard."""
        digits = slice(SHA256_DIGITS * number, SHA256_DIGITS * (number + 1))
        return ShardFile(
            path=self.path[number],
            bytes=self.bytes[number],
            sha256=self.sha256[digits],
            index_sha256=self.index_sha256[digits],
            index_crc32c=None if self.index_crc32c is None else self.index_crc32c[number],
        )

    def to_plain(self) -> dict[str, Any]:
        """The columns, as JSON has them."""
        names = [name for name in self.__slots__ if getattr(self, name) is not None]
        return {name: getattr(self, name) for name in names}


class ShardTable(Sequence[Shard]):
    """Shards in order. Each is made when it is asked for.

    Args:
        records: the number of records of each shard.
        files: the files of each format.
    """

    def __init__(self, records: Sequence[int], files: Mapping[str, FileColumns]) -> None:
        self.records: NDArray[np.int64] = np.array(records, np.int64)
        self.files = files

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> ShardTable:
        """The table of some shards, all in the formats of the first one.

        Raises:
            KeyError: a shard lacks a format.
            ValueError: a SHA-256 has not 64 digits.
        """
        if isinstance(shards, ShardTable):
            return shards
        found = list(shards)
        formats = found[0].files if found else ()
        files = {format: FileColumns.of([shard.files[format] for shard in found]) for format in formats}
        return cls([shard.records for shard in found], files)

    def to_plain(self) -> dict[str, Any]:
        """The columns, as JSON has them."""
        files = {format: columns.to_plain() for format, columns in self.files.items()}
        return {"records": self.records.tolist(), "files": files}

    def bytes(self, format: str) -> int:
        """The size of all files of a format."""
        return sum(self.files[format].bytes) if len(self) else 0

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Shard, ...]: ...
    def __getitem__(self, number: int | slice) -> Shard | tuple[Shard, ...]:
        numbers = range(len(self))
        if isinstance(number, slice):
            return tuple(map(self.__getitem__, numbers[number]))
        place = numbers[operator.index(number)]
        files = {format: columns[place] for format, columns in self.files.items()}
        return Shard(records=int(self.records[place]), files=files)

    def __iter__(self) -> Iterator[Shard]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ShardTable):
            return NotImplemented
        return self.to_plain() == other.to_plain()

    def __hash__(self) -> int:
        return hash(self.records.tobytes())

    def __repr__(self) -> str:
        return f"ShardTable({len(self)} shards, {int(self.records.sum())} records)"
