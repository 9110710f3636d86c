"""Shards on a local disk, mapped into memory."""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format import index
from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.manifest import Shard, ShardTable
from shard_reader.order.record_set import RecordSet
from shard_reader.shards.located import Located, used_shards
from shard_reader.shards.shard import CHECK_SECONDS, MOST_OPEN, OpenShard
from shard_reader.system.memory_map import map_file

__all__ = ["LocalShards"]

_CHECKED_EACH = 1_000  # shards of which the sizes are looked at in `CHECK_SECONDS`


class LocalShards:
    """The recently used shards on a disk. A shard is checked when it is opened, its index when rows of it are used."""

    # There is no lock, which a fork could leave locked: two threads may both map a shard, and one map is dropped.

    _every: tuple[ref[LocalShards], ...] = ()

    def __init__(
        self,
        directory: Path,
        shards: Sequence[Shard],
        fields: Mapping[str, Field],
        format: str,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        shards = ShardTable.of(shards)
        self._arguments = (directory, shards, fields, format, max_pixels)
        self._directory, self._shards, self._fields, self._format = str(directory), shards, fields, format
        self.max_pixels = max_pixels
        # A new tuple: other threads may go through the former one.
        LocalShards._every = (*map(ref, LocalShards._alive()), ref(self))
        self._open: OrderedDict[int, _MappedShard] = OrderedDict()
        # When the files of each shard are looked at again, by `time.monotonic`.
        self._check_at = np.zeros(len(shards))
        # The first block of each shard among the blocks of all indexes, and the blocks that were checked.
        self._blocks = np.concatenate([[0], np.cumsum(-(-shards.records // index.BLOCK))])
        self._checked = RecordSet(int(self._blocks[-1]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # memory maps stay in their process

    def locate(self, numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> Located:
        used, which = used_shards(numbers, len(self._shards))
        self._drop_shrunk(used)
        shards: list[OpenShard | CorruptionError | OSError] = [
            self._open.get(number) or self._try(number) for number in used.tolist()
        ]
        return self._checked_blocks(numbers, Located(shards, which, rows))

    def record(self, number: int, row: int) -> OpenShard:
        if self._check_at[number] <= time.monotonic():
            self._drop_shrunk(np.array([number]))
        shard = self._open.get(number) or self._add(number)
        if not self._checked.is_full:
            block = self._blocks[[number]] + row // index.BLOCK
            if self._checked.lacks(block)[0]:
                shard.index.check(row // index.BLOCK)
                self._checked.add(block)
        return shard

    def close(self) -> None:
        """Drop the maps. A map that arrays view lives as long as they do."""
        self._open.clear()

    def _try(self, number: int) -> OpenShard | CorruptionError | OSError:
        try:
            return self._add(number)
        except (CorruptionError, OSError) as error:
            # The error is kept in place of the shard; tracebacks, also that of its cause, would keep every frame.
            error.__context__ = None
            return error.with_traceback(None)

    def _add(self, number: int) -> _MappedShard:
        """Open a shard."""
        shard = self._mapped(number)
        self._open[number] = shard
        self._check_at[number] = self._next_check()
        # Of all datasets of this process together. A lookup that uses one of these keeps its map alive.
        while sum(len(one._open) for one in LocalShards._alive()) > MOST_OPEN:
            max(LocalShards._alive(), key=lambda one: len(one._open))._drop_oldest()
        return shard

    @classmethod
    def _alive(cls) -> list[LocalShards]:
        """The shards of all datasets of this process."""
        return [found for one in cls._every if (found := one()) is not None]

    def _mapped(self, number: int) -> _MappedShard:
        try:
            return _MappedShard.map(self._directory, self._shards, number, self._fields, self._format, self.max_pixels)
        except OSError as error:
            if error.errno != errno.ENOMEM or not self._open:
                raise
        # The process has too many maps: those of other libraries, too.
        for _ in range(-(-len(self._open) // 2)):
            self._drop_oldest()
        return _MappedShard.map(self._directory, self._shards, number, self._fields, self._format, self.max_pixels)

    def _drop_oldest(self) -> None:
        try:
            self._open.popitem(last=False)
        except KeyError:  # another thread was faster
            return

    def _checked_blocks(self, numbers: NDArray[np.int64], located: Located) -> Located:
        """Check the blocks of the rows. The rows of a damaged block get the error in place of their shard."""
        if self._checked.is_full:
            return located
        blocks = self._blocks[numbers] + located.rows // index.BLOCK
        new = np.flatnonzero(self._checked.lacks(blocks))
        errors: dict[CorruptionError, NDArray[np.bool_]] = {}
        sound = []
        _, firsts = np.unique(blocks[new], return_index=True)
        for place in new[firsts].tolist():
            block, row = int(blocks[place]), int(located.rows[place])
            shard = located.shards[located.which[place]]
            if not isinstance(shard, _MappedShard):
                continue
            try:
                shard.index.check(row // index.BLOCK)
            except CorruptionError as error:
                errors[error.with_traceback(None)] = blocks == block
            else:
                sound.append(block)
        self._checked.add(np.array(sound, np.int64))
        return located.without(errors) if errors else located

    def _drop_shrunk(self, used: NDArray[np.int64]) -> None:
        """Drop shards of which a file is smaller than when it was mapped. To read past its end would end the process.

        Files that were removed or replaced stay mapped as they were.
        """
        # Once a second, and less often with thousands of shards: a file that is cut off in between is not seen in time,
        # but a check for every read would cost more than the read, and leave a gap, too.
        for number in used[self._check_at[used] <= time.monotonic()].tolist():
            self._check_at[number] = self._next_check()
            shard = self._open.get(number)
            if shard is not None and shard.has_shrunk():
                self._open.pop(number, None)  # to open it again says why it cannot be

    def _next_check(self) -> float:
        return time.monotonic() + CHECK_SECONDS * max(1, len(self._open) // _CHECKED_EACH)


class _MappedShard(OpenShard):
    """A shard of which the file and the index are mapped."""

    index: index.LazyIndex
    index_size: int

    @classmethod
    def map(
        cls,
        directory: str,
        shards: ShardTable,
        number: int,
        fields: Mapping[str, Field],
        format: str,
        max_pixels: int,
    ) -> _MappedShard:
        """Map a shard, and check the sizes of its files, and its index against the manifest.

        Raises:
            CorruptionError: the file or the index is missing, or does not match the manifest.
            OSError: the file or the index cannot be opened or mapped.
        """
        shard = shards[number]
        file = shard.files[format]
        path = f"{directory}/{file.path}"
        try:
            data = map_file(path, file.bytes)
        except FileNotFoundError:
            raise CorruptionError(f"{path}: is missing") from None
        lazy = index.map_lazily(directory, file, shard.records, fields)
        found = cls(path, file.path, lazy.rows, fields, format, data, max_pixels, file.bytes, lazy.values)
        found.index, found.index_size = lazy, index.size(file, shard.records, fields)
        return found

    def has_shrunk(self) -> bool:
        """Whether its file or its index is smaller than when it was mapped."""
        try:
            return os.stat(self.uri).st_size < self.data_size or os.stat(self.index.path).st_size < self.index_size
        except OSError:
            return False
