"""The places of records: their shards, their rows, and the values from the indexes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import Field
from shard_reader.shards.shard import OpenShard
from shard_reader.system.memory_map import Window

__all__ = ["Located"]

_EXTENT = ("offset", "length", "crc32c", "height", "width")  # the columns of an image


@dataclass(frozen=True, slots=True)
class Located:
    """The places of records.

    Attributes:
        shards: the shards, with the error in place of a shard that cannot be opened.
        which: the shard of each record, an index into `shards`, int64 `[n]`.
        rows: the row of each record in its shard, int64 `[n]`.
    """

    shards: list[OpenShard | CorruptionError | OSError]
    which: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __getitem__(self, part: slice) -> Located:
        """The places of some of the records."""
        return Located(self.shards, self.which[part], self.rows[part])

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
        opened = {n: shard for n, shard in enumerate(self.shards) if isinstance(shard, OpenShard)}
        wanted = set(_EXTENT if any(field.is_image for field in fields.values()) else ()).union(fields)
        addresses = self._bases("rows_address")[self.which]
        columns: dict[str, NDArray[Any]] = {}
        dtypes = {shard.rows.dtype for shard in opened.values()}
        # The indexes of a mixture may differ in their rows: one pass for each kind. Where all shards are open and
        # alike, which is usual, the rows need no scattering into zeros.
        for dtype in dtypes:
            if len(dtypes) == 1 and len(opened) == len(self.shards):
                rows = Window(addresses + self.rows * dtype.itemsize, dtype)[:]
                columns = {name: rows[name].copy() for name in _column_names(wanted, dtype)}
                break
            of_dtype = np.zeros(len(self.shards), bool)
            of_dtype[[number for number, shard in opened.items() if shard.rows.dtype == dtype]] = True
            places = np.flatnonzero(of_dtype[self.which])
            rows = Window(addresses[places] + self.rows[places] * dtype.itemsize, dtype)[:]
            for name in _column_names(wanted, dtype):
                whole = columns.setdefault(name, np.zeros((len(self.rows), *dtype[name].shape), dtype[name].base))
                whole[places] = rows[name]
        return columns

    def addresses(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """The address of each image's payload, int64 `[n]`, from the columns of the image."""
        places: NDArray[np.int64] = self._bases("data_address")[self.which] + columns["offset"].astype(np.int64)
        return places

    def outside(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
        """The images that do not lie in their shards, by the columns of the image, bool `[n]`; None if all do."""
        # An index is checked when it is opened, and mapped: whoever may write to the file can change it afterwards. So
        # the copied values are checked again, before an address is made of them. A shard that is not open has 0 bytes,
        # and columns of zeros.
        sizes = np.array([getattr(shard, "data_size", 0) for shard in self.shards], np.uint64)
        offsets, lengths = columns["offset"], columns["length"]
        longest = lengths.max(initial=0)
        # Usually no image could lie outside if it were as long as the longest: one comparison for each instead of two.
        if len(sizes) and sizes.min() >= longest and not (offsets > (sizes - longest)[self.which]).any():
            return None
        sizes = sizes[self.which]
        # A subtraction, because offset + length could wrap around.
        outside: NDArray[np.bool_] = (lengths > sizes) | (offsets > sizes - np.minimum(lengths, sizes))
        return outside if outside.any() else None

    def _bases(self, name: str) -> NDArray[np.int64]:
        """Address of each shard's memory map or index. A shard that is not open gets the address of an open one."""
        # Nothing is read from a shard that is not open, but address 0 would stretch the window on memory down to it.
        known = [getattr(shard, name) for shard in self.shards if isinstance(shard, OpenShard)]
        return np.array([getattr(shard, name, min(known, default=0)) for shard in self.shards], np.int64)


def _column_names(wanted: set[str], dtype: np.dtype[Any]) -> list[str]:
    """The wanted columns that an index has, in its order."""
    return [name for name in dtype.names or () if name in wanted]
