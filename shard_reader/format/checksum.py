"""CRC-32C (RFC 3720, section 12.1) by hardware, and SHA-256 of files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from shard_reader.system.regular_files import open_regular

__all__ = ["crc32c", "masked_crc32c", "sha256", "sha256_file"]

_MASK_DELTA = 0xA282EAD8


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """The CRC-32C of bytes, or of a contiguous array of them."""
    return _crc32c()(data)


def masked_crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """CRC-32C rotated and offset, as TFRecord stores it, so that a CRC of CRCs stays a good CRC."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@functools.cache
def _crc32c() -> Callable[[bytes | NDArray[np.uint8]], int]:
    import google_crc32c  # here, so that `import shard_reader` loads nothing but NumPy

    value: Callable[[bytes | NDArray[np.uint8]], int] = google_crc32c.value
    return value


def sha256(data: bytes | memoryview) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | PathLike[str]) -> str:
    """The SHA-256 of a regular file, in hexadecimal."""
    with open(path, "rb", opener=open_regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
