"""Fields of a batch that are not decoded: numbers of the index, strings, bytes, lists, and stored images."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shard_reader.errors import CorruptionError
from shard_reader.format.fields import ANY_ENCODING, IMAGE, Field
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.order.shuffle import key
from shard_reader.printable import printable
from shard_reader.shards.shard import OpenShard
from shard_reader.stream.arrays.lookup import PendingBatch
from shard_reader.transforms.compose import ComposedTransform
from shard_reader.transforms.draws import Draws
from shard_reader.transforms.standard import CenterCrop, Flip, RandomResizedCrop, Resize

__all__ = ["Ragged", "StoredImages", "as_batch", "fixed", "values"]

Ragged = Literal["list", "pad"] | int


def fixed(pending: PendingBatch, name: str, field: Field) -> NDArray[Any]:
    """A field of the index, `[n, *shape]`, as an array of its own."""
    columns, places = pending.lookup.columns, pending.places
    # Without an open shard there is no column: zeros stand in, and `fail_where_closed` reports the records.
    if name not in columns:
        return np.zeros((len(places), *(size or 0 for size in field.shape)), field.dtype)
    return columns[name][places.start : places.stop].astype(field.dtype)


def values(pending: PendingBatch, name: str, field: Field) -> NDArray[Any]:
    """The value of each record, objects `[n]`. A damaged value is noted, and is empty."""
    located = pending.lookup.located
    found = np.empty(len(pending.places), object)
    for number, place in enumerate(pending.places):
        shard = located.shards[located.which[place]]
        found[number] = _nothing(field)
        if isinstance(shard, OpenShard):
            try:
                found[number] = shard.value(name, int(located.rows[place]))
            except CorruptionError as error:
                pending.failures.append((place, error))
    return found


def as_batch(
    pending: PendingBatch, name: str, field: Field, values: NDArray[Any], ragged: Ragged
) -> dict[str, NDArray[Any]]:
    """Strings as `bytes`, and lists as `ragged` says: see the option of `Records.stream`.

    Raises:
        ValueError: a list is longer than `ragged` allows.
    """
    if field.is_fixed or ragged == "list":
        return {name: values}
    lengths = np.array([len(value) for value in values], np.int64)
    size = int(lengths.max(initial=0)) if ragged == "pad" else int(ragged)
    for number in np.flatnonzero(lengths > size).tolist():
        shard, row = pending.lookup.located.shard(pending.places.start + number)
        raise ValueError(f"{shard.describe(row)}: {name!r} has {lengths[number]} elements, ragged={size}")
    rest = tuple(part or 0 for part in field.shape[1:])
    if field.dtype == "string":
        padded = np.full((len(values), size), b"", object)
    else:
        padded = np.zeros((len(values), size, *rest), field.dtype)
    for number, value in enumerate(values):
        padded[number, : len(value)] = value
    return {name: padded, f"{name}/mask": np.arange(size) < lengths[:, np.newaxis]}


def _nothing(field: Field) -> Any:
    if not field.shape:
        return b""
    return [] if field.dtype == "string" else np.empty((0, *(size or 0 for size in field.shape[1:])), field.dtype)


class StoredImages:
    """The stored bytes of one image of each record, and the parts of them that a transform draws.

    Args:
        transform: the transforms: none, or one that takes a part, and flips after it.

    Raises:
        ValueError: the images are stored as pixels, or there are other transforms, which a decoder would have to do.

    Attributes:
        has_parts: whether there are transforms, and so a box and a flip of each image.
    """

    def __init__(self, name: str, field: Field, transform: ComposedTransform, seed: int) -> None:
        self._name, self._transform, self._seed, self.has_parts = name, transform, seed, bool(transform.steps)
        # Of datasets with several encodings, the shard of a record has its own.
        self._is_any = field.encoding == ANY_ENCODING
        if not self._is_any and codec_of(field).is_raw:
            raise ValueError(f"decode=False: the images {printable(name)!r} are stored as pixels: leave it out")
        if self.has_parts and name != IMAGE:
            raise ValueError(
                f"decode=False: {printable(name)!r} would have to follow image={transform!r}: leave one out"
            )
        for number, step in enumerate(transform.steps):
            if type(step) not in ((CenterCrop, RandomResizedCrop, Resize, Flip) if number == 0 else (Flip,)):
                raise ValueError(
                    f"decode=False: {step!r} needs pixels: give image= one of CenterCrop, RandomResizedCrop and Resize,"
                    " Flip after it, or nothing, and do the rest on the device"
                )

    def finish(self, pending: PendingBatch) -> dict[str, NDArray[Any]]:
        """The bytes `[n]`, boxes and flips. Those of an unreadable image are empty and 0, and noted."""
        count, name = len(pending.places), self._name
        found = np.empty(count, object)
        boxes, flips = np.zeros((count, 4), np.int32), np.zeros(count, np.bool_)
        seed, lookup = key(self._seed, pending.lookup.epoch, "draws"), pending.lookup
        for number, (place, shard, *extent, height, width) in enumerate(lookup.payloads(pending.places, name)):
            found[number] = b""
            try:
                if shard is None:
                    raise ValueError("is in a shard that is not open")
                payload = pending.stored(shard, *extent)
            except (CorruptionError, ValueError, OSError) as error:
                pending.fail(place, error, name)
                continue
            if self._is_any and codec_of(shard.fields[name]).is_raw:
                why = "is stored as pixels, which are no file for a decoder: leave decode=False out"
                pending.fail_transform(place, ValueError(why), name)
                continue
            draws = Draws(seed, int(lookup.positions[place])) if self._transform.is_random else None
            try:
                moves = self._transform.moves(height, width, draws)
            except Exception as error:
                pending.fail_transform(place, error, name)
                continue
            found[number] = payload.tobytes()
            if moves:
                boxes[number] = moves[0].part[:4]
                flips[number] = sum(move.is_mirrored for move in moves) % 2
        return {name: found} | ({f"{name}/box": boxes, f"{name}/flip": flips} if self.has_parts else {})
