"""Panoptic masks of COCO: a PNG whose colours are the numbers of segments, R + 256 G + 65536 B.

Source: cocodataset.org/#format-data.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from beam_jobs.sources.files.interface import BadInput

__all__ = ["panoptic_mask"]

_ROWS = 256  # at a time
_MOST_PIXELS = 1 << 26  # which take half a gigabyte
_LARGEST = 65_535


def panoptic_mask(data: bytes, values: Mapping[int, int], frame: tuple[int, int] | None) -> NDArray[np.uint16]:
    """A mask `[height, width]` with a value for each segment, and 0 for pixels of none.

    Args:
        data: the PNG.
        values: the value of each segment, by its number.
        frame: width and height of the image, if they are known.

    Raises:
        BadInput: the file is no such PNG, is of another size, or has a segment without a value.
    """
    from PIL import Image

    if max(values.values(), default=0) > _LARGEST:
        raise BadInput("bad-mask", f"has more than {_LARGEST:,} segments or classes")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            # Before a pixel is unpacked: some bytes can claim billions.
            if frame is not None and (width, height) != tuple(frame):
                raise BadInput("bad-mask", f"is {width}x{height}, and its image is {frame[0]}x{frame[1]}")
            if width * height > _MOST_PIXELS:
                raise BadInput("bad-mask", f"is {width}x{height}, more than {_MOST_PIXELS:,} pixels")
            if image.mode != "RGB":
                raise BadInput(
                    "bad-mask", f"has the mode {image.mode} of Pillow: expected RGB, with a number of 24 bits"
                )
            pixels = np.asarray(image)
    except (MemoryError, BadInput):
        raise
    except Exception as error:  # Pillow's parsers raise errors of many kinds
        raise BadInput("bad-mask", f"is no PNG that can be read ({str(error).partition(chr(10))[0]})") from error
    return _mapped(pixels, {0: 0, **values})


def _mapped(pixels: NDArray[np.uint8], values: Mapping[int, int]) -> NDArray[np.uint16]:
    numbers = np.array(sorted(values), np.int64)
    of_number = np.array([values[number] for number in sorted(values)], np.uint16)
    mask = np.empty(pixels.shape[:2], np.uint16)
    for start in range(0, len(pixels), _ROWS):
        rows = pixels[start : start + _ROWS].astype(np.int64)
        found = rows[..., 0] + 256 * rows[..., 1] + 65_536 * rows[..., 2]
        places = np.minimum(np.searchsorted(numbers, found), len(numbers) - 1)
        unknown = numbers[places] != found
        if unknown.any():
            raise BadInput("bad-mask", f"has the segment {found[unknown][0]}, which segments_info does not name")
        mask[start : start + _ROWS] = of_number[places]
    return mask
