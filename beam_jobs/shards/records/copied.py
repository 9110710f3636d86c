"""The records of another dataset, as they are: no image is decoded or encoded again."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from beam_jobs.errors import JobError
from beam_jobs.images.geometry import plan_geometry
from beam_jobs.images.measures.perceptual_hash import PerceptualHashes
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import Payload
from beam_jobs.meter import Meter
from beam_jobs.shards.job import Copies, Job
from beam_jobs.shards.records.record import Prepared, Shape
from beam_jobs.sources.files.interface import Reference
from shard_reader.dataset.columns.values import as_python
from shard_reader.dataset.dataset import Dataset
from shard_reader.dataset.open import open_dataset
from shard_reader.errors import ShardsError
from shard_reader.format.fields import IMAGE, Field
from shard_reader.format.image_codecs.table import codec_of

__all__ = ["PIXELS", "SUSPECT", "copied_record"]

PIXELS, SUSPECT = "pixels", "suspect"
"""The values of a reference: the sums of its pixels as a line of `pixels.jsonl`, and the complaint of its decoder."""
_ANY_PIXELS = 1 << 62  # nothing is decoded


def copied_record(reference: Reference, job: Job, meter: Meter) -> Prepared:
    """The record that a reference names by its split and its number.

    Raises:
        JobError: it is damaged, or cannot be read.
    """
    copies = job.copies
    assert copies is not None  # by the caller
    split, number = reference.place
    try:
        data = _opened(copies, split)
        shard, row = data.locate(np.array([number])).shard(0)
        shard = shard.holding(row, job.fields)
        if (id := shard.id(row)) != reference.id.encode():
            raise JobError(f"{shard.uri}: row {row}: has the id {id!r}, and had {reference.id!r} when it was listed")
        values: dict[str, Any] = {
            name: shard.payload(row, name).tobytes() if field.is_image else as_python(shard.value(name, row), field)
            for name, field in job.fields.items()
        }
    except (ShardsError, OSError, UnicodeDecodeError) as error:
        raise JobError(f"{error}; a record that is copied has to be whole: restore the file from a copy") from error
    meter.bytes_read += (stored := sum(len(value) for value in values.values() if isinstance(value, bytes)))
    meter.lap("read")
    shapes = {name: _shape(field, values, name) for name, field in job.fields.items() if field.is_image}
    height, width, channels = shapes[IMAGE]
    payload = Payload(
        data=values[IMAGE],
        height=height or 0,
        width=width or 0,
        channels=channels or 0,
        sums=_sums(reference.values.get(PIXELS)),
        geometry=plan_geometry(width or 0, height or 0, 1, job.image),
        hashes=PerceptualHashes(phash=values.get("phash", 0), dhash=values.get("dhash", 0)),
    )
    suspect = reference.values.get(SUSPECT, "")
    return Prepared(payload=payload, values=values, shapes=shapes, suspect=suspect, stored=stored)


@functools.lru_cache(64)
def _opened(copies: Copies, split: str) -> Dataset:
    return open_dataset(copies.place, split, format=copies.format, generation=copies.generation, max_pixels=_ANY_PIXELS)


def _shape(field: Field, values: Mapping[str, Any], name: str) -> Shape:
    """The shape of an image, without decoding it."""
    codec = codec_of(field)
    height, width, channels = values["height"], values["width"], field.shape[2]
    data = np.frombuffer(values[name], np.uint8)
    if codec.is_raw and name == IMAGE:
        pixels = len(data) // np.dtype(field.dtype).itemsize
        return height, width, channels or pixels // max(1, height * width)
    if codec.is_raw:
        return (height, width, channels) if field.shape[0] is None else field.shape
    if channels is None or name != IMAGE:
        header = codec.header(data, field)
        return header.height, header.width, header.channels
    return height, width, channels


def _sums(line: Any) -> ChannelSums:
    """The sums in a line of `pixels.jsonl`."""
    if line is None:
        return ChannelSums()
    pixels, peak, total, squares = line
    return ChannelSums(pixels, tuple(total), tuple(squares), peak)
