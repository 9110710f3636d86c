"""From a reference to a record: read, check, transform. Pure functions, no Beam."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import Payload, prepare_image
from beam_jobs.images.targets.further import Further, payload_field
from beam_jobs.images.targets.objects import check_objects
from beam_jobs.meter import Meter
from beam_jobs.options import ImageOptions
from beam_jobs.plan.duplicates import LABELS
from beam_jobs.shards.job import Job
from beam_jobs.shards.records.read import read_image, read_payloads, source_of
from beam_jobs.shards.records.targets import further_of, objects_of
from beam_jobs.shards.thumbnails import Thumbnails
from beam_jobs.sources.files.interface import BadInput, Pixels, Reference, Reject
from shard_reader.format.fields import IMAGE, INPUT_FIELDS, Field

__all__ = ["Prepared", "hash_reference", "image_fields", "labels_of", "prepare_reference", "values_hash"]

Shape = tuple[int | None, ...]
"""Height, width and channels of images; None stands for a size that differs."""
_AT_ONCE = contextlib.nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One record, ready to be stored: its image, the values of its other fields, and the number of changes by kind.

    `shapes` are those of all images. `suspect` is the complaint of their decoders, or "". `host` is the web server that
    the image comes from, if it does, and `received` the bytes of its file. `stored` are the bytes of all payloads.
    """

    payload: Payload
    values: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    suspect: str = ""
    changed: Mapping[str, int] = field(default_factory=dict)
    host: str = ""
    received: int = 0
    stored: int = 0


def image_fields(
    image: ImageOptions, others: Mapping[str, Field], payloads: Mapping[str, str] | None = None
) -> dict[str, Field]:
    """The fields of a record, in the order of the manifest.

    Args:
        others: the fields of the inputs.
        payloads: the roles of further images and of bytes.
    """
    size = (image.height, image.width) if image.fit in ("crop", "pad", "stretch") else (None, None)
    channels = {"rgb": 3, "grey": 1, "keep": None}[image.channels]
    fields = {"image": Field(dtype=image.dtype, shape=(*size, channels), encoding=image.encoding)}
    fields |= {name: payload_field(role, image, size, channels) for name, role in (payloads or {}).items()}
    if "label" in others:
        fields["label"] = others["label"]
    number = Field(dtype="int64")
    fields |= {"id": Field(dtype="string"), "height": number, "width": number, **dict.fromkeys(INPUT_FIELDS, number)}
    return fields | dict(others)


def prepare_reference(
    reference: Reference,
    job: Job,
    statistics: ChannelSums | None,
    turn: AbstractContextManager[object] = _AT_ONCE,
    thumbnails: Thumbnails | None = None,
    meter: Meter | None = None,
) -> Prepared | Reject:
    """Read one image and make its record. Decoding and encoding are done within `turn`; `meter` takes the time.

    The image is offered to `thumbnails`.

    Raises:
        JobError: the image could not be read for a reason that may pass.
    """
    source, data, meter = source_of(job), None, meter or Meter()
    others: dict[str, bytes | Pixels] = {}
    observer = None if thumbnails is None else functools.partial(thumbnails.offer, reference.id)
    try:
        if reference.id in job.crashers:
            raise BadInput("crash", job.crashers[reference.id])
        data = read_image(reference, job)
        meter.bytes_read += _size(data)
        meter.lap("read")
        others = read_payloads(reference, job)
        meter.bytes_read += sum(map(_size, others.values()))
        meter.lap("read")
        with turn:
            meter.restart()  # to wait for a turn is no work
            payload = prepare_image(data, job.image, statistics, observer, meter)
            further = further_of(others, payload, job, statistics)
            moved, dropped, outlined = objects_of(reference, payload.geometry, job)
            further |= outlined
            meter.lap("encode")
    except BadInput as error:
        if data is not None and thumbnails is not None:
            thumbnails.offer_reject(reference.id, error.reason, data, job.image)
        return Reject(reference.id, source.uri(reference), "read", error.reason, str(error))
    values = {name: _typed(moved[name], kind) for name, kind in job.fields.items() if name in moved}
    values |= {"image": payload.data, "id": reference.id, "height": payload.height, "width": payload.width}
    values |= {name: one.data for name, one in further.items()}
    number, more = _signed(_hash(data)), values_hash(reference, others, job)
    kinds = {*payload.changes, *(kind for one in further.values() for kind in one.changes)}
    missing = [name for name in job.payloads if name not in others and name not in outlined]
    changed = dict.fromkeys(kinds, 1) | {"boxes": dropped, "missing": len(missing)}
    width, height = payload.geometry.upright
    values |= {"original_height": height, "original_width": width, "content_hash": number}
    values["values_hash"] = more
    values |= payload.hashes._asdict()
    complaints = [payload.suspect, *(f"{name}: {one.suspect}" for name, one in further.items() if one.suspect)]
    return Prepared(
        payload=payload,
        values=values,
        shapes=_shapes(payload, further, job),
        suspect="; ".join(filter(None, complaints)),
        changed={kind: count for kind, count in changed.items() if count},
        host=source.host(reference),
        received=_size(data),
        stored=len(payload.data) + sum(len(one.data) for one in further.values()),
    )


