"""The pictures of the card: three sheets of the first images of the largest split, whose order is a shuffle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.dataset import Dataset, shards_of_split
from shard_reader.format.fields import MAX_PIXELS
from shard_reader.format.manifest import PICTURE_NAMES, Manifest
from shard_reader.remote.client import StoreClient
from shard_reader.storage.open import local_path

__all__ = ["pictures"]

_COLUMNS, _ROWS, _SIDE, _GAP = 4, 2, 160, 8  # images of a sheet, and pixels
_QUALITY: Final = 85
_RETRY_SECONDS, _PREFETCH_BYTES = 60.0, 1 << 26


def pictures(manifest: Manifest, place: str) -> dict[str, bytes]:
    """Name and JPEG of each sheet; fewer than three for a dataset of a few images.

    Args:
        manifest: the manifest, which need not be in `place` yet.
        place: the path or the URL of the finished shards.

    Raises:
        CorruptionError: an image is damaged.
    """
    split = max(manifest.splits, key=lambda name: manifest.splits[name].records)
    sheet = _COLUMNS * _ROWS
    with _opened(manifest, place, split) as data:
        starts = range(0, min(len(data), sheet * len(PICTURE_NAMES)), sheet)
        return {
            name: _sheet([data.image(number) for number in range(start, min(start + sheet, len(data)))])
            for name, start in zip(PICTURE_NAMES, starts, strict=False)
        }


def _opened(manifest: Manifest, place: str, split: str) -> Dataset:
    local, format = local_path(place), manifest.formats[0]
    store = StoreClient(place, _RETRY_SECONDS) if local is None else None
    most = int((manifest.options.get("image") or {}).get("max_pixels", MAX_PIXELS))
    path: str | Path = place if local is None else local
    shards = shards_of_split(path, manifest, split, format, store, None, most)
    return Dataset(path, manifest, split, format, shards, _PREFETCH_BYTES)


def _sheet(images: list[NDArray[Any]]) -> bytes:
    """One JPEG of several images in rows."""
    from PIL import Image, ImageOps

    columns, rows = min(_COLUMNS, len(images)), -(-len(images) // _COLUMNS)
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, rows * step + _GAP), "white")
    for number, pixels in enumerate(images):
        tile = ImageOps.contain(Image.fromarray(_as_rgb(_thinned(pixels))), (_SIDE, _SIDE))
        row, column = divmod(number, _COLUMNS)
        left, top = column * step + _GAP, row * step + _GAP
        sheet.paste(tile, (left + (_SIDE - tile.width) // 2, top + (_SIDE - tile.height) // 2))
    data = io.BytesIO()
    sheet.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def _thinned(pixels: NDArray[Any]) -> NDArray[Any]:
    """Every n-th pixel of a large image: its floats would take many times its memory."""
    step = max(1, min(pixels.shape[:2]) // (4 * _SIDE))
    return pixels[::step, ::step]


def _as_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Pixels of any dtype as 8-bit RGB. Floats, which may be normalised, are stretched to the whole range."""
    if pixels.dtype == np.uint16:
        pixels = pixels // 257
    elif pixels.dtype != np.uint8:
        wide = np.nan_to_num(pixels.astype(np.float32))
        low, high = float(wide.min()), float(wide.max())
        pixels = (wide - low) * (255 / (high - low) if high > low else 0)
    eight = pixels.astype(np.uint8)
    if eight.shape[2] == 4:  # over white, as a browser shows it
        opacity = eight[:, :, 3:].astype(np.uint16)
        eight = ((eight[:, :, :3] * opacity + 255 * (255 - opacity)) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(eight[:, :, :3], (*eight.shape[:2], 3)))
