"""TFRecords of `tf.train.Example` from other programs: the place of each image, and the values beside it."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_jobs.errors import UsageError
from beam_jobs.sources.files.interface import BadInput, Problem
from beam_jobs.sources.files.members import ranges, unpack
from shard_reader.format.checksum import masked_crc32c
from shard_reader.format.image_codecs.table import encoding_of
from shard_reader.format.manifest import MANIFEST_NAME
from shard_reader.format.shard_formats.example import Values, message_fields
from shard_reader.storage.directory import Directory
from shard_reader.system.memory_map import map_file

__all__ = [
    "BOXES",
    "LABELS",
    "Images",
    "check_boxes",
    "choose_image",
    "framed",
    "is_tensor",
    "pixel_type",
    "refuse_floats",
    "size_features",
    "value",
]

LABELS = ("image/class/label", "label", "class", "labels", "image/label")
"""The usual features of a label."""
_IMAGES = ("image/encoded", "image", "image_raw", "img", "image_bytes", "jpg", "jpeg", "png")
_SIZES = {
    "height": ("height", "image/height"),
    "width": ("width", "image/width"),
    "channels": ("depth", "image/depth", "channels", "image/channels"),
}
_PIXELS = {"uint8": 1, "uint16": 2}  # dtypes of pixels, with their bytes
_CHANNELS = {1, 3, 4}
_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT, _SHAPE_DIM = 1, 2, 4, 2  # numbers of fields of a TensorProto
_TENSOR_BEGINS = b"\x08"  # a TensorProto begins with its dtype, a varint
_TENSOR_DTYPES = {b"\x04": "uint8", b"\x11": "uint16"}
BOXES = "objects/bbox"  # the feature of TensorFlow Datasets
_HEADER = struct.Struct("<QI")  # the length, and its checksum
# Boxes may hang over the image by its own size at most. Numbers beyond that are pixels, not parts of the image.
_BEYOND = 1.0
_FOOTER = 4  # the payload's checksum, which is not read


def framed(directory: Directory, name: str, called: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The offset and the payload of every record.

    Raises:
        UsageError: the file is not a TFRecord, or is compressed, damaged or cut off; `called` names it.
    """
    # A local file is mapped, so that bytes of images, which a listing does not use, are not read.
    if directory.local is not None:
        data = map_file(directory.local / name)
        yield from _framed(lambda start, end: data[start:end], len(data), called)
        return
    with directory.open(name) as file:
        read = ranges(file)
        yield from _framed(lambda start, end: np.frombuffer(read(start, end), np.uint8), file.seek(0, 2), called)


