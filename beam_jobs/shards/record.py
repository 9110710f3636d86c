"""From a reference to a record: read, check, transform. Pure functions, no Beam."""

from __future__ import annotations

import contextlib
import errno
import functools
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from beam_jobs.errors import JobError
from beam_jobs.images.decode import check_size
from beam_jobs.images.measures.statistics import ChannelSums
from beam_jobs.images.process import Payload, prepare_image
from beam_jobs.images.targets.further import payload_field
from beam_jobs.images.targets.objects import Frame, check_objects, move_objects
from beam_jobs.meter import Meter
from beam_jobs.options import ImageOptions
from beam_jobs.shards.job import Job
from beam_jobs.shards.thumbnails import Thumbnails
from beam_jobs.sources.files.interface import BadInput, Pixels, Reading, Reference, Reject, Source, SourceOptions
from beam_jobs.sources.known import open_source
from shard_reader.format.fields import INPUT_FIELDS, Field
from shard_reader.storage.open import is_url

__all__ = ["Prepared", "hash_reference", "image_fields", "labels_of", "prepare_reference"]

Shape = tuple[int | None, ...]
"""Height, width and channels of images; None stands for a size that differs."""
_AT_ONCE = contextlib.nullcontext()


@functools.lru_cache(8)
def _opened(options: SourceOptions, reading: Reading) -> Source:
    source = open_source(options)
    source.reading = reading
    return source


