"""Where records are: their shards, their rows, and the values that the indexes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.shards.shard import OpenShard
from shard_reader.system.memory_map import Window

__all__ = ["Located"]

_EXTENT = ("offset", "length", "crc32c", "height", "width")  # of the image


@dataclass(frozen=True, slots=True)
class Located:
    """Where records are.

    Attributes:
        shards: those they are in, or why one of them cannot be opened.
        which: the shard of each record, an index into `shards`, int64 `[n]`.
        rows: the row of each in its shard, int64 `[n]`.
    """

    shards: list[OpenShard | CorruptionError | OSError]
    which: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __getitem__(self, part: slice) -> Located:
        """Where some of the records are."""
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

    def columns(self, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        """What the indexes say of `fields`, an array `[n, ...]` for each column; zeros where a shard is not open.

        Columns of the image are those of its extent.
        """
        opened = {n: shard for n, shard in enumerate(self.shards) if isinstance(shard, OpenShard)}
        of_shards = [shard.fields for shard in opened.values()]
        has_image = any(of[name].is_image for of in of_shards for name in fields if name in of)
        wanted = set(_EXTENT if has_image else ()).union(fields)
        addresses = self._bases("rows_address")[self.which]
        columns: dict[str, NDArray[Any]] = {}
        dtypes = {shard.rows.dtype for shard in opened.values()}
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
        """Where in memory the payload of each image lies, int64 `[n]`, from the columns of the image."""
        places: NDArray[np.int64] = self._bases("data_address")[self.which] + columns["offset"].astype(np.int64)
        return places

    def _bases(self, name: str) -> NDArray[np.int64]:
        """An address of each shard; of one that is not open, where nothing is read, that of another one."""
        known = [getattr(shard, name) for shard in self.shards if isinstance(shard, OpenShard)]
        return np.array([getattr(shard, name, min(known, default=0)) for shard in self.shards], np.int64)


def _column_names(wanted: set[str], dtype: np.dtype[Any]) -> list[str]:
    """The wanted columns that an index has, in its order."""
    return [name for name in dtype.names or () if name in wanted]
