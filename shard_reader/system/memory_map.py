"""Files as memory: maps that hold no open file, and copies from many of them at once."""

# Files are mapped by libc, not by Python. `mmap.mmap` and `np.memmap` keep a file open for each map, and a dataset has
# more shards than a process may have open files (often 1,024; of maps, 65,530).

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.system.regular_files import NotRegularError, open_regular

__all__ = ["Window", "address", "announce", "discard", "map_file", "map_shared"]


def map_file(path: str | os.PathLike[str], expected: int | None = None, keep: object = None) -> NDArray[np.uint8]:
    """Every byte of a file as a read-only array, uint8 `[size]`.

    The map lives as long as the array or a view of it. A file of zero bytes, which the kernel refuses to map, gives an
    empty array.

    Args:
        expected: the file's size, checked before anything is mapped.
        keep: an object to keep alive as long as the map.

    Raises:
        CorruptionError: the file has another size, or is a FIFO, a device or a socket.
        OSError: the file cannot be opened or mapped.
    """
    try:
        file = open_regular(path)
    except NotRegularError as error:
        raise CorruptionError(f"{path}: {error.strerror}") from None
    try:
        size = os.fstat(file).st_size
        # Before mapping: to read a page past the end of a shorter file ends the process with SIGBUS.
        if expected is not None and size != expected:
            raise CorruptionError(f"{path}: has {size} bytes, the manifest says {expected}")
        if size == 0:
            return np.empty(0, np.uint8)
        if _libc is None:
            return np.frombuffer(mmap.mmap(file, size, access=mmap.ACCESS_READ), np.uint8)
        return np.asarray(_Map(file, size, path, keep))
    finally:
        os.close(file)


def map_shared(file: int, start: int, size: int) -> NDArray[np.uint8]:
    """Bytes of an open file as a writable array, uint8 `[size]`, in memory that all processes which map them share.

    The map lives as long as the array or a view of it, also where the file is closed.

    Args:
        file: a descriptor of a file of at least `start + size` bytes.
        start: the first byte, a multiple of the page size.

    Raises:
        OSError: the file cannot be mapped.
    """
    if _libc is None:
        return np.frombuffer(mmap.mmap(file, size, offset=start), np.uint8)
    return np.asarray(_Map(file, size, "shared memory", None, start=start, is_writable=True))


def discard(memory: NDArray[np.uint8]) -> None:
    """Give the pages of an array from `map_shared` back to the system, in all processes. They become zeros."""
    if _libc is not None and hasattr(mmap, "MADV_REMOVE"):
        _libc.madvise(address(memory), len(memory), mmap.MADV_REMOVE)


def address(array: NDArray[Any]) -> int:
    """The address of an array's first byte."""
    return int(array.__array_interface__["data"][0])


class Window:
    """Rows of memory at many addresses, in any number of memory maps.

    The caller has checked that each row lies within a map, and keeps the maps alive.

    Args:
        addresses: addresses of the rows, int64 `[n]`.
        row: dtype of a row.
    """

    # One array of overlapping rows spans all memory from the lowest to the highest address. A fancy index copies rows
    # out of it and touches no other byte: one for each batch, where one for each shard takes several times as long with
    # a hundred shards. It is safe since record numbers are checked where they come in, the extents of a lookup
    # against the size of the map when they are looked up, and that size against the manifest before the file is mapped;
    # and since a lookup keeps its shards alive. A file that is cut off while it is mapped ends the process (SIGBUS).

    def __init__(self, addresses: NDArray[np.int64], row: np.dtype[Any]) -> None:
        lowest, highest = (int(addresses.min()), int(addresses.max())) if len(addresses) else (0, 0)
        size = highest - lowest + 1 if lowest and row.itemsize else 0
        interface = {"shape": (size,), "strides": (1,), "typestr": f"|V{row.itemsize}", "version": 3}
        self._memory = np.asarray(_Memory(interface | {"data": (lowest, True)})) if size else np.empty(0, row)
        self._places, self._row = addresses - lowest, row

    def __getitem__(self, which: slice | NDArray[Any]) -> NDArray[Any]:
        """A copy of the rows at some of the addresses, `[m]`."""
        places = self._places[which]
        if self._row.itemsize == 0 or len(places) == 0:
            return np.empty(len(places), self._row)
        rows: NDArray[Any] = self._memory[places]
        return rows if rows.dtype == self._row else rows.view(self._row)


def announce(extents: Iterable[tuple[int, int]]) -> None:
    """Have the kernel read extents (address, length) of maps from disk, while the process continues."""
    if _libc is None:
        return
    for start, length in extents:
        page = start & -mmap.PAGESIZE
        # Errors are ignored, since this is advice: otherwise the bytes are read when they are touched.
        _libc.madvise(page, start + length - page, mmap.MADV_WILLNEED)


class _Map:
    """A mapped file, in NumPy's array interface; unmapped when no array refers to it."""

    def __init__(
        self,
        file: int,
        size: int,
        path: str | os.PathLike[str],
        keep: object,
        *,
        start: int = 0,
        is_writable: bool = False,
    ) -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE if is_writable else mmap.PROT_READ
        found = _libc.mmap(None, size, protection, mmap.MAP_SHARED, file, start)
        if found == _FAILED:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), os.fspath(path))
        self._address, self._size, self._unmap, self._keep = found, size, _libc.munmap, keep
        data = (found, not is_writable)
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": data, "version": 3}

    def __del__(self) -> None:
        if hasattr(self, "_unmap"):
            self._unmap(self._address, self._size)


class _Memory:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = interface


def _load_libc() -> Any:
    if os.name != "posix" or not hasattr(mmap, "MADV_WILLNEED"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


_FAILED = ctypes.c_void_p(-1).value
_libc = _load_libc()