def _framed(read: Any, size: int, called: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    position = number = 0
    while position < size:
        header = read(position, position + _HEADER.size).tobytes()
        if position == 0 and header.startswith(b"\x1f\x8b"):
            raise UsageError(
                f"{called}: is compressed by gzip, without random access; unpack it first: {unpack('gzip', called)}"
            )
        cut = f"{called}: was cut off at byte {size:,}, in record {number:,}; copy it again"
        if len(header) < _HEADER.size:
            raise UsageError(cut)
        length, crc = _HEADER.unpack(header)
        if crc != masked_crc32c(header[:8]):
            if position == 0:
                raise UsageError(f"{called}: is no TFRecord file, or is compressed or damaged; write it again")
            raise UsageError(
                f"{called}: the length of record {number:,}, at byte {position:,}, is damaged; copy it again"
            )
        start = position + _HEADER.size
        position = start + length + _FOOTER
        if position > size:
            raise UsageError(cut)
        yield start, read(start, start + length)
        number += 1


def choose_image(features: Mapping[str, Values], payload: NDArray[np.uint8], is_raw: bool = False) -> str | None:
    """The feature with the image: one with a usual name, or the only one that is an image; None if neither is there.

    Args:
        features: those of one record.
        payload: its bytes.
        is_raw: whether images are known to be bytes of pixels, which have no header to recognise them by.
    """
    single = {name: found[0] for name, found in features.items() if len(found) == 1 and isinstance(found[0], slice)}
    named = [name for name in _IMAGES if name in single]
    images = [name for name, part in single.items() if encoding_of(payload[part]) or _pixels(features, payload, part)]
    both = [name for name in named if name in images]
    choice = both[:1] or (images if len(images) == 1 else named[:1] if not images or is_raw else [])
    return choice[0] if choice else None


def refuse_floats(folder: Directory, called: str) -> None:
    """Refuse shards of a dataset of image-shards whose pixels are floats, which their bytes do not tell.

    Raises:
        UsageError: the manifest beside them says so.
    """
    with contextlib.suppress(
        FileNotFoundError, NotADirectoryError, PermissionError, ValueError, LookupError, TypeError
    ):
        image = json.loads(folder.read(MANIFEST_NAME))["fields"]["image"]
        if image["encoding"] == "raw" and image["dtype"] not in _PIXELS:
            raise UsageError(
                f"{called}: its {MANIFEST_NAME} says that its pixels are {image['dtype']}: expected"
                f" {' or '.join(_PIXELS)}; prepare the images that the dataset was made of"
            )


def size_features(features: Collection[str]) -> dict[str, str]:
    """The features of height, width and channels that are there."""
    found = {size: next((name for name in names if name in features), None) for size, names in _SIZES.items()}
    return {size: name for size, name in found.items() if name is not None}


def pixel_type(size: int, height: int, width: int, channels: int | None = None) -> tuple[str, tuple[int, int, int]]:
    """The dtype, uint8 or uint16, and the shape of an image that is `size` bytes of pixels.

    Raises:
        ValueError: the image has more or fewer bytes than its size needs.
    """
    pixel = size / (height * width) if height > 0 and width > 0 else 0
    for dtype, bytes_ in _PIXELS.items():
        count = int(pixel // bytes_)
        if count in _CHANNELS and count * bytes_ == pixel and channels in (None, count):
            return dtype, (height, width, count)
    said = f", {channels} channels" if channels is not None else ""
    raise ValueError(f"has {size:,} bytes, which are not the pixels of height {height}, width {width}{said}")


class Images:
    """Finds the image in each record. The first record decides the feature, and if images are files or pixels."""

    def __init__(self, name: str | None) -> None:
        """`name` is the feature of the images, or None to recognise it."""
        self.name = name
        self._is_raw: bool | None = None

    def find(self, features: Mapping[str, Values], payload: NDArray[np.uint8]) -> tuple[slice, list[Any]]:
        """The place of the image in `payload`; and, where it is bytes of pixels, their dtype and shape.

        Raises:
            BadInput: the record has no image.
        """
        name = self.name or choose_image(features, payload)
        found = features.get(name or "", [])
        if len(found) != 1 or not isinstance(found[0], slice):
            names = ", ".join(sorted(features)) or "none"
            raise BadInput("bad-record", f"has no image{f' in {name}' if name else ''}; its features are {names}")
        self.name, part = name, found[0]
        tensor = _tensor(payload, part)
        if tensor is not None:
            return tensor
        sizes = _sizes(features)
        if self._is_raw is None:
            self._is_raw = encoding_of(payload[part]) is None and bool(_pixels(features, payload, part))
        if not self._is_raw:
            return part, []
        missing = next((size for size in ("height", "width") if size not in sizes), None)
        if missing is not None:
            raise BadInput("bad-record", f"its image has no {missing}, which bytes of pixels need")
        try:
            return part, list(pixel_type(part.stop - part.start, **sizes))
        except ValueError as error:
            raise BadInput("bad-record", f"its image {error}") from error


def is_tensor(payload: NDArray[np.uint8], part: slice) -> bool:
    """Whether a value is a tensor of `tf.io.serialize_tensor`."""
    try:
        return _tensor(payload, part) is not None
    except BadInput:
        return True


def _sizes(features: Mapping[str, Values]) -> dict[str, int]:
    """The height, the width and the channels that a record gives as whole numbers."""
    found = {size: features[name] for size, name in size_features(features).items()}
    return {size: values[0] for size, values in found.items() if len(values) == 1 and isinstance(values[0], int)}


def _pixels(features: Mapping[str, Values], payload: NDArray[np.uint8], part: slice) -> list[Any] | None:
    """The dtype and the shape of bytes of pixels; None if a value is something else."""
    sizes = _sizes(features)
    if not {"height", "width"} <= sizes.keys():
        return None
    try:
        return list(pixel_type(part.stop - part.start, **sizes))
    except ValueError:
        return None


def _tensor(payload: NDArray[np.uint8], part: slice) -> tuple[slice, list[Any]] | None:
    """The place, the dtype and the shape of the pixels of `tf.io.serialize_tensor`; None for other bytes.

    Source: tensorflow/core/framework/tensor.proto.

    Raises:
        BadInput: the tensor has another dtype or shape than images.
    """
    if payload[part.start : part.start + 1].tobytes() != _TENSOR_BEGINS:
        return None
    try:
        message = {number: span for number, _, span in message_fields(payload.data, part.start, part.stop)}
        if message.keys() != {_TENSOR_DTYPE, _TENSOR_SHAPE, _TENSOR_CONTENT}:
            return None
        shape = [_size(payload, dim) for n, _, dim in _message(payload, message[_TENSOR_SHAPE]) if n == _SHAPE_DIM]
    except ValueError:
        return None
    dtype = _TENSOR_DTYPES.get(payload[message[_TENSOR_DTYPE]].tobytes())
    content = message[_TENSOR_CONTENT]
    is_image = len(shape) == 2 or (len(shape) == 3 and not _CHANNELS.isdisjoint((shape[0], shape[2])))
    size = content.stop - content.start
    if dtype is None or not is_image or size != math.prod(shape) * _PIXELS[dtype]:
        raise BadInput(
            "bad-record",
            f"its image is a serialized tensor of shape {shape} in {size:,} bytes: expected uint8 or uint16 of [height,"
            " width] or [height, width, channels], with 1, 3 or 4 channels",
        )
    return content, [dtype, shape]


def _message(payload: NDArray[np.uint8], span: slice) -> Iterator[tuple[int, int, slice]]:
    return message_fields(payload.data, span.start, span.stop)


def _size(payload: NDArray[np.uint8], dim: slice) -> int:
    """The size of one dimension."""
    spans = [span for number, wire, span in _message(payload, dim) if number == 1 and wire == 0]
    return sum(int(byte & 0x7F) << 7 * place for span in spans for place, byte in enumerate(payload[span]))


def value(found: Values, payload: NDArray[np.uint8], name: str, called: str) -> Any:
    """The value of a feature: a number or text, a list of several, or None.

    Raises:
        UsageError: the bytes of a value are not UTF-8.
    """
    values: list[Any] = [_text(v, payload, name, called) if isinstance(v, slice) else v for v in found]
    return values[0] if len(values) == 1 else values or None


def check_boxes(boxes: Any) -> Problem | None:
    """The defect of boxes, if they are not in the form of TFDS: ymin, xmin, ymax, xmax, as parts of the image."""
    numbers = boxes if isinstance(boxes, list) else [] if boxes is None else [boxes]
    if len(numbers) % 4:
        return Problem("bad-boxes", f"{BOXES} has {len(numbers)} numbers: expected 4 for each box")
    wrong = next((v for v in numbers if not -_BEYOND <= v <= 1 + _BEYOND), None)
    if wrong is None:
        return None
    return Problem(
        "bad-boxes",
        f"{BOXES} holds {wrong}: expected ymin, xmin, ymax, xmax of each box as parts of the image, 0 to 1;"
        " leave it out with --fields",
    )


def _text(part: slice, payload: NDArray[np.uint8], name: str, called: str) -> str:
    data = payload[part].tobytes()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(
            f"{called}: the feature {name} holds {data[:12]!r}, which is not UTF-8 and can be no field;"
            " name those that are to be fields with --fields, the image with --image-key, or bytes to keep with"
            f" --image-columns IMAGE,{name}:bytes"
        ) from None
