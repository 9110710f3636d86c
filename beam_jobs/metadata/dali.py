"""Index files for NVIDIA DALI and the package `tfrecord`: a line `OFFSET SIZE` for each record of a TFRecord file.

Both are bytes, and count the frame of the record. Source: DALI's tools/tfrecord2idx.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shard_reader.format.shard_formats.tfrecord import read_records
from shard_reader.system.memory_map import map_file

__all__ = ["dali_index"]

_FRAME: Final = (12, 4)  # bytes before and after the payload of a record: its length and two checksums


def dali_index(path: Path) -> bytes:
    """The index of a TFRecord file, whose checksums are verified.

    Raises:
        CorruptionError: the file is damaged.
    """
    before, after = _FRAME
    records = read_records(map_file(path), str(path))
    return b"".join(b"%d %d\n" % (start - before, before + len(payload) + after) for start, payload in records)
