"""Arrays of HDF5 files: found behind links, too, and refused where HDF5 would make up their values."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Collection, Iterator

import h5py

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.arrays.plain import Array, as_pixels
from beam_jobs.sources.files.interface import BadInput, Pixels
from shard_reader.printable import printable
from shard_reader.storage.directory import Directory
from shard_reader.system.regular_files import check_regular

__all__ = ["HDF5Files", "check_stored", "hdf5_arrays"]

_OPEN_FILES = 16
_LARGEST_CHUNK = 1 << 28  # bytes, which HDF5 unpacks as a whole
# Source: The HDF Group's list of registered filters (RegisteredFilterPlugins).
_FILTERS = {307: "bzip2", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32015: "Zstandard", 32026: "Blosc2"}
_PLUGINS = "HDF5_PLUGIN_PATH=$(python -c 'import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)')"


class HDF5Files:
    """HDF5 files of a folder. Files stay open between reads."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._opened = functools.lru_cache(_OPEN_FILES)(self._open)
        self._shapes = functools.lru_cache(_OPEN_FILES)(self._shape)

    def open(self, name: str) -> h5py.File:
        """Open a file."""
        return self._open(os.getpid(), name)

    def read(self, name: str, array: str, row: int) -> bytes | Pixels:
        """A row of an array: the bytes of an image file, or pixels.

        Raises:
            BadInput: the row is damaged, or no longer there.
        """
        try:
            found = self._opened(os.getpid(), name)[array][row]
        except (OSError, RuntimeError) as error:
            # HDF5 reports damage as an OSError without a number. One with a number is of the disk, and may pass.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadInput("damaged", f"HDF5 cannot read it ({error})") from error
        except (KeyError, IndexError, ValueError) as error:
            raise BadInput("damaged", f"the file has no row {row:,} in {array} any more") from error
        return found.tobytes() if found.ndim == 1 else as_pixels(found)

    def shape(self, name: str, array: str) -> tuple[int, ...]:
        """The shape of a row of an array; empty if it cannot be told."""
        try:
            return self._shapes(os.getpid(), name, array)
        except (OSError, RuntimeError, KeyError, ValueError):
            return ()  # `read` raises the error

    def _shape(self, process: int, name: str, array: str) -> tuple[int, ...]:
        return tuple(self._opened(process, name)[array].shape[1:])

    def _open(self, process: int, name: str) -> h5py.File:
        """Open a file."""
        # The process is a part of the cache's key: an open HDF5 file does not survive a fork.
        local = self._directory.local
        if local is not None:
            check_regular(local / name)  # HDF5 would wait for the writer of a pipe
            return h5py.File(local / name, "r", locking="best-effort")
        return h5py.File(self._directory.open(name), "r")


def hdf5_arrays(file: h5py.File, called: str, asked: Collection[str | None] = ()) -> dict[str, h5py.Dataset]:
    """Every array of an HDF5 file, in groups and behind soft links, too, by its path. `called` names it in messages.

    An array with several paths has one of those in `asked`, or else the one with the fewest groups.

    Raises:
        OSError: the file is damaged. The error has no number, unlike one of a disk.
        UsageError: a link leads out of the file, or to nothing.
    """
    paths: dict[int, list[tuple[bool, int, str]]] = {}
    try:
        for path in _paths(file, called):
            item = file[path]
            if isinstance(item, h5py.Dataset):
                paths.setdefault(_address(item), []).append((path not in asked, path.count("/"), path))
    except (KeyError, RuntimeError) as error:
        raise OSError(str(error)) from error
    return {path: file[path] for path in sorted(min(several)[2] for several in paths.values())}


def _paths(group: h5py.Group, called: str, prefix: str = "", above: tuple[int, ...] = ()) -> Iterator[str]:
    """The path of everything below a group but the groups."""
    above = (*above, _address(group))
    for name in group:
        path = f"{prefix}{name}"
        _check_link(group, name, path, called)
        item = group[name]
        if not isinstance(item, h5py.Group):
            yield path
        elif _address(item) not in above:  # a soft link may lead to a group that it lies in
            yield from _paths(item, called, f"{path}/", above)


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _check_link(group: h5py.Group, name: str, path: str, called: str) -> None:
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise UsageError(
            f"{called}: {printable(path)} is a link to {printable(link.path)} in another file,"
            f" {printable(link.filename)}; copy it into this file with h5copy, or delete the link"
        )
    if isinstance(link, h5py.SoftLink) and group.get(name) is None:
        raise UsageError(
            f"{called}: {printable(path)} is a link to {printable(link.path)}, which is not in the file; make the file"
            " again, or delete the link"
        )


def check_stored(array: Array, name: str, called: str) -> None:
    """Check that all values of an array lie in its file, and can be decoded. HDF5 gives fill values for missing ones.

    Raises:
        UsageError: the array is virtual or in other files, was not written as a whole, or needs a missing filter.
    """
    if not isinstance(array, h5py.Dataset) or 0 in array.shape:
        return
    for find in (_elsewhere, _unwritten, _undecodable, _too_large):
        problem = find(array)
        if problem:
            raise UsageError(f"{called}: the array {printable(name)} {problem}")


def _elsewhere(array: h5py.Dataset) -> str:
    if array.is_virtual:
        files = ", ".join(sorted({printable(source.file_name) for source in array.virtual_sources()})) or "none"
        return (
            f"is virtual: its values are in other arrays (files: {files}), and where one is missing HDF5 gives black;"
            " write the values into one array, as h5repack -l NAME:CONTI does"
        )
    if array.external:
        files = ", ".join(sorted({printable(name) for name, _, _ in array.external}))
        return f"has its values in other files ({files}); write them into this one, as h5repack -l NAME:CONTI does"
    return ""


def _unwritten(array: h5py.Dataset) -> str:
    written, of = _parts(array)
    if written >= of:
        return ""
    return (
        f"was not written as a whole: {of - written:,} of {of:,} chunks are missing, and HDF5 gives its fill value;"
        " copy the rows that were written into an array of their own"
    )


def _parts(array: h5py.Dataset) -> tuple[int, int]:
    """The number of written chunks, and that of all; an array without chunks counts as one."""
    if array.chunks is None:
        return int(array.id.get_storage_size() > 0), 1
    of = math.prod(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))
    return int(array.id.get_num_chunks()), of


def _too_large(array: h5py.Dataset) -> str:
    """The defect of chunks that would fill the memory, and of values that the file has no room for."""
    chunk = math.prod(array.chunks or ()) * array.dtype.itemsize if array.chunks else 0
    if chunk > _LARGEST_CHUNK:
        return (
            f"is in chunks of {chunk:,} bytes, each of which is unpacked for an image; save it again in smaller ones,"
            " as h5repack -l NAME:CHUNK=... does"
        )
    if array.chunks is None and array.id.get_storage_size() < math.prod(array.shape) * array.dtype.itemsize:
        return "has fewer bytes in the file than its shape needs; make or copy it again"
    return ""


def _undecodable(array: h5py.Dataset) -> str:
    filters = array.id.get_create_plist()
    for number in range(filters.get_nfilters()):
        code, _, _, name = filters.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            called = _FILTERS.get(code) or printable(name.decode("utf-8", "replace").partition(";")[0]) or "a filter"
            return (
                f"is compressed by {called} (HDF5's filter {code}), which is not installed: pip install hdf5plugin, and"
                f" set {_PLUGINS}; or save it again with gzip, as h5repack -f NAME:GZIP=4 does"
            )
    return ""
