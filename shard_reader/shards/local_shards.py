"""Shards on a local disk, mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import Field
from shard_reader.format.manifest import Shard
from shard_reader.shards.shard import MOST_OPEN, OpenShard

__all__ = ["LocalShards"]


class LocalShards:
    """The shards on a disk that were touched last; each is checked when it is opened.

    No lock, which a fork could leave locked: two threads may both map a shard, and one map is dropped.
    """

    def __init__(self, directory: Path, shards: Sequence[Shard], fields: Mapping[str, Field], format: str) -> None:
        self._arguments = (directory, shards, fields, format)
        self._open: dict[int, OpenShard] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments  # maps stay in their process

    def open(self, numbers: Sequence[int]) -> list[OpenShard | CorruptionError | OSError]:
        """Shards by number; in place of one that cannot be opened, why."""
        return [self._try(number) for number in numbers]

    def __getitem__(self, number: int) -> OpenShard:
        """Shard `number`, opened if it is not open."""
        shard = self._open.get(number)
        if shard is None:
            directory, shards, fields, format = self._arguments
            shard = self._open[number] = OpenShard.map(directory, shards[number], fields, format)
            for oldest in list(self._open)[:-MOST_OPEN]:
                self._open.pop(oldest, None)  # whoever uses it keeps it
        return shard

    def close(self) -> None:
        """Drop the maps; those that arrays are views of go with the arrays."""
        self._open.clear()

    def _try(self, number: int) -> OpenShard | CorruptionError | OSError:
        try:
            return self[number]
        except (CorruptionError, OSError) as error:
            return error.with_traceback(None)  # it is kept, and need not keep what it went through
