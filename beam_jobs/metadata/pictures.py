"""The pictures of the card: three sheets of the first images of the largest split, whose order is a shuffle.

Masks lie over their images in colours.
"""

from __future__ import annotations

import colorsys
import functools
import io
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shard_reader.dataset.dataset import Dataset, shards_of_split
from shard_reader.dataset.shown.shown_pixels import shown_pixels
from shard_reader.format.fields import MAX_PIXELS
from shard_reader.format.manifest import PICTURE_NAMES, Manifest
from shard_reader.remote.client import StoreClient
from shard_reader.storage.open import local_path

__all__ = ["coloured", "mask_numbers", "pictures"]

_COLUMNS, _ROWS, _SIDE, _GAP = 4, 2, 160, 8  # images of a sheet, and pixels
_QUALITY: Final = 85
_RETRY_SECONDS, _PREFETCH_BYTES = 60.0, 1 << 26
_HUE: Final = 0.618  # the golden ratio: any number of colours in a row have hues that differ
_IGNORED: Final = 255  # of masks in 8 bits: by convention, pixels of no class
_OPACITY: Final = 0.55
_MOST_NUMBER: Final = 1 << 30  # of a mask of floats


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
            name: _sheet([_tile(data, number) for number in range(start, min(start + sheet, len(data)))])
            for name, start in zip(PICTURE_NAMES, starts, strict=False)
        }


def coloured(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """A mask in colours, `[height, width, 4]`: pixels of 0 are transparent, and those to be ignored white.

    Args:
        mask: `[height, width]`, or the first channel of `[height, width, channels]`. Numbers of any dtype.
    """
    numbers = mask_numbers(mask)
    return _palette()[np.where(numbers == 0, 0, (numbers - 1) % _IGNORED + 1)]


def mask_numbers(mask: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of a mask, `[height, width]`; of several channels those of the first."""
    values = mask if mask.ndim == 2 else mask[..., 0]
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float32)).clip(-_MOST_NUMBER, _MOST_NUMBER)
    return values.astype(np.int64)


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """The colours of 0 to 255, RGBA."""
    found = np.zeros((256, 4), np.uint8)
    for number in range(1, _IGNORED):
        value = (1.0, 0.7)[number // 8 % 2]
        rgb = colorsys.hsv_to_rgb(number * _HUE % 1, (0.9, 0.55)[number // 16 % 2], value)
        found[number] = [*(round(255 * part) for part in rgb), 255]
    found[_IGNORED] = 255
    return found


def _tile(data: Dataset, number: int) -> NDArray[Any]:
    """The image of a record, small, with its first mask over it."""
    image = _thinned(data.image(number))
    name = next((name for name, field in data.fields.items() if field.role == "mask"), None)
    if name is None:
        return image
    mask = coloured(_thinned(data.image(number, name)))
    rgb = _as_rgb(image)
    # The sizes of a mask and of its image may differ in records of other programs.
    rows, columns = (np.arange(side) * own // side for side, own in zip(rgb.shape[:2], mask.shape, strict=False))
    over = mask[rows][:, columns]
    share = over[..., 3:] * np.float32(_OPACITY / 255)
    blended: NDArray[np.uint8] = np.rint(rgb * (1 - share) + over[..., :3] * share).astype(np.uint8)
    return blended


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
        tile = ImageOps.contain(Image.fromarray(_as_rgb(pixels)), (_SIDE, _SIDE))
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
    """Pixels of any dtype as 8-bit RGB."""
    eight = shown_pixels(pixels)[0]
    if eight.shape[2] == 4:  # over white, as a browser shows it
        opacity = eight[:, :, 3:].astype(np.uint16)
        eight = ((eight[:, :, :3] * opacity + 255 * (255 - opacity)) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(eight[:, :, :3], (*eight.shape[:2], 3)))
