"""The new values of records for `metadata.parquet`, from a file of each shard."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from beam_jobs.metadata.parquet import NUMBER, batches_of

__all__ = ["ChangedRows"]


class ChangedRows:
    """The new values of records of one split, from files of `write_changes` in the order of their records."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths, self._waiting = iter(paths), list[pa.RecordBatch]()

    def take(self, first: int, stop: int) -> pa.Table | None:
        """The rows of the records from `first` to `stop`, which no call asks for again; None if there are none."""
        found = list[pa.RecordBatch]()
        while (batch := self._head()) is not None:
            numbers = batch.column(NUMBER).to_numpy()
            end = int(np.searchsorted(numbers, stop))
            found.append(batch.slice(0, end))
            self._waiting = [batch.slice(end)]
            if end < len(batch):
                break
        del first  # all before it were asked for
        found = [batch for batch in found if len(batch)]
        return pa.Table.from_batches(found) if found else None

    def _head(self) -> pa.RecordBatch | None:
        while not self._waiting or not len(self._waiting[0]):
            path = next(self._paths, None)
            if path is None:
                return None
            self._waiting = list(batches_of(path.read_bytes()))
            path.unlink()
        return self._waiting[0]
