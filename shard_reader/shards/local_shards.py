"""Shards on a local disk, mapped into memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import MAX_PIXELS, Field
from shard_reader.format.manifest import Shard, index_name
from shard_reader.shards.shard import MOST_OPEN, OpenShard

__all__ = ["LocalShards"]

_CHECK_SECONDS = 1.0  # between two looks at the sizes of a mapped shard's files


class LocalShards:
    """The recently used shards on a disk; each is checked when it is opened."""

    # There is no lock, which a fork could leave locked: two threads may both map a shard, and one map is dropped.

    def __init__(
        self,
        directory: Path,
        shards: Sequence[Shard],
        fields: Mapping[str, Field],
        format: str,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._arguments = (directory, shards, fields, format, max_pixels)
        self.max_pixels = max_pixels
        self._open: dict[int, OpenShard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # memory maps stay in their process

    def open(self, numbers: Sequence[int]) -> list[OpenShard | CorruptionError | OSError]:
        """Shards by number, with the error in place of a shard that cannot be opened."""
        return [self._try(number) for number in numbers]

    def __getitem__(self, number: int) -> OpenShard:
        """Shard `number`, opened if it is not open."""
        shard = self._open.get(number)
        if shard is not None and time.monotonic() >= shard.check_at and self._has_shrunk(number, shard):
            self._open.pop(number, None)
            shard = None  # to open it again says why it cannot be
        if shard is None:
            directory, shards, fields, format, max_pixels = self._arguments
            shard = self._open[number] = OpenShard.map(directory, shards[number], fields, format, max_pixels)
            shard.check_at = time.monotonic() + _CHECK_SECONDS
            # A lookup that uses one of these keeps its map alive.
            for oldest in list(self._open)[:-MOST_OPEN]:
                self._open.pop(oldest, None)
        return shard

    def close(self) -> None:
        """Drop the maps. A map that arrays view lives as long as they do."""
        self._open.clear()

    def _has_shrunk(self, number: int, shard: OpenShard) -> bool:
        """Whether a mapped file has another size than when it was mapped. To read past its end would end the process.

        Files that were removed or replaced stay mapped as they were.
        """
        # Once a second: a file that is cut off in between is not seen in time, but a check for every read would cost
        # more than the read, and leave a gap, too.
        shard.check_at = time.monotonic() + _CHECK_SECONDS
        directory, shards, _, format, _ = self._arguments
        path = directory / shards[number].files[format].path
        index = path.with_name(index_name(path.name))
        try:
            return os.stat(path).st_size < shard.data_size or os.stat(index).st_size < shard.rows.nbytes
        except OSError:
            return False

    def _try(self, number: int) -> OpenShard | CorruptionError | OSError:
        try:
            return self[number]
        except (CorruptionError, OSError) as error:
            # The error is kept in place of the shard; its traceback would keep every frame that it went through.
            return error.with_traceback(None)
