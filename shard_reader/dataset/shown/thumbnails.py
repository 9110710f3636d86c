"""Small pictures of records, for people who look at them: a data URI each, or the damage in its place."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.shown.shown_pixels import shown_mask, shown_pixels
from shard_reader.errors import StoreError
from shard_reader.format.fields import IMAGE, Field, extent_columns, point_role, size_columns
from shard_reader.format.image_codecs.codec import ImageHeader, optional_module
from shard_reader.format.image_codecs.table import codec_of
from shard_reader.printable import printable
from shard_reader.shards.located import Located
from shard_reader.shards.shard import OpenShard
from shard_reader.shards.source import RecordSource

__all__ = ["Box", "Thumbnail", "short", "thumbnails"]

_STORED_BYTES = 1 << 16  # of a payload that is shown as it is
_MOST_BYTES, _MOST_PIXELS = 1 << 26, 1 << 25  # of an image that is read for a thumbnail
_SIDE = 256  # the longest side of a picture that is made here
_SMALL_SIDE = 64  # up to which a picture has no loss
_MOST_OBJECTS = 100
_MOST_POINTS = 500
_MOST_LABELS = 4
_LONGEST = 60
_LONGEST_PROBLEM = 300
_LABEL, _BOXES, _BOX_LABEL = "label", "objects/bbox", "objects/label"
_BESIDE = ("id", _LABEL, _BOXES, _BOX_LABEL)  # the fields that are shown with the image


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box around an object: parts of the image's height and width, 0 to 1, and the object's label."""

    top: float
    left: float
    bottom: float
    right: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A record to look at. Texts may hold anything that a dataset can hold, but for control characters.

    Attributes:
        number: the number of the record.
        height, width: of the stored image, in pixels.
        uri: a data URI of the picture; empty if there is a problem.
        mask: a data URI of the colours of its mask, to lay over the picture; empty without a mask.
        points: points and keypoints, each y and x as parts of the image.
        problem: the reason why there is no picture.
    """

    number: int
    id: str = ""
    label: str = ""
    height: int = 0
    width: int = 0
    uri: str = ""
    boxes: tuple[Box, ...] = ()
    mask: str = ""
    points: tuple[tuple[float, float], ...] = ()
    problem: str = ""


def thumbnails(data: RecordSource, numbers: Sequence[int], seconds: float | None = None) -> list[Thumbnail]:
    """The pictures of some records, by number. Damage, a missing package or a silent store is the text of a problem.

    Args:
        seconds: the longest time to wait, after which the other pictures are missing.
    """
    found = [Thumbnail(number=number, problem=f"was not read in {seconds} seconds") for number in numbers]
    is_over = threading.Event()
    # A store may be tried for minutes. A daemon, so that such a wait never keeps a process alive.
    thread = threading.Thread(target=_read, args=(data, found, is_over), name="thumbnails", daemon=True)
    thread.start()
    thread.join(seconds)
    is_over.set()
    return list(found)


def short(text: str, longest: int = _LONGEST) -> str:
    """A text on one line, shortened."""
    text = printable(text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _read(data: RecordSource, found: list[Thumbnail], is_over: threading.Event) -> None:
    """Put each thumbnail in its place, until it is over."""
    place = 0
    try:
        located = data.locate(np.array([one.number for one in found], np.int64))
        for place, one in enumerate(found):
            if is_over.is_set():
                return
            found[place] = _thumbnail(data, located, place, one.number)
    except Exception as error:  # of all records, as of a store that does not answer: it is shown in their place
        found[place:] = [replace(one, problem=_text(error)) for one in found[place:]]


def _thumbnail(data: RecordSource, located: Located, place: int, number: int) -> Thumbnail:
    found, names = Thumbnail(number=number), data.class_names or ()
    try:
        shard, row = located.shard(place)
        found = replace(found, height=int(shard.rows["height"][row]), width=int(shard.rows["width"][row]))
        fields = {name: field for name, field in shard.fields.items() if name in data.fields}
        masks = [name for name, field in fields.items() if field.is_image and field.role == "mask"][:1]
        for name in (IMAGE, *masks):
            _check_size(shard, row, name)
        beside = [name for name in _BESIDE if name in fields]
        points = [name for name, field in fields.items() if point_role(name, field) in ("points", "keypoints")]
        shard = shard.holding(row, dict.fromkeys([IMAGE, *masks, *beside, *points]))
        found = replace(found, id=_id(shard, row))
        if _LABEL in beside:
            found = replace(found, label=_listed(_names(shard, _LABEL, row, names)))
        if _BOXES in beside:
            labels = _names(shard, _BOX_LABEL, row, names) if _BOX_LABEL in beside else []
            found = replace(found, boxes=_boxes(shard, row, labels), label=found.label or _listed(labels))
        found = replace(found, points=tuple(_points(shard, row, points)))
        if masks:
            colours = shown_mask(_smaller(shard.image(row, masks[0])))
            found = replace(found, mask=_encoded(colours))
        return replace(found, uri=_picture(shard, row, shard.fields[IMAGE]))
    except StoreError:
        raise
    except Exception as error:  # it is shown in the place of the picture
        return replace(found, problem=_text(error))


def _text(error: Exception) -> str:
    kind = type(error).__name__
    return short(f"{kind}: {error}" if str(error) else kind, _LONGEST_PROBLEM)


def _check_size(shard: OpenShard, row: int, name: str) -> None:
    sizes = (int(shard.rows[column][row]) for column in (extent_columns(name)[1], *size_columns(name)))
    length, height, width = sizes
    if length > _MOST_BYTES or height * width > _MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels in {length:,} bytes are too many for a thumbnail")


def _id(shard: OpenShard, row: int) -> str:
    return printable(shard.id(row).decode("utf-8", "backslashreplace"))


def _names(shard: OpenShard, field: str, row: int, names: Sequence[str]) -> list[str]:
    """The classes of a record, or of its objects: at most some."""
    value = shard.value(field, row)
    labels = value if isinstance(value, list) else np.atleast_1d(value).tolist()
    return [_name(label, names) for label in labels[:_MOST_OBJECTS]]


def _name(label: Any, names: Sequence[str]) -> str:
    if isinstance(label, bytes):
        return short(label.decode("utf-8", "backslashreplace"))
    return short(names[label] if isinstance(label, int) and 0 <= label < len(names) else str(label))


def _listed(labels: Sequence[str]) -> str:
    """Each label once, at most a few."""
    different = list(dict.fromkeys(labels))
    more = [f"{len(different) - _MOST_LABELS} more"] if len(different) > _MOST_LABELS else []
    return ", ".join([*different[:_MOST_LABELS], *more])


def _boxes(shard: OpenShard, row: int, labels: Sequence[str]) -> tuple[Box, ...]:
    """The boxes around objects. Numbers that are no place in the image leave a box out."""
    field = shard.fields[_BOXES]
    if field.dtype != "float32" or field.shape[1:] != (4,):
        return ()  # a field of that name from elsewhere
    corners = np.asarray(shard.value(_BOXES, row), np.float64)[:_MOST_OBJECTS].clip(0, 1).tolist()
    return tuple(
        Box(top=top, left=left, bottom=bottom, right=right, label=label)
        for (top, left, bottom, right), label in zip(corners, [*labels, *[""] * len(corners)], strict=False)
        if top <= bottom and left <= right  # not so where one is NaN
    )


def _points(shard: OpenShard, row: int, names: Sequence[str]) -> Iterator[tuple[float, float]]:
    """The points and keypoints in the image: at most some. Those of visibility 0 are nowhere."""
    for name in names:
        values = np.asarray(shard.value(name, row), np.float64)
        for y, x, *visibility in values.reshape(-1, values.shape[-1])[:_MOST_POINTS].tolist():
            if 0 <= y <= 1 and 0 <= x <= 1 and visibility != [0.0]:
                yield y, x


def _picture(shard: OpenShard, row: int, field: Field) -> str:
    """The image as a data URI: the stored file, if it is small, or a smaller picture."""
    codec = codec_of(field)
    payload = shard.payload(row)
    is_shown_by_browsers = not codec.is_raw and np.dtype(field.dtype) == np.uint8
    if payload.size <= _STORED_BYTES and is_shown_by_browsers and _has_size(codec.header(payload, field), shard, row):
        return _uri(codec.media_type, payload.tobytes())
    return _encoded(shown_pixels(_smaller(shard.image(row)))[0])


def _has_size(header: ImageHeader, shard: OpenShard, row: int) -> bool:
    """Whether a header says the size in the index, and not one that a browser would need gigabytes for."""
    return (header.height, header.width) == (shard.rows["height"][row], shard.rows["width"][row])


def _smaller(pixels: NDArray[Any]) -> NDArray[Any]:
    """Some rows and columns of an image: at most a few times the size of a picture."""
    if not pixels.size:
        raise ValueError("the image has no pixels")
    step = max(1, max(pixels.shape[:2]) // (4 * _SIDE))
    return pixels[::step, ::step]


def _encoded(pixels: NDArray[np.uint8]) -> str:
    pillow = optional_module("PIL.Image")
    image = pillow.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    image.thumbnail((_SIDE, _SIDE))
    kind = "png" if max(image.size) <= _SMALL_SIDE or image.mode == "RGBA" else "jpeg"
    memory = io.BytesIO()
    image.save(memory, kind)
    return _uri(f"image/{kind}", memory.getvalue())


def _uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
