"""The shards of a split, by columns: a manifest may have a hundred thousand of them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SHA256_DIGITS",
    "FileColumns",
    "Shard",
    "ShardFile",
    "ShardTable",
    "index_name",
    "withdrawn_from_bytes",
    "withdrawn_to_bytes",
]

SHA256_DIGITS = 64


def index_name(shard: str) -> str:
    """The file name of a shard's index."""
    return f"{shard}.index.npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One file of a shard: its name, its size, and the checksums of it and of its index.

    `index_crc32c` is the CRC-32C of the checksums at the end of the index; None where it ends with its rows. An index
    in place of the one beside the shard has a name of its own, `replaced_index`, and `index_values` bytes of values
    after its checksums.
    """

    path: str
    bytes: int
    sha256: str
    index_sha256: str
    index_crc32c: int | None = None
    replaced_index: str = ""
    index_values: int = 0

    @property
    def index(self) -> str:
        """The name of its index."""
        return self.replaced_index or index_name(self.path)


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
    replaced_index: Sequence[str] | None = None
    index_values: Sequence[int] | None = None

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
        names = [getattr(file, "replaced_index", "") for file in files]
        return cls(
            path=[file.path for file in files],
            bytes=[file.bytes for file in files],
            sha256="".join(file.sha256 for file in files),
            index_sha256="".join(file.index_sha256 for file in files),
            index_crc32c=None if None in checksums else checksums,  # type: ignore[arg-type]
            replaced_index=names if any(names) else None,
            index_values=[file.index_values for file in files] if any(names) else None,
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
            replaced_index="" if self.replaced_index is None else self.replaced_index[number],
            index_values=0 if self.index_values is None else self.index_values[number],
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


def withdrawn_to_bytes(numbers: NDArray[np.int64]) -> bytes:
    """The file of the withdrawn records of a split, from their rising numbers, int64 `[n]`: a `.npy` of `<u8`."""
    return _npy_header(len(numbers)) + numbers.astype("<u8").tobytes()


def withdrawn_from_bytes(data: bytes, count: int, shards: ShardTable, sha256: str) -> NDArray[np.int64]:
    """The rising numbers of the withdrawn records of a split, int64 `[n]`.

    Args:
        data: the bytes of the file.
        count: the number of records that the manifest says.
        shards: the shards of the split.
        sha256: the checksum that the manifest has for the file.

    Raises:
        ValueError: the file is another one than the manifest says.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError("is damaged or belongs to another dataset (SHA-256 mismatch)")
    header = _npy_header(count)
    if not data.startswith(header) or len(data) != len(header) + 8 * count:
        raise ValueError(f"is not a list of {count} records")
    numbers = np.frombuffer(data, "<u8", count, len(header))
    records = sum(shards.records.tolist())
    if count and (np.any(numbers[1:] <= numbers[:-1]) or int(numbers[-1]) >= records):
        raise ValueError(f"has numbers that do not rise, or are not below {records}")
    return numbers.astype(np.int64)


def _npy_header(count: int) -> bytes:
    """The header of a `.npy` file (NumPy Enhancement Proposal 1) of `count` numbers, padded to 64 bytes."""
    text = f"{{'descr': '<u8', 'fortran_order': False, 'shape': ({count},), }}".encode()
    padding = -(10 + len(text) + 1) % 64
    return b"\x93NUMPY\x01\x00" + (len(text) + padding + 1).to_bytes(2, "little") + text + b" " * padding + b"\n"
