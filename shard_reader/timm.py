"""A reader for timm's `ImageDataset`, so that its datasets and loaders take images from shards."""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

try:
    from timm.data.readers.reader import Reader
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("shard_reader.timm needs timm: pip install timm", name=error.name) from error

from shard_reader.arguments import require
from shard_reader.dataset.records import Records
from shard_reader.dataset.sampling.view import refuse_views
from shard_reader.format.fields import IMAGE
from shard_reader.format.image_codecs.table import IMAGE_CODECS, codec_of

__all__ = ["ShardReader"]

_MAGIC = {1: b"P5", 3: b"P6"}
"""The first bytes of a file of pixels, by the number of channels: https://netpbm.sourceforge.net/doc/pnm.html."""


class ShardReader(Reader):
    """The images and labels of a dataset by number, as timm's `ImageDataset` opens them.

    Encoded images are their stored bytes, and raw pixels a file in the format PNM. File names are the ids of records.

    timm decodes images in the worker processes of its loader, and its samplers divide and shuffle them. A damaged image
    is an error, as in every reader of shards.

    Args:
        data: a dataset from `open_dataset`, `select`, `where` or `mix`.
        image: the name of the image, for records that have several.
        label: the name of the target, a number of each record; None for images without targets.

    Attributes:
        class_to_idx: the number of each class by its name; None where the data has no names.

    Raises:
        ValueError: the data has no such field, or is balanced, weighted or in buckets, or images are pixels that a file
            of PNM cannot hold.

    Examples:
        >>> dataset = timm.data.ImageDataset("shards", reader=ShardReader(data))  # doctest: +SKIP
        >>> loader = timm.data.create_loader(dataset, (3, 224, 224), batch_size=64)  # doctest: +SKIP
    """

    def __init__(self, data: Records, *, image: str = IMAGE, label: str | None = "label") -> None:
        refuse_views(data, "ShardReader")
        super().__init__()  # type: ignore[no-untyped-call]
        field = data.fields.get(image)
        require(field is not None and field.is_image, "image", image, "the data has no image of this name")
        target = data.fields.get(label or "")
        is_number = target is not None and target.dtype == "int64" and target.shape == ()
        require(label is None or is_number, "label", label, "the data has no such number of each record")
        assert field is not None
        # In a mixture with several encodings, some images may be raw.
        self._has_pixels = field.encoding not in IMAGE_CODECS or codec_of(field).is_raw
        is_file = field.dtype == "uint8" and (field.shape[2] is None or field.shape[2] in _MAGIC)
        advice = f"{field.dtype} pixels of shape {field.shape} fit no image that Pillow opens: take StreamDataset"
        require(is_file or not self._has_pixels, "image", image, advice)
        self._data, self._image, self._label = data, image, label
        names = data.class_names
        self.class_to_idx = None if names is None else {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        """The number of records."""
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[BytesIO, int | None]:
        """An image as an open file, and its target.

        Raises:
            IndexError: there is no such record.
            CorruptionError: the record is damaged.
        """
        target = None if self._label is None else int(self._targets[index])
        if not self._has_pixels:
            return BytesIO(self._data.payload(index, self._image).tobytes()), target
        return BytesIO(_pnm(np.atleast_3d(self._data.image(index, self._image)))), target

    def filenames(self, basename: bool = False, absolute: bool = False) -> list[str]:
        """The ids of all records."""
        return [_name(id, basename) for id in self._data.ids()]

    def _filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        return _name(self._data.ids([index])[0], basename)

    @cached_property
    def _targets(self) -> NDArray[np.int64]:
        return self._data.column(self._label or "")


def _name(id: bytes, basename: bool) -> str:
    name = id.decode()
    return PurePosixPath(name).name if basename else name


def _pnm(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels `[height, width, channels]` as a file."""
    height, width, channels = pixels.shape
    if channels not in _MAGIC:
        raise ValueError(f"an image has {channels} channels: expected 1 or 3")
    return b"%s %d %d 255\n" % (_MAGIC[channels], width, height) + pixels.tobytes()
