"""TFRecord framing, both directions.

```
uint64 length | uint32 masked crc of length | length bytes | uint32 masked crc of the bytes
```

All little-endian. Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import masked_crc32c
from shard_reader.format.shard_formats.shard_format import Framing

__all__ = ["framing", "read_records", "write_record"]

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER = _LENGTH.size + _CRC.size


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Append one record to `file`."""
    length = _LENGTH.pack(len(payload))
    file.write(length + _CRC.pack(masked_crc32c(length)))
    file.write(payload)
    file.write(_CRC.pack(masked_crc32c(payload)))


def read_records(data: NDArray[np.uint8], name: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Every record's offset and payload, both checksums verified. `name` is for error messages.

    Raises:
        CorruptionError: a checksum does not match, or the data end inside a record.
    """
    position, size = 0, len(data)
    while position < size:
        start = position + _HEADER
        if start > size:
            raise CorruptionError(f"{name}: ends inside the header of the record at byte {position}")
        length_bytes = data[position : position + _LENGTH.size]
        (length,) = _LENGTH.unpack(length_bytes.data)
        if _CRC.unpack_from(data.data, position + _LENGTH.size)[0] != masked_crc32c(length_bytes):
            raise CorruptionError(f"{name}: the length of the record at byte {position} is damaged")
        end = start + length
        if end + _CRC.size > size:
            raise CorruptionError(
                f"{name}: the record at byte {position} has {length} bytes, the file ends before them"
            )
        payload = data[start:end]
        if _CRC.unpack_from(data.data, end)[0] != masked_crc32c(payload):
            raise CorruptionError(f"{name}: the record at byte {position} is damaged (CRC mismatch)")
        yield start, payload
        position = end + _CRC.size


def framing(data: NDArray[np.uint8]) -> Framing:
    """Walk a damaged file past damaged records, up to the first damaged length."""
    # The length has a checksum of its own. As long as it is sound, the next record can be found.
    wrong = dict[int, str]()
    position = row = 0
    while position < data.size:
        start = position + _HEADER
        if start > data.size:
            return Framing(wrong, row, position)
        length_bytes = data[position : position + _LENGTH.size]
        end = start + _LENGTH.unpack(length_bytes.data)[0]
        crc = _CRC.unpack_from(data.data, position + _LENGTH.size)[0]
        if crc != masked_crc32c(length_bytes) or end + _CRC.size > data.size:
            return Framing(wrong, row, position)
        if _CRC.unpack_from(data.data, end)[0] != masked_crc32c(data[start:end]):
            wrong[row] = f"the record at byte {position:,} is damaged (CRC mismatch)"
        position, row = end + _CRC.size, row + 1
    return Framing(wrong, row, None)