def _shapes(payload: Payload, further: Mapping[str, Further], job: Job) -> dict[str, Shape]:
    """The shape of each image of a record."""
    size = payload.height, payload.width
    shapes: dict[str, Shape] = {IMAGE: (*size, payload.channels)}
    return shapes | {name: (*size, one.channels) for name, one in further.items() if job.fields[name].is_image}


def hash_reference(reference: Reference, job: Job, turn: AbstractContextManager[object] = _AT_ONCE) -> bytes:
    """The hash of an input, 16 bytes; zeros for an input that cannot be read, and will be a reject.

    With `job.hash_pixels`, 24 bytes follow: `phash`, `dhash` and the number of pixels of the upright input, as
    big-endian integers; zeros for an input that cannot be decoded. Decoding is done within `turn`. With
    `job.hash_values`, the 16 bytes are `content_hash` and `values_hash`.

    Raises:
        JobError: the input could not be read for a reason that may pass.
    """
    try:
        if reference.id in job.crashers:
            raise BadInput("crash", job.crashers[reference.id])
        check_objects(reference.values, job.boxes)
        data = read_image(reference, job)
        if job.hash_values:
            found = values_hash(reference, read_payloads(reference, job), job)
            return _hash(data)[:8] + found.to_bytes(8, signed=True)
    except BadInput:
        return bytes(16 + 24 * job.hash_pixels)
    if not job.hash_pixels:
        return _input_hash(data, reference)
    with turn:
        return _input_hash(data, reference) + _pixel_hash(data, job)


def _pixel_hash(data: bytes | Pixels, job: Job) -> bytes:
    try:
        payload = prepare_image(data, job.image)
    except BadInput:
        return bytes(24)
    width, height = payload.geometry.upright
    return struct.pack(">qqQ", *payload.hashes, width * height)


def _input_hash(data: bytes | Pixels, reference: Reference) -> bytes:
    found = _hash(data)
    # The declared size of an image is checked later. With it in the hash, an input with a wrong size cannot be the
    # one that is kept of several, and then be rejected. The first half stays that of the bytes, which records have.
    more = xxhash.xxh3_128_digest(found + repr(reference.frame).encode()) if reference.frame else found
    return found[:8] + more[8:]


def common_shapes(one: Mapping[str, Shape], other: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of each field's images, of those of two parts, with None for a size that differs."""
    pairs = {name: (one.get(name, shape), shape) for name, shape in other.items()}
    common = {name: tuple(a if a == b else None for a, b in zip(*pair, strict=True)) for name, pair in pairs.items()}
    return {**one, **common}


def labels_of(values: Mapping[str, Any]) -> list[int]:
    """The labels of a record, or of its objects."""
    labels = values["label"] if "label" in values else values.get("objects/label", ())
    return list(np.atleast_1d(labels).tolist())


def _size(data: bytes | Pixels) -> int:
    return len(data) if isinstance(data, bytes) else data.nbytes


def values_hash(reference: Reference, others: Mapping[str, bytes | Pixels], job: Job) -> int:
    """The hash of an input's labels and fields, as it is listed, and of its further files: a signed integer."""
    # By name: the number of a class is another one in a dataset of other classes.
    values = dict(reference.values)
    for name in LABELS:
        if name in values and job.class_names is not None:
            values[name] = _named(values[name], job.class_names)
    text = json.dumps([values, reference.frame], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    files = (name.encode() + b"\0" + _hash(data) for name, data in sorted(others.items()))
    return _signed(xxhash.xxh3_128_digest(b"".join([text.encode(), *files])))


def _named(label: Any, names: Sequence[str]) -> Any:
    if isinstance(label, list):
        return [_named(one, names) for one in label]
    # Names of classes of objects may be texts of the inputs' own.
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else label


def _signed(digest: bytes) -> int:
    """The first 64 bits of a hash as a signed integer."""
    return int.from_bytes(digest[:8], signed=True)


def _hash(data: bytes | Pixels) -> bytes:
    """XXH3-128 of an input's bytes, or of its pixels with their dtype and shape. Names play no part."""
    if isinstance(data, bytes):
        return xxhash.xxh3_128_digest(data)
    shape = f"{data.dtype.name} {data.shape} ".encode()
    return xxhash.xxh3_128_digest(shape + np.ascontiguousarray(data).tobytes())


def _typed(value: Any, field: Field) -> Any:
    """A value as the writers take it: lists of numbers become arrays of the field's dtype."""
    return np.asarray(value, field.dtype) if field.shape and field.dtype != "string" else value
