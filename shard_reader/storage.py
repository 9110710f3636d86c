"""Bytes on disk: memory maps of whole files, and files that are written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["map_file", "write_whole"]


def map_file(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Every byte of a file as a read-only array, uint8 `[size]`.

    The map lives as long as the array or a view of it. A file of zero bytes, which the kernel
    refuses to map, gives an empty array.
    """
    if os.path.getsize(path) == 0:
        return np.empty(0, np.uint8)
    # A plain ndarray: indexing np.memmap is several times slower, for its subclass hooks.
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file so that it is there with all of `chunks`, even after a power cut, or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
