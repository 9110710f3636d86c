"""OpenCV, for the few kinds of files of which Pillow loses something."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from beam_jobs.images.files.packages import required
from beam_jobs.sources.files.interface import BadInput, Pixels

__all__ = ["decode_rle4", "is_rle4", "opencv"]


@functools.cache
def opencv(pixels: str) -> Any:
    """OpenCV, silent and without threads of its own, for `pixels`.

    Raises:
        BadInput: it is not installed; the message names the extra.
    """
    # Imported when it is needed: it takes a while, and few images need it. So it is an extra, of 160 MB.
    cv2 = required("cv2", "decode", pixels)
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def is_rle4(image: Image.Image) -> bool:
    """Whether an image is a BMP of runs of 4-bit colours. Call this before the image is loaded."""
    tiles = getattr(image, "tile", None)
    return bool(tiles and tiles[0][0] == "bmp_rle" and tiles[0][3][1] is True)


def decode_rle4(data: bytes) -> Pixels:
    """The colours of a BMP of runs of 4-bit colours, uint8 `[height, width, 3]`.

    Raises:
        BadInput: it is a bitmap without a file's header, or OpenCV is not installed.
    """
    # Pillow 12.3 loses the second colour of each byte where a run gives its colours one by one.
    pixels = opencv("runs of 4-bit colours").imdecode(np.frombuffer(data, np.uint8), 1)
    if pixels is None:
        raise BadInput("unsupported-mode", "a bitmap of runs of 4-bit colours without a file's header; save it as PNG")
    colours: Pixels = pixels[..., ::-1]
    return colours