def _source(job: Job) -> Source:
    return _opened(job.source, job.reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One record, ready to be stored: its image, the values of its other fields, and the number of changes by kind.

    `host` is the web server that the image comes from, if it does, and `received` the bytes of its file.
    """

    payload: Payload
    values: Mapping[str, Any]
    changed: Mapping[str, int] = field(default_factory=dict)
    host: str = ""
    received: int = 0


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
    source, data, meter = _source(job), None, meter or Meter()
    observer = None if thumbnails is None else functools.partial(thumbnails.offer, reference.id)
    try:
        if reference.id in job.crashers:
            raise BadInput("crash", job.crashers[reference.id])
        data = _read_whole(reference, job)
        meter.bytes_read += _size(data)
        meter.lap("read")
        with turn:
            meter.restart()  # to wait for a turn is no work
            payload = prepare_image(data, job.image, statistics, observer, meter)
        frame = Frame(payload.geometry, reference.frame, job.source.boxes_are_upright)
        moved, dropped = move_objects(reference.values, job.boxes, job.points, frame)
    except BadInput as error:
        if data is not None and thumbnails is not None:
            thumbnails.offer_reject(reference.id, error.reason, data, job.image)
        return Reject(reference.id, source.uri(reference), "read", error.reason, str(error))
    values = {name: _typed(moved[name], kind) for name, kind in job.fields.items() if name in moved}
    values |= {"image": payload.data, "id": reference.id, "height": payload.height, "width": payload.width}
    number = int.from_bytes(_hash(data)[:8], signed=True)
    changed = dict.fromkeys(payload.changes, 1) | ({"boxes": dropped} if dropped else {})
    width, height = payload.geometry.upright
    values |= {"original_height": height, "original_width": width, "content_hash": number}
    values |= payload.hashes._asdict()
    return Prepared(payload=payload, values=values, changed=changed, host=source.host(reference), received=_size(data))


def hash_reference(reference: Reference, job: Job, turn: AbstractContextManager[object] = _AT_ONCE) -> bytes:
    """The hash of an input, 16 bytes; zeros for an input that cannot be read, and will be a reject.

    With `job.hash_pixels`, 24 bytes follow: `phash`, `dhash` and the number of pixels of the upright input, as
    big-endian integers; zeros for an input that cannot be decoded. Decoding is done within `turn`.

    Raises:
        JobError: the input could not be read for a reason that may pass.
    """
    try:
        if reference.id in job.crashers:
            raise BadInput("crash", job.crashers[reference.id])
        check_objects(reference.values, job.boxes)
        data = _read_whole(reference, job)
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
    # one that is kept of several, and then be rejected.
    return xxhash.xxh3_128_digest(found + repr(reference.frame).encode()) if reference.frame else found


def common_shape(one: Shape | None, other: Shape | None) -> Shape | None:
    """The shape of images of two shapes, with None for a size that differs. A shape that is None has no images."""
    if one is None or other is None:
        return other if one is None else one
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def labels_of(values: Mapping[str, Any]) -> list[int]:
    """The labels of a record, or of its objects."""
    labels = values["label"] if "label" in values else values.get("objects/label", ())
    return list(np.atleast_1d(labels).tolist())


def _size(data: bytes | Pixels) -> int:
    return len(data) if isinstance(data, bytes) else data.nbytes


def _hash(data: bytes | Pixels) -> bytes:
    """XXH3-128 of an input's bytes, or of its pixels with their dtype and shape. Names play no part."""
    if isinstance(data, bytes):
        return xxhash.xxh3_128_digest(data)
    shape = f"{data.dtype.name} {data.shape} ".encode()
    return xxhash.xxh3_128_digest(shape + np.ascontiguousarray(data).tobytes())


def _read_whole(reference: Reference, job: Job) -> bytes | Pixels:
    """The bytes or the pixels of an input, checked against its listed size and the largest size allowed.

    Raises:
        BadInput: the input is gone, changed, damaged, or may not be read.
        JobError: it could not be read for a reason that may pass.
    """
    source = _source(job)
    try:
        _check_size(source.size(reference), job)
        check_size(*source.pixels(reference), job.image)
        data = _read(source, reference)
    except BadInput:
        raise
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        problem = error.strerror or str(error)
        # A store that denies one object denies them all: the credentials are wrong or have expired.
        if isinstance(error, PermissionError) and _in_store(error.filename):
            raise JobError(f"{source.uri(reference)}: cannot be read: {problem}") from error
        # A disk that is not mounted must not turn every input into a reject.
        if not source.answers(reference):
            raise JobError(f"{source.uri(reference)}: cannot be read ({problem}), nor anything beside it") from error
        if isinstance(error, PermissionError):
            raise BadInput("unreadable", problem) from error
        raise BadInput("missing", "was listed, and is gone" if reference.size >= 0 else "is not there") from error
    except Exception as error:  # a fault of the disk or the network, not of the image: another run may succeed
        problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise JobError(f"{source.uri(reference)}: cannot be read ({problem})") from error
    if isinstance(data, bytes) and len(data) != reference.size >= 0:
        raise BadInput("changed", f"has {len(data)} bytes, and had {reference.size} when it was listed")
    if isinstance(data, bytes):
        _check_size(len(data), job)
    return data


def _in_store(place: object) -> bool:
    """Whether a place is in an object store. A web server is not: it may deny access to single files."""
    return isinstance(place, str) and is_url(place) and not place.startswith(("http://", "https://"))


def _check_size(size: int, job: Job) -> None:
    if size > job.image.max_bytes:
        raise BadInput("too-large", f"has {size} bytes, more than --max-bytes {job.image.max_bytes}")


def _read(source: Source, reference: Reference) -> bytes | Pixels:
    """The bytes or the pixels of an input: of the listed size, or of a size that two reads agree on."""
    data = source.read(reference)
    if not isinstance(data, bytes) or len(data) == reference.size or reference.size < 0:
        return data
    # Another size may be a file that has changed, which is a defect, or a read that was cut short, which may pass.
    again = source.read(reference)
    if len(again) not in (reference.size, len(data)):
        raise OSError(errno.EIO, f"{len(data)} bytes the first time, {len(again)} the second")
    return again


def _typed(value: Any, field: Field) -> Any:
    """A value as the writers take it: lists of numbers become arrays of the field's dtype."""
    return np.asarray(value, field.dtype) if field.shape and field.dtype != "string" else value
