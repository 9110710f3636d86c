"""Locating the damage in a shard that does not match its manifest. Nothing in the file is trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.metadata.dali import dali_index
from shard_reader.dataset.dataset import Dataset
from shard_reader.errors import CorruptionError
from shard_reader.format.checksum import crc32c
from shard_reader.format.fields import (
    IMAGE,
    PAYLOADS,
    Field,
    extensions,
    extent_columns,
    extent_fields,
    further_images,
)
from shard_reader.format.manifest import dali_name
from shard_reader.format.shard_formats.table import SHARD_FORMATS
from shard_reader.printable import printable

__all__ = ["dali_damage", "damage", "decoding_damage"]


Name = Callable[[int], str]
"""Returns a row in words, with its id where that is known."""


def damage(
    data: NDArray[np.uint8],
    format: str,
    fields: Mapping[str, Field],
    expected: int,
    rows: NDArray[np.void] | None,
    name: Name,
) -> Iterator[str]:
    """The damage of a file with a wrong checksum: a line for each damaged record, or one for the whole file.

    Args:
        data: the bytes of the file.
        format: the name of the file's format.
        fields: the fields of the dataset.
        expected: the number of bytes in the manifest.
        rows: the index of the file; None if it is damaged, too.
        name: returns a row in words.
    """
    if data.size < expected:
        lost = _lost(data.size, rows, fields, name)
        yield f"has {data.size:,} bytes, the manifest says {expected:,}: it was cut off{lost}"
        rows = None if rows is None else rows[: _whole_rows(data.size, rows, fields)]
    wrong = dict[int, str]()
    # TFRecords carry checksums of their own, which locate damage without an index. HDF5 has none.
    framing = SHARD_FORMATS[format].framing(data)
    if framing is not None:
        if not framing.wrong and framing.stopped is None and data.size >= expected:
            yield f"is whole in itself ({framing.records} records), and not the file of the manifest (SHA-256 mismatch)"
            return
        wrong = framing.wrong
        if framing.stopped is not None and data.size >= expected:
            why = f"the framing at byte {framing.stopped:,} is damaged, so that records cannot be told apart from there"
            wrong[framing.records] = why
    damaged = {} if rows is None else _damaged_fields(data, rows, fields)
    images = [row for row, names in damaged.items() if IMAGE in names and row not in wrong]
    # With every image wrong, a list of all records would hide the cause.
    if rows is not None and len(images) == len(rows) > 1 and data.size >= expected:
        yield "has none of the images of its index: another file was put in its place (SHA-256 mismatch)"
        return
    wrong = {row: _in_words(names, fields) for row, names in damaged.items()} | wrong
    for row, what in sorted(wrong.items()):
        yield f"{name(row)}: {what}"
    if not wrong and data.size >= expected:
        more = f", and has {data.size:,} bytes, not {expected:,}" if data.size > expected else ""
        others = "strings and lists" if PAYLOADS not in extensions(fields) else "bytes, strings and lists"
        where = "" if rows is None else f" beside its images, {others}"
        yield f"is damaged{where} (SHA-256 mismatch){more}"


def _damaged_fields(
    data: NDArray[np.uint8], rows: NDArray[np.void], fields: Mapping[str, Field]
) -> dict[int, list[str]]:
    """The damaged payloads, strings and lists of each row, by the checksums of the index. Missing ones do not count."""
    damaged = dict[int, list[str]]()
    for name in extent_fields(fields):
        extents = zip(*(rows[column].tolist() for column in extent_columns(name)), strict=True)
        for row, (start, length, checksum) in enumerate(extents):
            # Beyond its end lie the values that the index has.
            if start + length <= data.size and crc32c(data[start : start + length]) != checksum:
                damaged.setdefault(row, []).append(name)
    return damaged


def _in_words(names: list[str], fields: Mapping[str, Field]) -> str:
    words = {name: f"the image {printable(name)!r}" if fields[name].is_image else repr(name) for name in names}
    texts = ["the image" if name == IMAGE else words[name] for name in names]
    return f"{', '.join(texts)} {'is' if len(texts) == 1 else 'are'} damaged (CRC mismatch)"


def _whole_rows(size: int, rows: NDArray[np.void], fields: Mapping[str, Field]) -> int:
    """Number of rows, from the first on, whose images and bytes are complete in a file of this size."""
    payloads = [name for name, field in fields.items() if field.is_payload]
    ends = (extent_columns(name)[:2] for name in payloads)
    gone = np.flatnonzero(np.any([rows[start] + rows[length] > size for start, length in ends], axis=0))
    return int(gone[0]) if len(gone) else len(rows)


def _lost(size: int, rows: NDArray[np.void] | None, fields: Mapping[str, Field], name: Name) -> str:
    if rows is None:
        return ""
    whole = _whole_rows(size, rows, fields)
    return f"; lost are {name(whole)} and what follows" if whole < len(rows) else ""


def decoding_damage(data: Dataset, record: int) -> Iterator[str]:
    """The defects of a whole record that show when it is decoded: one, or one for each of its images."""
    try:
        data[record]
    except CorruptionError as error:
        # That is the first defect. With several images, each of them may have one.
        errors = list(_image_errors(data, record)) if further_images(data.fields) else []
        yield from map(str, errors or [error])


def _image_errors(data: Dataset, record: int) -> Iterator[CorruptionError]:
    for name, field in data.fields.items():
        if field.is_image:
            try:
                data.image(record, name)
            except CorruptionError as error:
                yield error


def dali_damage(path: Path) -> Iterator[str]:
    """A line if the index for DALI beside a whole TFRecord file, which need not be there, is not that of the file."""
    made = path.with_name(dali_name(path.name))
    if made.is_file():
        expected = dali_index(path)
        if made.stat().st_size != len(expected) or made.read_bytes() != expected:
            command = f"image-shards index --dali {path.parent}"
            yield f"{made.name}: is not the index of its shard; `{command}` makes it again"
