"""The places of records: their shards, their rows, and the values from the indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import IMAGE, Field, extent_columns, size_columns
from shard_reader.shards.shard import OpenShard
from shard_reader.system.memory_map import Window

__all__ = ["Located", "used_shards"]

_ROWS, _DATA, _SIZE, _DTYPE = range(4)  # the columns of `memory`
_CLOSED = bytes(32)  # in place of `OpenShard.memory` for a shard that cannot be opened


@dataclass(frozen=True, slots=True)
class Located:
    """The places of records.

    Attributes:
        shards: the shards, with the error in place of a shard that cannot be opened.
        which: the shard of each record, an index into `shards`, int64 `[n]`.
        rows: the row of each record in its shard, int64 `[n]`.
        memory: `OpenShard.memory` of each shard, int64 `[len(shards), 4]`; zeros in place of an error.
    """

    # Lookups calculate with arrays, since each record may be in a shard of its own. `memory` is made of the shards that
    # are in `shards`, which keep their maps alive.
    shards: list[OpenShard | CorruptionError | OSError]
    which: NDArray[np.int64]
    rows: NDArray[np.int64]
    memory: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        memory = b"".join([getattr(shard, "memory", _CLOSED) for shard in self.shards])
        object.__setattr__(self, "memory", np.frombuffer(memory, np.int64).reshape(-1, 4))

    def __getitem__(self, part: slice) -> Located:
        """The places of some of the records."""
        return Located(self.shards, self.which[part], self.rows[part])

    def without(self, errors: Mapping[CorruptionError, NDArray[np.bool_]]) -> Located:
        """These places, with errors in place of the shards of some records: a mask of them for each, bool `[n]`."""
        which = self.which.copy()
        for number, mask in enumerate(errors.values(), len(self.shards)):
            which[mask] = number
        return Located([*self.shards, *errors], which, self.rows)

    def shard(self, place: int) -> tuple[OpenShard, int]:
        """The shard of one of the records, and its row.

        Raises:
            CorruptionError, OSError: the shard cannot be opened.
        """
        found = self.shards[self.which[place]]
        if isinstance(found, Exception):
            raise found
        return found, int(self.rows[place])

    def columns(self, fields: Mapping[str, Field]) -> dict[str, NDArray[Any]]:
        """The columns of `fields` in the indexes, an array `[n, ...]` each; zeros where a shard is not open.

        An image has the columns of its extent.
        """
        wanted: set[str] = set()
        for name, one in fields.items():
            wanted.update((*extent_columns(name), *size_columns(name)) if one.is_image else (name,))
        addresses = self._bases(_ROWS)[self.which]
        columns: dict[str, NDArray[Any]] = {}
        kinds, firsts = np.unique(self.memory[:, _DTYPE], return_index=True)
        # The indexes of a mixture may differ in their rows: one pass for each kind. Where all shards are open and
        # alike, which is usual, the rows need no scattering into zeros.
        for kind, first in zip(kinds.tolist(), firsts.tolist(), strict=True):
            shard = self.shards[first]
            if not isinstance(shard, OpenShard):
                continue
            dtype = shard.rows.dtype
            if len(kinds) == 1:
                rows = Window(addresses + self.rows * dtype.itemsize, dtype)[:]
                return {name: rows[name].copy() for name in _column_names(wanted, dtype)}
            places = np.flatnonzero((self.memory[:, _DTYPE] == kind)[self.which])
            rows = Window(addresses[places] + self.rows[places] * dtype.itemsize, dtype)[:]
            for name in _column_names(wanted, dtype):
                whole = columns.setdefault(name, np.zeros((len(self.rows), *dtype[name].shape), dtype[name].base))
                whole[places] = rows[name]
        return columns

    def addresses(self, columns: Mapping[str, NDArray[Any]], name: str = IMAGE) -> NDArray[np.int64]:
        """The address of each image's payload, int64 `[n]`, from the columns of the image."""
        offsets = columns[extent_columns(name)[0]]
        places: NDArray[np.int64] = self._bases(_DATA)[self.which] + offsets.astype(np.int64)
        return places

    def outside(self, columns: Mapping[str, NDArray[Any]], name: str = IMAGE) -> NDArray[np.bool_] | None:
        """The images that do not lie in their shards, by the columns of the image, bool `[n]`; None if all do."""
        # Whoever may write to an index can change it after it was checked. So the copied values are checked, before an
        # address is made of them. A shard that is not open has 0 bytes, and columns of zeros.
        sizes = self.memory[:, _SIZE].astype(np.uint64)
        offsets, lengths = (columns[column] for column in extent_columns(name)[:2])
        longest = lengths.max(initial=0)
        # Usually no image could lie outside if it were as long as the longest: one comparison for each instead of two.
        if len(sizes) and sizes.min() >= longest and not (offsets > (sizes - longest)[self.which]).any():
            return None
        sizes = sizes[self.which]
        # A subtraction, because offset + length could wrap around.
        outside: NDArray[np.bool_] = (lengths > sizes) | (offsets > sizes - np.minimum(lengths, sizes))
        return outside if outside.any() else None

    def _bases(self, column: int) -> NDArray[np.int64]:
        """Address of each shard's memory map or index. A shard that is not open gets the address of an open one."""
        # Nothing is read from a shard that is not open, but address 0 would stretch the window on memory down to it.
        bases, is_open = self.memory[:, column], self.memory[:, _DTYPE] > 0
        if is_open.all():
            return bases
        return np.where(is_open, bases, bases[is_open].min() if is_open.any() else 0)


def used_shards(numbers: NDArray[np.int64], shard_count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The shards of some records, ascending, and the place of each record's shard among them, int64 `[n]`.

    Args:
        numbers: the number of each record's shard, int64 `[n]`.
        shard_count: the number of all shards.
    """
    used = np.flatnonzero(np.bincount(numbers, minlength=shard_count))
    places = np.zeros(shard_count, np.int64)
    places[used] = np.arange(len(used))
    return used, places[numbers]


def _column_names(wanted: set[str], dtype: np.dtype[Any]) -> list[str]:
    """The wanted columns that an index has, in its order."""
    return [name for name in dtype.names or () if name in wanted]
