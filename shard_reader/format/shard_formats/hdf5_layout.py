"""The places of HDF5's values: in the file itself, as they are, or nowhere."""

from __future__ import annotations

import math

import h5py

from shard_reader.errors import CorruptionError
from shard_reader.printable import printable

__all__ = ["check_links", "row_bytes", "stored_dataset"]

_REFERENCE_BYTES = 16
_MAKE_AGAIN = "make the file again with its values in it"


def stored_dataset(file: h5py.File, name: str, size: int) -> h5py.Dataset:
    """A dataset all of whose values lie in its file, without a filter.

    Args:
        size: the bytes of the file.

    Raises:
        CorruptionError: it is a link, has values in other files, is compressed, or was not written as a whole.
        KeyError: the file has no such dataset.
    """
    group: h5py.Group = file
    *groups, last = name.split("/")
    for part in groups:
        group = _linked(group, part, name, file.filename)
    found = _linked(group, last, name, file.filename)
    problem = "is not a dataset" if not isinstance(found, h5py.Dataset) else _problem(found, size)
    if problem:
        raise CorruptionError(f"{file.filename}: {printable(name)!r} {problem}")
    return found


def row_bytes(found: h5py.Dataset) -> int:
    """The bytes of a row in the file; those of a reference for values of variable length."""
    # By the dtype: HDF5 gives the size of a variable-length type as that of a pointer in memory.
    size = found.dtype.itemsize if h5py.check_dtype(vlen=found.dtype) is None else _REFERENCE_BYTES
    return int(math.prod(found.shape[1:]) * size)


def check_links(file: h5py.File) -> None:
    """Check that no value of a file lies in another file.

    Raises:
        CorruptionError: a link or a dataset leads to another file.
    """
    seen, groups = set[int](), [("", file)]
    while groups:
        prefix, group = groups.pop()
        for name in group:
            path = f"{prefix}{name}"
            found = _linked(group, name, path, file.filename)
            problem = _elsewhere(found) if isinstance(found, h5py.Dataset) else ""
            if problem:
                raise CorruptionError(f"{file.filename}: {printable(path)!r} {problem}")
            address = int(h5py.h5o.get_info(found.id).addr)
            if isinstance(found, h5py.Group) and address not in seen:
                seen.add(address)
                groups.append((f"{path}/", found))


def _linked(group: h5py.Group, name: str, path: str, called: str) -> h5py.HLObject:
    """What a name in a group stands for, if that is in the same file and directly there."""
    link = group.get(name, getlink=True)
    if link is None:
        raise KeyError(path)
    if isinstance(link, h5py.ExternalLink):
        where = f"{printable(link.path)!r} in another file, {printable(link.filename)!r}"
        raise CorruptionError(f"{called}: {printable(path)!r} is a link to {where}; {_MAKE_AGAIN}")
    if isinstance(link, h5py.SoftLink):
        raise CorruptionError(f"{called}: {printable(path)!r} is a link to {printable(link.path)!r}; {_MAKE_AGAIN}")
    return group[name]


def _problem(found: h5py.Dataset, size: int) -> str:
    """The reason that not all values lie in the file as they are."""
    elsewhere = _elsewhere(found)
    if elsewhere or not found.shape:
        return elsewhere or "has no rows"
    if 0 in found.shape:
        return "" if len(found) <= size else "has more rows than the file has bytes"
    if found.id.get_create_plist().get_nfilters():
        return "is compressed or has another filter, and no shard has"
    if len(found) * row_bytes(found) > size:
        return f"has the shape {found.shape}, and the file only {size:,} bytes"
    if found.chunks is None:
        start = found.id.get_offset()
        return "" if start is not None and start + found.id.get_storage_size() <= size else "lies outside of the file"
    of = math.prod(-(-rows // chunk) for rows, chunk in zip(found.shape, found.chunks, strict=True))
    return "" if found.id.get_num_chunks() >= of else "was not written as a whole"


def _elsewhere(found: h5py.Dataset) -> str:
    if found.is_virtual:
        files = sorted({source.file_name for source in found.virtual_sources()})
        return f"is virtual, with values in other files ({printable(', '.join(files))[:200]}); {_MAKE_AGAIN}"
    if found.external:
        files = sorted({name for name, _, _ in found.external})
        return f"has its values in other files ({printable(', '.join(files))[:200]}); {_MAKE_AGAIN}"
    return ""
